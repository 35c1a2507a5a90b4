//! Whether a new revision does its work as well as the old one.
//!
//! The verdict on errors is asked for many times while a revision is watched, so
//! before the end it is given only where chance is no explanation; at the end
//! the plain numbers count. What the old revision did wrong too (a database that
//! is down fails both) is not held against the new one.
//!
//! Latencies that were counted one after the other prove nothing: the machine
//! may have become busier, or less so, when the revision changed. They only make
//! a revision suspect, and [`compare`](super::compare) looks at both side by
//! side.

use std::fmt;
use std::time::Duration;

use crate::rollout::compare::NOTICEABLE;
use crate::rollout::words::Span;
use crate::spec::{Portion, RolloutSpec};
use crate::tally::Tally;

/// When a revision is not good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Share of failed requests, beside those that the old revision has as
    /// well, above which it is not.
    pub max_error_rate: Portion,
    /// Median latency as a share of the old revision's above which it is not;
    /// zero is no limit.
    pub max_latency: Portion,
}

impl From<&RolloutSpec> for Rules {
    fn from(spec: &RolloutSpec) -> Self {
        Self {
            max_error_rate: spec.max_error_rate,
            max_latency: spec.max_latency,
        }
    }
}

/// What a revision's numbers say. Its text is a sentence for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Too few requests to say anything, and nothing bad among them.
    TooFew,
    /// Nothing speaks against it.
    Good,
    /// It fails too many requests.
    Errors {
        /// Share of its requests that failed, rounded up.
        rate: Portion,
        /// The same of the old revision; zero if that had too few requests.
        old: Portion,
        /// Its requests.
        requests: u64,
        /// The rule that it broke.
        limit: Portion,
    },
    /// It seems to be slower than the old one was before; both have to be
    /// compared side by side.
    Suspect {
        /// Median latency of the old revision.
        old: Duration,
        /// Its own.
        new: Duration,
    },
    /// Side by side it is too slow.
    Slow {
        /// Median latency of the old revision, where the machine was quiet.
        old: Duration,
        /// Its own, likewise.
        new: Duration,
        /// The rule that it broke.
        limit: Portion,
    },
    /// Side by side the noise of the machine hides whether it is.
    Noisy {
        /// Median latency of the old revision.
        old: Duration,
        /// Its own.
        new: Duration,
        /// The rule that it may have broken.
        limit: Portion,
    },
}

impl Health {
    /// Whether the revision has to go.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        matches!(self, Self::Errors { .. } | Self::Slow { .. })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew => f.write_str("too few requests to judge"),
            Self::Good => f.write_str("good"),
            Self::Errors {
                rate,
                old,
                requests,
                limit,
            } => {
                let plural = if *requests == 1 { "" } else { "s" };
                write!(f, "{rate} of {requests} request{plural} failed, ")?;
                write!(f, "more than max_error_rate = {limit}")?;
                if *old > Portion(0) {
                    write!(f, " above the {old} of the revision before")?;
                }
                Ok(())
            }
            Self::Slow { old, new, limit } => write!(
                f,
                "side by side the median latency rose from {} to {}, more than max_latency = {limit}",
                Span(*old),
                Span(*new)
            ),
            Self::Suspect { old, new } => write!(
                f,
                "the median latency went from {} to {}, which may be the machine's doing: both \
                 revisions are compared side by side",
                Span(*old),
                Span(*new)
            ),
            Self::Noisy { old, new, limit } => write!(
                f,
                "too noisy to tell whether it is slower than max_latency = {limit}: side by side \
                 the median latency was {} with the revision before and {} with this one",
                Span(*old),
                Span(*new)
            ),
        }
    }
}

/// Judges a new revision by what it (`new`) and the one before it (`old`)
/// counted. `end` says that it is for the last time, and that plain numbers
/// count.
#[must_use]
pub fn judge(rules: &Rules, old: &Tally, new: &Tally, end: bool) -> Health {
    if has_errors(rules, old, new, end) {
        return Health::Errors {
            rate: portion(new),
            old: old_rate(old).map_or(Portion(0), |_| portion(old)),
            requests: new.requests,
            limit: rules.max_error_rate,
        };
    }
    if let Some((old, new)) = seems_slower(rules, old, new) {
        return Health::Suspect { old, new };
    }
    if new.requests < ENOUGH {
        Health::TooFew
    } else {
        Health::Good
    }
}

