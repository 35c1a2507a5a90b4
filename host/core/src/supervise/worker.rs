//! One worker, from the decision to create it until its exit.

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, SlotIndex};
use crate::supervise::event::{FailureKind, RecycleCause};
use crate::supervise::retiree::Retiree;
use crate::supervise::wear::Wear;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Worker {
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Stage {
    Starting { ready_by: Moment },
    Serving { beat: Moment, standing: Standing },
    Retired(Retiree),
}

/// Whether a serving worker has served for `min_uptime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Takes note of a heartbeat.
    pub(super) fn beat(
        &mut self,
        now: Moment,
        at: Moment,
        served: bool,
        (requests, memory): (u64, u64),
    ) {
        self.served |= served;
        self.wear.beat(requests, memory);
        if let Stage::Serving { beat, .. } = &mut self.stage {
            *beat = at.min(now).max(*beat);
        }
    }

    pub(super) const fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    pub(super) const fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving { .. })
    }

    pub(super) const fn is_retired(&self) -> bool {
        matches!(self.stage, Stage::Retired(_))
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

    /// Which of its limits it reaches first, and when, if it is stable.
    pub(super) fn worn_out(
        &self,
        settings: &SupervisionSettings,
    ) -> Option<(Moment, RecycleCause)> {
        match self.stage {
            Stage::Serving {
                standing: Standing::Stable,
                ..
            } => self.wear.out(self.ready_at?, settings),
            Stage::Serving { .. } | Stage::Starting { .. } | Stage::Retired(_) => None,
        }
    }
}
