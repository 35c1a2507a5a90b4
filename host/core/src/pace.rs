//! How slow a client may bring the body of a request whose call others wait
//! for.
//!
//! Arithmetic only: the worker measures, and asks whether anybody waits.

use std::time::Duration;

/// Time that an upload may be waited for without a byte: longer than a mobile
/// network changes its cell, shorter than anybody's request should wait for
/// another's.
pub const GRACE: Duration = Duration::from_secs(5);

/// Bytes a second that an upload has to bring while others wait for its permit:
/// far below any line in use, and far above a drip that only means to hold on.
pub const LEAST_RATE: u32 = 256;

/// Time that may be waited for one byte.
const PER_BYTE: Duration = Duration::from_nanos(1_000_000_000 / LEAST_RATE as u64);

/// The pace of one upload: how much longer its next byte may be waited for.
///
/// Waiting uses it up, bytes earn it back, up to [`GRACE`]: over any time of
/// waiting longer than that an upload brings [`LEAST_RATE`], or its pace is
/// [used up](Self::left). Time in which nobody asks for bytes does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(Duration);

impl Pace {
    /// Nothing was waited for yet.
    pub const NEW: Self = Self(GRACE);

    /// It was waited for bytes for so long.
    #[must_use]
    pub const fn waited(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// So many bytes came.
    #[must_use]
    pub fn brought(self, bytes: u64) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = PER_BYTE.saturating_mul(bytes);
        Self(self.0.saturating_add(earned).min(GRACE))
    }

    /// How much longer it may be waited for. At zero the upload is too slow for
    /// as long as anybody waits for its permit.
    #[must_use]
    pub const fn left(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of so many bytes at such an interval: how long it takes until the
    /// upload is too slow, if ever within ten minutes.
    fn lasts(bytes: u64, every: Duration) -> Option<Duration> {
        let (mut pace, mut time) = (Pace::NEW, Duration::ZERO);
        while time < Duration::from_mins(10) {
            if every >= pace.left() {
                return Some(time + pace.left());
            }
            time += every;
            pace = pace.waited(every).brought(bytes);
        }
        None
    }

    #[test]
    fn a_drip_ends_after_its_grace_and_a_slow_line_does_not() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(0, second), Some(GRACE));
        let drip = lasts(1, second).unwrap();
        assert!(drip < GRACE + Duration::from_millis(100), "{drip:?}");
        assert_eq!(lasts(256, second), None);
        assert_eq!(lasts(1000, 3 * second), None);
        // What was quick does not pay for more than a grace.
        let quick = Pace::NEW.brought(u64::MAX);
        assert_eq!(quick.left(), GRACE);
        // Pauses of more than that are too long whatever comes between.
        assert!(lasts(1_000_000, GRACE).is_some());
    }

    proptest! {
        /// Whoever is never too slow brings the least rate in whatever is longer
        /// than the grace; whoever brings twice that in every second always may.
        #[test]
        fn a_pace_is_a_rate_with_a_grace(
            steps in prop::collection::vec((0..4000_u64, 0..2000_u64), 1..100),
        ) {
            let mut pace = Pace::NEW;
            let (mut waited, mut bytes) = (Duration::ZERO, 0);
            for (millis, more) in steps {
                let time = Duration::from_millis(millis);
                let lasts = time < pace.left();
                pace = pace.waited(time);
                waited += time;
                if !lasts {
                    prop_assert_eq!(pace.left(), Duration::ZERO);
                    break;
                }
                prop_assert!(waited <= GRACE + PER_BYTE * bytes);
                bytes += u32::try_from(more).unwrap();
                pace = pace.brought(more);
            }
        }
    }
}
