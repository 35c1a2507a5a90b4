//! One app's history as it was decided, and as far as it is on disk.
//!
//! What is decided counts at once, so that the next decision is made upon it.
//! What could not be written down has not happened: once nothing is on its way
//! to the disk any more, the history is what the disk has.

use super::History;

/// A history and what of it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedHistory {
    history: History,
    recorded: History,
    /// Writes that are not done yet.
    pending: u32,
}

impl SavedHistory {
    /// A history that was decided upon another one, which is on disk.
    #[must_use]
    pub const fn new(recorded: History, history: History) -> Self {
        Self {
            history,
            recorded,
            pending: 0,
        }
    }

    /// As it was decided.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// As it is on disk.
    #[must_use]
    pub const fn recorded(&self) -> &History {
        &self.recorded
    }

    /// Another history was decided, and is on its way to the disk. Each call is
    /// followed by one of [`Self::written`], in the same order.
    pub fn write(&mut self, history: History) {
        self.history = history;
        self.pending += 1;
    }

    /// A history was written down, or could not be.
    pub fn written(&mut self, history: &History, done: bool) {
        self.pending = self.pending.saturating_sub(1);
        if done {
            self.recorded = history.clone();
        }
        if self.pending == 0 && self.history != self.recorded {
            self.history = self.recorded.clone();
        }
    }

    /// A history that was decided upon this one, which is to be written down
    /// later.
    #[must_use]
    pub fn become_later(&self, history: History) -> Self {
        Self {
            history,
            recorded: self.recorded.clone(),
            pending: self.pending,
        }
    }

    /// Goes on after another one of the same app was in its place, whose history
    /// is not to be: what operators decided and what was written down meanwhile
    /// stays.
    pub fn go_on_after(&mut self, other: &Self) {
        self.history.set_paused(other.history.paused());
        self.recorded = other.recorded.clone();
        self.pending = other.pending;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn with(revisions: u32) -> History {
        let mut history = History::new();
        for _ in 0..revisions {
            let _ = history.begin(String::new(), "a.wasm".into(), 0);
        }
        history
    }

    #[test]
    fn what_could_not_be_written_has_not_happened() {
        let mut saved = SavedHistory::new(with(1), with(1));
        saved.write(with(2));
        saved.write(with(3));
        assert_eq!(*saved.history(), with(3));
        // What was decided upon it is still on its way, and has it.
        saved.written(&with(2), false);
        assert_eq!(*saved.history(), with(3));
        saved.written(&with(3), true);
        assert_eq!(*saved.history(), with(3));
        saved.write(with(4));
        saved.written(&with(4), false);
        assert_eq!((saved.history(), saved.recorded()), (&with(3), &with(3)));
    }

    #[test]
    fn one_that_comes_back_has_what_happened_meanwhile() {
        let mut before = SavedHistory::new(with(1), with(1));
        let mut tried = before.become_later(with(2));
        let mut paused = with(1);
        paused.set_paused(true);
        tried.write(paused.clone());
        before.go_on_after(&tried);
        assert!(before.history().paused());
        assert_eq!(before.history().revisions().len(), 1);
        before.written(&paused, true);
        assert_eq!(*before.recorded(), paused);
    }

    /// Whatever fails: what is at rest is what the disk has, and what the disk has
    /// was decided once.
    #[test]
    fn at_rest_it_is_what_the_disk_has() {
        for seed in 0_u64..2000 {
            let mut random = seed;
            let mut below = |limit: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) % limit
            };
            let (mut saved, mut disk) = (SavedHistory::default(), History::new());
            let mut on_its_way = VecDeque::new();
            for _ in 0..50 {
                if below(2) == 0 {
                    let mut next = saved.history().clone();
                    let _ = next.begin(String::new(), "a.wasm".into(), below(9));
                    saved.write(next.clone());
                    on_its_way.push_back(next);
                } else if let Some(history) = on_its_way.pop_front() {
                    let done = below(3) > 0;
                    if done {
                        disk = history.clone();
                    }
                    saved.written(&history, done);
                }
                assert_eq!(*saved.recorded(), disk, "seed {seed}");
                if on_its_way.is_empty() {
                    assert_eq!(*saved.history(), disk, "seed {seed}");
                }
            }
        }
    }
}
