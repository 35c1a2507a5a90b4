//! Rolls: workers are replaced slot by slot, because an operator wants so.
//!
//! ```text
//!            Held{old} ──surge──▶ Replacing{old, new} ──new ready──▶ Held{new}
//!            │   ▲                      │ new fails
//!            │   └──────── Kept ────────┘
//!   vacated, │ within max_unavailable
//!            ▼
//!        Waiting ──▶ Held{new}, starting ──ready──▶ counts as replaced
//! ```
//!
//! A slot is *open* between the end of its old worker and the first worker
//! after it that serves. [`Supervisor::next_move`] is the one place that says
//! what a roll does next and when; the deadline and the deed both ask it.

use std::collections::BTreeSet;

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::name::{PoolName, SlotIndex, WorkerId};
use crate::supervise::backoff;
use crate::supervise::breaker::BreakerState;
use crate::supervise::event::{Action, Patience, Record, RollFailure, Strength};
use crate::supervise::forks::Fork;
use crate::supervise::pool::{Presence, Starts};
use crate::supervise::slot::{Loss, Slot};
use crate::supervise::supervisor::{Supervisor, kept};

/// Workers that live at a time and belong to one slot, retirees included, when
/// a replacement has been started: DESIGN's "live generations at most".
pub(super) const MAX_LIVE: usize = 3;

/// The roll of one pool.
#[derive(Clone, Debug)]
pub(super) struct Roll {
    patience: Patience,
    /// Those to be replaced that still hold their slots.
    old: BTreeSet<WorkerId>,
    /// Slots that have lost theirs and do not serve again yet.
    open: BTreeSet<SlotIndex>,
    replaced: u16,
    /// Replacements that failed in a row.
    failures: u32,
    /// No other is started before, if the last one failed.
    until: Moment,
    /// Crashes in the pool, of whatever kind, since one was replaced. The
    /// windows of the breaker forget slow crashes; a roll that does not get on
    /// must end all the same.
    setbacks: u32,
}

/// What a roll does next.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// Start a successor beside the old worker.
    Replace { slot: SlotIndex, old: WorkerId },
    /// Drain the old worker; the slot is filled like any other.
    Vacate { slot: SlotIndex, old: WorkerId },
}

impl Roll {
    const fn new(patience: Patience) -> Self {
        Self {
            patience,
            old: BTreeSet::new(),
            open: BTreeSet::new(),
            replaced: 0,
            failures: 0,
            until: Moment::ORIGIN,
            setbacks: 0,
        }
    }

    /// Workers that are left to replace.
    pub(super) fn left(&self) -> u16 {
        counted(self.old.len() + self.open.len())
    }

    fn is_complete(&self) -> bool {
        self.old.is_empty() && self.open.is_empty()
    }

    /// A worker is ready: the successor of `old`, or the next one in its slot.
    pub(super) fn ready(&mut self, slot: SlotIndex, old: Option<WorkerId>) {
        let replaced = old.is_some_and(|old| self.old.remove(&old));
        if self.open.remove(&slot) || replaced {
            self.replaced = self.replaced.saturating_add(1);
            (self.failures, self.setbacks) = (0, 0);
        }
    }

    /// A worker leaves the pool for another reason.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.old.remove(&worker);
    }

    /// The pool has another size.
    pub(super) fn resize(&mut self, workers: u16) {
        self.open.retain(|slot| slot.0 < workers);
    }

    /// Backoff is cleared.
    pub(super) const fn reset(&mut self) {
        (self.failures, self.setbacks) = (0, 0);
    }
}

impl Supervisor {
    pub(super) fn roll(
        &mut self,
        name: &PoolName,
        workers: &[WorkerId],
        patience: Patience,
        out: &mut Vec<Action>,
    ) {
        let Some(pool) = self.pools.get(name) else {
            return;
        };
        if pool.presence == Presence::Leaving {
            return;
        }
        let wanted = |worker: &WorkerId| workers.is_empty() || workers.contains(worker);
        if pool.breaker.view() != BreakerState::Admitting {
            let left = pool.holders().filter(wanted).count();
            return out.push(Action::Record(Record::RollFailed {
                pool: name.clone(),
                reason: RollFailure::Tripped,
                replaced: 0,
                left: counted(left),
            }));
        }
        if pool.roll.is_none() {
            // What a recycling has begun belongs to the old state.
            self.call_off(name, out);
        }
        let Some(pool) = self.pools.get_mut(name) else {
            return;
        };
        let old: Vec<WorkerId> = pool.holders().filter(wanted).collect();
        let roll = pool.roll.get_or_insert_with(|| Roll::new(patience));
        roll.patience = roll.patience.min(patience);
        roll.old.extend(old);
    }

    pub(super) fn cancel_roll(&mut self, name: &PoolName, out: &mut Vec<Action>) {
        if let Some(pool) = self.pools.get_mut(name)
            && pool.roll.take().is_some()
        {
            self.call_off(name, out);
        }
    }

