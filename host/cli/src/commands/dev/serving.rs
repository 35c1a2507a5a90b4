//! The primary under `skep dev`: a process of its own, in the project's
//! directory, so that its state is in the project's `.skep`.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use skep_core::{ListenAddress, Strategy};
use skep_primary::{Client, ClientError, Deployment};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::args::{Overrides, Source};
use crate::commands::source::{Loaded, Unusable};
use crate::control::{Control, DEFAULT_STATE_DIR, SOCKET};
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// How long a primary that is still starting, or that somebody else has
/// something under way with, is asked again: as long as workers may take to
/// start, and some more.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

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
    control: PathBuf,
}

impl Commands {
    /// Commands for a project; `listen` and `control` must not be relative.
    /// Without a `control` it is the one in the project's state directory,
    /// relative to `home`.
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
            // Said even where it is the default: a configuration in the
            // project's directory may have another, and is not what we serve.
            control: control.unwrap_or_else(|| Path::new(DEFAULT_STATE_DIR).join(SOCKET)),
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
        let app = app_of(component)?;
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
            app,
            commands: self.clone(),
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.skep);
        command
            .current_dir(&self.home)
            .arg(name)
            .arg("--control")
            .arg(&self.control);
        command
    }
}

/// The name that `skep serve` gives to the app of a component.
fn app_of(component: &Path) -> Result<String, Failure> {
    let source = Source::Component(component.to_owned());
    let loaded =
        Loaded::read(&source, Overrides::default()).map_err(|unusable| match unusable {
            Unusable::Failure(failure) => failure,
            // It was there, and good, a moment ago.
            Unusable::Problems(problems) => {
                Failure::report(Exit::Configuration, problems.render(false))
            }
        })?;
    let app = loaded.spec().apps.keys().next();
    Ok(app.expect("a component alone is one app").to_string())
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
    /// The name that it gave to its only app.
    app: String,
    commands: Commands,
}

impl Serving {
    /// Waits for the primary to end by itself.
    pub(super) async fn ended(&mut self) -> Exit {
        self.process.wait().await.map_or(Exit::Failed, exit)
    }

    /// Ends it so that no request is lost, within the primary's own deadlines.
    pub(super) async fn drain(&mut self) {
        drop(self.leash.take());
        if timeout(DRAIN_PATIENCE, self.process.wait()).await.is_err() {
            self.cut().await;
        }
    }

    /// Waits until it serves, and says whether it serves this component. The
    /// primary goes on with the revision that was active last if it read the
    /// same file before, and that may be a later one.
    pub(super) async fn serves(&mut self, digest: &str) -> Result<bool, Failure> {
        let status = self.ask(Client::status).await?;
        Ok(status.apps.iter().all(|app| app.digest == digest))
    }

    /// Puts another component in the place of the one that it serves. If that
    /// fails, it serves what it served before.
    pub(super) async fn deploy(
        &mut self,
        component: &Path,
        printer: Printer,
    ) -> Result<(), Failure> {
        let deployment = Deployment {
            app: self.app.clone(),
            source: component.to_owned(),
            strategy: Some(Strategy::Swap),
            ..Deployment::default()
        };
        let said = self
            .ask(move |client| client.deploy(deployment.clone(), |said| printer.note(said)))
            .await?;
        printer.note(said.as_deref().unwrap_or("swapped"));
        Ok(())
    }

    /// Asks the primary, again if it is too early for that.
    async fn ask<T: Send + 'static>(
        &mut self,
        ask: impl Fn(&mut Client) -> Result<T, ClientError> + Clone + Send + 'static,
    ) -> Result<T, Failure> {
        let control = Control::find(Some(self.commands.control.clone()));
        let give_up = Instant::now() + BUSY_PATIENCE;
        loop {
            match control.ask(ask.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if is_early(&error) && Instant::now() < give_up && self.runs() => {
                    sleep(ASK_EVERY).await;
                }
                // Whatever it is, the next change may mend it; the primary's
                // own end is noticed elsewhere.
                Err(error) => {
                    let failure = control.failed(error);
                    return Err(Failure::new(Exit::Failed, failure.to_string()));
                }
            }
        }
    }

    /// Whether it has not ended.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
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
}

/// Whether it may well be otherwise in a moment.
fn is_early(error: &ClientError) -> bool {
    match error {
        ClientError::NoPrimary { .. } => true,
        ClientError::Refused { code, .. } => *code == Exit::Refused.code(),
        _ => false,
    }
}

/// What another skep's end means; one that a signal ended has failed.
fn exit(status: ExitStatus) -> Exit {
    status.code().map_or(Exit::Failed, Exit::from_code)
}
