//! How large a history gets, so that one that is written can be read again.
//!
//! What goes into a history comes from guests, operators and other people's
//! files. Each text is cut when it goes in, and the oldest revisions go when all
//! of them together become too large.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{History, RevisionOutcome, RevisionRecord};
use crate::name::Revision;

/// Most bytes of a reason: a guest's panic with its backtrace is about a third
/// of it.
pub const MAX_REASON: usize = 4 << 10;

/// Most bytes of a source; no longer path can be opened.
pub const MAX_SOURCE: usize = 4 << 10;

/// Bytes of a digest: SHA-256 in hexadecimal.
const DIGEST: usize = 64;

/// Most bytes of a written history. A record of a few hundred bytes is usual:
/// this is room for thousands of them.
pub const MAX_WRITTEN: usize = 4 << 20;

/// Rejected revisions that are remembered, besides those that were live: what
/// somebody who looks for the reason of a failure goes back to.
pub const KEPT_REJECTED: usize = 20;

/// Bytes of a written record besides its texts (names, numbers, indentation, its
/// digest and its place among those that were live), rounded up.
const RECORD: usize = 512;

/// Bytes of a written history besides its records, rounded up.
const HEAD: usize = 512;

/// What stands where something was cut.
const CUT: &str = "…";

/// A reason, cut to [`MAX_REASON`].
pub(super) fn reason(words: String) -> String {
    cut(words, MAX_REASON, CUT)
}

/// A digest. What is longer than one is none, whatever remains of it.
pub(super) fn digest(words: String) -> String {
    cut(words, DIGEST, "")
}

/// A path that can be written, cut to [`MAX_SOURCE`].
pub(super) fn source(path: PathBuf) -> PathBuf {
    match path.to_str() {
        Some(text) if text.len() <= MAX_SOURCE => path,
        Some(text) => cut(text.to_owned(), MAX_SOURCE, CUT).into(),
        None => cut(path.to_string_lossy().into_owned(), MAX_SOURCE, CUT).into(),
    }
}

fn cut(mut words: String, most: usize, mark: &str) -> String {
    if words.len() > most {
        words.truncate(words.floor_char_boundary(most - mark.len()));
        words.push_str(mark);
        words.shrink_to_fit();
    }
    words
}

/// Bytes of a text as JSON.
fn written(text: &str) -> usize {
    let byte = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(byte).sum()
}

impl RevisionRecord {
    /// Cuts what is too long.
    pub(super) fn bounded(self) -> Self {
        Self {
            digest: digest(self.digest),
            source: source(self.source),
            reason: self.reason.map(reason),
            ..self
        }
    }

    /// Bytes of it as it is written, or some more.
    fn weight(&self) -> usize {
        let source = self.source.to_str().map_or(0, written);
        RECORD + source + self.reason.as_deref().map_or(0, written)
    }
}

impl History {
    /// Forgets the oldest revisions until no more than `keep` are left of those
    /// that were not rejected, and no more than [`KEPT_REJECTED`] of those that
    /// were; but none that is active, on its way, in use, or what a rollback
    /// returns to.
    pub fn prune(&mut self, keep: usize, in_use: &BTreeSet<Revision>) {
        let rejected = |record: &RevisionRecord| record.outcome == RevisionOutcome::Rejected;
        let count = self.revisions.iter().filter(|one| rejected(one)).count();
        let mut surplus = (self.revisions.len() - count).saturating_sub(keep);
        let mut surplus_rejected = count.saturating_sub(KEPT_REJECTED);
        self.forget(|record| {
            let surplus = if rejected(record) {
                &mut surplus_rejected
            } else {
                &mut surplus
            };
            let goes = *surplus > 0 && !in_use.contains(&record.revision);
            if goes {
                *surplus -= 1;
            }
            goes
        });
    }

    /// Forgets the oldest revisions until the rest is not too large to be
    /// written.
    pub(super) fn shed(&mut self) {
        let weight: usize = self.revisions.iter().map(RevisionRecord::weight).sum();
        let mut surplus = (HEAD + weight).saturating_sub(MAX_WRITTEN);
        self.forget(|record| {
            let goes = surplus > 0;
            if goes {
                surplus = surplus.saturating_sub(record.weight());
            }
            goes
        });
    }

    /// Asks of each revision whether it goes, oldest first, but of none that is
    /// active, on its way, or what a rollback returns to.
    fn forget(&mut self, mut goes: impl FnMut(&RevisionRecord) -> bool) {
        let (active, previous) = (self.active, self.previous());
        let mut gone = BTreeSet::new();
        self.revisions.retain(|record| {
            let number = Some(record.revision);
            let goes = number != active
                && number != previous
                && record.outcome != RevisionOutcome::Deploying
                && goes(record);
            if goes {
                gone.insert(record.revision);
            }
            !goes
        });
        self.trail.retain(|before| !gone.contains(before));
    }
}
