//! Workers that have left their slot.
//!
//! ```text
//! Draining{by} ──drained or late──▶ Stopping{kill_at} ──late──▶ Killed ──exit──▶ gone
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit::ExitReason;
use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::supervise::event::Strength;

/// How long a killed worker may take before it is killed again. A signal is
/// not lost, but a driver may have had nothing to send it to yet.
const KILL_AGAIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Retiree {
    /// The reason that its exit will have, whatever its code.
    cause: ExitReason,
    step: Step,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Step {
    Draining { by: Moment },
    Stopping { kill_at: Moment },
    Killed { again_at: Moment },
}

impl Step {
    fn new(strength: Strength, now: Moment, settings: &SupervisionSettings) -> Self {
        match strength {
            Strength::Drain => Self::Draining {
                by: now + settings.drain_timeout,
            },
            Strength::Stop => Self::Stopping {
                kill_at: now + settings.kill_timeout,
            },
            Strength::Kill => Self::Killed {
                again_at: now + KILL_AGAIN,
            },
        }
    }
}

impl Retiree {
    pub(super) fn new(
        cause: ExitReason,
        strength: Strength,
        now: Moment,
        settings: &SupervisionSettings,
    ) -> Self {
        Self {
            cause,
            step: Step::new(strength, now, settings),
        }
    }

    pub(super) fn cause(&self) -> &ExitReason {
        &self.cause
    }

    pub(super) const fn strength(&self) -> Strength {
        match self.step {
            Step::Draining { .. } => Strength::Drain,
            Step::Stopping { .. } => Strength::Stop,
            Step::Killed { .. } => Strength::Kill,
        }
    }

    pub(super) const fn deadline(&self) -> Moment {
        match self.step {
            Step::Draining { by } => by,
            Step::Stopping { kill_at } => kill_at,
            Step::Killed { again_at } => again_at,
        }
    }

    /// Whether that was an escalation; a weaker wish changes nothing.
    pub(super) fn escalate(
        &mut self,
        strength: Strength,
        now: Moment,
        settings: &SupervisionSettings,
    ) -> bool {
        let stronger = self.strength() < strength;
        if stronger {
            self.step = Step::new(strength, now, settings);
        }
        stronger
    }

    /// Its deadline has passed: how it is to be asked now.
    pub(super) fn late(&mut self, now: Moment, settings: &SupervisionSettings) -> Strength {
        let strength = match self.step {
            Step::Draining { .. } => Strength::Stop,
            Step::Stopping { .. } | Step::Killed { .. } => Strength::Kill,
        };
        // Killed at once because we wanted so is what was requested; killed
        // because it did not go is not.
        if self.strength() < strength && self.cause == ExitReason::Requested {
            self.cause = ExitReason::DrainTimeout;
        }
        self.step = Step::new(strength, now, settings);
        strength
    }
}
