//! The connections of a worker, and which of them are asked to end.
//!
//! Connections are kept alive for clients that come back. Clients that open
//! connections without using them could take all there may be; then the
//! connections that have been idle for the longest are asked to end, so that a new
//! one has room. None ends while it has a request, and one that gets a request in
//! the last moment still answers it. A worker that drains asks all of them.
//!
//! This module decides which connections are asked. The driver of a connection
//! ends it; `accept.rs` says when room is needed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use crate::alarm::{micros, moment};

/// One in so many connections is asked to go at once: to look for the idlest of
/// ten thousand takes a tenth of a millisecond, which is too much for each that
/// comes.
const BATCH: usize = 64;

/// At least so many are asked at once: each goes within some ten milliseconds,
/// and who waits may have others before it.
const LEAST_BATCH: usize = 4;

/// How long a connection that is asked to make room may stay silent before it
/// ends: so that what was just written has gone.
pub(crate) const LEAST: Duration = Duration::from_millis(10);

/// How long those that were asked have to go before others are asked, too: a
/// request may have come to them.
const GOING: Duration = Duration::from_millis(100);

/// How long a silent connection of a worker that drains lives on. Long enough
/// that a client which uses its connection at all comes back; short enough for
/// an operator who waits for a worker to go.
const LINGER: Duration = Duration::from_secs(5);

/// A connection with a request.
const BUSY: u64 = u64::MAX;

/// The linger of a worker that has so long to drain: half of it at most,
/// because the requests that come within the linger take time, too.
pub(crate) fn linger(drain_timeout: Duration) -> Duration {
    LINGER.min(drain_timeout / 2).max(LEAST)
}

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ask {
    Stay,
    /// Go, if nothing is asked of it.
    MakeRoom,
    /// Go, with time for a client to come back.
    Drain,
}

/// The connections of a worker.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    stays: Mutex<BTreeMap<u64, Arc<Guest>>>,
    next: AtomicU64,
    /// Microseconds at which room was asked for last.
    asked: AtomicU64,
    /// Those that were asked and have not gone.
    going: AtomicUsize,
    draining: AtomicBool,
}

/// One connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stay {
    rooms: Arc<Rooms>,
    number: u64,
    guest: Arc<Guest>,
}

#[derive(Debug)]
struct Guest {
    ask: AtomicU8,
    /// Microseconds since when nothing is asked of it, or [`BUSY`].
    idle: AtomicU64,
    task: AtomicWaker,
}

impl Rooms {
    /// A connection that has come at `now`.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Stay {
        let ask = if self.draining.load(Relaxed) {
            Ask::Drain
        } else {
            Ask::Stay
        };
        let guest = Arc::new(Guest {
            ask: AtomicU8::new(ask as u8),
            idle: AtomicU64::new(micros(now)),
            task: AtomicWaker::new(),
        });
        let number = self.next.fetch_add(1, Relaxed);
        self.stays().insert(number, Arc::clone(&guest));
        Stay {
            rooms: Arc::clone(self),
            number,
            guest,
        }
    }

    /// Asks those that have been idle for the longest to go, unless some were
    /// asked a moment ago. Says how many.
    pub(crate) fn make(&self, now: Instant) -> usize {
        let asked = moment(self.asked.load(Relaxed));
        if self.going.load(Relaxed) > 0 && now.saturating_duration_since(asked) < GOING {
            return 0;
        }
        let stays = self.stays();
        let idle = stays.values().filter(|guest| guest.may_be_asked());
        let mut idle: Vec<_> = idle
            .map(|guest| (guest.idle.load(Relaxed), guest))
            .collect();
        let batch = (stays.len() / BATCH).max(LEAST_BATCH).min(idle.len());
        if batch == 0 {
            return 0;
        }
        idle.select_nth_unstable_by_key(batch - 1, |(since, _)| *since);
        for (_, guest) in &idle[..batch] {
            guest.ask(Ask::MakeRoom);
        }
        self.asked.store(micros(now), Relaxed);
        self.going.fetch_add(batch, Relaxed);
        batch
    }

    /// Asks all to go, those too that still come.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        // No connection comes any more.
        self.going.store(0, Relaxed);
        for guest in self.stays().values() {
            guest.ask(Ask::Drain);
        }
    }

    fn stays(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Guest>>> {
        // A panic leaves it consistent.
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    pub(crate) fn asked(&self) -> Ask {
        match self.guest.ask.load(Relaxed) {
            0 => Ask::Stay,
            1 => Ask::MakeRoom,
            _ => Ask::Drain,
        }
    }

    /// Whom to wake when it is asked something.
    pub(crate) fn watched_by(&self, task: &Waker) {
        self.guest.task.register(task);
    }

    /// Something is asked of it.
    pub(crate) fn busy(&self) {
        self.guest.idle.store(BUSY, Relaxed);
    }

    /// Nothing is asked of it any more.
    pub(crate) fn idle(&self, since: Instant) {
        self.guest.idle.store(micros(since), Relaxed);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.rooms.stays().remove(&self.number);
        if self.asked() == Ask::MakeRoom {
            self.rooms.going.fetch_sub(1, Relaxed);
        }
    }
}

impl Guest {
    fn may_be_asked(&self) -> bool {
        self.idle.load(Relaxed) != BUSY && self.ask.load(Relaxed) == Ask::Stay as u8
    }

    fn ask(&self, ask: Ask) {
        self.ask.store(ask as u8, Relaxed);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_idle_for_the_longest_makes_room_and_nobody_who_is_busy() {
        let at = |millis: u64| moment(1000 * millis);
        let rooms = Arc::new(Rooms::default());
        let mut stays: Vec<_> = (1..=9).map(|n| rooms.enter(at(n))).collect();
        stays[0].busy();
        stays[8].idle(at(0));
        let asked = |stays: &[Stay]| -> Vec<usize> {
            let asked = (0..stays.len()).filter(|n| stays[*n].asked() == Ask::MakeRoom);
            asked.collect()
        };
        assert_eq!(rooms.make(at(1000)), LEAST_BATCH);
        assert_eq!(asked(&stays), [1, 2, 3, 8]);
        // They are on their way.
        assert_eq!(rooms.make(at(1099)), 0);
        assert_eq!(rooms.make(at(1100)), LEAST_BATCH);
        assert_eq!(asked(&stays), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(rooms.make(at(1200)), 0);
        // All that were asked have gone, and somebody has come.
        drop(stays.drain(1..));
        stays.push(rooms.enter(at(1201)));
        assert_eq!(rooms.make(at(1201)), 1);
        assert_eq!(asked(&stays), [1]);
        rooms.drain();
        assert_eq!(rooms.enter(at(1300)).asked(), Ask::Drain);
        assert!(stays.iter().all(|stay| stay.asked() == Ask::Drain));
        drop(stays);
        assert!(rooms.stays().is_empty());
    }

    #[test]
    fn the_linger_leaves_half_of_the_drain_to_requests() {
        let of = |seconds| linger(Duration::from_secs_f64(seconds));
        assert_eq!(of(30.0), LINGER);
        assert_eq!(of(1.0), Duration::from_millis(500));
        assert_eq!(of(0.0), LEAST);
    }
}