    /// A worker in a slot has crashed, and the slot is already what it becomes.
    pub(super) fn set_back(
        &mut self,
        (name, slot, worker): (&PoolName, SlotIndex, WorkerId),
        loss: Loss,
        reason: ExitReason,
        out: &mut Vec<Action>,
    ) {
        let Some(pool) = self.pools.get_mut(name) else {
            return;
        };
        let successor = matches!(loss, Loss::New { .. });
        let Some(roll) = &mut pool.roll else {
            if successor {
                pool.recycling
                    .failed(self.now, &pool.settings, &mut self.random);
            }
            return;
        };
        let replacement = successor || roll.open.contains(&slot);
        if roll.old.remove(&worker) && !successor {
            roll.open.insert(slot);
        }
        roll.setbacks = roll.setbacks.saturating_add(1);
        if replacement {
            roll.failures = roll.failures.saturating_add(1);
            let delay = backoff::delay(&pool.settings, roll.failures, &mut self.random);
            roll.until = self.now + delay;
        }
        let over = replacement && roll.patience == Patience::OneTry
            || roll.setbacks >= pool.settings.max_crashes
            || pool.breaker.view() != BreakerState::Admitting;
        if over {
            let (replaced, left) = (roll.replaced, roll.left());
            pool.roll = None;
            self.call_off(name, out);
            out.push(Action::Record(Record::RollFailed {
                pool: name.clone(),
                reason: RollFailure::Worker { worker, reason },
                replaced,
                left,
            }));
        }
    }

    /// Does one thing for the roll of a pool. Returns whether there was one.
    pub(super) fn advance_roll(&mut self, name: &PoolName, out: &mut Vec<Action>) -> bool {
        let next = self.next_move(name).filter(|(at, _)| *at <= self.now);
        let Some(pool) = self.pools.get_mut(name) else {
            return false;
        };
        let Some(roll) = &mut pool.roll else {
            return false;
        };
        if roll.is_complete() {
            let replaced = roll.replaced;
            pool.roll = None;
            out.push(Action::Record(Record::Rolled {
                pool: name.clone(),
                replaced,
            }));
            return true;
        }
        let attempt = roll.failures.saturating_add(1);
        match next {
            Some((_, Move::Replace { slot, old })) => {
                let new = self.start(name, slot, attempt, Fork::Asked, out);
                self.put(name, slot, Slot::Replacing { old, new });
            }
            Some((_, Move::Vacate { slot, old })) => {
                roll.old.remove(&old);
                roll.open.insert(slot);
                let until = self.now;
                self.put(
                    name,
                    slot,
                    Slot::Waiting {
                        attempt,
                        until,
                        fork: Fork::Asked,
                    },
                );
                self.dismiss(old, Strength::Drain, out);
            }
            None => return false,
        }
        true
    }

    /// When the roll of a pool goes on, if only time keeps it from that.
    pub(super) fn roll_deadline(&self, name: &PoolName) -> Option<Moment> {
        self.next_move(name).map(|(at, _)| at)
    }

    /// What the roll of a pool does next, and when: a moment that may have
    /// passed. `None` while it waits for something else than time.
    fn next_move(&self, name: &PoolName) -> Option<(Moment, Move)> {
        let pool = self.pools.get(name)?;
        let roll = pool.roll.as_ref()?;
        let settings = &pool.settings;
        let at = match (roll.failures, self.starts(name)) {
            (0, _) => Moment::ORIGIN,
            (_, Starts::Idle) => roll.until.max(pool.allowed_at()),
            // The one that starts has a deadline of its own.
            (_, Starts::Busy) => return None,
        };
        let (slot, old) = pool.held().find(|(slot, worker)| {
            roll.old.contains(worker) && self.serves(*worker) && self.has_room(name, *slot)
        })?;
        if pool.replacing() < usize::from(settings.surge) {
            return Some((at, Move::Replace { slot, old }));
        }
        // While a slot that was given up does not come back, no other is.
        let failing = roll.failures > 0 && !roll.open.is_empty();
        let least = pool.workers.saturating_sub(settings.max_unavailable);
        (!failing && self.serving(name) > least).then_some((at, Move::Vacate { slot, old }))
    }

    /// Ends what replaces workers in this pool; the old ones stay.
    pub(super) fn call_off(&mut self, name: &PoolName, out: &mut Vec<Action>) {
        let Some(pool) = self.pools.get_mut(name) else {
            return;
        };
        for (index, old, new) in pool.keep_old() {
            self.dismiss(new, Strength::Stop, out);
            out.push(kept(old, name.clone(), index));
        }
    }

    /// Whether one more worker may belong to a slot.
    pub(super) fn has_room(&self, name: &PoolName, slot: SlotIndex) -> bool {
        self.of(name).filter(|worker| worker.slot == slot).count() < MAX_LIVE
    }
}

fn counted(workers: usize) -> u16 {
    u16::try_from(workers).unwrap_or(u16::MAX)
}
