//! What the requests of one handler came to.

use serde::{Deserialize, Serialize};

use crate::latency::{BUCKETS, LatencyCounts};

/// Counts of one handler's requests; those of several workers can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that ended, those of clients that went away left out.
    pub requests: u64,
    /// Those of them that failed: the guest did not answer well, or its own
    /// answer was a status of 500 or more.
    pub errors: u64,
    /// Requests by latency bucket ([`bucket_of`](crate::bucket_of)), those that
    /// are not 0.
    pub latency: Vec<(u8, u64)>,
}

impl Tally {
    /// The counts by bucket.
    #[must_use]
    pub fn latencies(&self) -> LatencyCounts {
        let mut counts = LatencyCounts::default();
        for (bucket, count) in &self.latency {
            let bucket = usize::from(*bucket).min(BUCKETS - 1);
            counts.0[bucket] = counts.0[bucket].saturating_add(*count);
        }
        counts
    }

    /// Adds what another worker, or another time, counted.
    pub fn add(&mut self, other: &Self) {
        let mut sum = self.latencies();
        sum.merge(&other.latencies());
        *self = Self::new(
            self.requests.saturating_add(other.requests),
            self.errors.saturating_add(other.errors),
            &sum,
        );
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.latencies();
        for (count, before) in rest.0.iter_mut().zip(earlier.latencies().0) {
            *count = count.saturating_sub(before);
        }
        Self::new(
            self.requests.saturating_sub(earlier.requests),
            self.errors.saturating_sub(earlier.errors),
            &rest,
        )
    }

    /// A tally of these counts.
    #[must_use]
    pub fn new(requests: u64, errors: u64, latency: &LatencyCounts) -> Self {
        let latency = (0..)
            .zip(latency.0)
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            requests,
            errors,
            latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
