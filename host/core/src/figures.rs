//! What the requests of one app came to, over all workers and all its revisions.
//!
//! Workers count in shared memory; the primary reads that when it is asked and
//! when a worker is gone. Here is how readings are taken and added up: pure
//! arithmetic, which trusts no reading.
//!
//! ```text
//! row of a worker ──▶ AppCounts (what it says) ──learn──▶ AppCounts (what is believed of it)
//!                                                             │ while it lives: added to the sum
//!                                                             ▼ once it is gone: ended, then added for good
//! ```
//!
//! What is exact: every request that was routed to the app is in `requests` once,
//! and either in one outcome, or in `lost` (its worker was gone before it had
//! counted an outcome), or in flight. A worker that is killed between two steps of
//! the end of one request leaves that request without its status or its latency;
//! that is at most one request for each worker that is killed.

use std::time::Duration;

use crate::latency::LatencyCounts;
use crate::moment::Moment;
use crate::outcome::Outcome;
use crate::tally::{TALLY_BUCKETS, Tally};

/// Places for outcomes: as many as there are.
const OUTCOMES: usize = Outcome::ALL.len();

/// Classes of statuses: `1xx` to `5xx`.
pub const STATUS_CLASSES: usize = 5;

/// How long the latencies of one window are gathered. What is shown is those of
/// the window that is open and of the one before: the last 30 to 60 seconds.
pub const WINDOW: Duration = Duration::from_secs(30);

/// Requests that a worker can count in a second. Ten times what the fastest
/// machine serves with one thread.
const MOST_A_SECOND: u64 = 1_000_000;

/// The number of the window that is open at this time. All processes of a
/// machine agree on it.
#[must_use]
pub fn window_at(now: Moment) -> u64 {
    now.millis() / 1000 / WINDOW.as_secs()
}

/// The class of a status, as an index: 0 is `1xx`.
#[must_use]
pub fn status_class(status: u16) -> usize {
    usize::from(status / 100)
        .saturating_sub(1)
        .min(STATUS_CLASSES - 1)
}

/// Counts that only grow. Each is bounded, so that sums do not overflow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppCounts {
    /// Requests that were routed to the app.
    pub requests: u64,
    /// Requests whose worker was gone before they had an outcome.
    pub lost: u64,
    /// Requests by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; OUTCOMES],
    /// Responses by class of status.
    pub status: [u64; STATUS_CLASSES],
    /// Requests that a guest was called for, by latency.
    pub latency: LatencyCounts,
    /// CPU time of guests in nanoseconds.
    pub cpu_nanos: u64,
}

/// What is so at one moment, and gone with the worker that says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppGauges {
    /// Requests that wait for a permit of the app or of its tenant.
    pub queued: u64,
    /// Instances that live.
    pub instances: u64,
    /// Bytes of memories, tables and what the host holds for those.
    pub guest_memory: u64,
}

/// What a worker can have counted and can hold, by what the primary knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plausible {
    /// How long ago it was born.
    pub age: Duration,
    /// Most instances of all its apps.
    pub instances: u64,
    /// Most bytes of one instance of this app.
    pub memory: u64,
}

impl Plausible {
    fn count(&self) -> u64 {
        // From the first moment on: a second more.
        (self.age.as_secs() + 1).saturating_mul(MOST_A_SECOND)
    }

