//! The latency histogram that workers keep in the scoreboard.
//!
//! Buckets are powers of two of microseconds, halved once (…, 64, 96, 128,
//! 192, …): at most 50 % apart, so a quantile read from them is within a third
//! of the truth, and a bucket is found with one `leading_zeros`.

use std::time::Duration;

/// Number of buckets; the last one holds everything above about 35 minutes.
pub const BUCKETS: usize = 63;

/// The bucket of one duration.
#[must_use]
pub fn bucket_of(elapsed: Duration) -> usize {
    let micros = u64::try_from(elapsed.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let power = 63 - micros.leading_zeros() as usize;
    let upper_half = power > 0 && (micros >> (power - 1)) & 1 == 1;
    (power * 2 + usize::from(upper_half)).min(BUCKETS - 1)
}

/// The exclusive upper bound of a bucket.
fn upper_bound(bucket: usize) -> Duration {
    // One microsecond has no half: bucket 1 is never used.
    let next = if bucket == 0 { 2 } else { bucket + 1 };
    let base = 1_u64 << (next / 2);
    let micros = if next % 2 == 1 { base + base / 2 } else { base };
    Duration::from_micros(micros)
}

/// Counts per bucket, read out of one or more scoreboard cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyCounts(pub [u64; BUCKETS]);

impl Default for LatencyCounts {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl LatencyCounts {
    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// The smallest bucket bound that at least `quantile` (0 to 1) of the
    /// calls stayed under, or `None` when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let total = self.0.iter().copied().fold(0, u64::saturating_add);
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a rank need not be exact beyond 2^52 calls"
        )]
        let rank = ((total as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0_u64;
        for (bucket, count) in self.0.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return Some(upper_bound(bucket));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_buckets_bound() {
        for micros in (1..5000).chain([10_000, 123_456, 9_999_999]) {
            let elapsed = Duration::from_micros(micros);
            let bucket = bucket_of(elapsed);
            assert!(elapsed < upper_bound(bucket), "{micros} in {bucket}");
            assert!(
                bucket <= 1 || elapsed >= upper_bound(bucket - 1),
                "{micros} in {bucket}"
            );
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_come_from_ranks() {
        let mut counts = LatencyCounts::default();
        assert_eq!(counts.quantile(0.5), None);
        counts.0[bucket_of(Duration::from_micros(100))] = 99;
        counts.0[bucket_of(Duration::from_millis(50))] = 1;
        assert!(counts.quantile(0.5).unwrap() < Duration::from_micros(150));
        assert!(counts.quantile(0.999).unwrap() > Duration::from_millis(50));
    }
}
