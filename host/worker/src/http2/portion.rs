//! What h2 holds of an answer until its client takes it.
//!
//! One frame at a time. h2 bounds the bytes, but keeps ten times as much besides
//! for each frame of a few bytes, of which a guest may make thousands; and a
//! stream is reset at once only where its body can say so, which hyper asks for
//! more when it has nothing left to hand on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;

use crate::alarm::{micros, moment};
use crate::http2::stream::Answering;

/// What of one answer is under way.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Microseconds since when the client takes nothing of a frame; 0 while there
    /// is none.
    since: AtomicU64,
    cut: AtomicBool,
    /// Who has another frame.
    waiting: AtomicWaker,
}

impl Outgoing {
    /// Ready when another frame may be handed on, or none ever will be.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waits_since().is_none() || self.is_cut() {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        Poll::Pending
    }

    /// Since when the client takes nothing of a frame, if there is one.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match self.since.load(Relaxed) {
            0 => None,
            since => Some(moment(since)),
        }
    }

    /// The answer ends here. Its body is to be polled.
    pub(super) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }
}

/// The content of one frame.
#[derive(Debug)]
pub(crate) struct Portion {
    bytes: Bytes,
    of: Arc<Answering>,
}

impl Portion {
    pub(super) fn new(bytes: Bytes, of: &Arc<Answering>) -> Self {
        of.outgoing.since.store(micros(Instant::now()), Relaxed);
        Self {
            bytes,
            of: Arc::clone(of),
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        let outgoing = &self.of.outgoing;
        outgoing.since.store(0, Relaxed);
        outgoing.waiting.wake();
    }
}

impl Buf for Portion {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.has_remaining() {
            let now = Instant::now();
            self.of.outgoing.since.store(micros(now), Relaxed);
            self.of.lifeline().takes(now);
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.bytes.copy_to_bytes(count)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn one_is_under_way_at_a_time() {
        let answering = Arc::new(Answering::default());
        let outgoing = &answering.outgoing;
        let cx = Context::from_waker(Waker::noop());
        assert!(outgoing.poll_room(&cx).is_ready());
        let mut portion = Portion::new(Bytes::from_static(b"xyz"), &answering);
        assert!(outgoing.poll_room(&cx).is_pending());
        let handed_on = outgoing.waits_since().unwrap();
        assert_eq!(answering.lifeline().last_taken(), None);
        portion.advance(1);
        assert!(outgoing.waits_since().unwrap() >= handed_on);
        assert!(answering.lifeline().last_taken().is_some());
        assert!(outgoing.poll_room(&cx).is_pending());
        drop(portion);
        assert!(outgoing.poll_room(&cx).is_ready());
        let _portion = Portion::new(Bytes::from_static(b"x"), &answering);
        outgoing.cut();
        assert!(outgoing.poll_room(&cx).is_ready());
    }
}
