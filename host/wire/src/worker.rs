//! Between the primary and a worker.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_core::egress::OutboundGrant;
use skep_core::{
    AppLimits, AppName, ConnectionLimits, Generation, HandlerId, HttpCheck, InstancePolicy,
    ListenerName, LogSpec, Outcome, Plan, PoolName, Revision, Sandbox, SlotIndex, Tally,
    TenantName, WorkerId,
};

use crate::{Flavor, MAX_PLAN, Message};

/// What the primary tells a worker.
///
/// A worker begins with [`ToWorker::Begin`], as many [`ToWorker::Load`] as that
/// says, and one [`ToWorker::Serve`]; then it says [`FromWorker::Ready`]. Later
/// changes are the same two: load what is missing beside what is there, then
/// serve another plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first message: who the worker is and what will follow. Carries the
    /// pool's scoreboard, its sheet, the worker's register, the folder of its artifacts, and then one
    /// listening socket per entry of `listeners`, in that order. A canary
    /// worker has no listeners.
    Begin {
        /// The worker's unique number.
        worker: WorkerId,
        /// The pool it works for.
        pool: PoolName,
        /// Its place in the pool, and its cell in the scoreboard.
        slot: SlotIndex,
        /// The cell of the scoreboard and of the sheet that it writes.
        cell: u16,
        /// Number of workers of the pool, for shares of limits.
        workers: u16,
        /// The specification it serves.
        generation: Generation,
        /// How it logs.
        log: LogSpec,
        /// What happens where the kernel cannot confine it.
        sandbox: Sandbox,
        /// How long the requests of a handler that is no longer in the plan may
        /// take until they are cut.
        drain_timeout: Duration,
        /// How long it waits for its first handlers to be valid, before it
        /// serves without those that are not.
        grace: Duration,
        /// What it accepts from.
        listeners: Vec<ListenerRole>,
        /// How many [`ToWorker::Load`] follow before the first
        /// [`ToWorker::Serve`].
        loads: u32,
    },
    /// Load one handler and validate it. Carries the artifact, open for
    /// reading. It is answered by [`FromWorker::Loaded`] or
    /// [`FromWorker::Refused`]; before [`FromWorker::Ready`] only by the latter.
    Load(Box<LoadApp>),
    /// Serve this plan from now on; all its handlers were loaded, or refused by
    /// this worker, which tries those again while the plan names them, and
    /// answers 503 for them meanwhile (*quarantine*). Handlers that
    /// are not in it finish what they began and are dropped. After
    /// [`FromWorker::Ready`] it is answered by [`FromWorker::Serving`].
    Serve(Box<Plan>),
    /// Accept from these too, or with these limits if they are known. Carries
    /// one listening socket per entry. Answered by [`FromWorker::Listening`].
    Listen {
        /// The listeners.
        listeners: Vec<ListenerRole>,
    },
    /// Accept no more from these, once nobody waits there. Answered by
    /// [`FromWorker::Listening`]; their connections stay.
    Unlisten {
        /// The listeners.
        listeners: Vec<ListenerName>,
    },
    /// Talk with another process of ours from now on, instead of the one of
    /// the same kind before. Carries a channel to it. May come at any time
    /// after [`ToWorker::Begin`].
    Meet(Peer),
    /// Stop accepting, finish what was begun, report [`FromWorker::Drained`]
    /// and exit.
    Drain,
    /// Cut what is left and exit.
    Stop,
}

/// One listening socket that a worker was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRole {
    /// Its name.
    pub name: ListenerName,
    /// Limits of its connections.
    pub limits: ConnectionLimits,
}

/// Another process that a worker talks with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// The dispatcher of a listener: it hands connections out.
    Dispatcher(ListenerRole),
    /// The connector: it opens outbound connections.
    Connector,
}

