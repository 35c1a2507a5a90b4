//! What the comparison has to show: ratios of medians within one run.

use serde::Serialize;

use crate::peers::Id;
use crate::table::{NOT_MEASURED, Table};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Figure {
    /// Requests per second on kept-alive connections.
    Requests,
    /// New connections per second, a request on each.
    Connections,
    /// Median time of an answer at half the rate of `Requests`.
    PacedP50,
    /// The time that one answer in a hundred exceeds there.
    PacedP99,
}

impl Figure {
    /// Whether less is better.
    const fn is_time(self) -> bool {
        matches!(self, Self::PacedP50 | Self::PacedP99)
    }
}

/// Whether missing it is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Strength {
    /// Yes.
    Floor,
    /// Not yet: it is where we want to be.
    Goal,
}

/// One ratio that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    ours: Id,
    theirs: Id,
    figure: Figure,
    /// At least so much, or at most where the figure is a time.
    bound: f64,
    strength: Strength,
}

const fn target(strength: Strength, figure: Figure, ours: Id, bound: f64, theirs: Id) -> Target {
    Target {
        ours,
        theirs,
        figure,
        bound,
        strength,
    }
}

/// The floors are promises to users, the goals are what the project is for:
/// to beat Node with a fresh sandbox for every request, and nginx with a kept
/// one.
const TARGETS: &[Target] = {
    use Figure::{Connections, PacedP50, PacedP99, Requests};
    use Strength::{Floor, Goal};
    &[
        target(Floor, Requests, Id::SkepP2, 5.0, Id::WasmtimeP2),
        target(Floor, Requests, Id::SkepP2, 0.9, Id::Node),
        target(Floor, Requests, Id::SkepP2Reused, 2.0, Id::WasmtimeP2Reused),
        target(Floor, Requests, Id::SkepP2Reused, 1.3, Id::Node),
        target(Floor, Requests, Id::SkepP3Reused, 1.5, Id::WasmtimeP3),
        target(Floor, Connections, Id::SkepP2Reused, 1.0, Id::Nginx),
        target(Floor, Connections, Id::SkepP2, 1.0, Id::Nginx),
        target(Floor, PacedP99, Id::SkepP2, 0.5, Id::Node),
        target(Floor, PacedP99, Id::SkepP2Reused, 0.5, Id::Node),
        target(Floor, PacedP50, Id::SkepP2, 1.1, Id::SkepP2Reused),
        target(Goal, Requests, Id::SkepP3Reused, 1.0, Id::SkepP3Serial),
        target(Goal, Requests, Id::SkepP3Serial, 1.0, Id::SkepP2Reused),
        target(Goal, Requests, Id::SkepP2, 1.0, Id::Node),
        target(Goal, Requests, Id::SkepP2Reused, 1.0, Id::Nginx),
        target(Goal, Requests, Id::SkepJs, 1.0, Id::WasmtimeJs),
        target(Goal, Requests, Id::SkepPython, 1.0, Id::WasmtimePython),
    ]
};

/// A target and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    ours: Id,
    theirs: Id,
    figure: Figure,
    strength: Strength,
    bound: f64,
    /// `None` if one of the two was not measured.
    ratio: Option<f64>,
}

impl Verdict {
    fn word(&self) -> &'static str {
        match (self.ratio, self.strength) {
            (None, _) => "not measured",
            (Some(ratio), _) if self.holds(ratio) => "pass",
            (Some(_), Strength::Floor) => "FAIL",
            (Some(_), Strength::Goal) => "not yet",
        }
    }

    fn holds(&self, ratio: f64) -> bool {
        if self.figure.is_time() {
            ratio <= self.bound
        } else {
            ratio >= self.bound
        }
    }

    /// Whether it is a promise that was broken.
    pub(crate) fn is_failure(&self) -> bool {
        self.word() == "FAIL"
    }
}

/// Judges all targets by the medians that `measured` knows.
pub(crate) fn judge(measured: impl Fn(Id, Figure) -> Option<f64>) -> Vec<Verdict> {
    let verdict = |target: &Target| {
        let Target {
            ours,
            theirs,
            figure,
            bound,
            strength,
        } = *target;
        let ratio = measured(ours, figure)
            .zip(measured(theirs, figure))
            .map(|(ours, theirs)| ours / theirs);
        Verdict {
            ours,
            theirs,
            figure,
            strength,
            bound,
            ratio,
        }
    };
    TARGETS.iter().map(verdict).collect()
}

/// The verdicts as a table.
pub(crate) fn table(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new(["ratio", "asked for", "measured", "verdict"]);
    for verdict in verdicts {
        let figure = match verdict.figure {
            Figure::Requests => "requests/s",
            Figure::Connections => "new connections/s",
            Figure::PacedP50 => "p50 at half load",
            Figure::PacedP99 => "p99 at half load",
        };
        let relation = if verdict.figure.is_time() {
            '≤'
        } else {
            '≥'
        };
        let asked = match verdict.strength {
            Strength::Floor => format!("{relation} {}", verdict.bound),
            Strength::Goal => format!("goal {relation} {}", verdict.bound),
        };
        table.row([
            format!(
                "{}: {} ÷ {}",
                figure,
                verdict.ours.label(),
                verdict.theirs.label()
            ),
            asked,
            verdict
                .ratio
                .map_or_else(|| NOT_MEASURED.to_owned(), |ratio| format!("{ratio:.2}")),
            verdict.word().to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_judged_and_gaps_are_named() {
        let verdicts = judge(|id, figure| match (id, figure) {
            (Id::SkepP2, Figure::Requests) => Some(66.0),
            (Id::WasmtimeP2, Figure::Requests) => Some(11.0),
            (Id::Node, Figure::Requests) => Some(110.0),
            (Id::Node, Figure::PacedP99) => Some(10.0),
            (Id::SkepP2 | Id::SkepP2Reused, Figure::PacedP99) => Some(4.0),
            _ => None,
        });
        let words: Vec<_> = verdicts.iter().map(Verdict::word).collect();
        assert_eq!(words[..3], ["pass", "FAIL", "not measured"]);
        assert_eq!(words[7..9], ["pass", "pass"], "less is better");
        assert_eq!(words[12], "not yet");
        assert_eq!(
            verdicts
                .iter()
                .filter(|verdict| verdict.is_failure())
                .count(),
            1
        );
        assert!(table(&verdicts).to_string().contains(" 0.60 |"));
    }
}
