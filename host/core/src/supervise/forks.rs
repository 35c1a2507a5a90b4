//! How many processes a pool may fork, whatever its luck with the jitter.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::SlotIndex;

/// Forks that a pool of failing workers may cost in any `2 × crash_window`:
/// `max(workers, max_crashes) + ⌈2 × crash_window / probe_interval⌉`.
///
/// The first fill, the crashes that trip the breaker, and the probes. Retries
/// and probes wait until they are within it. So it bounds, by construction, the
/// forks of workers that never become stable, unless an operator asks for more
/// (a reset, a roll, another size). With the defaults and 2 workers: 7
/// in 60 s.
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

/// The newest forks of a pool, oldest first, without those of slots that have a
/// stable worker since.
#[derive(Clone, Debug, Default)]
pub(super) struct Forks(VecDeque<(Moment, SlotIndex)>);

impl Forks {
    pub(super) fn record(&mut self, now: Moment, slot: SlotIndex, settings: &SupervisionSettings) {
        self.0.retain(|(at, _)| now.since(*at) < span(settings));
        self.0.push_back((now, slot));
    }

    /// Forgets the forks of a slot whose worker became stable at `stable`.
    /// Later ones are those of its replacements.
    pub(super) fn settle(&mut self, slot: SlotIndex, stable: Moment) {
        self.0.retain(|(at, of)| *of != slot || *at > stable);
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
            forks.record(at(second), SlotIndex(0), &settings);
        }
        assert_eq!(forks.allowed_at(&settings, 2), at(60));
        forks.record(at(60), SlotIndex(1), &settings);
        assert_eq!(forks.allowed_at(&settings, 2), at(61));
        forks.settle(SlotIndex(1), at(59));
        assert_eq!(forks.allowed_at(&settings, 2), at(61));
        forks.settle(SlotIndex(1), at(60));
        assert_eq!(forks.allowed_at(&settings, 2), Moment::ORIGIN);
    }
}
