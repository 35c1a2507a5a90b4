//! The primary under `skep dev`: a process of its own, in the project's
//! directory, so that its state is in the project's `.skep`, or where the project's
//! configuration says.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use skep_core::{AppName, ListenAddress, Strategy};
use skep_primary::{Client, ClientError, Deployment};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::args::{Overrides, Source};
use crate::commands::source::{Loaded, Unusable, started};
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

/// How long a primary may take to compile what it is to serve; a builder has a limit of
/// CPU time besides.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// What is served, and as what.
#[derive(Debug)]
pub(super) struct Plan {
    /// The project's configuration, if it has one.
    config: Option<PathBuf>,
    /// What was built, absolute.
    component: PathBuf,
    /// The apps that it is the component of.
    apps: Vec<AppName>,
    control: PathBuf,
}

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
    /// Without a `control` it is the one in the state directory.
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

    /// Makes sure that nothing but what is to be built is missing: addresses that are in
    /// use, another primary, problems of the configuration.
    pub(super) fn is_vacant(&self, config: Option<&Path>, printer: Printer) -> Result<(), Failure> {
        let loaded = match config {
            // Which app the component is of cannot be known before it is there.
            Some(config) => Loaded::before_build(config, self.overrides(None)),
            None => Loaded::without_component(self.listen.clone()),
        }
        .map_err(|unusable| unusable.told(printer))?;
        skep_primary::is_vacant(loaded.spec())
            .map_err(|error| started(&loaded, error).told(printer))
    }

    fn overrides(&self, built: Option<&Path>) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            workers: None,
            built: built.map(Path::to_owned),
        }
    }

    /// What to serve of a configuration, or of a component without one.
    pub(super) fn plan(
        &self,
        config: Option<&Path>,
        component: &Path,
        printer: Printer,
    ) -> Result<Plan, Failure> {
        let (source, built) = match config {
            Some(config) => (Source::File(config.to_owned()), Some(component)),
            None => (Source::Component(component.to_owned()), None),
        };
        let told = |unusable: Unusable| unusable.told(printer);
        let loaded = Loaded::read(&source, self.overrides(built)).map_err(told)?;
        let apps = loaded.spec().apps.iter();
        let apps = apps.filter(|(_, app)| app.component == component);
        let apps = apps.map(|(name, _)| name.clone()).collect();
        let control = match (&self.control, config) {
            (named @ Some(_), _) | (named @ None, Some(_)) => {
                loaded.control(named.clone()).map_err(told)?
            }
            (None, None) => Path::new(DEFAULT_STATE_DIR).join(SOCKET),
        };
        Ok(Plan {
            config: config.map(Path::to_owned),
            component: component.to_owned(),
            apps,
            control,
        })
    }

    /// Starts a primary. It says by itself when and where it serves.
    pub(super) fn serve(&self, plan: &Plan) -> Result<Serving, Failure> {
        let mut command = self.command("serve", &plan.control);
        command.arg("--until-stdin-ends");
        match &plan.config {
            Some(config) => command
                .arg("-c")
                .arg(config)
                .arg("--built")
                .arg(&plan.component),
            None => command.arg(&plan.component),
        };
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
            control: plan.control.clone(),
            commands: self.clone(),
        })
    }

    fn command(&self, name: &str, control: &Path) -> Command {
        let mut command = Command::new(&self.skep);
        command
            .current_dir(&self.home)
            .arg(name)
            // Said even where it is the default: `SKEP_CONTROL` may name another.
            .arg("--control")
            .arg(control);
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
    control: PathBuf,
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
    pub(super) async fn serves(&mut self, plan: &Plan, digest: &str) -> Result<bool, Failure> {
        let status = self.ask(Client::status, START_PATIENCE).await?;
        let ours = status.apps.iter();
        let mut ours = ours.filter(|app| plan.apps.contains(&app.name));
        Ok(ours.all(|app| app.digest == digest))
    }

    /// Puts another component in the place of the one that it serves. If that
    /// fails, it serves what it served before.
    pub(super) async fn deploy(&mut self, plan: &Plan, printer: Printer) -> Result<(), Failure> {
        for app in &plan.apps {
            let deployment = Deployment {
                app: app.to_string(),
                source: plan.component.clone(),
                strategy: Some(Strategy::Swap),
                ..Deployment::default()
            };
            let deploy = move |client: &mut Client| {
                client.deploy(deployment.clone(), |said| printer.note(said))
            };
            let said = self.ask(deploy, BUSY_PATIENCE).await?;
            printer.note(said.as_deref().unwrap_or("swapped"));
        }
        Ok(())
    }

    /// Has it read its configuration again.
    pub(super) async fn reload(&mut self, printer: Printer) -> Result<(), Failure> {
        let reload = move |client: &mut Client| client.reload(|said| printer.note(said));
        let said = self.ask(reload, BUSY_PATIENCE).await?;
        printer.note(said.as_deref().unwrap_or("reloaded"));
        Ok(())
    }

    /// Asks the primary, again if it is too early for that.
    async fn ask<T: Send + 'static>(
        &mut self,
        ask: impl Fn(&mut Client) -> Result<T, ClientError> + Clone + Send + 'static,
        patience: Duration,
    ) -> Result<T, Failure> {
        let control = Control::at(self.control.clone());
        let give_up = Instant::now() + patience;
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

    /// How it has ended, if it has.
    pub(super) fn has_ended(&mut self) -> Option<Exit> {
        self.process.try_wait().ok().flatten().map(exit)
    }

    /// Whether it has not ended.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it at once.
    pub(super) async fn cut(&mut self) {
        drop(self.leash.take());
        let mut command = self.commands.command("stop", &self.control);
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
