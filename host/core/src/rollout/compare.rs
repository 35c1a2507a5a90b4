//! Two revisions side by side: whether the new one is slower by more than the
//! rule allows, whatever else the machine does.
//!
//! While both have their share of the same requests, in the same workers and at
//! the same time, whatever slows one down (a neighbour, a stall of the disk, a
//! worker on a busy core) slows the other one down as often. So the differences
//! that it makes have no direction, and requests decide between "slower" and
//! "not slower" however large the noise is; more noise takes more of them.
//!
//! - What was counted is cut into *blocks* of about a quarter of a second. For
//!   each, the share of pairs of requests in which the new revision's took
//!   longer than the old one's by more than `margin` is the statistic of Mann
//!   and Whitney, known from the buckets of both; its mean over the blocks is
//!   one half for a revision that is slower by exactly `margin`.
//! - `margin` is what the rule allows: at 160 %, six tenths of the old
//!   revision's median. The median is taken from the quietest blocks: noise
//!   adds to both, and would make twice as slow look like half again as slow.
//! - A revision is too slow if that is more than one half, and if chance is no
//!   explanation for its being slower by half of `margin`: so one that is as
//!   quick as the old one, or slower by a little, stays, and one that is slower
//!   by more than the rule allows goes, although the noise hides by how much.
//! - How far the mean may be from one half by chance is known twice, from the
//!   number of requests and from how blocks differ. The larger one counts: a
//!   stall hits many requests of a block at once.
//! - It is looked at when the number of blocks has grown by a fifth, so that
//!   there are few looks however long it goes on, and four standard deviations
//!   are asked for: by chance alone that is one in thirty thousand looks.

use std::time::Duration;

use crate::moment::Moment;
use crate::tally::Tally;

/// Requests of each revision without which a block means nothing.
const BLOCK: u64 = 3;
/// Blocks before the first look.
const FEW: usize = 8;
/// Blocks that are kept; then two become one.
const MOST: usize = 128;
/// Requests of the old revision behind one of the medians of which the quietest
/// are taken.
const QUIET: u64 = 20;
/// Standard deviations that make a revision too slow.
const SLOW: f64 = 4.0;
/// And those that make it good. A good one was only suspected.
const GOOD: f64 = 3.0;
/// A difference that nobody feels, whatever the rule says: a scheduler's whim is
/// that long, and the first requests to new code miss every cache.
pub(super) const NOTICEABLE: Duration = Duration::from_micros(500);

/// What a comparison says so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Too few requests of either.
    TooFew,
    /// There are enough, and chance may still be all that they show.
    Open,
    /// Not slower than the rule allows.
    Good,
    /// Slower than that.
    Slow {
        /// The old revision's median where it was quiet.
        old: Duration,
        /// That, and what the new one takes longer.
        new: Duration,
    },
}

/// A comparison that goes on.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// Share of the old median that the new one may have.
    limit: f64,
    /// Nothing counts before: requests that began when only one of both had any
    /// are the long ones of that one.
    from: Moment,
    mark: Option<Block>,
    blocks: Vec<Block>,
    /// How many there must be for the next look.
    next_look: usize,
    verdict: Verdict,
}

/// What both counted in a time.
#[derive(Clone, Debug, Default)]
struct Block {
    old: Tally,
    new: Tally,
}

impl Comparison {
    /// One that counts what is counted from `from` on.
    pub(super) const fn new(limit: f64, from: Moment) -> Self {
        Self {
            limit,
            from,
            mark: None,
            blocks: Vec::new(),
            next_look: FEW,
            verdict: Verdict::TooFew,
        }
    }

    /// Takes all that both have counted until now.
    pub(super) fn take(&mut self, now: Moment, old: &Tally, new: &Tally) -> Verdict {
        if now < self.from {
            return self.verdict;
        }
        let total = Block {
            old: old.clone(),
            new: new.clone(),
        };
        let Some(mark) = &self.mark else {
            self.mark = Some(total);
            return self.verdict;
        };
        let block = Block {
            old: old.since(&mark.old),
            new: new.since(&mark.new),
        };
        if counted(&block.old).min(counted(&block.new)) < BLOCK {
            return self.verdict;
        }
        self.mark = Some(total);
        self.blocks.push(block);
        if self.blocks.len() >= self.next_look {
            self.next_look = self.blocks.len() + (self.blocks.len() / 5).max(2);
            self.verdict = self.look();
        }
        if self.blocks.len() >= MOST {
            self.halve();
        }
        self.verdict
    }

