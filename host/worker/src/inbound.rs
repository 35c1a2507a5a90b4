//! A request's body on its way to the guest: bounded in size and in slowness.

use std::error::Error as _;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use skep_core::Outcome;
use skep_engine::RequestBodyError;
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::account::Override;

/// What ends a call from the side of its request body.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    pub(crate) outcome: Arc<Override>,
    pub(crate) notify: Notify,
}

/// The body of one request.
pub(crate) struct Inbound {
    body: Incoming,
    left: u64,
    pause: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    interrupt: Arc<Interrupt>,
}

impl Inbound {
    /// At most `limit` bytes, with at most `pause` between two pieces.
    pub(crate) fn new(
        body: Incoming,
        limit: u64,
        pause: Duration,
        interrupt: &Arc<Interrupt>,
    ) -> Self {
        Self {
            body,
            left: limit,
            pause,
            alarm: None,
            interrupt: Arc::clone(interrupt),
        }
    }

    fn fail(
        &self,
        outcome: Outcome,
        error: RequestBodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.interrupt.outcome.set(outcome);
        self.interrupt.notify.notify_one();
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.alarm = None;
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(bytes) {
                    Some(left) => {
                        this.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => this.fail(
                        Outcome::BodyTooLarge,
                        RequestBodyError::HttpRequestBodySize(None),
                    ),
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if is_gone(&error) {
                    return this.fail(Outcome::ClientGone, RequestBodyError::ConnectionTerminated);
                }
                this.fail(Outcome::BadRequest, RequestBodyError::HttpProtocolError)
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let pause = this.pause;
                let alarm = this
                    .alarm
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.fail(Outcome::TooSlow, RequestBodyError::ConnectionReadTimeout)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the client hung up within its body. What else may be wrong with a
/// body are chunks that are none.
fn is_gone(error: &hyper::Error) -> bool {
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || io.is_some_and(|io| {
            matches!(
                io.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
            )
        })
}
