//! One HTTP/1.1 connection, the task that drives it, and the response that
//! comes over it.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::pool::{Pool, Slot, Use};
use super::{OutboundError, RequestBody};

/// Bytes that a connection buffers in one direction.
const BUFFER: usize = 64 << 10;

/// Bytes of a response's head. What a guest can hold of it is twice that, by
/// the measure of the host's memory.
const MAX_HEAD: usize = 48 << 10;

/// How long a request that is not sent whole may hold its connection when its
/// response is.
const SETTLE: Duration = Duration::from_secs(1);

/// A connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) sender: SendRequest<RequestBody>,
    driver: Driver,
}

/// The task that drives a connection, as long as anybody wants that.
struct Driver(AbortHandle);

/// What is held as long as a socket is open, in the order in which it is let
/// go.
struct Driven<F> {
    connection: F,
    _held: Box<dyn Any + Send>,
    _slot: Slot,
}

impl Connection {
    /// Begins HTTP on a stream.
    pub(super) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        held: Box<dyn Any + Send>,
        slot: Slot,
    ) -> Result<Self, OutboundError> {
        let (sender, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| OutboundError::from_hyper(&error))?;
        let driven = Driven {
            connection,
            _held: held,
            _slot: slot,
        };
        let task = tokio::spawn(driven);
        Ok(Self {
            sender,
            driver: Driver(task.abort_handle()),
        })
    }

    /// Whether a request can be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether it is of no more use.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.driver.0.is_finished()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<F: Future + Unpin> Future for Driven<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever waits for a response is told what went wrong.
        let _ = ready!(Pin::new(&mut self.connection).poll(cx));
        Poll::Ready(())
    }
}

/// The body of a response, as it comes. Dropped before its end, it closes its
/// connection.
pub struct ResponseBody {
    incoming: Incoming,
    pause: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    /// The connection, until it is returned or closed.
    from: Option<Returning>,
}

/// A connection that is in use, and where it goes afterwards.
pub(super) struct Returning {
    pub(super) connection: Connection,
    pub(super) usage: Use,
    pub(super) pool: Arc<Pool>,
}

impl ResponseBody {
    /// With at most `pause` between two pieces.
    pub(super) fn new(incoming: Incoming, pause: Duration, from: Returning) -> Self {
        Self {
            incoming,
            pause,
            alarm: None,
            from: Some(from),
        }
    }

    fn fail(&mut self, error: OutboundError) -> Poll<Option<Result<Frame<Bytes>, OutboundError>>> {
        self.from = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl Returning {
    fn back(mut self) {
        if self.connection.is_closed() {
            return;
        }
        if self.connection.is_ready() {
            return self.pool.keep(self.usage, self.connection);
        }
        // The other end has answered before it had the whole request.
        tokio::spawn(async move {
            let settled = tokio::time::timeout(SETTLE, self.connection.sender.ready()).await;
            if matches!(settled, Ok(Ok(()))) {
                self.pool.keep(self.usage, self.connection);
            }
        });
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = OutboundError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutboundError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.alarm = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(OutboundError::from_body(&error)),
            Poll::Ready(None) => {
                if let Some(from) = this.from.take() {
                    from.back();
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                // A guest that reads late has waited for nothing.
                let by = Instant::now() + this.pause;
                let alarm = this
                    .alarm
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
                ready!(alarm.as_mut().poll(cx));
                this.fail(OutboundError::BetweenBytes)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // Nobody polls a body to its end whose length is reached.
        if self.incoming.is_end_stream()
            && let Some(from) = self.from.take()
        {
            from.back();
        }
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
