//! The supervisor's state as `status` shows it.

use serde::{Deserialize, Serialize};

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::name::{Generation, PoolName, SlotIndex, WorkerId};
use crate::supervise::breaker::BreakerState;
use crate::supervise::event::Strength;
use crate::supervise::worker::{Stage, Worker};

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// Its name.
    pub name: PoolName,
    /// The specification that its next worker serves.
    pub generation: Generation,
    /// Workers it should have.
    pub workers: u16,
    /// Workers that serve, in their slots.
    pub serving: u16,
    /// Whether it replaces its workers.
    pub breaker: BreakerState,
    /// Workers that a roll under way has still to replace.
    pub rolling: Option<u16>,
    /// Processes that were asked for since the start.
    pub spawns: u64,
    /// Those of them that took a slot which had a worker before.
    pub restarts: u64,
    /// Crashes of both kinds that count now.
    pub crashes_in_window: u32,
    /// The newest exit.
    pub last_exit: Option<LastExit>,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// The worker.
    pub worker: WorkerId,
    /// The place it had.
    pub slot: SlotIndex,
    /// Why it ended.
    pub reason: ExitReason,
    /// Whether we had asked for it.
    pub voluntary: bool,
    /// When.
    pub at: Moment,
}

/// One worker, until its exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its unique number.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolName,
    /// Its place, or the one it had.
    pub slot: SlotIndex,
    /// The specification it serves.
    pub generation: Generation,
    /// 1, and one more for every failure in a row before it.
    pub attempt: u32,
    /// What it does.
    pub state: WorkerState,
    /// Since when.
    pub since: Moment,
    /// When it was created, or asked for if that was not yet reported.
    pub spawned_at: Moment,
    /// When it was ready.
    pub ready_at: Option<Moment>,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// It is not ready yet.
    Starting,
    /// It serves.
    Serving,
    /// It finishes what it began.
    Draining,
    /// It was told to go at once.
    Stopping,
    /// It was killed and is not reaped yet.
    Killed,
}

impl WorkerState {
    /// The stable name used in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Killed => "killed",
        }
    }

    /// Whether the worker holds a slot.
    #[must_use]
    pub const fn is_in_slot(self) -> bool {
        matches!(self, Self::Starting | Self::Serving)
    }
}

impl WorkerView {
    pub(super) fn of(pool: &PoolName, id: WorkerId, worker: &Worker) -> Self {
        Self {
            id,
            pool: pool.clone(),
            slot: worker.slot,
            generation: worker.generation,
            attempt: worker.attempt,
            state: WorkerState::of(&worker.stage),
            since: worker.since,
            spawned_at: worker.spawned_at.unwrap_or(worker.asked_at),
            ready_at: worker.ready_at,
        }
    }
}

impl WorkerState {
    const fn of(stage: &Stage) -> Self {
        match stage {
            Stage::Starting { .. } => Self::Starting,
            Stage::Serving { .. } => Self::Serving,
            Stage::Retired(retiree) => match retiree.strength() {
                Strength::Drain => Self::Draining,
                Strength::Stop => Self::Stopping,
                Strength::Kill => Self::Killed,
            },
        }
    }
}