/// Requests below which a share of them means little: one of 20 is 5 %.
const ENOUGH: u64 = 20;
/// Requests of both revisions below which their medians are not compared.
const ENOUGH_FOR_MEDIAN: u64 = 50;
/// Quantiles that make a revision suspect. Noise adds to latencies, so the lower
/// ones show a difference that the machine was too busy to show in the median.
const QUANTILES: [f64; 4] = [0.02, 0.1, 0.25, 0.5];
/// Failures at the end of the observation below which there is no pattern.
const PATTERN: u64 = 2;
/// Standard deviations of the interval's bound: 99 % of both sides, because it
/// is looked at many times.
const Z: f64 = 2.58;

fn has_errors(rules: &Rules, old: &Tally, new: &Tally, end: bool) -> bool {
    let max = rules.max_error_rate.factor();
    if max == 0.0 && new.errors > 0 && old.errors == 0 {
        return true;
    }
    let allowed = max + old_rate(old).unwrap_or(0.0);
    let plain = new.errors >= PATTERN && rate(new) > allowed;
    let certain = new.requests >= ENOUGH && lower_bound(new) > allowed;
    plain && (end || certain)
}

/// Whether any of its lower latencies rose by half of what is allowed: noise that
/// both have makes the ratio smaller. Returns the medians.
fn seems_slower(rules: &Rules, old: &Tally, new: &Tally) -> Option<(Duration, Duration)> {
    let comparable = old.requests.min(new.requests) >= ENOUGH_FOR_MEDIAN;
    if rules.max_latency == Portion(0) || !comparable {
        return None;
    }
    let factor = f64::midpoint(1.0, rules.max_latency.factor());
    let rose = |quantile| {
        let (Some(old), Some(new)) = (old.quantile(quantile), new.quantile(quantile)) else {
            return false;
        };
        new > old.mul_f64(factor) && new >= old + NOTICEABLE
    };
    if !QUANTILES.into_iter().any(rose) {
        return None;
    }
    Some((old.quantile(0.5)?, new.quantile(0.5)?))
}

/// The share of the old revision's requests that failed, if it had enough.
fn old_rate(old: &Tally) -> Option<f64> {
    (old.requests >= ENOUGH).then(|| rate(old))
}

/// The share of requests that failed; 0 of none.
fn rate(tally: &Tally) -> f64 {
    if tally.requests == 0 {
        return 0.0;
    }
    // Exact up to 2^53 requests.
    tally.errors as f64 / tally.requests as f64
}

/// As [`rate`], rounded up, so that a failure is never 0 %.
fn portion(tally: &Tally) -> Portion {
    let all = u64::from(Portion::ALL.0);
    let errors = tally.errors.min(tally.requests);
    let hundredths =
        (u128::from(errors) * u128::from(all)).div_ceil(u128::from(tally.requests.max(1)));
    Portion(u32::try_from(hundredths).unwrap_or(Portion::ALL.0))
}

