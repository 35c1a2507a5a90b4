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

use crate::http2::{at, micros};

/// What of one answer is under way.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Microseconds since when a frame waits for the client; 0 while none does.
    since: AtomicU64,
    cut: AtomicBool,
    /// Who has another one.
    waiting: AtomicWaker,
}

impl Outgoing {
    /// Ready when another frame may be handed on.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_free() {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        // The client may have taken it meanwhile.
        if self.is_free() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn is_free(&self) -> bool {
        self.since.load(Relaxed) == 0 || self.is_cut()
    }

    /// Since when a frame waits for the client, if one does.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match self.since.load(Relaxed) {
            0 => None,
            since => Some(at(since)),
        }
    }

    /// The answer ends here.
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
    of: Arc<Outgoing>,
}

impl Portion {
    pub(super) fn new(bytes: Bytes, of: &Arc<Outgoing>) -> Self {
        of.since.store(micros(Instant::now()).max(1), Relaxed);
        Self {
            bytes,
            of: Arc::clone(of),
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.of.since.store(0, Relaxed);
        self.of.waiting.wake();
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
        let outgoing = Arc::new(Outgoing::default());
        let cx = Context::from_waker(Waker::noop());
        assert!(outgoing.poll_room(&cx).is_ready());
        let portion = Portion::new(Bytes::from_static(b"x"), &outgoing);
        assert!(outgoing.poll_room(&cx).is_pending());
        assert!(outgoing.waits_since().is_some());
        drop(portion);
        assert!(outgoing.poll_room(&cx).is_ready());
        let _portion = Portion::new(Bytes::from_static(b"x"), &outgoing);
        outgoing.cut();
        assert!(outgoing.poll_room(&cx).is_ready());
    }
}
