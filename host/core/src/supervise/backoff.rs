//! How long a slot waits before its next attempt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;

/// Sebastiano Vigna's SplitMix64. Jitter needs to be spread, not secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform over all values; also the seed of another one.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        // 53 bits are what the mantissa holds: the quotient is exact.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform over all values of this type.
    pub(super) fn share(&mut self) -> u16 {
        (self.next() >> 48) as u16
    }
}

/// The delay after `failures` (at least 1) in a row: uniform between nothing
/// and `backoff` × 2^(failures − 1), at most `backoff_max`.
pub(super) fn delay(
    settings: &SupervisionSettings,
    failures: u32,
    random: &mut SplitMix64,
) -> Duration {
    jittered(settings.backoff, settings.backoff_max, failures, random)
}

/// The same for other delays than those of pools.
pub(crate) fn jittered(
    first: Duration,
    longest: Duration,
    failures: u32,
    random: &mut SplitMix64,
) -> Duration {
    ceiling(first, longest, failures).mul_f64(random.unit())
}

fn ceiling(first: Duration, longest: Duration, failures: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let settings = SupervisionSettings::default();
        let of = |failures| ceiling(settings.backoff, settings.backoff_max, failures);
        let seconds: Vec<u64> = (1..=7).map(|failures| of(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(of(u32::MAX).as_secs(), 30);
    }

    #[test]
    fn jitter_is_full_and_a_function_of_the_seed() {
        let settings = SupervisionSettings::default();
        let draw = |seed| {
            let mut random = SplitMix64::new(seed);
            (0..1000)
                .map(|_| delay(&settings, 1, &mut random))
                .collect::<Vec<_>>()
        };
        let delays = draw(7);
        assert_eq!(delays, draw(7));
        assert_ne!(delays, draw(8));
        assert!(delays.iter().all(|delay| *delay < Duration::from_secs(1)));
        assert!(
            delays
                .iter()
                .any(|delay| *delay < Duration::from_millis(20))
        );
        assert!(
            delays
                .iter()
                .any(|delay| *delay > Duration::from_millis(980))
        );
        let mean = delays.iter().sum::<Duration>() / 1000;
        assert!((450..550).contains(&mean.as_millis()), "{mean:?}");
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