    /// What all that was counted says now, whether or not it is time to look:
    /// for the last time.
    pub(super) fn conclude(&self) -> Verdict {
        if self.blocks.len() < FEW {
            return Verdict::TooFew;
        }
        self.look()
    }

    /// The medians of both as they were counted, noise and all.
    pub(super) fn medians(&self) -> Option<(Duration, Duration)> {
        let all = self.blocks.iter().fold(Block::default(), |mut sum, block| {
            sum.add(block);
            sum
        });
        Some((all.old.quantile(0.5)?, all.new.quantile(0.5)?))
    }

    fn look(&self) -> Verdict {
        let Some(base) = self.quiet_median() else {
            return Verdict::TooFew;
        };
        let margin = base.mul_f64((self.limit - 1.0).max(0.0)).max(NOTICEABLE);
        let surely_slower = self.deviations(margin / 2) >= SLOW;
        let deviations = self.deviations(margin);
        if surely_slower && deviations > 0.0 {
            Verdict::Slow {
                old: base,
                new: base + self.shift(margin),
            }
        } else if deviations <= -GOOD {
            Verdict::Good
        } else {
            Verdict::Open
        }
    }

    /// Standard deviations by which the new revision is slower than `margin`
    /// after the old one.
    fn deviations(&self, margin: Duration) -> f64 {
        let shares: Vec<Share> = self
            .blocks
            .iter()
            .map(|block| block.share(margin))
            .collect();
        let weights: f64 = shares.iter().map(|share| share.weight).sum();
        let mean = mean(&shares);
        let number = shares.len() as f64;
        let chance: f64 = shares
            .iter()
            .map(|share| share.weight.powi(2) * share.variance)
            .sum();
        let between: f64 = shares
            .iter()
            .map(|share| (share.weight * (share.longer - mean)).powi(2))
            .sum::<f64>()
            * (number / (number - 1.0).max(1.0));
        (mean - 0.5) * weights / chance.max(between).sqrt().max(f64::MIN_POSITIVE)
    }

