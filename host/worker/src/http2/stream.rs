//! One stream of HTTP/2: its task, and the pieces of its answer.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use skep_core::Outcome;
use skep_engine::CutShort;

use crate::alarm::Alarm;
use crate::http2::portion::{Outgoing, Portion};
use crate::http2::{Pulse, SEND_BUFFER};
use crate::lifeline::Lifeline;
use crate::reply::ReplyBody;

thread_local! {
    /// The stream that is polled on this thread: hyper makes the task of a stream,
    /// and tells the service nothing of it.
    static CURRENT: RefCell<Option<Arc<Answering>>> = const { RefCell::new(None) };
}

/// What a stream's task, its service and its answer share.
#[derive(Debug, Default)]
pub(crate) struct Answering {
    lifeline: Arc<Lifeline>,
    pub(super) outgoing: Outgoing,
}

impl Answering {
    /// That of the request that is about to be answered.
    ///
    /// # Panics
    ///
    /// It is not a stream's task that asks.
    pub(crate) fn current() -> Arc<Self> {
        let current = CURRENT.with_borrow(Clone::clone);
        current.expect("a request of HTTP/2 is answered in its stream's task")
    }

    pub(crate) fn lifeline(&self) -> &Arc<Lifeline> {
        &self.lifeline
    }
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
                answering: Arc::default(),
            },
            write_timeout: self.write_timeout,
            alarm: Alarm::default(),
        });
    }
}

pin_project! {
    /// A stream's task. It ends with its call, whether its client reads or not.
    struct Stream<F> {
        // Before the rest: its account ends by what the rest says.
        hold: Hold,
        #[pin]
        inner: F,
        write_timeout: Duration,
        alarm: Alarm,
    }
}

/// Counts a stream, and says how it ends if its connection does.
struct Hold {
    pulse: Arc<Pulse>,
    answering: Arc<Answering>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Dropped before its call.
        if self.pulse.too_slow.load(Relaxed) {
            self.answering.lifeline.end(Outcome::TooSlow);
        }
        self.pulse.ended();
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (mut inner, answering) = (this.inner, &this.hold.answering);
        let mut poll = |cx: &mut Context<'_>| {
            let outer = CURRENT.replace(Some(Arc::clone(answering)));
            let polled = inner.as_mut().poll(cx);
            CURRENT.set(outer);
            polled
        };
        let lifeline = &answering.lifeline;
        lifeline.carried_by(cx.waker());
        if poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let slow = match answering.outgoing.waits_since() {
            Some(since) => this
                .alarm
                .watch(Some(since + *this.write_timeout), cx)
                .is_ready(),
            None => false,
        };
        if slow || this.hold.pulse.too_slow.load(Relaxed) {
            lifeline.end(Outcome::TooSlow);
        } else if !lifeline.is_cut() {
            return Poll::Pending;
        }
        // Either hyper asks the body for more, which says that there is no more, and
        // resets the stream; or it waits for room for a frame, nothing is
        // queued, and to drop the stream is to reset it. h2 would have a reset by
        // dropping wait behind what is queued.
        answering.outgoing.cut();
        let _ = poll(cx);
        Poll::Ready(())
    }
}

/// The body of an answer, in pieces of which few need to be held.
pub(crate) struct Pieces {
    /// Absent where an answer has no content (RFC 9113 §8.1.1).
    body: Option<ReplyBody>,
    rest: Bytes,
    answering: Arc<Answering>,
}

impl Pieces {
    pub(crate) fn of(
        mut response: Response<ReplyBody>,
        is_head: bool,
        answering: Arc<Answering>,
    ) -> Response<Self> {
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
            answering,
        })
    }

    /// The next frame, made of the first bytes of what is there.
    fn frame(&mut self, mut bytes: Bytes) -> Frame<Portion> {
        if bytes.len() > SEND_BUFFER {
            self.rest = bytes.split_off(SEND_BUFFER);
        }
        Frame::data(self.portion(bytes))
    }

    fn portion(&self, bytes: Bytes) -> Portion {
        Portion::new(bytes, &self.answering)
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
        let outgoing = &this.answering.outgoing;
        ready!(outgoing.poll_room(cx));
        if outgoing.is_cut() {
            return Poll::Ready(Some(Err(CutShort(Outcome::TooSlow))));
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
                Err(trailers) => trailers.map_data(|bytes| this.portion(bytes)),
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