    /// A worker has one thread.
    fn cpu(&self) -> u64 {
        let most = self.age.saturating_add(Duration::from_secs(1));
        u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl AppCounts {
    /// Learns what a worker says now. Whatever it says, nothing becomes less,
    /// nothing more than is plausible, and there are no more outcomes than
    /// requests.
    pub fn learn(&mut self, said: &Self, plausible: Plausible) {
        let most = plausible.count();
        self.each(said, |known, said| (*known).max(said.min(most)));
        self.cpu_nanos = self.cpu_nanos.max(said.cpu_nanos.min(plausible.cpu()));
        // Nobody but the primary says what was lost.
        self.lost = 0;
        self.requests = self.requests.max(self.ended());
    }

    /// Adds what somebody else has counted.
    pub fn add(&mut self, other: &Self) {
        self.each(other, |sum, more| sum.saturating_add(more));
        self.cpu_nanos = self.cpu_nanos.saturating_add(other.cpu_nanos);
    }

    /// Whoever counted this is gone: what was in flight is lost.
    pub fn end(&mut self) {
        self.lost = self.lost.saturating_add(self.in_flight());
    }

    /// Requests that have no outcome yet.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.requests.saturating_sub(self.ended())
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn ended(&self) -> u64 {
        let outcomes = self.outcomes.iter().copied();
        outcomes.fold(self.lost, u64::saturating_add)
    }

    fn each(&mut self, other: &Self, combine: impl Fn(&u64, u64) -> u64) {
        self.requests = combine(&self.requests, other.requests);
        self.lost = combine(&self.lost, other.lost);
        let pairs = (self.outcomes.iter_mut().zip(&other.outcomes))
            .chain(self.status.iter_mut().zip(&other.status))
            .chain(self.latency.0.iter_mut().zip(&other.latency.0));
        for (one, other) in pairs {
            *one = combine(one, *other);
        }
    }
}

impl AppGauges {
    /// As much of this as is plausible.
    #[must_use]
    pub fn bounded(self, plausible: Plausible, in_flight: u64) -> Self {
        let instances = self.instances.min(plausible.instances);
        let memory = plausible.memory.saturating_mul(instances.max(1));
        Self {
            queued: self.queued.min(in_flight),
            instances,
            guest_memory: self.guest_memory.min(memory),
        }
    }

    /// Adds what another worker has.
    pub fn add(&mut self, other: Self) {
        self.queued = self.queued.saturating_add(other.queued);
        self.instances = self.instances.saturating_add(other.instances);
        self.guest_memory = self.guest_memory.saturating_add(other.guest_memory);
    }
}

/// Latencies of the last windows: those that [`Recent::quantile`] may still show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Their numbers and counts, the newest last; two at most.
    windows: Vec<(u64, Box<[u64; TALLY_BUCKETS]>)>,
}

impl Recent {
    /// Adds counts of a window, if that is the one that is open `now` or the one
    /// before.
    pub fn add(&mut self, number: u64, counts: &[u64; TALLY_BUCKETS], now: u64) {
        self.forget(now);
        if !is_recent(number, now) {
            return;
        }
        let at = match self.windows.binary_search_by_key(&number, |(of, _)| *of) {
            Ok(at) => at,
            Err(at) => {
                let empty = Box::new([0; TALLY_BUCKETS]);
                self.windows.insert(at, (number, empty));
                at
            }
        };
        for (sum, more) in self.windows[at].1.iter_mut().zip(counts) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// Adds what others have gathered.
    pub fn merge(&mut self, other: &Self, now: u64) {
        for (number, counts) in &other.windows {
            self.add(*number, counts, now);
        }
    }

    /// Forgets what is not recent any more.
    pub fn forget(&mut self, now: u64) {
        self.windows.retain(|(number, _)| is_recent(*number, now));
    }

    /// The latency that at least `quantile` (0 to 1) of the requests of the last
    /// 30 to 60 seconds stayed under, at most an eighth more than it was; `None`
    /// where there was no request.
    #[must_use]
    pub fn quantile(&self, quantile: f64, now: u64) -> Option<Duration> {
        let mut sum = [0_u64; TALLY_BUCKETS];
        let recent = self.windows.iter();
        for (_, counts) in recent.filter(|(number, _)| is_recent(*number, now)) {
            for (sum, more) in sum.iter_mut().zip(counts.iter()) {
                *sum = sum.saturating_add(*more);
            }
        }
        Tally::new(0, 0, &sum).quantile(quantile)
    }
}

fn is_recent(number: u64, now: u64) -> bool {
    number <= now && now - number <= 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::bucket_of;
    use crate::tally::tally_bucket_of;

    const SECOND: Plausible = Plausible {
        age: Duration::from_secs(1),
        instances: 10,
        memory: 1000,
    };

    fn ok(count: u64) -> AppCounts {
        let mut counts = AppCounts {
            requests: count,
            cpu_nanos: count * 1000,
            ..AppCounts::default()
        };
        counts.outcomes[Outcome::Ok as usize] = count;
        counts.status[status_class(200)] = count;
        counts.latency.0[bucket_of(Duration::from_millis(1))] = count;
        counts
    }

    #[test]
    fn statuses_have_classes() {
        let classes = [100, 200, 299, 304, 404, 503, 599, 999, 0].map(status_class);
        assert_eq!(classes, [0, 1, 1, 2, 3, 4, 4, 4, 0]);
    }

    #[test]
    fn what_is_believed_never_becomes_less() {
        let mut known = AppCounts::default();
        known.learn(&ok(7), SECOND);
        assert_eq!(known, ok(7));
        known.learn(&ok(3), SECOND);
        assert_eq!(known, ok(7));
        known.learn(&AppCounts::default(), SECOND);
        assert_eq!(known, ok(7));
        known.learn(&ok(8), SECOND);
        assert_eq!(known, ok(8));
    }

    #[test]
    fn nonsense_is_bounded_by_what_is_plausible_and_sums_do_not_overflow() {
        let nonsense = AppCounts {
            requests: u64::MAX,
            lost: u64::MAX,
            outcomes: [u64::MAX; OUTCOMES],
            status: [u64::MAX; STATUS_CLASSES],
            latency: LatencyCounts([u64::MAX; crate::BUCKETS]),
            cpu_nanos: u64::MAX,
        };
        let mut known = AppCounts::default();
        known.learn(&nonsense, SECOND);
        let most = 2 * MOST_A_SECOND;
        assert_eq!(known.outcomes, [most; OUTCOMES]);
        assert_eq!(known.requests, most * OUTCOMES as u64);
        assert_eq!((known.lost, known.in_flight()), (0, 0));
        assert_eq!(known.cpu_nanos, 2_000_000_000);

        // Outcomes that nobody asked for are requests.
        let mut few = ok(5);
        few.requests = 1;
        let mut known = AppCounts::default();
        known.learn(&few, SECOND);
        assert_eq!((known.requests, known.in_flight()), (5, 0));

        let mut sum = nonsense.clone();
        sum.add(&nonsense);
        assert_eq!(sum.requests, u64::MAX);
        sum.end();
        assert_eq!(sum.in_flight(), 0);

        let gauges = AppGauges {
            queued: u64::MAX,
            instances: u64::MAX,
            guest_memory: u64::MAX,
        };
        let bounded = gauges.bounded(SECOND, 3);
        assert_eq!((bounded.queued, bounded.instances), (3, 10));
        assert_eq!(bounded.guest_memory, 10_000);
    }

    #[test]
    fn every_request_is_in_one_outcome_or_lost_or_in_flight() {
        let mut base = AppCounts::default();
        let mut worker = ok(10);
        worker.requests = 12;
        let check = |sum: &AppCounts| {
            let outcomes: u64 = sum.outcomes.iter().sum();
            assert_eq!(sum.requests, outcomes + sum.lost + sum.in_flight());
        };
        let mut sum = base.clone();
        sum.add(&worker);
        check(&sum);
        assert_eq!((sum.requests, sum.lost, sum.in_flight()), (12, 0, 2));
        // It dies with those two, and another takes its place.
        worker.end();
        base.add(&worker);
        check(&base);
        assert_eq!((base.requests, base.lost, base.in_flight()), (12, 2, 0));
        let mut sum = base.clone();
        let mut next = ok(1);
        next.requests = 2;
        sum.add(&next);
        check(&sum);
        assert_eq!((sum.requests, sum.lost, sum.in_flight()), (14, 2, 1));
    }

    /// Workers that count, die at any point and lie downwards, drawn at random:
    /// the sum only grows, and ends at what was counted.
    #[test]
    fn whoever_dies_sums_only_grow_and_lose_nothing() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = |below: u64| -> usize {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below).unwrap()
        };
        let plausible = Plausible {
            age: Duration::from_secs(1000),
            ..SECOND
        };
        for _ in 0..50 {
            let mut workers = vec![(AppCounts::default(), AppCounts::default()); 3];
            let mut base = AppCounts::default();
            let (mut counted, mut begun, mut shown) = (0, 0, AppCounts::default());
            for _ in 0..400 {
                let index = draw(3);
                match draw(8) {
                    0..4 => {
                        workers[index].0.requests += 1;
                        begun += 1;
                    }
                    4..6 => {
                        let row = &mut workers[index].0;
                        if row.in_flight() > 0 {
                            row.outcomes[draw(3)] += 1;
                            counted += 1;
                        }
                    }
                    6 => {
                        let (row, mut known) = std::mem::take(&mut workers[index]);
                        known.learn(&row, plausible);
                        known.end();
                        base.add(&known);
                    }
                    _ => {
                        let mut sum = base.clone();
                        for (row, known) in &mut workers {
                            known.learn(row, plausible);
                            sum.add(known);
                        }
                        assert!(sum.requests >= shown.requests && sum.lost >= shown.lost);
                        let pairs = sum.outcomes.iter().zip(&shown.outcomes);
                        for (now, before) in pairs {
                            assert!(now >= before);
                        }
                        assert_eq!(sum.requests, begun);
                        assert_eq!(sum.outcomes.iter().sum::<u64>(), counted);
                        shown = sum;
                    }
                }
            }
        }
    }

