//! Room for new connections when a worker has as many as it may.
//!
//! Connections are kept alive for clients who come back. A client, or all of
//! one tenant's, may open as many as there may be and ask for nothing; then
//! those that have been idle for the longest end, to make room for somebody who
//! has come. None ends while it has a request, and one that gets a request in
//! the last moment still answers it.
//!
//! Here it is decided who is asked to go. How a connection goes is
//! [`farewell`](crate::farewell)'s; that there is need of room, the acceptor's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::socket::Pulse;

/// One in so many connections is asked to go at once: to look for the idlest of
/// ten thousand takes a tenth of a millisecond, which is too much for each that
/// comes.
const BATCH: usize = 64;

/// The connections of a worker.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    stays: Mutex<BTreeMap<u64, Arc<Guest>>>,
    next: AtomicU64,
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
    pulse: Arc<Pulse>,
    asked: AtomicBool,
    go: Notify,
}

impl Rooms {
    pub(crate) fn enter(self: &Arc<Self>, pulse: &Arc<Pulse>) -> Stay {
        let guest = Arc::new(Guest {
            pulse: Arc::clone(pulse),
            asked: AtomicBool::new(false),
            go: Notify::new(),
        });
        let number = self.next.fetch_add(1, Relaxed);
        self.stays().insert(number, Arc::clone(&guest));
        Stay {
            rooms: Arc::clone(self),
            number,
            guest,
        }
    }

    /// Asks those that have been idle for the longest to go, if nobody who was
    /// asked is still on the way. Says how many.
    pub(crate) fn make(&self) -> usize {
        let stays = self.stays();
        if stays.values().any(|guest| guest.is_going()) {
            return 0;
        }
        let idle = stays.values().filter(|guest| guest.is_idle());
        let mut idle: Vec<(Instant, &Arc<Guest>)> = idle
            .map(|guest| (guest.pulse.idle_since(), guest))
            .collect();
        let batch = (stays.len() / BATCH).max(1).min(idle.len());
        if batch == 0 {
            return 0;
        }
        idle.select_nth_unstable_by_key(batch - 1, |(since, _)| *since);
        for (_, guest) in &idle[..batch] {
            guest.asked.store(true, Relaxed);
            guest.go.notify_one();
        }
        batch
    }

    fn stays(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Guest>>> {
        // Whole at every step.
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    /// Ends when the connection is to make room.
    pub(crate) async fn asked_to_go(&self) {
        self.guest.go.notified().await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.rooms.stays().remove(&self.number);
    }
}

impl Guest {
    fn is_idle(&self) -> bool {
        !self.pulse.is_busy() && !self.pulse.is_leaving() && !self.asked.load(Relaxed)
    }

    /// It was asked, and nothing keeps it.
    fn is_going(&self) -> bool {
        self.asked.load(Relaxed) && !self.pulse.is_busy() && !self.pulse.is_http2()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_been_idle_for_the_longest_makes_room_and_nobody_who_is_busy() {
        let rooms = Arc::new(Rooms::default());
        let pulses: Vec<_> = (0..3).map(|_| Pulse::new()).collect();
        let stays: Vec<_> = pulses.iter().map(|pulse| rooms.enter(pulse)).collect();
        for pulse in &pulses {
            pulse.request_began();
        }
        assert_eq!(rooms.make(), 0);
        pulses[2].request_ended();
        // Times are kept in microseconds.
        let before = pulses[1].age();
        while pulses[1].age() - before < Duration::from_micros(10) {
            std::hint::spin_loop();
        }
        pulses[1].request_ended();
        let asked = || -> Vec<bool> {
            let asked = stays.iter().map(|stay| stay.guest.asked.load(Relaxed));
            asked.collect()
        };
        assert_eq!((rooms.make(), asked()), (1, vec![false, false, true]));
        // It is on its way.
        assert_eq!(rooms.make(), 0);
        pulses[2].request_began();
        assert_eq!((rooms.make(), asked()), (1, vec![false, true, true]));
        drop(stays);
        assert!(rooms.stays().is_empty());
    }
}
