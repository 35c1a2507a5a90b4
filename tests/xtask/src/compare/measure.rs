//! One server in one round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::paced::{self, Pace, Paced};
use crate::peers::Peer;
use crate::request;
use crate::server::{Launch, Server};
use crate::wrk::{self, Connections, Load, Report};

/// How long a server may take to start: wasmtime compiles a JavaScript engine
/// or a Python at each start.
const PATIENCE: Duration = Duration::from_secs(180);

/// Just-in-time compilers, caches and pools are warm after it.
const WARM_UP_SECONDS: u64 = 2;

/// Bodies that an echo is asked for, in bytes.
pub(super) const ECHOES: [usize; 2] = [1 << 10, 100 << 10];

/// Part of its throughput at which a server's latency is measured.
const PACE: f64 = 0.5;

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
    /// At half the rate of `kept_alive`.
    pub(super) paced: Pace,
    /// Of each of [`ECHOES`], where the server has an echo.
    pub(super) echoes: Option<[Measured; 2]>,
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
        let kept_alive = self.under_load(&server, Connections::KeptAlive, None);
        let kept_alive = kept_alive.await?;
        let paced = Paced {
            address: server.address(),
            rate: kept_alive.report.requests_per_second * PACE,
            clients: self.clients,
            seconds: self.seconds,
        };
        let paced = paced::run(paced).await?;
        let new = self.under_load(&server, Connections::New, None).await?;
        server.stop().await?;
        let echoes = match peer.echo(scratch)? {
            Some(launch) => Some(self.measure_echo(launch, scratch).await?),
            None => None,
        };
        Ok(Sample {
            kept_alive,
            new,
            paced,
            echoes,
            worker_pss_kib: memory.workers,
            total_pss_kib: memory.total,
        })
    }

    async fn measure_echo(self, launch: Launch, scratch: &Path) -> Result<[Measured; 2]> {
        let log = scratch.join("echo.log");
        let server = Server::start(launch, "/", &log, PATIENCE).await?;
        let warm_up = Load {
            seconds: WARM_UP_SECONDS,
            body: Some(ECHOES[0]),
            ..self.load(&server, Connections::KeptAlive)
        };
        wrk::run(&warm_up).await?;
        let [small, large] = ECHOES.map(Some);
        let measured = [
            self.under_load(&server, Connections::KeptAlive, small)
                .await?,
            self.under_load(&server, Connections::KeptAlive, large)
                .await?,
        ];
        server.stop().await?;
        Ok(measured)
    }

    async fn under_load(
        self,
        server: &Server,
        connections: Connections,
        body: Option<usize>,
    ) -> Result<Measured> {
        let before = server.cpu_seconds();
        let load = Load {
            body,
            ..self.load(server, connections)
        };
        let report = wrk::run(&load).await?;
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
            body: None,
            seconds: self.seconds,
        }
    }
}
