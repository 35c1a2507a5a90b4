//! A response's body: a window on its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use skep_core::Outcome;

use crate::call::Witness;
use crate::flow::Piece;
use crate::slot::Slot;

/// The guest failed after its headers were sent, or the client was too slow; the
/// connection must not end as if the response were whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response was cut short ({})", .0.name())]
pub struct CutShort(pub Outcome);

/// The body of a guest's response.
///
/// The guest does not depend on it: its call ends in its time, whether this is
/// polled or not. It may write ahead of the client by a frame or two. Between two
/// frames the client is given its patience; a body that waits (`Poll::Pending`)
/// waits for the guest.
///
/// Dropping it before it is whole cancels the guest at once.
pub struct GuestBody<W: Witness> {
    slot: Arc<Slot<W>>,
    /// Whether its end was told.
    ended: bool,
}

impl<W: Witness> std::fmt::Debug for GuestBody<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestBody")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<W: Witness> GuestBody<W> {
    pub(crate) fn new(slot: Arc<Slot<W>>) -> Self {
        Self { slot, ended: false }
    }
}

impl<W: Witness> Body for GuestBody<W> {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match self.slot.poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Piece::Frame(frame))) => return Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Ok(Piece::End)) => None,
            Poll::Ready(Ok(Piece::Broken(verdict))) => Some(Err(CutShort(verdict.outcome))),
            Poll::Ready(Err(outcome)) => Some(Err(CutShort(outcome))),
        };
        self.ended = true;
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.slot.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.slot.size_hint()
    }
}

impl<W: Witness> Drop for GuestBody<W> {
    fn drop(&mut self) {
        self.slot.leave();
    }
}
