//! Bodies of WASI 0.2 that are written before anybody can take them: before
//! `response-outparam.set`, or before `outgoing-handler.handle`.
//!
//! wasmtime's channel behind such a body has room for two pieces, and a guest
//! that writes a third waits for a reader that only comes when the guest goes
//! on. So the host takes the pieces out whenever the guest deals with a stream,
//! up to [`EARLY_BODY`] bytes of a body.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::held::{Held, Load};
use crate::weigh::BODY_CHUNK;

/// Bytes of one body that a guest may write before anybody can take them:
/// enough for what is rendered whole before its head is known. A guest with more
/// to write sends its head first.
pub(crate) const EARLY_BODY: usize = 1 << 20;

/// Takes what the guest has written to a body that nobody reads yet; says
/// whether that is no more than [`EARLY_BODY`].
pub(crate) fn gather(body: &mut Option<WasiBody>, held: &Held) -> bool {
    let mut cx = Context::from_waker(&GATHERER);
    let Some(stream) = body.as_mut() else {
        return true;
    };
    let first = match next(stream, &mut cx) {
        // There is nothing, or it is an early body, which has taken it.
        Poll::Pending => return true,
        // An early body that is full says so in this way.
        Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(TOO_EARLY))))) => return false,
        Poll::Ready(first) => first,
    };
    let mut early = EarlyBody {
        written: BytesMut::new(),
        last: None,
        rest: body.take(),
        load: held.load(0),
    };
    early.put(first);
    let fits = early.gather(&mut cx);
    *body = Some(early.boxed_unsync());
    fits
}

/// The next piece, if it is there. By itself tokio would let a guest that has
/// done much in its turn wait for the next one, although only this makes room.
fn next(body: &mut WasiBody, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    Pin::new(&mut tokio::task::unconstrained(frame)).poll(cx)
}

/// The size in the error by which a full body is known. No guest writes that
/// much.
const TOO_EARLY: u64 = u64::MAX;

/// Whoever polls with this waker is [`gather`]: a body behind a `dyn Body` has
/// no other way to be told apart from one that was not gathered yet.
static GATHERER: LazyLock<Waker> = LazyLock::new(|| Waker::from(Arc::new(Nobody)));

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// A body whose beginning the host has taken.
struct EarlyBody {
    written: BytesMut,
    /// What came after the data: trailers, or why there is no more.
    last: Option<Result<Frame<Bytes>, Error>>,
    /// What the guest still writes to, unless it has ended.
    rest: Option<WasiBody>,
    load: Load,
}

impl EarlyBody {
    fn put(&mut self, next: Option<Result<Frame<Bytes>, Error>>) {
        match next.map(|result| result.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                self.written.extend_from_slice(&data);
                self.load.set(self.written.capacity());
            }
            Some(Ok(Err(trailers))) => self.last = Some(Ok(trailers)),
            Some(Err(error)) => {
                self.last = Some(Err(error));
                self.rest = None;
            }
            None => self.rest = None,
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        while self.written.len() <= EARLY_BODY {
            let Some(rest) = self.rest.as_mut() else {
                return true;
            };
            match next(rest, cx) {
                Poll::Pending => return true,
                Poll::Ready(next) => self.put(next),
            }
        }
        false
    }
}

impl Body for EarlyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if cx.waker().will_wake(&GATHERER) {
            if this.gather(cx) {
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(TOO_EARLY)))));
        }
        if !this.written.is_empty() {
            let piece = this.written.len().min(BODY_CHUNK);
            return Poll::Ready(Some(Ok(Frame::data(this.written.split_to(piece).freeze()))));
        }
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(last));
        }
        let Some(rest) = this.rest.as_mut() else {
            return Poll::Ready(None);
        };
        let next = ready!(Pin::new(rest).poll_frame(cx));
        if next.is_none() {
            this.rest = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.written.is_empty()
            && self.last.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_none() && self.last.is_none() {
            SizeHint::with_exact(self.written.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};

    use super::*;

    /// Writes `bytes` by permits of `piece`, and gathers before each.
    fn written(bytes: usize, piece: usize) -> (Option<WasiBody>, Held, bool) {
        let (mut host, body) = HostOutgoingBody::new(StreamContext::Response, None, 1, BODY_CHUNK);
        let (mut body, held) = (Some(body), Held::default());
        let mut stream = host.take_output_stream().unwrap();
        let mut left = bytes;
        while left > 0 {
            if !gather(&mut body, &held) {
                return (body, held, false);
            }
            let now = stream.check_write().unwrap().min(piece).min(left);
            assert_ne!(now, 0, "what was written is gathered, so there is room");
            stream.write(vec![b'x'; now].into()).unwrap();
            left -= now;
        }
        drop(stream);
        host.finish(None).unwrap();
        (body, held, true)
    }

    #[test]
    fn what_is_written_before_its_head_arrives_whole_and_is_weighed() {
        for (bytes, piece) in [
            (500_000, BODY_CHUNK),
            (EARLY_BODY, BODY_CHUNK),
            (100_000, 7),
        ] {
            let (body, held, fits) = written(bytes, piece);
            assert!(fits);
            assert!(held.bytes() + 2 * BODY_CHUNK >= bytes, "{}", held.bytes());
            assert!(held.bytes() <= 3 * EARLY_BODY, "{}", held.bytes());
            let whole = futures_util::FutureExt::now_or_never(body.unwrap().collect());
            assert_eq!(whole.unwrap().unwrap().to_bytes().len(), bytes);
            assert_eq!(held.bytes(), 0);
        }
    }

    #[test]
    fn there_is_an_end_to_it_and_it_is_said() {
        let (body, held, fits) = written(4 * EARLY_BODY, BODY_CHUNK);
        assert!(!fits);
        assert!(held.bytes() <= 3 * EARLY_BODY, "{}", held.bytes());
        drop(body);
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn a_body_that_nobody_wrote_to_stays_as_it_is() {
        let (host, body) = HostOutgoingBody::new(StreamContext::Response, None, 1, BODY_CHUNK);
        let (mut body, held) = (Some(body), Held::default());
        assert!(gather(&mut body, &held));
        host.abort();
        let failed = futures_util::FutureExt::now_or_never(body.unwrap().collect());
        assert!(failed.unwrap().is_err());
    }
}