/// The lower bound of Wilson's interval: the least true rate of failures that
/// these counts leave likely.
fn lower_bound(tally: &Tally) -> f64 {
    let n = tally.requests as f64;
    let p = rate(tally);
    let z2 = Z * Z;
    let centre = p + z2 / (2.0 * n);
    let margin = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).max(0.0).sqrt();
    (centre - margin) / (1.0 + z2 / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::tally_bucket_of;

    const RULES: Rules = Rules {
        max_error_rate: Portion::percent(1),
        max_latency: Portion::percent(160),
    };
    const STRICT: Rules = Rules {
        max_error_rate: Portion(0),
        max_latency: Portion(0),
    };

    fn tally(requests: u64, errors: u64, latency: Duration) -> Tally {
        let bucket = tally_bucket_of(latency);
        Tally {
            requests,
            errors,
            latency: vec![(bucket, requests)],
        }
    }

    fn quick(requests: u64, errors: u64) -> Tally {
        tally(requests, errors, Duration::from_millis(1))
    }

    #[test]
    fn few_requests_say_nothing_until_the_end() {
        let old = quick(1000, 0);
        assert_eq!(judge(&RULES, &old, &quick(0, 0), true), Health::TooFew);
        assert_eq!(judge(&RULES, &old, &quick(19, 19), false), Health::TooFew);
        assert!(judge(&RULES, &old, &quick(19, 19), true).is_bad());
        assert_eq!(judge(&RULES, &old, &quick(1, 1), true), Health::TooFew);
        assert!(judge(&RULES, &old, &quick(2, 2), true).is_bad());
        assert_eq!(judge(&RULES, &old, &quick(20, 0), false), Health::Good);
    }

    #[test]
    fn before_the_end_chance_is_an_explanation() {
        let old = quick(1000, 0);
        // 1.2 % of 1000: it may well be less than 1 % in truth.
        assert_eq!(judge(&RULES, &old, &quick(1000, 12), false), Health::Good);
        assert!(judge(&RULES, &old, &quick(1000, 12), true).is_bad());
        assert!(judge(&RULES, &old, &quick(200, 10), false).is_bad());
        assert!(judge(&RULES, &old, &quick(20, 20), false).is_bad());
    }

    #[test]
    fn what_the_old_revision_fails_too_does_not_count() {
        assert!(!judge(&RULES, &quick(1000, 300), &quick(1000, 305), true).is_bad());
        assert!(judge(&RULES, &quick(1000, 300), &quick(1000, 400), false).is_bad());
        // Too few of the old one to excuse anything.
        assert!(judge(&RULES, &quick(19, 19), &quick(1000, 305), false).is_bad());
    }

    #[test]
    fn no_errors_allowed_means_not_one() {
        assert!(judge(&STRICT, &quick(0, 0), &quick(1, 1), false).is_bad());
        assert!(!judge(&STRICT, &quick(1000, 1), &quick(1000, 1), true).is_bad());
        assert!(judge(&STRICT, &quick(1000, 1), &quick(1000, 30), false).is_bad());
    }

    #[test]
    fn a_revision_is_suspect_where_latencies_of_two_rose() {
        let at = |requests, millis| tally(requests, 0, Duration::from_millis(millis));
        let suspect = |rules: &Rules, old: &Tally, new: &Tally| {
            let health = judge(rules, old, new, true);
            assert!(!health.is_bad(), "numbers of other times prove nothing");
            matches!(health, Health::Suspect { .. })
        };
        assert!(suspect(&RULES, &at(50, 5), &at(50, 10)));
        assert!(!suspect(&RULES, &at(49, 5), &at(50, 10)));
        assert!(!suspect(&RULES, &at(50, 5), &at(49, 10)));
        // The next bucket is noise.
        assert!(!suspect(&RULES, &at(50, 5), &at(50, 6)));
        assert!(!suspect(&STRICT, &at(50, 5), &at(50, 500)));
        // Three times as slow, and nobody can feel it.
        let micros = |micros| tally(100, 0, Duration::from_micros(micros));
        assert!(!suspect(&RULES, &micros(100), &micros(300)));
        // The machine was so busy before that the medians are alike.
        let mut busy = at(60, 5);
        busy.add(&at(100, 10));
        assert!(suspect(&RULES, &busy, &at(100, 10)));
    }

    #[test]
    fn verdicts_are_sentences() {
        let errors = judge(&RULES, &quick(100, 0), &quick(310, 16), false);
        assert_eq!(
            errors.to_string(),
            "5.17% of 310 requests failed, more than max_error_rate = 1%"
        );
        let errors = judge(&RULES, &quick(100, 2), &quick(100, 40), false);
        assert_eq!(
            errors.to_string(),
            "40% of 100 requests failed, more than max_error_rate = 1% above the 2% of the \
             revision before"
        );
        let slow = Health::Slow {
            old: Duration::from_millis(5),
            new: Duration::from_micros(10_240),
            limit: Portion::percent(160),
        };
        assert_eq!(
            slow.to_string(),
            "side by side the median latency rose from 5 ms to 10.2 ms, more than max_latency = \
             160%"
        );
        let noisy = Health::Noisy {
            old: Duration::from_millis(31),
            new: Duration::from_millis(44),
            limit: Portion::percent(160),
        };
        assert_eq!(
            noisy.to_string(),
            "too noisy to tell whether it is slower than max_latency = 160%: side by side the \
             median latency was 31 ms with the revision before and 44 ms with this one"
        );
    }

    #[test]
    fn counts_that_cannot_be_do_no_harm() {
        let nonsense = Tally {
            requests: 0,
            errors: u64::MAX,
            latency: Vec::new(),
        };
        let _ = judge(&RULES, &nonsense, &nonsense, true).to_string();
        let many = quick(u64::MAX, u64::MAX);
        assert!(judge(&RULES, &quick(u64::MAX, 0), &many, false).is_bad());
    }
}
