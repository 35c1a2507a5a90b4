//! One server in one round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::peers::Peer;
use crate::request;
use crate::server::Server;
use crate::wrk::{self, Connections, Load, Report};

/// How long a server may take to start: wasmtime compiles a JavaScript engine
/// or a Python at each start.
const PATIENCE: Duration = Duration::from_secs(180);

/// Just-in-time compilers, caches and pools are warm after it.
const WARM_UP_SECONDS: u64 = 2;

/// The load of every server in a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Round {
    pub(super) seconds: u64,
    pub(super) clients: u32,
}

/// What a round showed of one server.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) kept_alive: Measured,
    pub(super) new: Measured,
    /// Of each serving process before any load, in KiB.
    pub(super) worker_pss_kib: Vec<u64>,
    /// Of all processes before any load, in KiB.
    pub(super) total_pss_kib: u64,
}

/// One kind of load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    pub(super) report: Report,
    /// CPU time of all the server's processes for each request, in
    /// microseconds.
    pub(super) cpu_us: f64,
}

impl Round {
    /// Starts a server, measures and ends it.
    pub(super) async fn measure(self, peer: &dyn Peer, scratch: &Path) -> Result<Sample> {
        let launch = peer.launch(scratch)?;
        let server = Server::start(launch, "/", &scratch.join("output.log"), PATIENCE).await?;
        let answer = request::get(server.address(), "/").await?;
        let body = String::from_utf8_lossy(&answer.body).to_lowercase();
        ensure!(
            body.contains("hello"),
            "the server answers {body:?} instead of a hello"
        );

        let memory = server.memory().context("cannot measure memory")?;
        wrk::run(&Load {
            seconds: WARM_UP_SECONDS,
            ..self.load(&server, Connections::KeptAlive)
        })
        .await?;
        let kept_alive = self.under_load(&server, Connections::KeptAlive).await?;
        let new = self.under_load(&server, Connections::New).await?;
        server.stop().await?;
        Ok(Sample {
            kept_alive,
            new,
            worker_pss_kib: memory.workers,
            total_pss_kib: memory.total,
        })
    }

    async fn under_load(self, server: &Server, connections: Connections) -> Result<Measured> {
        let before = server.cpu_seconds();
        let report = wrk::run(&self.load(server, connections)).await?;
        let used = server.cpu_seconds() - before;
        ensure!(report.requests > 0, "no request was answered: {report:?}");
        Ok(Measured {
            cpu_us: used * 1e6 / report.requests as f64,
            report,
        })
    }

    fn load(self, server: &Server, connections: Connections) -> Load {
        Load {
            address: server.address(),
            path: "/".to_owned(),
            clients: self.clients,
            connections,
            seconds: self.seconds,
        }
    }
}
