//! The revisions of one app: their numbers, what became of each, and which one
//! answers.
//!
//! Responsible for what `state_dir` remembers of an app and for the decisions
//! that follow from it: what a rollback returns to, what is refused, what is
//! forgotten, what a start begins with. Writing it down is `skep-primary`'s,
//! and how a revision comes to be live is the roll-out's.
//!
//! ```text
//! begin ──▶ Deploying ──live──▶ Live ──another is live──▶ Superseded
//!               │ │               │ ▲                         │
//!      rejected │ └──rolled_back──┤ └───────rolled back to────┘
//!               ▼                 ▼
//!            Rejected         RolledBack ──rolled back to, live──▶ Live
//! ```
//! Exactly the active revision is `Live`.

mod bounds;
mod saved;
mod written;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::written::Written;
use crate::name::Revision;

pub use self::bounds::{KEPT_REJECTED, MAX_REASON, MAX_SOURCE, MAX_WRITTEN};
pub use self::saved::SavedHistory;
pub use self::written::{InvalidHistory, Pieces};

/// Why leftovers of a roll-out are rejected at the next start.
const INTERRUPTED: &str = "skep ended during its roll-out";

/// The revisions of one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct History {
    next: Revision,
    active: Option<Revision>,
    paused: bool,
    read: Option<String>,
    /// Those that answered before the active one, the latest last; what a
    /// rollback skipped is not among them.
    trail: Vec<Revision>,
    revisions: Vec<RevisionRecord>,
}

/// One revision of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevisionRecord {
    /// Its number.
    pub revision: Revision,
    /// SHA-256 of the component, lower-case hexadecimal; empty while it is not
    /// known, which it stays for one that could not be built.
    pub digest: String,
    /// The file that the component came from; at most [`MAX_SOURCE`] bytes.
    pub source: PathBuf,
    /// When it was begun, in milliseconds since 1970, UTC.
    pub unix_millis: u64,
    /// What became of it.
    pub outcome: RevisionOutcome,
    /// Why it was rejected or rolled back, or what else there is to say of it; at
    /// most [`MAX_REASON`] bytes.
    pub reason: Option<String>,
    /// Whether skep rolled it back by itself; false unless it was rolled back.
    pub automatic: bool,
}

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevisionOutcome {
    /// It is on its way.
    Deploying,
    /// It answers.
    Live,
    /// It answered, until another one did.
    Superseded,
    /// It never answered.
    Rejected,
    /// It was taken back, by an operator or by skep itself.
    RolledBack,
}

/// What an app begins with when its source was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum AtStart {
    /// A new revision, to be rolled out. If there is an active one it answers
    /// meanwhile.
    New(Revision),
    /// The active revision, as before.
    Active(Revision),
    /// The active revision, although the source has changed: what it is now
    /// was rolled back automatically, and only force deploys it again.
    Refused {
        /// The one that answers.
        active: Revision,
        /// The one that was rolled back.
        refused: Revision,
    },
}

