//! What goes into a rollout and what comes out.

use std::fmt;
use std::time::Duration;

use crate::name::{Revision, WorkerId};
use crate::rollout::health::Rules;
use crate::spec::{Portion, Strategy};
use crate::tally::Tally;

/// What shall be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The revision that is active; `None` before the first.
    pub from: Option<Revision>,
    /// The revision that shall be.
    pub to: Revision,
    /// How it gets into the workers.
    pub strategy: Strategy,
    /// The share of requests it gets until it is promoted. All of them, or
    /// more, is no canary.
    pub canary: Option<Portion>,
    /// Roll it out although its validation fails.
    pub force: bool,
    /// Stop before the roll-out.
    pub dry_run: bool,
    /// How long it is watched; zero is not at all.
    pub observe: Duration,
    /// When it is not good enough.
    pub rules: Rules,
    /// How long each step may take.
    pub deadlines: Deadlines,
}

/// How long each step of a rollout may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// To fetch, compile, check and record the revision.
    pub build: Duration,
    /// To start a worker without traffic and have it validate the revision.
    pub validate: Duration,
    /// To bring all workers to it, once for a canary and once in full.
    pub roll_out: Duration,
    /// To bring all workers back.
    pub restore: Duration,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The artifact is there, its imports are granted, and the revision is
    /// recorded. Answers [`Output::Build`].
    Built,
    /// One of these failed.
    BuildFailed {
        /// [`FailedStep::Build`], [`FailedStep::Check`] or
        /// [`FailedStep::Record`].
        step: FailedStep,
        /// What is wrong.
        reason: String,
    },
    /// A worker without traffic can serve it. Answers [`Output::Validate`].
    Validated,
    /// It cannot, it exited, or there was none.
    ValidationFailed {
        /// What is wrong.
        reason: String,
    },
    /// All workers serve the plan of the last [`Output::Want`]: the convergence
    /// is settled on the newest plan. Sent also if it is so at once.
    Settled,
    /// A worker that runs could not load or validate the revision.
    Refused {
        /// The worker.
        worker: WorkerId,
        /// What is wrong.
        reason: String,
    },
    /// All workers were replaced. Answers [`Output::Roll`].
    Rolled,
    /// A worker could not be replaced.
    RollFailed {
        /// What is wrong.
        reason: String,
    },
    /// A breaker of the app's pool tripped.
    Tripped {
        /// What is wrong.
        reason: String,
    },
    /// The newest counts.
    Tallies {
        /// What the old revision counted, for comparison.
        old: Tally,
        /// All that the new one counted since it went live.
        new: Tally,
    },
    /// The new revision is written down as the active one. Answers
    /// [`Output::Commit`].
    Recorded,
    /// It could not be written down.
    RecordFailed {
        /// What is wrong.
        reason: String,
    },
    /// An operator is content: a canary goes on to all requests, and one that
    /// is observed needs no more of it.
    Promote,
    /// An operator calls it off.
    Rollback {
        /// What is wrong, or who said so.
        reason: String,
    },
    /// The fleet shuts down.
    Abandon,
    /// The deadline has passed.
    Timer,
}

/// What the driver shall do or tell, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Build, check and record the revision. Answered by [`Input::Built`] or
    /// [`Input::BuildFailed`].
    Build,
    /// Have a worker without traffic validate it. Answered by
    /// [`Input::Validated`] or [`Input::ValidationFailed`].
    Validate,
    /// It is valid.
    Validated,
    /// It is not, and is rolled out all the same.
    Forced {
        /// What its validation said.
        reason: String,
    },
    /// Bring the workers that run to a plan with these handlers; it takes the
    /// place of an earlier one and of a roll that is under way. Answered by
    /// [`Input::Settled`] or [`Input::Refused`].
    Want(Wanted),
    /// Replace all workers of the pool. Those that are born have the plan of
    /// [`Rollout::wanted`](super::Rollout::wanted), those that run keep theirs.
    /// Answered by [`Input::Rolled`], [`Input::RollFailed`] or
    /// [`Input::Tripped`].
    Roll {
        /// Whether a worker that fails is tried again until the breaker trips.
        patient: bool,
    },
    /// A canary has its share of the requests in all workers.
    Canary,
    /// A canary was healthy for `observe`: whoever waits may go.
    Holding,
    /// Write down that `to` is the active revision. Answered by
    /// [`Input::Recorded`] or [`Input::RecordFailed`].
    Commit,
    /// It answers all requests in all workers, and that is written down.
    Live,
    /// It seems to be slower than the old one was, and for some time both answer
    /// half of the requests each, so that the machine's doing can be told from
    /// its own.
    Comparing {
        /// What makes it suspect.
        reason: String,
    },
    /// Whether it is too slow cannot be told; it stays.
    Unclear {
        /// What was seen.
        reason: String,
    },
    /// It failed after the roll-out began, and the old revision is brought back.
    Restoring {
        /// What failed.
        step: FailedStep,
        /// Why.
        reason: String,
        /// Who decided it.
        by: By,
    },
    /// Write down that `from` is the active revision after all; a
    /// [`Output::Commit`] may have been done or not. Not answered.
    Revert,
    /// It is over; nothing follows.
    Ended(Ending),
}

/// Which handlers of the app a plan shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// That of the old revision; none, and no routes, if there is none.
    Old,
    /// The old one, and the new one for a share of the requests.
    Canary(Portion),
    /// The new one.
    New {
        /// Whether the old one is kept, without requests.
        standby_old: bool,
    },
    /// The new one, and the old one for half of the requests, to compare them.
    Both,
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The new revision is the active one.
    Done,
    /// It could be rolled out; it was a dry run.
    Checked,
    /// It never reached a worker with traffic.
    Rejected {
        /// What failed.
        step: FailedStep,
        /// Why.
        reason: String,
    },
    /// The old revision is back.
    RolledBack {
        /// What failed.
        step: FailedStep,
        /// Why; also if it is not back on all workers yet.
        reason: String,
        /// Who decided it.
        by: By,
    },
    /// The fleet shuts down. What was written down last is active.
    Abandoned,
}

/// The step of a rollout that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailedStep {
    /// Fetching or compiling.
    Build,
    /// Comparing imports with grants.
    Check,
    /// Validation without traffic.
    Validate,
    /// Bringing it to all workers.
    RollOut,
    /// Writing down.
    Record,
    /// Being watched, as a canary or live.
    Observe,
    /// None: an operator called it off.
    Operator,
}

impl FailedStep {
    /// The stable name used in events, `history` and replies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Check => "check",
            Self::Validate => "validate",
            Self::RollOut => "roll-out",
            Self::Record => "record",
            Self::Observe => "observe",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Who decided that a revision goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// Its error rate or latency.
    Health,
    /// An operator.
    Operator,
    /// A step that failed.
    Failure,
}

impl By {
    /// The stable name used in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Operator => "operator",
            Self::Failure => "failure",
        }
    }
}

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is built, checked and recorded.
    Building,
    /// A worker without traffic validates it.
    Validating,
    /// Workers come to it, or it is written down.
    RollingOut,
    /// It has a share of the requests.
    Canary,
    /// It is live and watched, or compared with the old one.
    Observing,
    /// The old revision is brought back.
    Restoring,
    /// It is over.
    Ended,
}

impl Stage {
    /// The stable name used in status and progress.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Validating => "validating",
            Self::RollingOut => "rolling-out",
            Self::Canary => "canary",
            Self::Observing => "observing",
            Self::Restoring => "restoring",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
