//! One pool: its slots, and which of them is filled next.

use std::time::Duration;

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, SlotIndex, WorkerId};
use crate::supervise::breaker::{Breaker, BreakerState};
use crate::supervise::forks::{Fork, Forks};
use crate::supervise::recycle::Recycling;
use crate::supervise::roll::Roll;
use crate::supervise::slot::Slot;
use crate::supervise::view::LastExit;

/// The shortest `min_uptime`, `crash_window` and `probe_interval`. Shorter ones
/// would make every worker stable or every crash forgotten: with them a
/// configuration could ask for a fork bomb.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) presence: Presence,
    pub(super) settings: SupervisionSettings,
    pub(super) generation: Generation,
    pub(super) workers: u16,
    pub(super) slots: Vec<Slot>,
    pub(super) breaker: Breaker,
    pub(super) forks: Forks,
    pub(super) roll: Option<Roll>,
    pub(super) recycling: Recycling,
    pub(super) spawns: u64,
    pub(super) restarts: u64,
    pub(super) last_exit: Option<LastExit>,
}

/// Whether a pool is to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Staying,
    /// It is forgotten with its last worker.
    Leaving,
}

/// What a pool wants done now.
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
    /// It is tripped, but no slot is empty.
    Recover,
    Nothing,
}

/// A slot without a worker.
#[derive(Clone, Copy, Debug)]
struct Empty {
    slot: SlotIndex,
    attempt: u32,
    until: Moment,
    fork: Fork,
}

/// Whether a worker of the pool is starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    Idle,
    Busy,
}

impl Pool {
    pub(super) fn new(settings: &SupervisionSettings, generation: Generation) -> Self {
        Self {
            presence: Presence::Staying,
            settings: bounded(settings),
            generation,
            workers: 0,
            slots: Vec::new(),
            breaker: Breaker::new(),
            forks: Forks::default(),
            roll: None,
            recycling: Recycling::new(),
            spawns: 0,
            restarts: 0,
            last_exit: None,
        }
    }

    /// A new generation: what is known of the old one's crashes says nothing
    /// about it.
    pub(super) fn renew(&mut self, settings: &SupervisionSettings, generation: Generation) {
        self.settings = bounded(settings);
        self.generation = generation;
        self.breaker = Breaker::new();
        // It is asked for, and due at once.
        for slot in &mut self.slots {
            if let Slot::Waiting {
                attempt,
                until,
                fork,
            } = slot
            {
                (*attempt, *until, *fork) = (1, Moment::ORIGIN, Fork::Asked);
            }
        }
    }

    /// Sets the size. Returns what was in the slots that are no more.
    pub(super) fn resize(&mut self, workers: u16) -> Vec<Slot> {
        self.workers = workers;
        self.forks.forget_from(workers);
        if let Some(roll) = &mut self.roll {
            roll.resize(workers);
        }
        let workers = usize::from(workers);
        self.slots
            .resize(self.slots.len().max(workers), Slot::Vacant);
        self.slots.split_off(workers)
    }

    /// Counts a fork for a slot that is as it was before.
    pub(super) fn forked(&mut self, now: Moment, slot: SlotIndex, fork: Fork) {
        self.forks.record(now, slot, fork, &self.settings);
        self.spawns += 1;
        if self.slot(slot).is_some_and(|slot| *slot != Slot::Vacant) {
            self.restarts += 1;
        }
    }

    /// An operator says so: forgets crashes, forks and backoff; empty slots are
    /// due at once.
    pub(super) fn reset(&mut self, now: Moment) {
        self.breaker = Breaker::new();
        self.forks.clear();
        self.recover(now);
    }

    /// It works again: empty slots are due, within the budget of forks.
    pub(super) fn recover(&mut self, now: Moment) {
        self.breaker.admit();
        if let Some(roll) = &mut self.roll {
            roll.reset();
        }
        for slot in &mut self.slots {
            if let Slot::Waiting { attempt, until, .. } = slot {
                (*attempt, *until) = (1, now);
            }
        }
    }

