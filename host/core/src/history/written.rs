//! A history as it is written, and what is taken over of one that is not whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{History, RevisionOutcome, RevisionRecord, bounds};
use crate::name::Revision;

/// The version of the written form.
const VERSION: u32 = 1;

/// The first number that a written history may not give out next: there must
/// be more left than anybody can use, so that counting on needs no error.
const NUMBERS_END: u32 = 1 << 31;

/// Why a revision that was on its way in a damaged history is rejected.
const DAMAGED: &str = "its history was damaged";

/// Why something is not a written history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHistory {
    /// It was written by another version of skep.
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
    /// Numbers repeat, are out of order, or are used up.
    #[error("revision {0} is out of order")]
    Order(Revision),
    /// A revision is named that has no record.
    #[error("revision {0} has no record")]
    Missing(Revision),
    /// Something else than the active revision is live, or it is not.
    #[error("revision {0} is live and not active, or the reverse")]
    Live(Revision),
}

/// What could be made out of a history that cannot be read as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// The number that it would have given out next.
    pub next: Option<Revision>,
    /// The revision that it says is active.
    pub active: Option<Revision>,
    /// Whether it says that the app is paused.
    pub paused: bool,
    /// The digest of the source when it was last read.
    pub read: Option<String>,
    /// Those that answered before, the latest last.
    pub trail: Vec<Revision>,
    /// Records that are whole, in any order.
    pub revisions: Vec<RevisionRecord>,
}

impl History {
    /// Makes a history of what is left of one; `None` if nothing is. Numbers
    /// that were given are not given again, as far as they are known.
    #[must_use]
    pub fn mended(pieces: Pieces) -> Option<Self> {
        let Pieces {
            next,
            active,
            paused,
            read,
            trail,
            revisions,
        } = pieces;
        let possible = |number: &Revision| (1..NUMBERS_END).contains(&number.0);
        let next = next.filter(possible);
        let records: BTreeMap<Revision, RevisionRecord> = revisions
            .into_iter()
            .filter(|record| (1..NUMBERS_END - 1).contains(&record.revision.0))
            .map(|record| (record.revision, record.bounded()))
            .collect();
        let Some(last) = records.keys().last().copied().or(next) else {
            return paused.then(|| Self {
                paused,
                ..Self::new()
            });
        };
        let live = |record: &&RevisionRecord| record.outcome == RevisionOutcome::Live;
        let active = active
            .filter(|active| records.contains_key(active))
            .or_else(|| records.values().rev().find(live).map(|one| one.revision));
        let mut history = Self {
            next: next.unwrap_or(Revision(1)).max(Revision(
                last.0.saturating_add(u32::from(!records.is_empty())),
            )),
            active,
            paused,
            read: read.map(bounds::digest),
            trail: Vec::new(),
            revisions: records.into_values().collect(),
        };
        for record in &mut history.revisions {
            if Some(record.revision) == active {
                record.outcome = RevisionOutcome::Live;
                (record.reason, record.automatic) = (None, false);
            } else if record.outcome == RevisionOutcome::Live {
                record.outcome = RevisionOutcome::Superseded;
            } else if record.outcome == RevisionOutcome::Deploying {
                record.outcome = RevisionOutcome::Rejected;
                record.reason = Some(DAMAGED.to_owned());
            }
        }
        for before in trail {
            let answered = history.get(before).map(|record| record.outcome);
            if answered == Some(RevisionOutcome::Superseded) && !history.trail.contains(&before) {
                history.trail.push(before);
            }
        }
        history.shed();
        Some(history)
    }
}

/// A history as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    version: u32,
    next: Revision,
    active: Option<Revision>,
    paused: bool,
    read: Option<String>,
    trail: Vec<Revision>,
    revisions: Vec<RevisionRecord>,
}

impl From<History> for Written {
    fn from(history: History) -> Self {
        Self {
            version: VERSION,
            next: history.next,
            active: history.active,
            paused: history.paused,
            read: history.read,
            trail: history.trail,
            revisions: history.revisions,
        }
    }
}

impl TryFrom<Written> for History {
    type Error = InvalidHistory;

    fn try_from(written: Written) -> Result<Self, InvalidHistory> {
        if written.version != VERSION {
            return Err(InvalidHistory::Version(written.version));
        }
        let records = written.revisions.into_iter();
        let history = Self {
            next: written.next,
            active: written.active,
            paused: written.paused,
            read: written.read.map(bounds::digest),
            trail: written.trail,
            revisions: records.map(RevisionRecord::bounded).collect(),
        };
        let mut last = Revision(0);
        for record in &history.revisions {
            if record.revision <= last {
                return Err(InvalidHistory::Order(record.revision));
            }
            last = record.revision;
            let live = record.outcome == RevisionOutcome::Live;
            if live != (history.active == Some(record.revision)) {
                return Err(InvalidHistory::Live(record.revision));
            }
        }
        if history.next <= last || history.next.0 >= NUMBERS_END {
            return Err(InvalidHistory::Order(history.next));
        }
        let named = history.active.iter().chain(&history.trail);
        for revision in named {
            if history.at(*revision).is_none() {
                return Err(InvalidHistory::Missing(*revision));
            }
        }
        let mut history = history;
        let mut named = BTreeSet::new();
        let mut trail = std::mem::take(&mut history.trail);
        trail.reverse();
        trail.retain(|before| named.insert(*before));
        trail.reverse();
        history.trail = trail;
        // What this version has written is not too large.
        history.shed();
        Ok(history)
    }
}
