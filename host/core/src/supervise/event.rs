//! What goes into the supervisor and what comes out.

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
    /// An operator wants this worker replaced. Ignored unless it serves.
    Replace {
        /// The worker.
        worker: WorkerId,
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
    Record(Record),
    /// The shutdown is complete: no worker is left.
    Finished,
}

/// Something that happened and that events, log and alerts tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
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
    /// A replacement was refused or failed; the worker it was for stays.
    Kept {
        /// The worker that stays.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its place.
        slot: SlotIndex,
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
