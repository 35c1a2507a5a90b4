//! What the requests of one handler came to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets of a tally's latencies. An eighth of a power of two each, so that a
/// median is known to an eighth: the scoreboard's, which are up to a half apart,
/// cannot tell 6 ms from 9 ms.
pub const TALLY_BUCKETS: usize = 256;

/// The tally's bucket of one duration; the last one holds everything from 4
/// hours on.
#[must_use]
pub fn tally_bucket_of(elapsed: Duration) -> u8 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let power = u64::from(micros.max(1).ilog2());
    let bucket = match power.checked_sub(3) {
        None => micros,
        Some(shift) => (shift + 1) * 8 + ((micros >> shift) & 7),
    };
    u8::try_from(bucket).unwrap_or(u8::MAX)
}

/// The exclusive upper bound of a bucket.
fn upper_bound(bucket: u8) -> Duration {
    let bucket = u64::from(bucket);
    let micros = match (bucket / 8).checked_sub(1) {
        None => bucket + 1,
        Some(shift) => (8 + bucket % 8 + 1) << shift,
    };
    Duration::from_micros(micros)
}

/// Counts of one handler's requests; those of several workers can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that ended, those of clients that went away left out.
    pub requests: u64,
    /// Those of them that failed: the guest did not answer well, or its own
    /// answer was a status of 500 or more.
    pub errors: u64,
    /// Requests by latency ([`tally_bucket_of`]), in order; buckets without any
    /// are left out.
    pub latency: Vec<(u8, u64)>,
}

impl Tally {
    /// A tally of these counts, one for each bucket.
    #[must_use]
    pub fn new(requests: u64, errors: u64, latency: &[u64; TALLY_BUCKETS]) -> Self {
        let latency = (0..=u8::MAX)
            .zip(latency)
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (bucket, *count))
            .collect();
        Self {
            requests,
            errors,
            latency,
        }
    }

    /// Adds what another worker, or another time, counted.
    pub fn add(&mut self, other: &Self) {
        *self = self.with(other, u64::saturating_add);
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    /// The smallest bucket bound that at least `quantile` (0 to 1) of the
    /// requests stayed under, or `None` when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let counts = self.latency.iter().map(|(_, count)| *count);
        let total = counts.fold(0, u64::saturating_add);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a rank need not be exact beyond 2^52 requests"
        )]
        let rank = ((total as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0_u64;
        self.latency
            .iter()
            .find(|(_, count)| {
                seen = seen.saturating_add(*count);
                seen >= rank
            })
            .map(|(bucket, _)| upper_bound(*bucket))
    }

    /// The middle of each bucket that has any, and how many, in order.
    pub(crate) fn middles(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.latency.iter().map(|(bucket, count)| {
            let below = bucket.checked_sub(1).map_or(Duration::ZERO, upper_bound);
            ((below + upper_bound(*bucket)) / 2, *count)
        })
    }

    /// Whether it is one that [`Tally::new`] makes: every bucket once, in order.
    /// What a worker that was taken over says may be anything.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.latency.is_sorted_by(|(one, _), (next, _)| one < next)
    }

    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let mut latency = [0; TALLY_BUCKETS];
        for (bucket, count) in &self.latency {
            latency[usize::from(*bucket)] = *count;
        }
        for (bucket, count) in &other.latency {
            let sum = &mut latency[usize::from(*bucket)];
            *sum = combine(*sum, *count);
        }
        Self::new(
            combine(self.requests, other.requests),
            combine(self.errors, other.errors),
            &latency,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_just_below_its_buckets_bound() {
        for micros in (0..5000).chain([10_000, 123_456, 9_999_999, 1 << 33]) {
            let elapsed = Duration::from_micros(micros);
            let bucket = tally_bucket_of(elapsed);
            let bound = upper_bound(bucket);
            assert!(elapsed < bound, "{micros} in {bucket}");
            let least = bound
                .mul_f64(8.0 / 9.0)
                .saturating_sub(Duration::from_micros(1));
            assert!(elapsed >= least, "{micros} in {bucket}");
        }
        assert_eq!(tally_bucket_of(Duration::MAX), u8::MAX);
    }

    #[test]
    fn medians_tell_latencies_apart() {
        let mut tally = Tally::default();
        assert_eq!(tally.quantile(0.5), None);
        for millis in [6, 6, 9] {
            let latency = vec![(tally_bucket_of(Duration::from_millis(millis)), 1)];
            let one = Tally {
                requests: 1,
                errors: 0,
                latency,
            };
            tally.add(&one);
        }
        let (median, worst) = (tally.quantile(0.5).unwrap(), tally.quantile(1.0).unwrap());
        assert!(median < Duration::from_micros(6800), "{median:?}");
        assert!(worst > Duration::from_micros(9000), "{worst:?}");
    }

    #[test]
    fn what_was_added_can_be_taken_away() {
        let one = Tally {
            requests: 3,
            errors: 1,
            latency: vec![(2, 2), (9, 1)],
        };
        let two = Tally {
            requests: 2,
            errors: 0,
            latency: vec![(9, 1), (62, 1)],
        };
        let mut sum = one.clone();
        sum.add(&two);
        assert_eq!((sum.requests, sum.errors), (5, 1));
        assert_eq!(sum.latency, [(2, 2), (9, 2), (62, 1)]);
        assert_eq!(sum.since(&one), two);
    }
}