    pub(super) fn slot(&mut self, index: SlotIndex) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index.0))
    }

    /// All workers in slots, in the order of the slots.
    pub(super) fn holders(&self) -> impl Iterator<Item = WorkerId> {
        self.slots.iter().copied().flat_map(Slot::workers)
    }

    /// Slots with one worker.
    pub(super) fn held(&self) -> impl Iterator<Item = (SlotIndex, WorkerId)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| match slot {
                Slot::Held { worker } => Some((SlotIndex(index), *worker)),
                Slot::Vacant | Slot::Waiting { .. } | Slot::Replacing { .. } => None,
            })
    }

    /// How many slots have a worker whose successor starts.
    pub(super) fn replacing(&self) -> usize {
        let replacing = |slot: &&Slot| matches!(slot, Slot::Replacing { .. });
        self.slots.iter().filter(replacing).count()
    }

    /// Gives every slot back to the worker that serves in it. Returns each with
    /// that worker and the successor, which is in no slot any more.
    pub(super) fn keep_old(&mut self) -> Vec<(SlotIndex, WorkerId, WorkerId)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(index, slot)| match *slot {
                Slot::Replacing { old, new } => {
                    *slot = Slot::Held { worker: old };
                    Some((SlotIndex(index), old, new))
                }
                Slot::Vacant | Slot::Waiting { .. } | Slot::Held { .. } => None,
            })
            .collect()
    }

    /// What to do now.
    pub(super) fn want(&self, now: Moment, starts: Starts) -> Want {
        match self.breaker.view() {
            BreakerState::Probing { .. } => Want::Nothing,
            BreakerState::Tripped { probe_at, .. }
                if self.probe_at(probe_at, starts).is_none_or(|at| now < at) =>
            {
                Want::Nothing
            }
            BreakerState::Tripped { .. } => {
                self.empty()
                    .next()
                    .map_or(Want::Recover, |empty| Want::Probe {
                        slot: empty.slot,
                        attempt: empty.attempt,
                    })
            }
            BreakerState::Admitting => self
                .empty()
                .filter(|empty| self.due(empty, starts).is_some_and(|due| due <= now))
                .min_by_key(|empty| (empty.until, empty.slot))
                .map_or(Want::Nothing, |empty| Want::Start {
                    slot: empty.slot,
                    attempt: empty.attempt,
                    fork: empty.fork,
                }),
        }
    }

    /// When it will want something, if nothing happens before.
    pub(super) fn deadline(&self, starts: Starts) -> Option<Moment> {
        match self.breaker.view() {
            // The probe has deadlines of its own.
            BreakerState::Probing { .. } => None,
            BreakerState::Tripped { probe_at, .. } => self.probe_at(probe_at, starts),
            BreakerState::Admitting => self
                .empty()
                .filter_map(|empty| self.due(&empty, starts))
                .min(),
        }
    }

    /// When an empty slot is filled, if only time keeps it from that.
    fn due(&self, empty: &Empty, starts: Starts) -> Option<Moment> {
        // The one that starts has a deadline of its own.
        if empty.attempt > 1 && starts == Starts::Busy {
            return None;
        }
        Some(match (empty.attempt, empty.fork) {
            (1, Fork::Asked) => empty.until,
            _ => empty.until.max(self.allowed_at()),
        })
    }

    /// A probe is a fork like any other, and waits for what starts already.
    /// Where no slot is empty nothing is forked.
    fn probe_at(&self, planned: Moment, starts: Starts) -> Option<Moment> {
        match (self.empty().next(), starts) {
            (None, _) => Some(planned),
            (Some(_), Starts::Idle) => Some(planned.max(self.allowed_at())),
            (Some(_), Starts::Busy) => None,
        }
    }

    /// When one more fork is within the budget.
    pub(super) fn allowed_at(&self) -> Moment {
        self.forks.allowed_at(&self.settings, self.workers)
    }

    fn empty(&self) -> impl Iterator<Item = Empty> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| {
            let (attempt, until, fork) = match *slot {
                Slot::Vacant => (1, Moment::ORIGIN, Fork::Asked),
                Slot::Waiting {
                    attempt,
                    until,
                    fork,
                } => (attempt, until, fork),
                Slot::Held { .. } | Slot::Replacing { .. } => return None,
            };
            Some(Empty {
                slot: SlotIndex(index),
                attempt,
                until,
                fork,
            })
        })
    }
}

fn bounded(settings: &SupervisionSettings) -> SupervisionSettings {
    // With neither a roll would not get on.
    let surge = match settings.max_unavailable {
        0 => settings.surge.max(1),
        _ => settings.surge,
    };
    SupervisionSettings {
        surge,
        min_uptime: settings.min_uptime.max(SHORTEST),
        crash_window: settings.crash_window.max(SHORTEST),
        probe_interval: settings.probe_interval.max(SHORTEST),
        max_crashes: settings.max_crashes.max(1),
        ..settings.clone()
    }
}
