//! Everything that the primary runs. What is to be done is decided in `skep-core`
//! (the supervisor, each app's rollout, each pool's convergence, the reload); how
//! is known to the modules beside this one.
//!
//! | module | does |
//! |---|---|
//! | `turns` | the loop: receives, steps what decides, performs its actions |
//! | `workers` | spawns workers, hears them, tells the supervisor |
//! | `filling` | pools that are new |
//! | `dispatchers`, `outbound` | the dispatchers and the connector, and what they are told |
//! | `introductions` | when they are told |
//! | `plans` | makes plans and brings workers to them |
//! | `lingering` | what pools answer until nobody sends it to them |
//! | `mending` | artifacts that somebody has damaged |
//! | `quarantine`, `unbuilt` | apps whose handler cannot be loaded or validated, or whose component cannot be built |
//! | `passage` | what an app's rollout needs done |
//! | `deploy` | an operator's deploys, promotions and returns |
//! | `trial` | canary workers, which validate and take no traffic |
//! | `recording`, `attempts` | what is written down of apps, and of deploys that fail early |
//! | `sweeping` | what nothing needs of the state directory goes |
//! | `reload`, `compose`, `apply`, `material` | from one generation to the next, and from nothing to the first |
//! | `operation` | restarts, sizes, and who has to wait for whom |
//! | `operator` | everything else that operators ask for |
//! | `report`, `figures` | status and history |

mod app;
mod apply;
mod attempts;
mod compose;
mod deploy;
mod dispatchers;
mod figures;
mod filling;
mod introductions;
mod lingering;
mod material;
mod mending;
mod operation;
mod operator;
mod outbound;
mod passage;
mod plans;
mod quarantine;
mod recording;
mod reload;
mod report;
mod sweeping;
mod trial;
mod turns;
mod unbuilt;
mod watching;
mod words;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use skep_core::rollout::Input;
use skep_core::supervise::{RollFailure, Strength, Supervisor};
use skep_core::{
    AppName, FleetSpec, Generation, HandlerId, ListenerName, Moment, PoolName, ServerSpec, WorkerId,
};
use skep_sys::clock;
use tokio::sync::mpsc;

use self::app::App;
use self::dispatchers::Dispatcher;
use self::introductions::Untold;
use self::lingering::Lingering;
use self::operation::{Roll, Scale};
use self::outbound::Connector;
use self::reload::Reloading;
use self::trial::Trial;
use self::unbuilt::Unbuilt;
use crate::alert::Alerts;
use crate::artifacts::Workshop;
use crate::catalog::Catalog;
use crate::control::Asker;
use crate::figures::Books;
use crate::journal::Journal;
use crate::listeners::Listeners;
use crate::pool::Pool;
use crate::process::{Heard, Process};
use crate::scribe::Scribe;
use crate::shelf::Shelf;
use crate::told::Hosts;
use crate::walls::Walls;

pub(crate) use self::sweeping::tell as tell_swept;
pub(crate) use self::words::worded;

/// News that may wait for the loop; workers' tasks wait when it is full.
const NEWS: usize = 256;

/// Reads what to run again, for a reload. The error is for people: all problems
/// of the configuration. Called on a thread of its own.
///
/// The components of the argument may be missing: their apps are in quarantine for
/// that already.
pub type Reread = Arc<dyn Fn(&BTreeSet<PathBuf>) -> Result<FleetSpec, String> + Send + Sync>;

/// What a fleet is made of.
pub(crate) struct Parts {
    pub(crate) server: ServerSpec,
    pub(crate) reread: Reread,
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) walls: Walls,
    pub(crate) shelf: Shelf,
    pub(crate) scribe: Scribe,
    pub(crate) journal: Journal,
    pub(crate) alerts: Alerts,
    pub(crate) seed: u64,
}

