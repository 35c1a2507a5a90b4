//! What the requests of one handler came to, counted where they end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use skep_core::{HandlerId, Outcome, TALLY_BUCKETS, Tally, tally_bucket_of};
use skep_sys::Sole as _;
use skep_wire::HandlerTally;

/// One handler's counters. They belong to the handler and not to the
/// scoreboard, because they end with it.
#[derive(Debug)]
pub(crate) struct Counts {
    requests: AtomicU64,
    errors: AtomicU64,
    latency: [AtomicU64; TALLY_BUCKETS],
    outcomes: [AtomicU64; Outcome::ALL.len()],
    marks: Mutex<Marks>,
}

/// Earlier totals, a turn apart: what was counted since the older one is what
/// happened within the last one to two turns.
#[derive(Debug, Default)]
struct Marks {
    older: Tally,
    newer: Tally,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; TALLY_BUCKETS],
            outcomes: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
            marks: Mutex::default(),
        }
    }

    /// Counts one request that has ended.
    pub(crate) fn ended(&self, outcome: Outcome, status: Option<StatusCode>, elapsed: Duration) {
        self.outcomes[outcome as usize].add(1);
        let failed = match outcome {
            Outcome::Ok => status.is_some_and(|status| status.is_server_error()),
            // The client's doing: clients that send nonsense must not be able to
            // have a deploy rolled back.
            Outcome::ClientGone
            | Outcome::BodyTooLarge
            | Outcome::TooSlow
            | Outcome::BadRequest
            | Outcome::HeadTooLarge
            | Outcome::Misdirected
            | Outcome::Quarantined
            | Outcome::RateLimited
            | Outcome::NoRoute => return,
            Outcome::Trap
            | Outcome::NoResponse
            | Outcome::Deadline
            | Outcome::CpuBudget
            | Outcome::MemoryBudget
            | Outcome::InstancesExhausted
            | Outcome::QueueFull
            | Outcome::Tripped
            | Outcome::TenantOverBudget => true,
        };
        self.requests.add(1);
        if failed {
            self.errors.add(1);
        }
        self.latency[usize::from(tally_bucket_of(elapsed))].add(1);
    }

    /// Requests that were counted.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// For the primary.
    pub(crate) fn tally(&self, handler: HandlerId) -> HandlerTally {
        let total = self.total();
        let recent = total.since(&self.marks().older);
        HandlerTally {
            handler,
            total,
            recent,
            outcomes: self.outcomes(),
        }
    }

    /// Requests by outcome, those of which there were none left out.
    fn outcomes(&self) -> Vec<(Outcome, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Relaxed));
        let all = Outcome::ALL.into_iter().zip(counts);
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Forgets what is older than two turns. To be called once a minute.
    pub(crate) fn turn(&self) {
        let now = self.total();
        let mut marks = self.marks();
        marks.older = std::mem::replace(&mut marks.newer, now);
    }

    fn total(&self) -> Tally {
        let latency = std::array::from_fn(|bucket| self.latency[bucket].load(Relaxed));
        Tally::new(
            self.requests.load(Relaxed),
            self.errors.load(Relaxed),
            &latency,
        )
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // A panic leaves it consistent.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: HandlerId = HandlerId(7);

    #[test]
    fn failures_are_the_handlers_and_not_the_clients() {
        let counts = Counts::new();
        for outcome in Outcome::ALL {
            counts.ended(outcome, None, Duration::from_micros(3));
        }
        let total = counts.tally(ID).total;
        // All outcomes but six of the client's, and all of those but `ok`.
        assert_eq!((total.requests, total.errors), (10, 9));
        assert_eq!(total.latency, [(3, 10)]);
        // What is not the handler's is counted as well, by name.
        let outcomes = counts.tally(ID).outcomes;
        assert_eq!(outcomes, Outcome::ALL.map(|outcome| (outcome, 1)));

        for (status, errors) in [(200, 9), (404, 9), (500, 10), (503, 11)] {
            counts.ended(
                Outcome::Ok,
                StatusCode::from_u16(status).ok(),
                Duration::MAX,
            );
            assert_eq!(counts.tally(ID).total.errors, errors, "{status}");
        }
        assert_eq!(counts.requests(), 14);
        assert_eq!(counts.tally(ID).total.latency, [(3, 10), (u8::MAX, 4)]);
    }

    #[test]
    fn what_is_recent_was_one_to_two_turns_ago() {
        let counts = Counts::new();
        let count =
            |n| (0..n).for_each(|_| counts.ended(Outcome::Ok, None, Duration::from_micros(1)));
        let recent = || counts.tally(ID).recent.requests;
        count(1);
        assert_eq!(recent(), 1);
        counts.turn();
        count(10);
        assert_eq!(recent(), 11);
        counts.turn();
        count(100);
        assert_eq!(recent(), 110);
        counts.turn();
        assert_eq!(recent(), 100);
        counts.turn();
        assert_eq!((recent(), counts.requests()), (0, 111));
    }
}
