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
//! after it that serves. [`Roll::next`] is the one place that says what a roll
//! does next and when; the deadline and the deed both ask it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{SlotIndex, WorkerId};
use crate::supervise::backoff::{self, SplitMix64};
use crate::supervise::crew::{Crew, Starts, counted};
use crate::supervise::event::Patience;
use crate::supervise::slot::Loss;

/// The roll of one pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
pub(super) enum Move {
    /// Start a successor beside the old worker.
    Replace { slot: SlotIndex, old: WorkerId },
    /// Drain the old worker; the slot is filled like any other.
    Vacate { slot: SlotIndex, old: WorkerId },
}

impl Roll {
    pub(super) const fn new(patience: Patience) -> Self {
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

    /// These workers are to be replaced as well; the lesser patience counts.
    pub(super) fn add(&mut self, workers: Vec<WorkerId>, patience: Patience) {
        self.patience = self.patience.min(patience);
        self.old.extend(workers);
    }

    /// Workers that are left to replace.
    pub(super) fn left(&self) -> u16 {
        counted(self.old.len() + self.open.len())
    }

    /// Workers that were replaced.
    pub(super) const fn replaced(&self) -> u16 {
        self.replaced
    }

    pub(super) fn is_complete(&self) -> bool {
        self.old.is_empty() && self.open.is_empty()
    }

    /// The attempt that the next replacement is.
    pub(super) const fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
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

    /// The old worker of a slot drains, and the slot is to be filled.
    pub(super) fn vacated(&mut self, slot: SlotIndex, old: WorkerId) {
        self.old.remove(&old);
        self.open.insert(slot);
    }

    /// The pool has another size.
    pub(super) fn resize(&mut self, workers: u16) {
        self.open.retain(|slot| slot.0 < workers);
    }

    /// Backoff is cleared.
    pub(super) const fn reset(&mut self) {
        (self.failures, self.setbacks) = (0, 0);
    }

    /// A worker in a slot has crashed. Returns whether that ends the roll, even
    /// if the breaker still admits.
    pub(super) fn set_back(
        &mut self,
        now: Moment,
        (slot, worker, loss): (SlotIndex, WorkerId, Loss),
        settings: &SupervisionSettings,
        random: &mut SplitMix64,
    ) -> bool {
        let successor = matches!(loss, Loss::New { .. });
        let replacement = successor || self.open.contains(&slot);
        if self.old.remove(&worker) && !successor {
            self.open.insert(slot);
        }
        self.setbacks = self.setbacks.saturating_add(1);
        if replacement {
            self.failures = self.failures.saturating_add(1);
            self.until = now + backoff::delay(settings, self.failures, random);
        }
        replacement && self.patience == Patience::OneTry || self.setbacks >= settings.max_crashes
    }

    /// What the roll does next, and when: a moment that may have passed. `None`
    /// while it waits for something else than time; `allowed_at` is when one
    /// more fork is within the budget.
    pub(super) fn next(
        &self,
        crew: &Crew,
        settings: &SupervisionSettings,
        workers: u16,
        allowed_at: Moment,
    ) -> Option<(Moment, Move)> {
        let at = match (self.failures, crew.starts()) {
            (0, _) => Moment::ORIGIN,
            (_, Starts::Idle) => self.until.max(allowed_at),
            // The one that starts has a deadline of its own.
            (_, Starts::Busy) => return None,
        };
        let (slot, old) = crew.held().find(|(slot, worker)| {
            self.old.contains(worker) && crew.serves(*worker) && crew.has_room(*slot)
        })?;
        if crew.replacing() < usize::from(settings.surge) {
            return Some((at, Move::Replace { slot, old }));
        }
        // While a slot that was given up does not come back, no other is.
        let failing = self.failures > 0 && !self.open.is_empty();
        let least = workers.saturating_sub(settings.max_unavailable);
        (!failing && crew.serving() > least).then_some((at, Move::Vacate { slot, old }))
    }
}
