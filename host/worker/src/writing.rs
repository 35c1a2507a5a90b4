//! What is to be written to a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite;

/// Whose turn it is when there is something to write.
///
/// Waking the reader of a response costs more than making most responses. A
/// worker with many connections therefore first does what all of them ask, and
/// then writes what it has to say (as Redis does), so that a client or proxy
/// with several connections is woken once for several responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turns {
    /// The next write waits until the others have been served.
    Others,
    /// The next write is done at once.
    Now,
}

impl Turns {
    /// Lets the others go first, once for each write.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Guests that compute are others, too, and far too slow to wait for.
        if *self == Self::Others && skep_engine::computing() == 0 {
            *self = Self::Now;
            // To the end of the queue of what is ready. `yield_now` would have the
            // sockets looked at besides, with a system call for each response of a
            // worker that has one client.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *self = Self::Others;
        Poll::Ready(())
    }
}

/// Bytes that wait for the client.
#[derive(Debug)]
pub(crate) struct Writing {
    out: BytesMut,
    turns: Turns,
    timeout: Duration,
    /// Since when the client takes nothing.
    blocked: Option<Instant>,
}

impl Writing {
    /// For a client that may refuse to take bytes for so long.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            out: BytesMut::new(),
            turns: Turns::Now,
            timeout,
            blocked: None,
        }
    }

    /// Where more is put.
    pub(crate) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// When the client has refused to take bytes for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        Some(self.blocked? + self.timeout)
    }

    /// Writes all there is.
    pub(crate) fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        transport: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.blocked.is_none() {
            ready!(self.turns.poll(cx));
        }
        while !self.out.is_empty() {
            match Pin::new(&mut *transport).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.blocked = None;
                    self.out.advance(written);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.blocked.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        // An idle connection has no buffer.
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Writes what the client takes at once.
    pub(crate) fn try_once<T: AsyncWrite + Unpin>(&mut self, transport: &mut T) {
        if !self.out.is_empty() {
            // What it does not take is lost with the connection.
            let cx = &mut Context::from_waker(Waker::noop());
            let _ = Pin::new(transport).poll_write(cx, &self.out);
        }
    }
}
