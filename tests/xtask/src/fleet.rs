//! A running skep, and what it says of itself over its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use skep_wire::{
    AppHistory, ControlReply, ControlRequest, FleetStatus, WorkerStatus, decode_line, encode_line,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::peers::skep::Configuration;
use crate::server::{Launch, Server};

/// How long a start may take when nothing is cached and many apps are compiled.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long the primary may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a condition is looked at: often, for times are measured by it.
const POLL: Duration = Duration::from_millis(1);

/// What status calls a worker that takes requests.
const SERVING: &str = "serving";

/// A running skep.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) server: Server,
    control: PathBuf,
}

impl Fleet {
    /// Starts one in `scratch` and waits until all its workers serve and
    /// `path` is answered.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) async fn start(
        program: &Path,
        configuration: &Configuration,
        path: &str,
        scratch: &Path,
    ) -> Result<Self> {
        let launch = configuration.launch(program, scratch)?;
        Self::launched(launch, configuration.workers, path, scratch).await
    }

    /// Starts one by a command that serves a file in `scratch`, and waits until
    /// all its workers serve and `path` is answered.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) async fn launched(
        launch: Launch,
        workers: u16,
        path: &str,
        scratch: &Path,
    ) -> Result<Self> {
        let log = scratch.join("output.log");
        let fleet = Self {
            server: Server::start(launch, path, &log, PATIENCE).await?,
            control: Configuration::control(scratch),
        };
        let workers = usize::from(workers);
        fleet
            .until("serve with all workers", PATIENCE, |status| {
                let serving = status.workers.iter().filter(|worker| is_serving(worker));
                (serving.count() == workers).then_some(())
            })
            .await?;
        Ok(fleet)
    }

    /// Where its control socket is.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// The state of everything.
    ///
    /// # Errors
    ///
    /// The primary does not answer.
    pub(crate) async fn status(&self) -> Result<FleetStatus> {
        match self.ask(&ControlRequest::Status).await? {
            ControlReply::Status(status) => Ok(*status),
            other => bail!("the primary answered {other:?}"),
        }
    }

    /// The revisions of an app.
    ///
    /// # Errors
    ///
    /// The primary does not answer, or has no such app.
    pub(crate) async fn history(&self, app: &str) -> Result<AppHistory> {
        let app = app.to_owned();
        match self.ask(&ControlRequest::History { app }).await? {
            ControlReply::History(history) => Ok(history),
            other => bail!("the primary answered {other:?}"),
        }
    }

    async fn ask(&self, request: &ControlRequest) -> Result<ControlReply> {
        timeout(ANSWER, self.exchange(request))
            .await
            .context("the primary does not answer")?
    }

    async fn exchange(&self, request: &ControlRequest) -> Result<ControlReply> {
        let stream = UnixStream::connect(&self.control)
            .await
            .with_context(|| format!("no primary at {}", self.control.display()))?;
        let mut stream = BufReader::new(stream);
        stream.write_all(&encode_line(request)).await?;
        loop {
            let mut line = Vec::new();
            stream.read_until(b'\n', &mut line).await?;
            ensure!(!line.is_empty(), "the primary hung up");
            match decode_line(&line).map_err(anyhow::Error::msg)? {
                ControlReply::Progress { .. } => {}
                reply => return Ok(reply),
            }
        }
    }

    /// Looks at the status until `found` finds what it looks for.
    ///
    /// # Errors
    ///
    /// It does not within `patience`.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut(&FleetStatus) -> Option<T>,
    ) -> Result<T> {
        let by = Instant::now() + patience;
        loop {
            let status = self.status().await?;
            if let Some(found) = found(&status) {
                return Ok(found);
            }
            ensure!(
                Instant::now() < by,
                "skep does not {what} within {patience:?}; its workers: {:?}",
                status.workers
            );
            sleep(POLL).await;
        }
    }
}

/// Whether it takes requests.
pub(crate) fn is_serving(worker: &WorkerStatus) -> bool {
    worker.state == SERVING
}