    #[test]
    fn latencies_are_those_of_the_last_minute() {
        let at = |seconds| window_at(Moment::after_origin(Duration::from_secs(seconds)));
        assert_eq!([at(0), at(29), at(30), at(61)], [0, 0, 1, 2]);
        let counts = |millis, count| {
            let mut counts = [0; TALLY_BUCKETS];
            counts[usize::from(tally_bucket_of(Duration::from_millis(millis)))] = count;
            counts
        };
        let mut recent = Recent::default();
        assert_eq!(recent.quantile(0.5, 10), None);
        recent.add(9, &counts(100, 1), 10);
        recent.add(10, &counts(10, 98), 10);
        let mut other = Recent::default();
        other.add(10, &counts(400, 1), 10);
        recent.merge(&other, 10);
        let ms = |quantile, now| recent.quantile(quantile, now).map(|it| it.as_millis());
        assert!((10..12).contains(&ms(0.5, 10).unwrap()));
        assert!((100..113).contains(&ms(0.99, 10).unwrap()));
        assert!((400..450).contains(&ms(1.0, 10).unwrap()));
        // A window later the oldest is gone, and two later all of it.
        assert!((10..12).contains(&ms(0.98, 11).unwrap()));
        assert_eq!(ms(0.5, 12), None);
        // Windows that cannot be are not believed.
        for number in [0, 8, 11, u64::MAX] {
            let before = recent.clone();
            recent.add(number, &counts(1, u64::MAX), 10);
            assert_eq!(recent, before, "{number}");
        }
        recent.add(10, &counts(10, u64::MAX), 10);
        assert!(recent.quantile(0.5, 10).is_some());
        recent.forget(12);
        assert_eq!(recent, Recent::default());
    }
}
