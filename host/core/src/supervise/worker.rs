//! One worker, from the decision to create it until its exit.

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, PoolName, SlotIndex, WorkerId};
use crate::supervise::event::{FailureKind, Record};
use crate::supervise::recycle::Wear;
use crate::supervise::retiree::Retiree;

#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) pool: PoolName,
    pub(super) slot: SlotIndex,
    pub(super) generation: Generation,
    pub(super) attempt: u32,
    pub(super) asked_at: Moment,
    pub(super) spawned_at: Option<Moment>,
    pub(super) ready_at: Option<Moment>,
    /// Whether it has answered a request well.
    pub(super) served: bool,
    pub(super) wear: Wear,
    pub(super) stage: Stage,
    /// When this stage, or step of retirement, began.
    pub(super) since: Moment,
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    Starting { ready_by: Moment },
    Serving { beat: Moment, standing: Standing },
    Retired(Retiree),
}

/// Whether a serving worker has served for `min_uptime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unproven,
    Stable,
}

/// What a deadline of a worker means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It is not ready in time.
    Late,
    /// It has stopped beating.
    Hung,
    /// It has become stable.
    Stable,
    /// It does not go when asked.
    Lingering,
}

impl Worker {
    /// What is due next, and when.
    pub(super) fn due(&self, settings: &SupervisionSettings) -> (Moment, Due) {
        match &self.stage {
            Stage::Starting { ready_by } => (*ready_by, Due::Late),
            Stage::Serving { beat, standing } => {
                let hung = (*beat + settings.hang_timeout, Due::Hung);
                let stable = (self.stable_at(settings), Due::Stable);
                // A worker that hangs as it becomes stable hangs.
                match standing {
                    Standing::Unproven if stable.0 < hung.0 => stable,
                    _ => hung,
                }
            }
            Stage::Retired(retiree) => (retiree.deadline(), Due::Lingering),
        }
    }

    /// When it is stable, if it goes on serving.
    pub(super) fn stable_at(&self, settings: &SupervisionSettings) -> Moment {
        self.ready_at.unwrap_or(self.asked_at) + settings.min_uptime
    }

    /// Whether it was stable when it was last seen at work.
    pub(super) fn was_stable(&self, last_seen: Moment, settings: &SupervisionSettings) -> bool {
        self.ready_at
            .is_some_and(|ready| last_seen.since(ready) >= settings.min_uptime)
    }

    /// Which kind of failure its crash is.
    pub(super) const fn failure(&self, stable: bool) -> FailureKind {
        if self.served || stable {
            FailureKind::Runtime
        } else {
            FailureKind::Startup
        }
    }

    pub(super) fn spawned(&self, worker: WorkerId) -> Record {
        Record::Spawned {
            worker,
            pool: self.pool.clone(),
            slot: self.slot,
            generation: self.generation,
        }
    }

    pub(super) fn ready(&self, worker: WorkerId) -> Record {
        Record::Ready {
            worker,
            pool: self.pool.clone(),
            slot: self.slot,
        }
    }

    pub(super) fn draining(&self, worker: WorkerId) -> Record {
        Record::Draining {
            worker,
            pool: self.pool.clone(),
            slot: self.slot,
        }
    }
}