    /// By how much the new revision takes longer: the margin at which it is an
    /// even bet. At least `least`.
    fn shift(&self, least: Duration) -> Duration {
        let even = |margin| {
            let shares: Vec<Share> = self.blocks.iter().map(|b| b.share(margin)).collect();
            mean(&shares) <= 0.5
        };
        let mut low = least;
        let mut high = low.max(Duration::from_millis(1));
        for _ in 0..24 {
            if even(high) {
                break;
            }
            low = high;
            high = high.saturating_mul(2);
        }
        for _ in 0..8 {
            let middle = low + (high - low) / 2;
            if even(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        low + (high - low) / 2
    }

    /// The old revision's median where there was least noise: a tenth of the time
    /// was quieter.
    fn quiet_median(&self) -> Option<Duration> {
        let mut medians = Vec::new();
        let mut some = Tally::default();
        for block in &self.blocks {
            some.add(&block.old);
            if counted(&some) >= QUIET {
                medians.extend(some.quantile(0.5));
                some = Tally::default();
            }
        }
        if medians.is_empty() {
            return some.quantile(0.5);
        }
        medians.sort_unstable();
        medians.get(medians.len() / 10).copied()
    }

    fn halve(&mut self) {
        let mut blocks = Vec::with_capacity(MOST);
        for pair in self.blocks.chunks(2) {
            let mut sum = Block::default();
            for block in pair {
                sum.add(block);
            }
            blocks.push(sum);
        }
        self.blocks = blocks;
        self.next_look = self.blocks.len() + self.blocks.len() / 5;
    }
}

/// What a block says.
struct Share {
    /// The share of pairs in which the new revision's request took longer.
    longer: f64,
    /// Of that, by chance alone.
    variance: f64,
    weight: f64,
}

impl Block {
    fn add(&mut self, other: &Self) {
        self.old.add(&other.old);
        self.new.add(&other.new);
    }

    fn share(&self, margin: Duration) -> Share {
        let (old, new) = (counted(&self.old) as f64, counted(&self.new) as f64);
        let mut longer = 0.0;
        let mut quick = self.old.middles().peekable();
        // Of the old revision's, those that are quicker by more than the margin.
        let mut beaten = 0.0;
        for (slow, count) in self.new.middles() {
            while let Some((_, times)) = quick.next_if(|(quick, _)| *quick + margin < slow) {
                beaten += times as f64;
            }
            let tied = quick
                .peek()
                .filter(|(quick, _)| *quick + margin == slow)
                .map_or(0.0, |(_, times)| *times as f64 / 2.0);
            longer += count as f64 * (beaten + tied);
        }
        let pairs = (old * new).max(1.0);
        Share {
            longer: longer / pairs,
            variance: (old + new + 1.0) / (12.0 * pairs),
            weight: pairs / (old + new).max(1.0),
        }
    }
}

fn mean(shares: &[Share]) -> f64 {
    let weights: f64 = shares.iter().map(|share| share.weight).sum();
    let sum: f64 = shares.iter().map(|share| share.weight * share.longer).sum();
    sum / weights.max(f64::MIN_POSITIVE)
}

/// Requests whose latency is known.
fn counted(tally: &Tally) -> u64 {
    let counts = tally.latency.iter().map(|(_, count)| *count);
    counts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::tally_bucket_of;

    const LIMIT: f64 = 1.6;

    /// So many requests that took so long, and as many of twice that.
    fn add(sum: &mut Tally, requests: u64, millis: u64) {
        for millis in [millis, millis * 2] {
            sum.add(&Tally {
                requests,
                errors: 0,
                latency: vec![(tally_bucket_of(Duration::from_millis(millis)), requests)],
            });
        }
    }

    fn at(millis: u64) -> Moment {
        Moment::after_origin(Duration::from_millis(millis))
    }

    /// Plays blocks of such requests; the verdict after each.
    fn verdicts(blocks: u64, requests: u64, old: u64, new: u64) -> Vec<Verdict> {
        let mut comparison = Comparison::new(LIMIT, at(500));
        let mut sums = [Tally::default(), Tally::default()];
        let take = |block| {
            add(&mut sums[0], requests, old);
            add(&mut sums[1], requests, new);
            comparison.take(at(block * 250), &sums[0], &sums[1])
        };
        (0..blocks).map(take).collect()
    }

    #[test]
    fn it_is_silent_until_there_is_enough_and_then_says_what_is_plain() {
        // Two blocks before it counts, and the one that it counts from.
        let slow = verdicts(30, 10, 20, 50);
        assert_eq!(slow[..10], [Verdict::TooFew; 10]);
        let Verdict::Slow { old, new } = slow[10] else {
            panic!("{:?}", slow[10]);
        };
        assert!(old >= Duration::from_millis(20) && old < Duration::from_millis(24));
        assert!(new > old.mul_f64(1.9) && new < old.mul_f64(4.1), "{new:?}");
        assert_eq!(verdicts(30, 10, 20, 20)[29], Verdict::Good);
        assert_eq!(verdicts(30, 10, 20, 10)[29], Verdict::Good);
        // A request or two at a time become blocks of some.
        assert!(matches!(verdicts(30, 1, 20, 50)[29], Verdict::Slow { .. }));
    }

    #[test]
    fn what_nobody_feels_is_not_slower() {
        assert_eq!(verdicts(300, 10, 0, 0)[299], Verdict::Good);
    }

    #[test]
    fn it_is_bounded_however_long_it_goes_on() {
        let mut comparison = Comparison::new(LIMIT, at(0));
        let mut sum = Tally::default();
        let mut looks = 0;
        let mut next = comparison.next_look;
        for block in 0..20_000 {
            add(&mut sum, 5, 20);
            let verdict = comparison.take(at(block * 250), &sum, &sum);
            assert!(matches!(verdict, Verdict::TooFew | Verdict::Good));
            looks += u32::from(comparison.next_look != next);
            next = comparison.next_look;
            assert!(comparison.blocks.len() < MOST);
        }
        assert!(looks < 5_000, "{looks}");
    }

    #[test]
    fn counts_that_cannot_be_do_no_harm() {
        let mut comparison = Comparison::new(100.0, at(0));
        for block in 0..300 {
            let nonsense = Tally {
                requests: u64::MAX,
                errors: u64::MAX,
                latency: (0..=u8::MAX)
                    .map(|bucket| (bucket, u64::MAX / 300 * block))
                    .collect(),
            };
            let _ = comparison.take(at(block), &nonsense, &nonsense);
        }
        let _ = (comparison.conclude(), comparison.medians());
        let mut none = Comparison::new(1.0, at(0));
        for block in 0..30 {
            none.take(at(block), &Tally::default(), &Tally::default());
        }
        assert_eq!(none.conclude(), Verdict::TooFew);
    }
}
