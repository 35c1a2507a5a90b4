//! The states of a rollout, and what they own.

use std::time::Duration;

use crate::moment::Moment;
use crate::rollout::compare::Comparison;
use crate::rollout::health::Health;
use crate::rollout::order::{By, Ending, FailedStep};
use crate::rollout::words::Span;
use crate::spec::Portion;
use crate::tally::Tally;

/// Requests that began before both revisions had any must have ended before the
/// first is counted: that is waited for at least so long.
pub(super) const SETTLE_LEAST: Duration = Duration::from_millis(500);

/// Where a rollout is; the diagram is in the module's documentation.
#[derive(Clone, Debug)]
pub(super) enum State {
    Building {
        until: Moment,
    },
    Validating {
        until: Moment,
    },
    RollingOut {
        part: Part,
        until: Moment,
    },
    /// All workers serve the new revision, but the disk may not say so yet.
    Committing {
        until: Moment,
    },
    Observing {
        until: Moment,
        watched: Option<Watched>,
        /// Before this it is not compared side by side again.
        again: Moment,
    },
    /// It is observed, and both revisions have half of the requests each.
    Comparing {
        until: Moment,
        /// Until when it is observed.
        observe: Moment,
        watched: Watched,
        comparison: Box<Comparison>,
    },
    Canary {
        hold: Hold,
        watched: Option<Watched>,
        comparison: Box<Comparison>,
    },
    Restoring {
        failure: Failure,
        until: Moment,
    },
    Ended,
}

impl State {
    pub(super) const fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Building { until }
            | Self::Validating { until }
            | Self::RollingOut { until, .. }
            | Self::Committing { until }
            | Self::Observing { until, .. }
            | Self::Comparing { until, .. }
            | Self::Canary {
                hold: Hold::Until(until),
                ..
            }
            | Self::Restoring { until, .. } => Some(*until),
            Self::Canary {
                hold: Hold::Proven, ..
            }
            | Self::Ended => None,
        }
    }
}

impl State {
    /// Takes the newest counts, where they are of interest.
    pub(super) fn counted(self, counts: Watched) -> Self {
        match self {
            Self::Observing { until, again, .. } => Self::Observing {
                until,
                watched: Some(counts),
                again,
            },
            Self::Comparing {
                until,
                observe,
                comparison,
                ..
            } => Self::Comparing {
                until,
                observe,
                watched: counts,
                comparison,
            },
            Self::Canary {
                hold, comparison, ..
            } => Self::Canary {
                hold,
                watched: Some(counts),
                comparison,
            },
            state => state,
        }
    }

    /// The newest counts.
    pub(super) const fn watched(&self) -> Option<&Watched> {
        match self {
            Self::Observing { watched, .. } | Self::Canary { watched, .. } => watched.as_ref(),
            Self::Comparing { watched, .. } => Some(watched),
            _ => None,
        }
    }
}

/// How far, and how, workers are to come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Canary(Portion),
    Swap,
    Restart { patient: bool },
}

impl Part {
    pub(super) const fn is_restart(self) -> bool {
        matches!(self, Self::Restart { .. })
    }
}

/// How long a canary has to prove itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    Until(Moment),
    /// It did, and waits for an operator.
    Proven,
}

/// The newest counts of both revisions.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    pub(super) old: Tally,
    pub(super) new: Tally,
}

/// Why the new revision cannot stay.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) step: FailedStep,
    pub(super) reason: String,
    pub(super) by: By,
}

impl Failure {
    pub(super) const fn of(step: FailedStep, reason: String) -> Self {
        let by = By::Failure;
        Self { step, reason, by }
    }

    pub(super) fn health(health: &Health) -> Self {
        Self {
            step: FailedStep::Observe,
            reason: health.to_string(),
            by: By::Health,
        }
    }

    pub(super) const fn operator(reason: String) -> Self {
        Self {
            step: FailedStep::Operator,
            reason,
            by: By::Operator,
        }
    }

    pub(super) fn late(step: FailedStep, what: &str, limit: Duration) -> Self {
        Self::of(step, format!("{what} took longer than {}", Span(limit)))
    }

    pub(super) fn rolled_back(self) -> Ending {
        let Self { step, reason, by } = self;
        Ending::RolledBack { step, reason, by }
    }
}