impl RevisionOutcome {
    /// The stable name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deploying => "deploying",
            Self::Live => "live",
            Self::Superseded => "superseded",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled-back",
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// The history of an app that was never deployed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: Revision(1),
            active: None,
            paused: false,
            read: None,
            trail: Vec::new(),
            revisions: Vec::new(),
        }
    }

    /// The revision that answers, but for a canary's share.
    #[must_use]
    pub const fn active(&self) -> Option<Revision> {
        self.active
    }

    /// The number that the next revision will have.
    #[must_use]
    pub const fn next(&self) -> Revision {
        self.next
    }

    /// Whether an operator has paused the app.
    #[must_use]
    pub const fn paused(&self) -> bool {
        self.paused
    }

    /// Pauses or resumes the app.
    pub const fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// The digest of the configured source when it was last read.
    #[must_use]
    pub fn read(&self) -> Option<&str> {
        self.read.as_deref()
    }

    /// All revisions that are remembered, oldest first.
    #[must_use]
    pub fn revisions(&self) -> &[RevisionRecord] {
        &self.revisions
    }

    /// The record of one revision.
    #[must_use]
    pub fn get(&self, revision: Revision) -> Option<&RevisionRecord> {
        self.at(revision).map(|at| &self.revisions[at])
    }

    /// The digests of the components that must be kept: those of all revisions
    /// that answer, are on their way or can be returned to, and what the configured
    /// source was, which every start and every reload reads again. A rejected one
    /// never answered, and is deployed again rather than returned to.
    pub fn needed(&self) -> impl Iterator<Item = &str> {
        let returnable = |record: &&RevisionRecord| record.outcome != RevisionOutcome::Rejected;
        let records = self.revisions.iter().filter(returnable);
        records
            .map(|record| record.digest.as_str())
            .chain(self.read.as_deref())
            .filter(|digest| !digest.is_empty())
    }

    /// Takes a new revision up, on its way from now on. `digest` is the
    /// component's SHA-256 in lower-case hexadecimal, or empty until
    /// [`Self::built`]; `unix_millis` is the time. The oldest revisions are
    /// forgotten where the history would become too large to be read again.
    #[must_use]
    pub fn begin(&mut self, digest: String, source: PathBuf, unix_millis: u64) -> Revision {
        let revision = self.next;
        let next = revision.0.checked_add(1);
        self.next = Revision(next.expect("nobody deploys two billion times"));
        self.revisions.push(RevisionRecord {
            revision,
            digest: bounds::digest(digest),
            source: bounds::source(source),
            unix_millis,
            outcome: RevisionOutcome::Deploying,
            reason: None,
            automatic: false,
        });
        self.shed();
        revision
    }

    /// The component of a revision that is on its way has this digest. Nothing
    /// happens for one that is not on its way.
    pub fn built(&mut self, revision: Revision, digest: String) {
        if let Some(at) = self.at(revision) {
            let record = &mut self.revisions[at];
            if record.outcome == RevisionOutcome::Deploying {
                record.digest = bounds::digest(digest);
            }
        }
    }

    /// A revision answers from now on; the one that did is superseded. Nothing
    /// happens for one that is not remembered, or answers already.
    pub fn live(&mut self, revision: Revision) {
        let Some(at) = self.at(revision) else { return };
        if self.active == Some(revision) {
            return;
        }
        self.trail.retain(|before| *before != revision);
        if let Some(before) = self.active {
            self.trail.push(before);
        }
        self.activate(at);
    }

    /// The configured source was read, and is this revision: it was deployed from
    /// there. Another content of it is new from now on, and this one is not.
    pub fn was_read(&mut self, revision: Revision) {
        if let Some(record) = self.get(revision) {
            self.read = Some(record.digest.clone());
        }
    }

    /// Something is to be said of a revision that answers, or is about to.
    /// Nothing happens for another one.
    pub fn remarked(&mut self, revision: Revision, remark: String) {
        if let Some(at) = self.at(revision) {
            let record = &mut self.revisions[at];
            if matches!(
                record.outcome,
                RevisionOutcome::Deploying | RevisionOutcome::Live
            ) {
                record.reason = Some(bounds::reason(remark));
            }
        }
    }

    /// A revision was found wanting before it answered. Nothing happens for one
    /// that is not on its way.
    pub fn rejected(&mut self, revision: Revision, reason: String) {
        if let Some(at) = self.at(revision) {
            let record = &mut self.revisions[at];
            if record.outcome == RevisionOutcome::Deploying {
                record.outcome = RevisionOutcome::Rejected;
                record.reason = Some(bounds::reason(reason));
                self.shed();
            }
        }
    }

    /// A revision was taken back, whether it answered all requests or a
    /// canary's share, and `to` answers again, if there is one. `automatic` is
    /// for skep's own doing. Nothing happens for a revision that is not
    /// remembered or that is `to`; a `to` that is not remembered is none.
    pub fn rolled_back(
        &mut self,
        revision: Revision,
        to: Option<Revision>,
        reason: String,
        automatic: bool,
    ) {
        let Some(at) = self.at(revision) else { return };
        if to == Some(revision) {
            return;
        }
        if self.active == Some(revision) {
            self.active = None;
        }
        self.trail.retain(|before| *before != revision);
        let record = &mut self.revisions[at];
        record.outcome = RevisionOutcome::RolledBack;
        record.reason = Some(bounds::reason(reason));
        record.automatic = automatic;
        if automatic && self.read.as_ref() == Some(&record.digest) {
            // To be said when it is read again.
            self.read = None;
        }

        if let Some(to_at) = to.and_then(|to| self.at(to))
            && self.active != to
        {
            // What lies between is not returned to: it was skipped for a reason.
            let to = self.revisions[to_at].revision;
            if let Some(end) = self.trail.iter().position(|before| *before == to) {
                self.trail.truncate(end);
            }
            self.activate(to_at);
        }
        self.shed();
    }

    /// The newest revision of this component, if skep rolled it back by itself:
    /// it is refused until it is forced. An attempt that was rejected, as one
    /// that was refused is, changes nothing about that.
    #[must_use]
    pub fn refusal_of(&self, digest: &str) -> Option<&RevisionRecord> {
        let newest = |record: &&RevisionRecord| {
            record.digest == digest && record.outcome != RevisionOutcome::Rejected
        };
        self.revisions
            .iter()
            .rev()
            .find(newest)
            .filter(|record| record.outcome == RevisionOutcome::RolledBack && record.automatic)
    }

    /// What a rollback without a number returns to: the revision that answered
    /// before the active one. One that was rolled back since, or that a
    /// rollback skipped, is not returned to.
    #[must_use]
    pub fn previous(&self) -> Option<Revision> {
        self.active?;
        self.trail.last().copied()
    }

    /// What the app begins with at skep's start, now that its source was read.
    /// What was on its way when skep ended is rejected; nothing can be said
    /// against it, so the same source counts as unread.
    pub fn at_start(&mut self, digest: &str, source: PathBuf, unix_millis: u64) -> AtStart {
        for record in &mut self.revisions {
            if record.outcome == RevisionOutcome::Deploying {
                record.outcome = RevisionOutcome::Rejected;
                record.reason = Some(INTERRUPTED.to_owned());
                if self.read.as_ref() == Some(&record.digest) {
                    self.read = None;
                }
            }
        }
        self.on_reading(digest, source, unix_millis)
    }

    /// What the app goes on with, now that its source was read, at a reload: a
    /// source that is not what it was when it was last read is a new revision,
    /// unless it is what answers anyway.
    pub fn on_reading(&mut self, digest: &str, source: PathBuf, unix_millis: u64) -> AtStart {
        let before = self.read.replace(bounds::digest(digest.to_owned()));
        let Some(active) = self.active else {
            return AtStart::New(self.begin(digest.to_owned(), source, unix_millis));
        };
        let changed = before.as_deref() != Some(digest);
        if !changed || self.get(active).is_some_and(|now| now.digest == digest) {
            return AtStart::Active(active);
        }
        if let Some(refused) = self.refusal_of(digest) {
            let refused = refused.revision;
            return AtStart::Refused { active, refused };
        }
        AtStart::New(self.begin(digest.to_owned(), source, unix_millis))
    }

    fn at(&self, revision: Revision) -> Option<usize> {
        self.revisions
            .binary_search_by_key(&revision, |record| record.revision)
            .ok()
    }

    /// Makes the record at `at` the active one, and what was active superseded.
    fn activate(&mut self, at: usize) {
        if let Some(before) = self.active.and_then(|before| self.at(before)) {
            self.revisions[before].outcome = RevisionOutcome::Superseded;
        }
        let record = &mut self.revisions[at];
        record.outcome = RevisionOutcome::Live;
        record.reason = None;
        record.automatic = false;
        self.active = Some(record.revision);
    }
}

#[cfg(test)]
mod tests;
