//! From a checked specification to a fleet that runs, and to its end.
//!
//! Responsible for the order of things, so that whatever can be refused is
//! refused before anything was started: lock, compile, bind, control socket,
//! scoreboards, workers.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_core::{AppName, FleetSpec, LogFormat, LogLevel, LogSpec};
use skep_sys::{BindError, process};
use skep_wire::Refusal;
use tokio::runtime::{self, Runtime};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::alert::Alerts;
use crate::artifacts::{Artifacts, ArtifactsError, Workshop, components_of};
use crate::aside::{Reading, aside};
use crate::control::{Asked, Control, ControlError};
use crate::fleet::{Fleet, Parts, Reread, tell_swept};
use crate::journal::Journal;
use crate::listeners::{BindFailure, Listeners};
use crate::log::{Log, Writer};
use crate::running::Running;
use crate::scribe::Scribe;
use crate::shelf::Shelf;
use crate::signals::Signals;
use crate::state_dir::{LockError, StateLock};
use crate::store::Store;
use crate::sweep::Extent;
use crate::walls::{Users, Walls};

/// Threads for file operations: two builders' copies, and waiting for locks.
const BLOCKING_THREADS: usize = 4;

/// How long a start waits for what nothing needs to be deleted.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

/// What a primary is started with.
#[derive(Clone)]
pub struct Options {
    /// What to run.
    pub spec: FleetSpec,
    /// Reads it again.
    pub reread: Reread,
    /// Where to listen for operators: a path of at most [`MAX_SOCKET_PATH`](crate::MAX_SOCKET_PATH) bytes.
    pub control: PathBuf,
    /// The file that it was read from, if there is one: operators look for us by it.
    pub config: Option<PathBuf>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("spec", &self.spec)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// Why no fleet runs. Whatever was begun has been undone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another primary uses the state directory or the control socket (exit
    /// code 69).
    #[error(
        "another primary is running{}",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    AlreadyRunning {
        /// That primary's process, where it is known.
        pid: Option<u32>,
        /// What it holds: the state directory or the control socket.
        path: PathBuf,
    },
    /// Components cannot be served; all of them are named (exit code 3).
    #[error("{} of the apps cannot be served", .0.len())]
    Components(BTreeMap<AppName, Refusal>),
    /// What is asked for cannot be, on this machine (exit code 3).
    #[error("{}", .0.join("; "))]
    Problems(Vec<String>),
    /// Builders do not work at all, whatever the component (exit code 69).
    #[error("nothing can be compiled: {}", .0.problem)]
    Builder(Refusal),
    /// Listeners cannot be bound; all of them are named (exit code 69).
    #[error("{} of the listeners cannot be bound", .0.len())]
    Listeners(Vec<BindFailure>),
    /// Something of the machine is missing or refused (exit code 69).
    #[error("cannot {step}")]
    System {
        /// What we were doing, and to what.
        step: String,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    fn system(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::System { step, source }
    }

    /// Whether an address was in use, by whomever.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        match self {
            Self::Listeners(failures) => failures
                .iter()
                .any(|failure| matches!(failure.source, BindError::InUse { .. })),
            _ => false,
        }
    }
}

/// Runs a fleet until an operator or a signal ends it. Blocks; must be called
/// outside any async runtime. Takes over `SIGTERM`, `SIGINT`, `SIGQUIT` and
/// `SIGHUP`, and writes its log to standard error.
///
/// # Errors
///
/// Why it did not start. A fleet that has started ends well: what goes wrong
/// then is in its log and its status.
pub fn run(options: Options) -> Result<(), StartError> {
    let runtime = new_runtime()?;
    let (log, writer) = start_log(options.spec.server.log)?;
    let result = runtime.block_on(start(options, log));
    // Nothing is awaited: what still runs is waiting for a file's lock or for a
    // client that does not read.
    runtime.shutdown_background();
    writer.finish();
    result
}

/// Whether every listener of a specification could be bound now, and nobody else uses its
/// state directory. Binds nothing that stays.
///
/// # Errors
///
/// [`StartError::AlreadyRunning`] and [`StartError::Listeners`].
pub fn is_vacant(spec: &FleetSpec) -> Result<(), StartError> {
    let state_dir = &spec.server.state_dir;
    if let Some(other) = Running::of_state_dir(state_dir)
        && other.connect().is_ok()
    {
        return Err(StartError::AlreadyRunning {
            pid: Some(other.pid),
            path: state_dir.clone(),
        });
    }
    Listeners::bind(spec)
        .map(drop)
        .map_err(StartError::Listeners)
}

/// Compiles the components of a specification that are not in the cache of its
/// state directory, and returns those that cannot be served, each with the reason.
/// Starts nothing that stays, and writes nothing that does. Needs a tokio runtime
/// with I/O and time.
///
/// # Errors
///
/// [`StartError::Builder`] and [`StartError::System`].
pub async fn check_components(spec: &FleetSpec) -> Result<BTreeMap<AppName, Refusal>, StartError> {
    // Only what builders say on standard error, which is why they died.
    let (log, writer) = start_log(LogSpec {
        format: LogFormat::Text,
        level: LogLevel::Error,
    })?;
    let checked = check(spec, log).await;
    writer.finish();
    checked
}

async fn check(spec: &FleetSpec, log: Log) -> Result<BTreeMap<AppName, Refusal>, StartError> {
    // The state directory is the service's, and whoever checks may be somebody else.
    let scratch = tempfile::Builder::new()
        .prefix("skep-check-")
        .tempdir()
        .map_err(StartError::system("make a temporary folder"))?;
    let workshop = Workshop::beside(scratch.path(), &spec.server.state_dir, &log)
        .await
        .map_err(unusable)?;
    match compile(&workshop, spec).await {
        Ok(_) => Ok(BTreeMap::new()),
        Err(StartError::Components(refused)) => Ok(refused),
        Err(error) => Err(error),
    }
}

