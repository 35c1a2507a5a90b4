//! What h2 holds of an answer until its client takes it.
//!
//! h2 bounds the bytes, and keeps ten times as much besides for each frame of a
//! few bytes: a guest that flushes each of them could make a connection cost
//! hundreds of megabytes. So the frames are counted, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;

/// Frames of one answer that wait until its client takes them.
const MAX_FRAMES: u32 = 32;

/// The frames of one answer that h2 holds.
#[derive(Debug, Default)]
pub(super) struct Frames {
    held: AtomicU32,
    /// Who has another one.
    waiting: AtomicWaker,
}

impl Frames {
    /// Ready when h2 may hold another one.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.held.load(Relaxed) < MAX_FRAMES {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        // The client may have taken one meanwhile.
        if self.held.load(Relaxed) < MAX_FRAMES {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// The content of one frame.
#[derive(Debug)]
pub(crate) struct Portion {
    bytes: Bytes,
    counted: Option<Arc<Frames>>,
}

impl Portion {
    /// One that is counted until it is gone.
    pub(super) fn new(bytes: Bytes, frames: &Arc<Frames>) -> Self {
        frames.held.fetch_add(1, Relaxed);
        Self {
            bytes,
            counted: Some(Arc::clone(frames)),
        }
    }

    /// All that there is of an answer.
    pub(super) fn only(bytes: Bytes) -> Self {
        Self {
            bytes,
            counted: None,
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        if let Some(frames) = &self.counted
            && frames.held.fetch_sub(1, Relaxed) == MAX_FRAMES
        {
            frames.waiting.wake();
        }
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
    fn so_many_are_held_at_a_time() {
        let frames = Arc::new(Frames::default());
        let cx = Context::from_waker(Waker::noop());
        let one = || Portion::new(Bytes::from_static(b"x"), &frames);
        let mut held = Vec::new();
        while frames.poll_room(&cx).is_ready() {
            held.push(one());
        }
        assert_eq!(held.len(), 32);
        held.pop();
        assert!(frames.poll_room(&cx).is_ready());
        held.clear();
        assert_eq!(frames.held.load(Relaxed), 0);
    }
}