/// Everything that the primary runs.
pub(crate) struct Fleet {
    spec: FleetSpec,
    reread: Reread,
    apps: BTreeMap<AppName, App>,
    /// Those of them that are on their way to another revision: what happens to a
    /// worker is no look at all apps.
    passing: BTreeSet<AppName>,
    unbuilt: BTreeMap<AppName, Unbuilt>,
    catalog: Catalog,
    workshop: Arc<Workshop>,
    scribe: Scribe,
    supervisor: Supervisor,
    pools: BTreeMap<PoolName, Pool>,
    books: Books,
    /// Pools that are new, and that the supervisor does not know yet.
    unfilled: VecDeque<PoolName>,
    workers: BTreeMap<WorkerId, Worker>,
    trials: BTreeMap<WorkerId, Trial>,
    listeners: Listeners,
    dispatchers: BTreeMap<ListenerName, Dispatcher>,
    connector: Connector,
    /// What these may not know yet.
    untold: Untold,
    /// What dispatchers go by; those of a generation that is in force.
    hosts: BTreeMap<ListenerName, Hosts>,
    /// What pools answer until nobody sends it to them any more.
    lingering: Lingering,
    /// Pools whose artifacts are being verified, and what waits for that.
    suspects: BTreeMap<PoolName, Vec<Continuation>>,
    journal: Journal,
    alerts: Alerts,
    news: mpsc::Sender<Heard>,
    inbox: Option<mpsc::Receiver<Heard>>,
    later: mpsc::UnboundedSender<Continuation>,
    continuations: Option<mpsc::UnboundedReceiver<Continuation>>,
    /// What the last event brought about and was not dealt with yet.
    consequences: VecDeque<Consequence>,
    /// What operators have under way, besides the apps' ways to other revisions.
    rolls: Vec<Roll>,
    scales: Vec<Scale>,
    reloading: Option<Box<Reloading>>,
    /// A signal asked for a reload while another was under way.
    reload_wanted: bool,
    last_plan: u64,
    last_passage: u64,
    last_seed: u64,
    started: Moment,
    /// Apps of which a handler is in quarantine, in some worker at least.
    quarantined: BTreeSet<AppName>,
    /// Pools that were complete once.
    completed: BTreeSet<PoolName>,
    /// Listeners of which it was said on standard error that they serve.
    announced: BTreeSet<ListenerName>,
    /// What its processes are born behind.
    walls: Walls,
    shelf: Shelf,
    /// What the kernel lacks to confine our processes, as far as it was told.
    lacks: BTreeSet<String>,
    phase: Phase,
    /// How strongly the workers were told to end.
    workers_end: Option<Strength>,
    /// Whether no worker is left, nor will be.
    workers_gone: bool,
    /// Operators who wait for the end.
    waiting: Vec<Asker>,
}

/// A worker that has a process and a slot.
#[derive(Debug)]
struct Worker {
    process: Process,
    pool: PoolName,
    generation: Generation,
    /// Requests that it was working on when it was told to stop.
    cut: u32,
    /// What it still tried when it was ready.
    late: Vec<HandlerId>,
}

/// What work that was done elsewhere leads to.
type Continuation = Box<dyn FnOnce(&mut Fleet) + Send>;

/// What one event means to somebody else than whom it was for.
#[derive(Debug)]
enum Consequence {
    /// Something happened to an app's rollout.
    Feed(AppName, Input),
    /// A pool's rolling replacement has ended, well or for this reason.
    RollEnded(PoolName, Result<u16, RollFailure>),
}

/// What the fleet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Ending(Strength),
    Ended,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("generation", &self.spec.generation)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet of nothing.
    pub(crate) fn new(parts: Parts) -> Self {
        let (news, inbox) = mpsc::channel(NEWS);
        let (later, continuations) = mpsc::unbounded_channel();
        let mut supervisor = Supervisor::new(parts.seed);
        supervisor.number_from(parts.scribe.first_worker());
        let nothing = FleetSpec {
            generation: Generation(0),
            server: parts.server,
            listeners: BTreeMap::new(),
            pools: BTreeMap::new(),
            tenants: BTreeMap::new(),
            apps: BTreeMap::new(),
        };
        Self {
            spec: nothing,
            apps: BTreeMap::new(),
            passing: BTreeSet::new(),
            unbuilt: BTreeMap::new(),
            catalog: Catalog::default(),
            workshop: parts.workshop,
            scribe: parts.scribe,
            supervisor,
            pools: BTreeMap::new(),
            books: Books::default(),
            unfilled: VecDeque::new(),
            workers: BTreeMap::new(),
            trials: BTreeMap::new(),
            listeners: Listeners::default(),
            dispatchers: BTreeMap::new(),
            connector: Connector::new(parts.seed.wrapping_add(1)),
            untold: Untold::default(),
            hosts: BTreeMap::new(),
            lingering: Lingering::default(),
            suspects: BTreeMap::new(),
            journal: parts.journal,
            alerts: parts.alerts,
            news,
            inbox: Some(inbox),
            later,
            continuations: Some(continuations),
            consequences: VecDeque::new(),
            rolls: Vec::new(),
            scales: Vec::new(),
            reloading: None,
            reload_wanted: false,
            last_plan: 0,
            last_passage: 0,
            last_seed: parts.seed.wrapping_add(1),
            started: now(),
            quarantined: BTreeSet::new(),
            completed: BTreeSet::new(),
            announced: BTreeSet::new(),
            walls: parts.walls,
            shelf: parts.shelf,
            lacks: BTreeSet::new(),
            phase: Phase::Running,
            workers_end: None,
            workers_gone: false,
            waiting: Vec::new(),
            reread: parts.reread,
        }
    }
}

/// The primary's time; its origin is that of `CLOCK_MONOTONIC`, as in the
/// scoreboard.
pub(crate) fn now() -> Moment {
    Moment::after_origin(clock::monotonic())
}
