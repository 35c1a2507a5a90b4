//! How long requests took, and when.

use std::time::{Duration, Instant};

/// Steps in which the beginnings of requests are kept: 32 bits of them are
/// five days.
const STEP_MICROS: u128 = 100;

/// The time of every request that ended well: when it began, and how long it
/// took to the end of its response. Eight bytes each.
#[derive(Clone, Debug)]
pub struct Latencies {
    epoch: Instant,
    samples: Vec<Sample>,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// In steps since the epoch.
    began: u32,
    micros: u32,
}

/// The times of some requests, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread(Vec<u32>);

impl Latencies {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            samples: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, began: Instant, took: Duration) {
        self.samples.push(Sample {
            began: steps(self.epoch, began),
            micros: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
        });
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.samples.extend_from_slice(&other.samples);
    }

    /// Of all requests.
    #[must_use]
    pub fn all(&self) -> Spread {
        self.chosen(|_| true)
    }

    /// Of the requests that were under way at some moment from `start` to
    /// `end`.
    #[must_use]
    pub fn between(&self, start: Instant, end: Instant) -> Spread {
        self.within(&[(start, end)])
    }

    /// Of the requests that were under way in at least one of these windows.
    #[must_use]
    pub fn within(&self, windows: &[(Instant, Instant)]) -> Spread {
        let windows = self.in_steps(windows);
        self.chosen(|sample| windows.iter().any(|window| sample.overlaps(*window)))
    }

    /// Of the requests that were under way in none of these windows.
    #[must_use]
    pub fn outside(&self, windows: &[(Instant, Instant)]) -> Spread {
        let windows = self.in_steps(windows);
        self.chosen(|sample| !windows.iter().any(|window| sample.overlaps(*window)))
    }

    fn in_steps(&self, windows: &[(Instant, Instant)]) -> Vec<(u32, u32)> {
        windows
            .iter()
            .map(|(start, end)| (steps(self.epoch, *start), steps(self.epoch, *end)))
            .collect()
    }

    fn chosen(&self, wanted: impl Fn(&Sample) -> bool) -> Spread {
        let mut micros: Vec<u32> = self
            .samples
            .iter()
            .filter(|sample| wanted(sample))
            .map(|sample| sample.micros)
            .collect();
        micros.sort_unstable();
        Spread(micros)
    }
}

impl Sample {
    fn overlaps(&self, (start, end): (u32, u32)) -> bool {
        let step = u32::try_from(STEP_MICROS).expect("a step is short");
        self.began <= end && self.began.saturating_add(self.micros / step) >= start
    }
}

impl Spread {
    /// How many requests.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share (0 to 1) of the requests stayed within; none
    /// of no requests.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a rank among some millions of requests"
        )]
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        let index = rank.max(1) - 1;
        let micros = self.0.get(index.min(self.0.len().saturating_sub(1)))?;
        Some(Duration::from_micros(u64::from(*micros)))
    }

    /// What half of them stayed within; zero of no requests.
    #[must_use]
    pub fn p50(&self) -> Duration {
        self.quantile(0.5).unwrap_or_default()
    }

    /// What 99 of 100 stayed within; zero of no requests.
    #[must_use]
    pub fn p99(&self) -> Duration {
        self.quantile(0.99).unwrap_or_default()
    }

    /// The longest; zero of no requests.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.quantile(1.0).unwrap_or_default()
    }

    /// How many took less than this.
    pub(super) fn below(&self, bound: Duration) -> usize {
        self.0
            .partition_point(|micros| u128::from(*micros) < bound.as_micros())
    }
}

fn steps(epoch: Instant, moment: Instant) -> u32 {
    let micros = moment.saturating_duration_since(epoch).as_micros();
    u32::try_from(micros / STEP_MICROS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_was_under_way_in_them() {
        let epoch = Instant::now();
        let at = |ms| epoch + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut latencies = Latencies::new(epoch);
        for (began, took) in [(0, 1), (10, 2), (20, 30), (100, 4)] {
            latencies.add(at(began), ms(took));
        }
        assert_eq!(latencies.all().count(), 4);
        let window = latencies.between(at(11), at(40));
        assert_eq!(window, Spread(vec![2_000, 30_000]));
        let windows = [(at(0), at(5)), (at(49), at(50))];
        assert_eq!(latencies.within(&windows), Spread(vec![1_000, 30_000]));
        assert_eq!(latencies.outside(&windows), Spread(vec![2_000, 4_000]));
        assert_eq!(latencies.between(at(60), at(70)), Spread::default());
    }

    #[test]
    fn quantiles_are_of_the_requests_themselves() {
        let spread = Spread((1..=200).collect());
        let micros = Duration::from_micros;
        assert_eq!(spread.p50(), micros(100));
        assert_eq!(spread.p99(), micros(198));
        assert_eq!(spread.max(), micros(200));
        assert_eq!(spread.quantile(0.0), Some(micros(1)));
        assert_eq!(spread.below(micros(11)), 10);
        assert_eq!(Spread::default().quantile(0.5), None);
    }
}
