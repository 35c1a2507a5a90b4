//! One stream of HTTP/2: its task, and the pieces of its answer.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use skep_core::Outcome;
use skep_engine::CutShort;

use crate::alarm::Alarm;
use crate::http2::portion::{Frames, Portion};
use crate::http2::{Pulse, SEND_BUFFER};
use crate::lifeline::Lifeline;
use crate::reply::ReplyBody;

thread_local! {
    /// The lifeline of the stream that is polled on this thread: hyper makes the
    /// task of a stream, and tells the service nothing of it.
    static CURRENT: RefCell<Option<Arc<Lifeline>>> = const { RefCell::new(None) };
}

/// The lifeline of the request that is about to be answered. Only called by the
/// service, which runs within a stream's task.
pub(crate) fn current() -> Arc<Lifeline> {
    CURRENT.with_borrow(|current| current.clone().unwrap_or_default())
}

/// Spawns the streams of one connection.
#[derive(Clone)]
pub(crate) struct Streams {
    pulse: Arc<Pulse>,
    write_timeout: Duration,
}

impl Streams {
    pub(crate) fn new(pulse: &Arc<Pulse>, write_timeout: Duration) -> Self {
        Self {
            pulse: Arc::clone(pulse),
            write_timeout,
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, inner: F) {
        self.pulse.began();
        tokio::spawn(Stream {
            inner,
            hold: Hold {
                pulse: Arc::clone(&self.pulse),
                lifeline: Arc::default(),
            },
            refused: None,
            write_timeout: self.write_timeout,
            alarm: Alarm::default(),
        });
    }
}

pin_project! {
    /// A stream's task. It ends with its call, whether its client reads or not:
    /// to drop the stream is to reset it.
    struct Stream<F> {
        // Before the rest: its account ends by what the rest says.
        hold: Hold,
        #[pin]
        inner: F,
        // When our own answer in the place of the guest's was given.
        refused: Option<Instant>,
        write_timeout: Duration,
        alarm: Alarm,
    }
}

/// Counts a stream, and says how it ends if its connection does.
struct Hold {
    pulse: Arc<Pulse>,
    lifeline: Arc<Lifeline>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Dropped before its call.
        if self.pulse.too_slow.load(Relaxed) {
            self.lifeline.end(Outcome::TooSlow);
        }
        self.pulse.ended();
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let lifeline = &this.hold.lifeline;
        lifeline.carried_by(cx.waker());
        let outer = CURRENT.replace(Some(Arc::clone(lifeline)));
        let polled = this.inner.poll(cx);
        CURRENT.set(outer);
        if polled.is_ready() || lifeline.is_cut() {
            return Poll::Ready(());
        }
        if this.hold.pulse.too_slow.load(Relaxed) {
            lifeline.end(Outcome::TooSlow);
            return Poll::Ready(());
        }
        if !lifeline.is_refused() {
            return Poll::Pending;
        }
        // Nobody else waits for a client that does not take an error.
        let refused = *this.refused.get_or_insert_with(Instant::now);
        this.alarm.watch(Some(refused + *this.write_timeout), cx)
    }
}

/// The body of an answer, in pieces of which few need to be held.
pub(crate) struct Pieces {
    /// Absent where an answer has no content (RFC 9113 §8.1.1).
    body: Option<ReplyBody>,
    rest: Bytes,
    /// Once there was more than one.
    frames: Option<Arc<Frames>>,
}

impl Pieces {
    pub(crate) fn of(mut response: Response<ReplyBody>, is_head: bool) -> Response<Self> {
        let status = response.status();
        let bare = is_head
            || matches!(
                status,
                StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
            );
        if status == StatusCode::NO_CONTENT {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        response.map(|body| Self {
            body: Some(body).filter(|_| !bare),
            rest: Bytes::new(),
            frames: None,
        })
    }

    /// The next frame, made of the first bytes of what is there.
    fn frame(&mut self, mut bytes: Bytes) -> Frame<Portion> {
        if bytes.len() > SEND_BUFFER {
            self.rest = bytes.split_off(SEND_BUFFER);
        }
        if self.frames.is_none() && self.is_end_stream() {
            return Frame::data(Portion::only(bytes));
        }
        let frames = self.frames.get_or_insert_default();
        Frame::data(Portion::new(bytes, frames))
    }
}

impl Body for Pieces {
    type Data = Portion;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, CutShort>>> {
        let this = self.get_mut();
        if let Some(frames) = &this.frames {
            ready!(frames.poll_room(cx));
        }
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(this.frame(rest))));
        }
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(Pin::new(body).poll_frame(cx)) {
            None => None,
            Some(Err(cut)) => Some(Err(cut)),
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(bytes) => this.frame(bytes),
                // Trailers have no data.
                Err(trailers) => trailers.map_data(Portion::only),
            })),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) if self.rest.is_empty() => body.size_hint(),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}
