//! What a request and the connection that carries it tell each other.
//!
//! ```text
//! connection, body ── ends(outcome) ──▶ the call is cancelled, and that is its outcome
//! call ── cut() ──▶ the answer that has begun ends here: the connection or stream is cut
//! ```

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::Waker;
use std::time::Instant;

use futures_util::task::AtomicWaker;
use skep_core::Outcome;
use tokio::sync::Notify;

use crate::alarm::{micros, moment};

/// Shared by one request's account, body and connection.
#[derive(Debug, Default)]
pub(crate) struct Lifeline {
    /// 0 is none: nothing but a call ends with `Ok`.
    outcome: AtomicU8,
    ended: Notify,
    /// The head of the answer was handed over.
    begun: AtomicBool,
    cut: AtomicBool,
    carrier: AtomicWaker,
    /// Microseconds at which the client last took some of the answer, or 0.
    taken: AtomicU64,
}

impl Lifeline {
    /// Something other than the guest ends the request so. The first to say so
    /// counts.
    pub(crate) fn end(&self, outcome: Outcome) {
        let _ = self
            .outcome
            .compare_exchange(0, outcome as u8, Relaxed, Relaxed);
        self.ended.notify_one();
    }

    /// As what something other than the guest has ended it.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.outcome.load(Relaxed) {
            0 => None,
            index => Outcome::ALL.get(usize::from(index)).copied(),
        }
    }

    /// Ends when something other than the guest has ended the request.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// From now on a call that fails cuts its answer.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Relaxed);
    }

    /// Whether the head of an answer of the guest's was handed over.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// The call has failed: an answer that has begun has no end.
    pub(crate) fn cut(&self) {
        if self.begun.load(Relaxed) {
            self.cut.store(true, Relaxed);
            self.carrier.wake();
        }
    }

    /// Whether the answer that has begun has no end.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// The client took some of the answer.
    pub(crate) fn takes(&self, now: Instant) {
        self.taken.store(micros(now), Relaxed);
    }

    /// When that was, if it was noted.
    pub(crate) fn last_taken(&self) -> Option<Instant> {
        match self.taken.load(Relaxed) {
            0 => None,
            taken => Some(moment(taken)),
        }
    }

    /// Whom to wake when it is cut.
    pub(crate) fn carried_by(&self, carrier: &Waker) {
        self.carrier.register(carrier);
    }
}
