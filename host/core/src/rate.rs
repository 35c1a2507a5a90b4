//! Rates: so many in a window, and so many bytes in a second.
//!
//! Pure arithmetic. Where windows are kept, so that all workers of a pool count
//! in the same ones, is `skep-sys`'s affair; when they are asked, the workers'.

use std::time::Duration;

use crate::limits::Rate;
use crate::moment::Moment;

/// One window of a [`Rate`]: when it began, and how many it has let pass.
///
/// ```text
///        admit                 admit, fewer than `count` so far
///  NONE ───────▶ 1 in window ──────┐   admit, `count` so far: refused
///                  ▲  ▲  └─────────┘
///                  └──┘ admit after the end: the next window begins
/// ```
///
/// A window begins with the first request after the one before has ended, so no
/// moment is in two windows, and each has exactly what the rate allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Milliseconds from the origin to its beginning.
    pub since: u64,
    /// Requests that it let pass; 0 is a window that never began.
    pub count: u32,
}

/// A request was over its rate; the window ends after this time, which is not
/// zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverRate(pub Duration);

impl Rate {
    /// The most that can be counted in one window: 30 bits, beside when it
    /// began and whose it is in one 128-bit word. A rate above that is one of
    /// so many.
    pub const MAX_COUNT: u32 = (1 << 30) - 1;

    fn millis(self) -> u64 {
        u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Window {
    /// No window yet.
    pub const NONE: Self = Self { since: 0, count: 0 };

    /// Whether the next request begins another window.
    ///
    /// A window that begins later than `now` is not over: somebody who looked
    /// at the clock just after us has begun it.
    #[must_use]
    pub fn is_over(self, now: Moment, rate: Rate) -> bool {
        self.count == 0 || now.millis().saturating_sub(self.since) >= rate.millis()
    }

    /// Counts one request.
    ///
    /// # Errors
    ///
    /// The window is full.
    pub fn admit(self, now: Moment, rate: Rate) -> Result<Self, OverRate> {
        if self.is_over(now, rate) {
            return Ok(Self {
                since: now.millis(),
                count: 1,
            });
        }
        if self.count < rate.count.min(Rate::MAX_COUNT) {
            return Ok(Self {
                count: self.count + 1,
                ..self
            });
        }
        let end = self.since.saturating_add(rate.millis());
        Err(OverRate(Duration::from_millis(
            end.saturating_sub(now.millis()).max(1),
        )))
    }
}

/// Bytes that may be written: so many in a second, and at most those of one
/// second at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    per_second: u64,
    /// Bytes that may be written now; below zero after one that was larger.
    left: i64,
    at: Moment,
}

impl Allowance {
    /// A whole second's worth, from `now` on.
    #[must_use]
    pub fn new(per_second: u64, now: Moment) -> Self {
        Self {
            per_second,
            left: signed(per_second),
            at: now,
        }
    }

    /// Another rate from now on.
    pub fn change(&mut self, per_second: u64) {
        self.per_second = per_second;
        self.left = self.left.min(signed(per_second));
    }

    /// Whether anything may be written. What is written then may be larger than
    /// what is left: the rest of it is owed.
    pub fn is_open(&mut self, now: Moment) -> bool {
        let passed = now.since(self.at);
        let earned = u128::from(self.per_second) * passed.as_micros() / 1_000_000;
        if earned > 0 {
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.left = self
                .left
                .saturating_add(earned)
                .min(signed(self.per_second));
            self.at = now;
        }
        self.left > 0
    }

    /// Takes what was written.
    pub fn spend(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.left = self.left.saturating_sub(bytes);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_origin(Duration::from_millis(millis))
    }

    fn rate(count: u32, millis: u64) -> Rate {
        Rate {
            count,
            period: Duration::from_millis(millis),
        }
    }

