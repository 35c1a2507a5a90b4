//! Bodies that come from outside, told from those that a guest writes.
//!
//! A guest of WASI 0.3 may hand the body of its request, or of a response that it
//! was sent, on as its own: the host joins the two, and the guest may be gone
//! while bytes still come. A body that nobody will ever finish looks the same. The
//! difference is who is asked when the response's body is polled.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

/// Where a body comes from that is no guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The client's request.
    Client,
    /// A response to a request of the guest's.
    Upstream,
}

thread_local! {
    /// The outside body that was polled last. A worker polls one at a time.
    static ASKED: Cell<Option<Origin>> = const { Cell::new(None) };
}

/// What a body answers to a poll.
type Polled = Poll<Option<Result<Frame<Bytes>, Error>>>;

/// Polls the body of a response; says who was asked, if not the guest.
pub(crate) fn poll_frame(body: &mut WasiBody, cx: &mut Context<'_>) -> (Polled, Option<Origin>) {
    ASKED.set(None);
    let polled = Pin::new(body).poll_frame(cx);
    (polled, ASKED.take())
}

/// A body from outside.
pub(crate) struct Outside {
    body: WasiBody,
    origin: Origin,
}

impl Outside {
    pub(crate) fn new(body: WasiBody, origin: Origin) -> Self {
        Self { body, origin }
    }
}

impl Body for Outside {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        ASKED.set(Some(self.origin));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
