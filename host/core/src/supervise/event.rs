//! What goes into the supervisor and what comes out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit::ExitReason;
use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, PoolName, SlotIndex, WorkerId};

/// What happened. Events about workers that are unknown or gone are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A pool exists from now on and is to be filled. For a pool that exists
    /// already, a newer generation brings its size and settings, an empty crash
    /// window and an admitting breaker; workers that run stay.
    PoolAdded {
        /// Its name.
        pool: PoolName,
        /// How many workers it should have.
        workers: u16,
        /// Its settings.
        settings: SupervisionSettings,
        /// The specification that its workers serve.
        generation: Generation,
    },
    /// The process exists.
    Spawned {
        /// The worker of [`Action::Spawn`].
        worker: WorkerId,
    },
    /// The process could not be created; no exit follows.
    SpawnFailed {
        /// The worker of [`Action::Spawn`].
        worker: WorkerId,
        /// What the system said.
        message: String,
    },
    /// The worker serves.
    Ready {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker reported that it cannot serve; its exit follows.
    Unfit {
        /// The worker.
        worker: WorkerId,
        /// What it said.
        message: String,
    },
    /// The newest heartbeat that was seen. Heartbeats that are at hand go in
    /// before [`Event::Timer`], or a slow driver would have workers killed for
    /// its own slowness.
    Beat {
        /// The worker.
        worker: WorkerId,
        /// When it beat; the future counts as now.
        at: Moment,
        /// Whether it has answered at least one request well.
        served: bool,
        /// Requests that it has ever read.
        requests: u64,
        /// Bytes of its resident memory; 0 is unknown.
        memory: u64,
    },
    /// Nothing is in flight in a draining worker; its exit follows.
    Drained {
        /// The worker.
        worker: WorkerId,
    },
    /// The process was reaped.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        status: EndStatus,
    },
    /// Workers are to be replaced, slot by slot. While a roll is under way in
    /// the pool these are added to it, and the lesser patience counts.
    /// Answered by [`Notice::Rolled`] or [`Notice::RollFailed`], unless it is
    /// cancelled or the pool ends.
    Roll {
        /// The pool.
        pool: PoolName,
        /// Which; those that hold no slot of the pool are ignored. Empty: all
        /// that hold one now, be they serving or starting.
        workers: Vec<WorkerId>,
        /// What is done about a replacement that fails.
        patience: Patience,
    },
    /// No further worker is replaced; a replacement that starts is stopped.
    /// Nothing happens where nothing rolls.
    RollCancelled {
        /// The pool.
        pool: PoolName,
    },
    /// The pool is no more: its workers drain, and it is forgotten with the
    /// last of them. If it is added before, it is a new pool at once.
    PoolRemoved {
        /// The pool.
        pool: PoolName,
    },
    /// An operator wants another number of workers.
    Scale {
        /// The pool.
        pool: PoolName,
        /// How many workers it should have.
        workers: u16,
    },
    /// An operator wants breakers and backoff cleared.
    Reset {
        /// The pool.
        pool: PoolName,
    },
    /// All workers shall go. A later one may be stronger; weaker ones are
    /// ignored.
    Shutdown {
        /// How.
        strength: Strength,
    },
    /// The deadline has passed.
    Timer,
}

/// What is done about the replacements of a roll that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Patience {
    /// The first failure ends the roll.
    OneTry,
    /// It is tried again after a backoff, until a breaker of the pool trips or
    /// `max_crashes` workers of the pool have failed without one success of the
    /// roll in between, however slowly.
    UntilTripped,
}

/// How a process ended, as the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The kernel ended it for want of memory, or it said so itself.
    OutOfMemory,
}

impl EndStatus {
    /// The reason of an exit that nobody asked for.
    #[must_use]
    pub const fn unasked(self) -> ExitReason {
        match self {
            Self::Code(code) => ExitReason::Crash { code },
            Self::Signal(signal) => ExitReason::Signal { signal },
            Self::OutOfMemory => ExitReason::OutOfMemory,
        }
    }
}

