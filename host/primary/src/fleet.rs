//! The primary's loop: receive, make an event, step what decides, perform its
//! actions. What is to be done is decided in `skep-core` (the supervisor, each
//! app's rollout, each pool's convergence); how is known to the modules beside
//! this one.
//!
//! | module | does |
//! |---|---|
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
//! | `reload`, `compose`, `apply` | from one generation to the next, and from nothing to the first |
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
mod unbuilt;
mod watching;
mod words;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_core::rollout::Input;
use skep_core::solo::{self, Solo};
use skep_core::supervise::{Action, Event, RollFailure, Strength, Supervisor};
use skep_core::{
    AppName, FleetSpec, Generation, HandlerId, ListenerName, Moment, PoolName, ServerSpec, WorkerId,
};
use skep_sys::clock;
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

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
use crate::control::{Asked, Asker};
use crate::figures::Books;
use crate::journal::Journal;
use crate::listeners::Listeners;
use crate::pool::Pool;
use crate::process::{Command, Heard, Process};
use crate::rejection::Rejection;
use crate::scribe::Scribe;
use crate::shelf::Shelf;
use crate::signals::Signals;
use crate::told::Hosts;
use crate::walls::Walls;

pub(crate) use self::sweeping::tell as tell_swept;
pub(crate) use self::words::worded;

/// How often heartbeats are read: a tenth of the default `hang_timeout`.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

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

    /// Prepares the first generation, until it only has to be served.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub(crate) async fn prepare(&mut self, spec: FleetSpec) -> Result<(), Rejection> {
        let mut continuations = self.continuations.take().expect("it does not run yet");
        let mut prepared = self.begin_first(spec);
        let result = loop {
            select! {
                result = &mut prepared => break result,
                Some(continuation) = continuations.recv() => continuation(self),
            }
        };
        self.continuations = Some(continuations);
        result.expect("who prepares says how it went")
    }

    /// Runs until every worker is gone after a shutdown. Returns what outlives
    /// the fleet.
    pub(crate) async fn run(
        mut self,
        signals: &mut Signals,
        mut asked: mpsc::Receiver<Asked>,
    ) -> (Scribe, Alerts) {
        let mut inbox = self.inbox.take().expect("a fleet runs once");
        let mut continuations = self.continuations.take().expect("a fleet runs once");
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.serve_first();
        while self.phase != Phase::Ended {
            self.settle();
            if self.phase == Phase::Ended {
                break;
            }
            select! {
                Some(heard) = inbox.recv() => self.hear(heard),
                Some(continuation) = continuations.recv() => continuation(&mut self),
                wish = signals.next() => self.grant(wish),
                Some(asked) = asked.recv() => self.answer(asked),
                () = tick(&mut beats, self.workers.is_empty()) => self.read_beats(),
                () = until(self.deadline()) => self.fire(),
                () = yield_now(), if !self.unfilled.is_empty() => self.fill_next(),
            }
        }
        self.farewell();
        (self.scribe, self.alerts)
    }

    /// When something must be done though nothing happens.
    fn deadline(&self) -> Option<Moment> {
        let rollouts = self.apps.values().filter_map(App::deadline);
        let operation = self.operations_deadline();
        self.supervisor
            .deadline()
            .into_iter()
            .chain(rollouts)
            .chain(operation)
            .chain(self.solos().filter_map(|(_, solo)| solo.deadline()))
            .chain(self.lingering.deadline())
            .chain(self.unbuilt_deadline())
            .min()
    }

    /// Processes of which there is one; that of no listener is the connector.
    fn solos(&self) -> impl Iterator<Item = (Option<&ListenerName>, &Solo)> {
        let dispatchers = self.dispatchers.iter();
        dispatchers
            .map(|(name, dispatcher)| (Some(name), dispatcher.single.solo()))
            .chain([(None, self.connector.single.solo())])
    }

    fn next_seed(&mut self) -> u64 {
        self.last_seed = self.last_seed.wrapping_add(1);
        self.last_seed
    }

    fn fire(&mut self) {
        let now = now();
        // Heartbeats that are there go first, or a primary that was held up
        // would have its workers killed for it.
        self.read_due_beats(now);
        if self.supervisor.deadline().is_some_and(|at| at <= now) {
            self.step(Event::Timer);
        }
        let due: Vec<AppName> = self
            .apps
            .iter()
            .filter(|(_, app)| app.deadline().is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for app in due {
            self.feed(&app, Input::Timer);
        }
        let late: Vec<Option<ListenerName>> = self
            .solos()
            .filter(|(_, solo)| solo.deadline().is_some_and(|at| at <= now))
            .map(|(name, _)| name.cloned())
            .collect();
        for name in late {
            self.read_solo_beat(name.as_ref());
            self.step_solo(name.as_ref(), solo::Event::Timer);
        }
        if self.lingering.deadline().is_some_and(|at| at <= now) {
            self.forget_all_lingering();
        }
        self.press_operations(now);
        if self.unbuilt_deadline().is_some_and(|at| at <= now) {
            self.build_unbuilt();
        }
    }

    fn step(&mut self, event: Event) {
        let mut actions: VecDeque<_> = self.supervisor.step(now(), event).into();
        while let Some(action) = actions.pop_front() {
            actions.extend(self.perform(action));
        }
    }

    /// Performs one action; returns those that follow from its result.
    fn perform(&mut self, action: Action) -> Vec<Action> {
        match action {
            Action::Spawn {
                worker,
                pool,
                slot,
                generation,
                attempt: _,
            } => {
                let event = match self.spawn(worker, &pool, slot, generation) {
                    Ok(()) => Event::Spawned { worker },
                    Err(error) => Event::SpawnFailed {
                        worker,
                        message: error.to_string(),
                    },
                };
                return self.supervisor.step(now(), event);
            }
            Action::Drain { worker } => self.command(worker, Command::drain()),
            Action::Stop { worker } => self.stop(worker),
            Action::Kill { worker } => self.command(worker, Command::Kill),
            Action::Notice(notice) => self.notice(&notice),
            Action::Finished => self.workers_gone = true,
        }
        Vec::new()
    }

    /// Deals with what the last event brought about, until there is nothing
    /// left of it.
    fn settle(&mut self) {
        loop {
            while let Some(consequence) = self.consequences.pop_front() {
                match consequence {
                    Consequence::Feed(app, input) => self.feed(&app, input),
                    Consequence::RollEnded(pool, result) => self.roll_ended(&pool, &result),
                }
            }
            self.feed_settled();
            self.check_quarantine();
            self.check_operations();
            self.reload_if_wanted();
            self.introduce_all();
            self.go_on_ending();
            if self.consequences.is_empty() {
                return;
            }
        }
    }

    /// Has work done beside the loop, and goes on with its result in it.
    fn later<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(&mut Self, T) + Send + 'static,
    ) {
        let later = self.later.clone();
        tokio::spawn(async move {
            let result = work.await;
            // Fails only when the fleet has ended.
            let _ = later.send(Box::new(move |fleet: &mut Self| then(fleet, result)));
        });
    }
}

/// The primary's time; its origin is that of `CLOCK_MONOTONIC`, as in the
/// scoreboard.
pub(crate) fn now() -> Moment {
    Moment::after_origin(clock::monotonic())
}

async fn until(deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => sleep(deadline.since(now())).await,
        None => std::future::pending().await,
    }
}

/// Without workers there is nothing to look at.
async fn tick(beats: &mut Interval, idle: bool) {
    if idle {
        std::future::pending::<()>().await;
    }
    beats.tick().await;
}