/// One app as a worker needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadApp {
    /// The number by which plans name it.
    pub handler: HandlerId,
    /// The app.
    pub app: AppName,
    /// Its owner.
    pub tenant: TenantName,
    /// The artifact's number.
    pub revision: Revision,
    /// Which engine the artifact was compiled for.
    pub flavor: Flavor,
    /// Whether the matched prefix is cut off.
    pub strip_prefix: bool,
    /// Its limits.
    pub limits: AppLimits,
    /// How its instances are used.
    pub instance: InstancePolicy,
    /// Its environment, without the `SKEP_…` variables.
    pub env: Vec<(String, String)>,
    /// What it reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// Variables of its environment that must not be empty.
    pub require: Vec<String>,
    /// A request that it must answer well before it serves.
    pub check: Option<HttpCheck>,
    /// How long its own validation may take.
    pub validate_timeout: Duration,
    /// What it may reach.
    pub outbound: Vec<OutboundGrant>,
    /// Whether it did not work lately: a worker that starts does not wait for it.
    pub quarantined: bool,
    /// Whether a rollout brings it: a worker that starts and cannot load it is
    /// unfit, so that no request meets what is about to be taken back.
    pub vital: bool,
}

/// What a worker tells the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromWorker {
    /// It has given up what it does not need. Comes before every artifact is
    /// loaded.
    Confined {
        /// What of that the kernel lacks, in words.
        #[serde(with = "crate::text::few")]
        missing: Vec<String>,
    },
    /// The first plan's handlers are loaded and valid, but for those that were
    /// refused before, and those that are late; the worker accepts from now on.
    Ready {
        /// Handlers whose validation has not ended. They are told of by
        /// [`FromWorker::Loaded`] or [`FromWorker::Refused`] when it has.
        late: Vec<HandlerId>,
    },
    /// The worker cannot serve anything and is about to exit.
    Unfit {
        /// What is wrong.
        #[serde(with = "crate::text")]
        message: String,
    },
    /// A handler is loaded and valid. If the plan that is served names it, it
    /// answers from now on.
    Loaded {
        /// The handler.
        handler: HandlerId,
    },
    /// A handler cannot serve; the worker goes on without it.
    Refused {
        /// The handler.
        handler: HandlerId,
        /// What is wrong.
        #[serde(with = "crate::text")]
        message: String,
    },
    /// Every request from now on is routed by this plan. Tallies of the
    /// handlers that were in the plan before came just before.
    Serving {
        /// The plan's number.
        plan: u64,
    },
    /// What handlers counted: those of observed apps several times a second.
    Tallies(Vec<HandlerTally>),
    /// A handler that is in no plan any more is gone.
    Retired {
        /// The handler.
        handler: HandlerId,
        /// Its app.
        app: AppName,
        /// Requests that were cut because they took longer than
        /// `drain_timeout`.
        cut: u32,
    },
    /// These are the listeners that it accepts from now.
    Listening {
        /// Their names, in order.
        listeners: Vec<ListenerName>,
    },
    /// Nothing is in flight any more; the worker exits.
    Drained,
}

/// What one handler counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerTally {
    /// The handler.
    pub handler: HandlerId,
    /// Since it was loaded.
    pub total: Tally,
    /// Within the last one to two minutes.
    pub recent: Tally,
    /// Since it was loaded, all requests by outcome, those among them that
    /// tallies leave out.
    pub outcomes: Vec<(Outcome, u64)>,
}

impl HandlerTally {
    /// Whether it is one that a worker makes. One that was taken over may say
    /// anything.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let tallies = self.total.is_sound() && self.recent.is_sound();
        tallies && self.outcomes.len() <= Outcome::ALL.len()
    }
}

impl Message for ToWorker {
    const MOST: usize = MAX_PLAN;

    fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Load(_) => "load",
            Self::Serve(_) => "serve",
            Self::Listen { .. } => "listen",
            Self::Unlisten { .. } => "unlisten",
            Self::Meet(_) => "meet",
            Self::Drain => "drain",
            Self::Stop => "stop",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Begin { listeners, .. } => 4 + listeners.len(),
            Self::Load(_) | Self::Meet(_) => 1,
            Self::Listen { listeners } => listeners.len(),
            Self::Serve(_) | Self::Unlisten { .. } | Self::Drain | Self::Stop => 0,
        }
    }
}

impl Message for FromWorker {
    // Tallies of 16 handlers with all that they can count.
    const MOST: usize = 256 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Confined { .. } => "confined",
            Self::Ready { .. } => "ready",
            Self::Unfit { .. } => "unfit",
            Self::Loaded { .. } => "loaded",
            Self::Refused { .. } => "refused",
            Self::Serving { .. } => "serving",
            Self::Tallies(_) => "tallies",
            Self::Retired { .. } => "retired",
            Self::Listening { .. } => "listening",
            Self::Drained => "drained",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}
