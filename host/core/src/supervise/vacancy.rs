//! Which empty slot of a pool is filled next, and when.

use crate::moment::Moment;
use crate::name::SlotIndex;
use crate::supervise::breaker::BreakerState;
use crate::supervise::crew::{Crew, Empty, Starts};
use crate::supervise::forks::Fork;

/// What the empty slots of a pool want done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Start {
        slot: SlotIndex,
        attempt: u32,
        fork: Fork,
    },
    Probe {
        slot: SlotIndex,
        attempt: u32,
    },
    /// The pool is tripped, but no slot is empty.
    Recover,
    Nothing,
}

/// The empty slots of a pool, and what decides when they are filled.
#[derive(Debug)]
pub(super) struct Vacancies<'a> {
    pub(super) crew: &'a Crew,
    pub(super) breaker: BreakerState,
    pub(super) starts: Starts,
    /// When one more fork is within the budget.
    pub(super) allowed_at: Moment,
}

impl Vacancies<'_> {
    /// What to do now.
    pub(super) fn want(&self, now: Moment) -> Want {
        match self.breaker {
            BreakerState::Probing { .. } => Want::Nothing,
            BreakerState::Tripped { probe_at, .. }
                if self.probe_at(probe_at).is_none_or(|at| now < at) =>
            {
                Want::Nothing
            }
            BreakerState::Tripped { .. } => {
                self.crew
                    .empty()
                    .next()
                    .map_or(Want::Recover, |empty| Want::Probe {
                        slot: empty.slot,
                        attempt: empty.attempt,
                    })
            }
            BreakerState::Admitting => self
                .crew
                .empty()
                .filter(|empty| self.due(empty).is_some_and(|due| due <= now))
                .min_by_key(|empty| (empty.until, empty.slot))
                .map_or(Want::Nothing, |empty| Want::Start {
                    slot: empty.slot,
                    attempt: empty.attempt,
                    fork: empty.fork,
                }),
        }
    }

    /// When something will be wanted, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.breaker {
            // The probe has deadlines of its own.
            BreakerState::Probing { .. } => None,
            BreakerState::Tripped { probe_at, .. } => self.probe_at(probe_at),
            BreakerState::Admitting => self.crew.empty().filter_map(|empty| self.due(&empty)).min(),
        }
    }

    /// When an empty slot is filled, if only time keeps it from that.
    fn due(&self, empty: &Empty) -> Option<Moment> {
        // The one that starts has a deadline of its own.
        if empty.attempt > 1 && self.starts == Starts::Busy {
            return None;
        }
        Some(match (empty.attempt, empty.fork) {
            (1, Fork::Asked) => empty.until,
            _ => empty.until.max(self.allowed_at),
        })
    }

    /// A probe is a fork like any other, and waits for what starts already.
    /// Where no slot is empty nothing is forked.
    fn probe_at(&self, planned: Moment) -> Option<Moment> {
        match (self.crew.empty().next(), self.starts) {
            (None, _) => Some(planned),
            (Some(_), Starts::Idle) => Some(planned.max(self.allowed_at)),
            (Some(_), Starts::Busy) => None,
        }
    }
}
