//! What a rollout does about what both revisions count: nothing, a look at them
//! side by side, or the way back.

use std::mem;
use std::time::Duration;

use crate::moment::Moment;
use crate::rollout::compare::{Comparison, Verdict};
use crate::rollout::health::{Health, judge};
use crate::rollout::machine::Rollout;
use crate::rollout::order::{Output, Wanted};
use crate::rollout::state::{Failure, SETTLE_LEAST, State, Watched};
use crate::spec::Portion;

/// The longest time for which two revisions are compared side by side; `observe`
/// is it where that is shorter, but for [`COMPARE_LEAST`].
const COMPARE_MOST: Duration = Duration::from_secs(60);
/// Enough for some tens of requests of each of an app that has ten a second.
const COMPARE_LEAST: Duration = Duration::from_secs(10);
/// What is waited for as [`SETTLE_LEAST`] says takes at most so long.
const SETTLE_MOST: Duration = Duration::from_secs(30);
/// Between two comparisons of one rollout the new revision answers alone.
const COMPARE_AGAIN: Duration = Duration::from_secs(300);
/// By how much comparing may prolong a rollout beyond `observe`.
pub const COMPARE_LIMIT: Duration = COMPARE_MOST.saturating_add(SETTLE_MOST);

impl Rollout {
    /// Judges what was counted last; returns the state unless that changes it.
    pub(super) fn watch(&mut self, mut state: State, at_end: bool, out: &mut Vec<Output>) -> State {
        let Some(Watched { old, new }) = state.watched() else {
            return state;
        };
        let health = judge(&self.order.rules, old, new, at_end);
        if health.is_bad() {
            return self.fail(state, Failure::health(&health), out);
        }
        let verdict = match &mut state {
            State::Observing {
                until,
                watched: Some(watched),
                again,
            } if *again <= self.now => {
                let Health::Suspect { .. } = health else {
                    return state;
                };
                let (observe, watched) = (*until, mem::take(watched));
                return self.compare(observe, watched, &health, out);
            }
            State::Comparing {
                watched: Watched { old, new },
                comparison,
                ..
            }
            | State::Canary {
                watched: Some(Watched { old, new }),
                comparison,
                ..
            } if self.order.rules.max_latency > Portion(0) => {
                let verdict = comparison.take(self.now, old, new);
                if at_end {
                    comparison.conclude()
                } else {
                    verdict
                }
            }
            _ => return state,
        };
        match (verdict, state) {
            (Verdict::Slow { old, new }, state) => {
                let limit = self.order.rules.max_latency;
                let slow = Health::Slow { old, new, limit };
                self.fail(state, Failure::health(&slow), out)
            }
            (
                Verdict::Good,
                State::Comparing {
                    observe, watched, ..
                },
            ) => {
                self.unclear = false;
                self.compared(observe, watched, out)
            }
            (_, state) => state,
        }
    }

    /// Gives both revisions half of the requests each.
    fn compare(
        &mut self,
        observe: Moment,
        watched: Watched,
        why: &Health,
        out: &mut Vec<Output>,
    ) -> State {
        let longest = [&watched.old, &watched.new]
            .into_iter()
            .filter_map(|tally| tally.quantile(0.99))
            .max()
            .unwrap_or_default();
        let from = self.now + longest.clamp(SETTLE_LEAST, SETTLE_MOST);
        let most = self.order.observe.clamp(COMPARE_LEAST, COMPARE_MOST);
        out.push(Output::Comparing {
            reason: why.to_string(),
        });
        self.want(Wanted::Both, out);
        State::Comparing {
            until: from + most,
            observe,
            watched,
            comparison: Box::new(self.comparison(from)),
        }
    }

    pub(super) fn comparison(&self, from: Moment) -> Comparison {
        Comparison::new(self.order.rules.max_latency.factor(), from)
    }

    /// Says what a comparison left open when its time was up.
    pub(super) fn conclude(&mut self, comparison: &Comparison, out: &mut Vec<Output>) {
        self.unclear = comparison.conclude() == Verdict::Open;
        if self.unclear
            && let Some((old, new)) = comparison.medians()
        {
            let limit = self.order.rules.max_latency;
            let noisy = Health::Noisy { old, new, limit };
            out.push(Output::Unclear {
                reason: noisy.to_string(),
            });
        }
    }

    /// A comparison is over and the new revision stays.
    pub(super) fn compared(
        &mut self,
        observe: Moment,
        watched: Watched,
        out: &mut Vec<Output>,
    ) -> State {
        if observe <= self.now {
            return self.done(out);
        }
        self.want(Wanted::New { standby_old: true }, out);
        State::Observing {
            until: observe,
            watched: Some(watched),
            again: self.now + COMPARE_AGAIN,
        }
    }
}
