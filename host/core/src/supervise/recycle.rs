//! Recycling: a worker that has reached a limit of requests, age or memory is
//! replaced, one at a time in a pool, the new one ready before the old drains.
//!
//! Only a stable worker is recycled: a limit that workers reach as soon as they
//! serve must not make the pool fork without end. [`Recycling::next`] is asked by
//! the deadline and by the deed.

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{SlotIndex, WorkerId};
use crate::supervise::backoff::{self, SplitMix64};
use crate::supervise::crew::{Crew, Starts};
use crate::supervise::event::RecycleCause;

/// What a pool remembers of its recyclings.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Recycling {
    /// Replacements that failed in a row.
    failures: u32,
    /// No other is started before.
    until: Moment,
}

/// Whom a pool recycles next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// When: a moment that may have passed.
    pub(super) at: Moment,
    pub(super) slot: SlotIndex,
    pub(super) worker: WorkerId,
    pub(super) cause: RecycleCause,
}

impl Recycling {
    pub(super) const fn new() -> Self {
        Self {
            failures: 0,
            until: Moment::ORIGIN,
        }
    }

    /// A replacement serves.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(
        &mut self,
        now: Moment,
        settings: &SupervisionSettings,
        random: &mut SplitMix64,
    ) {
        self.failures = self.failures.saturating_add(1);
        let delay = backoff::delay(settings, self.failures, random);
        self.until = now + delay.max(settings.probe_interval);
    }

    /// The attempt that the next replacement is.
    pub(super) const fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// Whom the pool recycles next, while it neither rolls nor is tripped.
    /// `None` while none is worn out or something else than time is waited for;
    /// `allowed_at` is when one more fork is within the budget.
    pub(super) fn next(
        &self,
        crew: &Crew,
        settings: &SupervisionSettings,
        allowed_at: Moment,
    ) -> Option<Candidate> {
        if !can_wear_out(settings) || crew.replacing() > 0 {
            return None;
        }
        let (at, slot, worker, cause) = crew
            .held()
            .filter_map(|(slot, id)| {
                let (at, cause) = crew.get(id)?.worn_out(settings)?;
                crew.has_room(slot).then_some((at, slot, id, cause))
            })
            .min()?;
        if crew.starts() == Starts::Busy {
            return None;
        }
        Some(Candidate {
            at: at.max(self.until).max(allowed_at),
            slot,
            worker,
            cause,
        })
    }
}

/// Whether there is any limit that workers could reach.
pub(super) fn can_wear_out(settings: &SupervisionSettings) -> bool {
    settings.max_requests > 0 || !settings.max_age.is_zero() || settings.soft_memory().is_some()
}
