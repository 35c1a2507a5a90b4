//! How many processes a pool may fork, whatever its luck with the jitter.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::SlotIndex;

/// Forks that failing workers may cost a pool in any `2 × crash_window`:
/// `max(workers, max_crashes) + ⌈2 × crash_window / probe_interval⌉`.
///
/// The crashes that trip the breaker, and the probes. Whatever replaces a worker
/// that failed waits until it is within that, however long the worker had
/// served. What an operator asks for (the first fill, another size, a roll, a
/// recycling) never waits for it; it counts until its worker is stable, so that
/// workers which never are cost no more, the first fill included. With the
/// defaults and 2 workers: 7 in 60 s.
#[must_use]
pub fn fork_budget(settings: &SupervisionSettings, workers: u16) -> usize {
    let probes = span(settings)
        .as_nanos()
        .div_ceil(settings.probe_interval.as_nanos().max(1));
    let crashes = usize::try_from(settings.max_crashes).unwrap_or(usize::MAX);
    usize::from(workers)
        .max(crashes)
        .saturating_add(usize::try_from(probes).unwrap_or(usize::MAX))
}

fn span(settings: &SupervisionSettings) -> Duration {
    settings.crash_window.saturating_mul(2)
}

/// Why a process is forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fork {
    /// Somebody, or the configuration, asks for it.
    Asked,
    /// The worker before it failed.
    Again,
}

/// The newest forks of a pool, oldest first, without those that were asked for
/// and led to a stable worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Forks(VecDeque<(Moment, SlotIndex, Fork)>);

impl Forks {
    pub(super) fn record(
        &mut self,
        now: Moment,
        slot: SlotIndex,
        fork: Fork,
        settings: &SupervisionSettings,
    ) {
        self.0.retain(|(at, ..)| now.since(*at) < span(settings));
        self.0.push_back((now, slot, fork));
    }

    /// The worker of a slot became stable at `stable`: forgets the forks for it
    /// that were asked for. Later ones are those of its replacements.
    pub(super) fn settle(&mut self, slot: SlotIndex, stable: Moment) {
        self.0
            .retain(|(at, of, fork)| *of != slot || *at > stable || *fork == Fork::Again);
    }

    /// The slots from this one on are no more, and nobody waits for what was
    /// asked for there.
    pub(super) fn forget_from(&mut self, slots: u16) {
        self.0
            .retain(|(_, of, fork)| of.0 < slots || *fork == Fork::Again);
    }

    /// When one more is within the budget: a moment that may have passed.
    pub(super) fn allowed_at(&self, settings: &SupervisionSettings, workers: u16) -> Moment {
        let budget = fork_budget(settings, workers);
        match self.0.len().checked_sub(budget) {
            Some(index) => self.0[index].0 + span(settings),
            None => Moment::ORIGIN,
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_the_defaults() {
        let settings = SupervisionSettings::default();
        let budgets = [1, 2, 5, 6, 16].map(|workers| fork_budget(&settings, workers));
        assert_eq!(budgets, [7, 7, 7, 8, 18]);
    }

    #[test]
    fn the_oldest_fork_of_a_full_budget_says_when() {
        let at = |seconds| Moment::after_origin(Duration::from_secs(seconds));
        let settings = SupervisionSettings::default();
        let mut forks = Forks::default();
        for second in 0..7 {
            assert_eq!(forks.allowed_at(&settings, 2), Moment::ORIGIN);
            forks.record(at(second), SlotIndex(0), Fork::Again, &settings);
        }
        assert_eq!(forks.allowed_at(&settings, 2), at(60));
        forks.record(at(60), SlotIndex(1), Fork::Asked, &settings);
        assert_eq!(forks.allowed_at(&settings, 2), at(61));
        forks.settle(SlotIndex(1), at(59));
        assert_eq!(forks.allowed_at(&settings, 2), at(61));
        forks.settle(SlotIndex(1), at(60));
        assert_eq!(forks.allowed_at(&settings, 2), Moment::ORIGIN);
        // A worker that is stable takes back nothing that its predecessors cost.
        forks.record(at(60), SlotIndex(0), Fork::Again, &settings);
        forks.settle(SlotIndex(0), at(60));
        assert_eq!(forks.allowed_at(&settings, 2), at(61));
    }
}