fn start_log(spec: LogSpec) -> Result<(Log, Writer), StartError> {
    Log::start(spec, io::stderr()).map_err(StartError::system("start the log"))
}

fn new_runtime() -> Result<Runtime, StartError> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(StartError::system("start the event loop"))
}

async fn start(options: Options, log: Log) -> Result<(), StartError> {
    let Options {
        spec,
        reread,
        control,
        config,
    } = options;
    let mut signals = Signals::install().map_err(StartError::system("handle signals"))?;
    let state_dir = &spec.server.state_dir;
    let holder = Running::new(&control, config.as_deref());
    let lock = StateLock::take(state_dir, &holder).map_err(|error| match error {
        LockError::Held { pid } => StartError::AlreadyRunning {
            pid,
            path: state_dir.clone(),
        },
        LockError::Io { path, source } => {
            StartError::system(format!("use the state directory: {}", path.display()))(source)
        }
    })?;
    for corrected in lock.corrected() {
        log.record(LogLevel::Warn, "state.corrected", |line| {
            line.text("message", corrected)
        });
    }
    // Where the kernel has no such pages there is nothing to go without.
    let _ = process::without_huge_pages();
    if let Err(error) = process::raise_nofile_limit() {
        log.record(LogLevel::Warn, "primary.limited", |line| {
            line.text(
                "message",
                &format!("cannot raise the limit of open files: {error}"),
            )
        });
    }

    let walls = raise(&spec, &log).await?;
    let workshop = open_workshop(&spec, &log).await?;
    let alerts = Alerts::start(spec.server.alert.clone(), log.clone());
    let journal = Journal::new(log.clone(), alerts.clone());
    let store = Store::open(&spec.server.state_dir).map_err(|error| {
        let step = format!("use the state directory: {error}");
        StartError::system(step)(io::Error::other(error))
    })?;
    let scribe = Scribe::start(store, journal.clone());
    scribe.open_worker_ids().await;
    let mut fleet = Fleet::new(Parts {
        server: spec.server.clone(),
        reread,
        workshop: Arc::clone(&workshop),
        walls,
        shelf: Shelf::new(spec.server.state_dir.join("pools")),
        scribe: scribe.clone(),
        journal: journal.clone(),
        alerts,
        seed: seed(),
    });
    let generation = spec.generation;
    select! {
        prepared = fleet.prepare(spec) => prepared?,
        // Builders that run are killed. There is nothing to drain.
        _ = signals.next_end() => return Ok(()),
    }
    workshop.others_serve();
    // Before there are workers; all that they will have is in use by now.
    let swept = scribe.sweep(&workshop, Extent::START);
    if let Ok(Some(swept)) = timeout(SWEEP_PATIENCE, swept).await {
        tell_swept(&journal, &swept);
    }
    let (control, asked) = listen(&control, &journal)?;
    journal.event(LogLevel::Info, "primary.started", |line| {
        line.number("pid", std::process::id())
            .number("generation", generation)
            .text("version", env!("CARGO_PKG_VERSION"))
    });
    let (scribe, alerts) = fleet.run(&mut signals, asked).await;
    control.finish().await;
    alerts.finish().await;
    scribe.finish();
    Ok(())
}

/// Listens for operators.
fn listen(path: &Path, journal: &Journal) -> Result<(Control, mpsc::Receiver<Asked>), StartError> {
    let rebound = {
        let (journal, path) = (journal.clone(), path.to_owned());
        move || {
            journal.event(LogLevel::Warn, "control.rebound", |line| {
                line.text("path", &path.to_string_lossy()).text(
                    "message",
                    "the control socket was removed, and is there again",
                )
            });
        }
    };
    Control::start(path, rebound).map_err(|error| match error {
        ControlError::InUse(path) => StartError::AlreadyRunning { pid: None, path },
        ControlError::Io { path, source } => {
            StartError::system(format!("listen at the control socket {}", path.display()))(source)
        }
    })
}

/// Walls, with users that were looked up where a name service that does not answer
/// holds up no more than the start.
async fn raise(spec: &FleetSpec, log: &Log) -> Result<Walls, StartError> {
    let problem = |why: String| StartError::Problems(vec![why]);
    let users = Users::default();
    let (known, wanted) = (users.clone(), spec.clone());
    aside(Reading::Configuration, move || known.look_up(&wanted))
        .await
        .map_err(|stuck| problem(format!("the users of pools: {stuck}")))?;
    Walls::raise(spec, users, log).map_err(|error| problem(error.to_string()))
}

async fn open_workshop(spec: &FleetSpec, log: &Log) -> Result<Arc<Workshop>, StartError> {
    Workshop::open(&spec.server.state_dir, log)
        .await
        .map_err(unusable)
}

async fn compile(workshop: &Arc<Workshop>, spec: &FleetSpec) -> Result<Artifacts, StartError> {
    let made = workshop.make_all(&components_of(spec)).await;
    made.all().map_err(unusable)
}

fn unusable(error: ArtifactsError) -> StartError {
    match error {
        ArtifactsError::Refused(refused) => StartError::Components(refused),
        ArtifactsError::Builder(refusal) => StartError::Builder(refusal),
        ArtifactsError::Dir { dir, source } => {
            StartError::system(format!("use the artifact cache in {}", dir.display()))(source)
        }
    }
}

/// A number that differs from start to start, for the jitter of backoffs: the
/// seed of the standard library's hash maps, which is the system's.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