    #[test]
    fn a_window_begins_with_the_first_request_after_the_one_before() {
        let two = rate(2, 1000);
        let first = Window::NONE.admit(at(0), two).unwrap();
        let second = first.admit(at(999), two).unwrap();
        assert_eq!(second, Window { since: 0, count: 2 });
        assert_eq!(
            second.admit(at(999), two),
            Err(OverRate(Duration::from_millis(1)))
        );
        assert!(second.is_over(at(1000), two));
        let next = second.admit(at(5500), two).unwrap();
        assert_eq!(
            next,
            Window {
                since: 5500,
                count: 1
            }
        );
        // Somebody else's clock was read a little earlier.
        assert_eq!(next.admit(at(5400), two).unwrap().count, 2);
        // Another rate judges the window that there is.
        assert!(next.is_over(at(5600), rate(2, 100)));
    }

    #[test]
    fn counts_that_do_not_fit_are_bounded() {
        let full = Window {
            since: 0,
            count: Rate::MAX_COUNT,
        };
        assert!(full.admit(at(1), rate(u32::MAX, 10)).is_err());
    }

    #[test]
    fn an_allowance_is_a_second_and_owes_what_was_more() {
        let mut bytes = Allowance::new(1000, at(0));
        assert!(bytes.is_open(at(0)));
        bytes.spend(3000);
        assert!(!bytes.is_open(at(2000)));
        assert!(bytes.is_open(at(2001)));
        // What nobody used is not saved up.
        assert!(bytes.is_open(at(60_000)));
        bytes.spend(1000);
        assert!(!bytes.is_open(at(60_000)));
        assert!(bytes.is_open(at(60_001)));
        bytes.change(1);
        assert!(bytes.is_open(at(60_001)));
        bytes.spend(1);
        assert!(!bytes.is_open(at(60_500)));
    }

    proptest! {
        /// Whatever comes whenever: each window is full before anybody is
        /// refused, windows do not overlap, and who comes back when told to is
        /// let in.
        #[test]
        fn exactly_so_many_in_each_window(
            count in 1..20_u32,
            period in 1..500_u64,
            steps in prop::collection::vec((0..200_u64, 1..30_u32), 1..60),
        ) {
            let rate = rate(count, period);
            let (mut now, mut window) = (0, Window::NONE);
            // When each request that passed did.
            let mut passed: Vec<Vec<u64>> = Vec::new();
            for (later, tries) in steps {
                now += later;
                for _ in 0..tries {
                    match window.admit(at(now), rate) {
                        Ok(next) => {
                            if next.count == 1 {
                                passed.push(Vec::new());
                            }
                            passed.last_mut().unwrap().push(now);
                            window = next;
                        }
                        Err(OverRate(wait)) => {
                            prop_assert_eq!(passed.last().unwrap().len(), count as usize);
                            let wait = u64::try_from(wait.as_millis()).unwrap();
                            prop_assert!(wait > 0 && wait <= period);
                            prop_assert!(window.admit(at(now + wait), rate).is_ok());
                            prop_assert!(window.admit(at(now + wait - 1), rate).is_err());
                        }
                    }
                }
            }
            for one in &passed {
                prop_assert!(one.len() <= count as usize);
                prop_assert!(one.last().unwrap() - one[0] < period);
            }
            for two in passed.windows(2) {
                prop_assert!(two[1][0] - two[0][0] >= period);
            }
        }

        #[test]
        fn no_second_has_more_than_twice_its_bytes(
            per_second in 1..5000_u64,
            steps in prop::collection::vec((0..400_u64, 1..300_usize), 1..100),
        ) {
            let mut bytes = Allowance::new(per_second, at(0));
            let (mut now, mut written) = (0, 0_u64);
            for (later, size) in steps {
                now += later;
                if bytes.is_open(at(now)) {
                    bytes.spend(size);
                    written += size as u64;
                }
                // The burst, what was earned, and one that was larger.
                prop_assert!(written <= per_second + per_second * now / 1000 + 300);
            }
        }
    }
}
