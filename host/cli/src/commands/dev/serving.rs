//! The primary under `skep dev`: a process of its own, in the project's
//! directory, so that its state is in the project's `.skep`.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use skep_core::ListenAddress;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// How long requests in flight may hold up a swap. Whoever develops waits for
/// the new build, and would not for an open event stream.
const SWAP_PATIENCE: Duration = Duration::from_secs(2);

/// How long a drain may take in the end: the primary's own deadlines, 30 s
/// and 5 s, and some more for a busy machine.
const DRAIN_PATIENCE: Duration = Duration::from_secs(45);

/// How long a primary may take that was told to stop now.
const CUT_PATIENCE: Duration = Duration::from_secs(10);

/// How long a component may take to be compiled and checked; a builder has a
/// limit of CPU time besides.
const CHECK_PATIENCE: Duration = Duration::from_secs(600);

/// Our own executable, in the project's directory.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    skep: PathBuf,
    home: PathBuf,
    listen: Option<ListenAddress>,
    control: Option<PathBuf>,
}

impl Commands {
    /// Commands for a project; `listen` and `control` must not be relative.
    pub(super) fn new(
        home: &Path,
        listen: Option<ListenAddress>,
        control: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let skep = std::env::current_exe().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot find skep's own file: {error}"),
            )
        })?;
        Ok(Self {
            skep,
            home: home.to_owned(),
            listen,
            control,
        })
    }

    /// Compiles the component and looks for problems; they are told on stderr.
    pub(super) async fn check(&self, component: &Path) -> Result<(), Failure> {
        let mut command = self.command("check");
        command
            .arg(component)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let status = timeout(CHECK_PATIENCE, command.status())
            .await
            .map_err(|_| Failure::new(Exit::Failed, "checking the component takes too long"))?
            .map_err(cannot_run)?;
        match exit(status) {
            Exit::Done => Ok(()),
            exit => Err(Failure::said(exit)),
        }
    }

    /// Starts a primary. It says by itself when and where it serves.
    pub(super) fn serve(&self, component: &Path) -> Result<Serving, Failure> {
        let mut command = self.command("serve");
        command.arg("--until-stdin-ends").arg(component);
        if let Some(address) = &self.listen {
            command.arg("--listen").arg(address.to_string());
        }
        // A group of its own: a terminal's ^C is for us, and we tell it.
        command.stdin(Stdio::piped()).process_group(0);
        let mut process = command.spawn().map_err(cannot_run)?;
        let leash = process.stdin.take();
        Ok(Serving {
            process,
            leash,
            commands: self.clone(),
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.skep);
        command.current_dir(&self.home).arg(name);
        match &self.control {
            Some(path) => command.arg("--control").arg(path),
            None => command.env_remove("SKEP_CONTROL"),
        };
        command
    }
}

fn cannot_run(error: std::io::Error) -> Failure {
    Failure::from(anyhow::Error::new(error).context("cannot run skep itself"))
}

/// A running primary.
#[derive(Debug)]
pub(super) struct Serving {
    process: Child,
    /// The other end of its stdin. Closing it asks for a drain.
    leash: Option<ChildStdin>,
    commands: Commands,
}

impl Serving {
    /// Waits for the primary to end by itself.
    pub(super) async fn ended(&mut self) -> Exit {
        self.process.wait().await.map_or(Exit::Failed, exit)
    }

    /// Ends it so that no request is lost, within the primary's own deadlines.
    pub(super) async fn drain(&mut self) {
        self.end_within(DRAIN_PATIENCE).await;
    }

    /// Ends it for a successor that wants its address.
    pub(super) async fn make_room(&mut self) {
        self.end_within(SWAP_PATIENCE).await;
    }

    /// Ends it at once.
    pub(super) async fn cut(&mut self) {
        drop(self.leash.take());
        let mut command = self.commands.command("stop");
        command
            .arg("--now")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        // Whatever comes of it, the process's end is what counts.
        let _ = timeout(CUT_PATIENCE, command.status()).await;
        if timeout(CUT_PATIENCE, self.process.wait()).await.is_err() {
            // Its workers notice, close their listeners and end by themselves.
            let _ = self.process.kill().await;
        }
    }

    async fn end_within(&mut self, patience: Duration) {
        drop(self.leash.take());
        if timeout(patience, self.process.wait()).await.is_err() {
            self.cut().await;
        }
    }
}

/// What another skep's end means; one that a signal ended has failed.
fn exit(status: ExitStatus) -> Exit {
    status.code().map_or(Exit::Failed, Exit::from_code)
}