/// How strongly a worker is asked to go. To escalate is to go up in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// Finish what was begun, then exit.
    Drain,
    /// Cut what is left and exit.
    Stop,
    /// SIGKILL.
    Kill,
}

/// What kind of crash it was; each kind has its own breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The worker never served a good request and was never stable.
    Startup,
    /// It had served, or was stable.
    Runtime,
}

/// Why a roll ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum RollFailure {
    /// This worker failed, and the patience was at its end.
    Worker {
        /// The worker: a replacement, or the one whose crash tripped a breaker.
        worker: WorkerId,
        /// Why it failed.
        reason: ExitReason,
    },
    /// A breaker of the pool was not admitting when the roll was asked for.
    Tripped,
}

impl fmt::Display for RollFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker { worker, reason } => write!(f, "worker {worker}: {reason}"),
            Self::Tripped => f.write_str("too many crashes; reset the pool first"),
        }
    }
}

/// Which limit a worker has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecycleCause {
    /// `max_requests`.
    Requests,
    /// `max_age`.
    Age,
    /// `memory_soft`.
    Memory,
}

impl RecycleCause {
    /// The stable name used in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Age => "age",
            Self::Memory => "memory",
        }
    }
}

/// What the driver shall do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create a worker. Answered by [`Event::Spawned`] or
    /// [`Event::SpawnFailed`].
    Spawn {
        /// Its unique number.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its place. An earlier worker of this slot may still be going away.
        slot: SlotIndex,
        /// The specification it serves.
        generation: Generation,
        /// 1, and one more for every failure in a row before it.
        attempt: u32,
    },
    /// Ask a worker to finish and go.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// Ask a worker to go at once.
    Stop {
        /// The worker.
        worker: WorkerId,
    },
    /// Kill a worker. Repeated until its exit is reported.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Publish what happened.
    Notice(Notice),
    /// The shutdown is complete: no worker is left.
    Finished,
}

impl Action {
    /// Asks a worker to go, this strongly.
    pub(super) const fn ask(worker: WorkerId, strength: Strength) -> Self {
        match strength {
            Strength::Drain => Self::Drain { worker },
            Strength::Stop => Self::Stop { worker },
            Strength::Kill => Self::Kill { worker },
        }
    }
}

/// Something that happened and that events, log and alerts tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A process exists.
    Spawned {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its place.
        slot: SlotIndex,
        /// The specification it serves.
        generation: Generation,
    },
    /// A worker serves.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its place.
        slot: SlotIndex,
    },
    /// A worker was asked to finish and go.
    Draining {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// The place it had.
        slot: SlotIndex,
    },
    /// A worker is gone. There is one for every exit and every failed spawn.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// The place it had.
        slot: SlotIndex,
        /// Why.
        reason: ExitReason,
        /// Whether we had asked for it.
        voluntary: bool,
    },
    /// A replacement failed or was called off; the worker it was for stays.
    Kept {
        /// The worker that stays.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its place.
        slot: SlotIndex,
    },
    /// A roll is complete: every worker that it was for is gone from its slot,
    /// and the slot has served since.
    Rolled {
        /// The pool.
        pool: PoolName,
        /// Workers that were replaced.
        replaced: u16,
    },
    /// A roll was refused or given up; what was not replaced stays.
    RollFailed {
        /// The pool.
        pool: PoolName,
        /// Why.
        reason: RollFailure,
        /// Workers that were replaced.
        replaced: u16,
        /// Workers that were not, or whose slot does not serve yet.
        left: u16,
    },
    /// A worker has reached a limit, and its replacement starts.
    Recycling {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its place.
        slot: SlotIndex,
        /// Which limit.
        cause: RecycleCause,
    },
    /// A breaker tripped: the one alert of a crash loop.
    Tripped {
        /// The pool.
        pool: PoolName,
        /// Which of its breakers.
        kind: FailureKind,
        /// Crashes of that kind in the window.
        crashes: u32,
        /// The reason of the last one.
        last: ExitReason,
    },
    /// A tripped pool is tried with one worker.
    Probing {
        /// The pool.
        pool: PoolName,
    },
    /// A pool is filled again.
    Reset {
        /// The pool.
        pool: PoolName,
    },
}
