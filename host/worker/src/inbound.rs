//! A request's body on its way to the guest: bounded in size and in slowness.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use skep_core::Outcome;
use skep_engine::RequestBodyError;

use crate::alarm::Alarm;
use crate::lifeline::Lifeline;
use crate::pipe::{BodyFault, PipeOut};
use crate::upload::Upload;

/// The body of a request as its connection brings it.
pub(crate) enum ClientBody {
    Empty,
    /// All of it, until it was taken.
    Whole(Option<Bytes>),
    Piped(PipeOut),
    Http2(Incoming),
}

impl ClientBody {
    /// Bytes that it has at least.
    pub(crate) fn least(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Piped(pipe) => pipe.size_hint().lower(),
            Self::Http2(body) => body.size_hint().lower(),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http2(body) => body.is_end_stream(),
            Self::Whole(_) | Self::Piped(_) => false,
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Piped(pipe) => Pin::new(pipe).poll_frame(cx),
            Self::Http2(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|error| fault_of(&error)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Whole(Some(_)) | Self::Piped(_) => false,
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Piped(pipe) => pipe.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// What a request's body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes.
    pub(crate) most: u64,
    /// The longest pause between two pieces that are wanted.
    pub(crate) pause: Duration,
    /// Bytes of its trailers.
    pub(crate) trailers: usize,
}

/// The body of one request.
pub(crate) struct Inbound {
    body: ClientBody,
    /// What was taken before it was wanted.
    first: Option<Frame<Bytes>>,
    left: u64,
    bounds: Bounds,
    waits_since: Option<Instant>,
    alarm: Alarm,
    /// Once its call holds a permit.
    upload: Option<Upload>,
    lifeline: Arc<Lifeline>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, RequestBodyError>>>;

impl Inbound {
    pub(crate) fn new(body: ClientBody, bounds: Bounds, lifeline: &Arc<Lifeline>) -> Self {
        Self {
            body,
            first: None,
            left: bounds.most,
            bounds,
            waits_since: None,
            alarm: Alarm::default(),
            upload: None,
            lifeline: Arc::clone(lifeline),
        }
    }

    /// Its pace is watched from now on.
    pub(crate) fn watched(mut self, upload: Upload) -> Self {
        self.upload = Some(upload);
        self
    }

    /// Whether a first part of it is there, or its end.
    pub(crate) fn has_begun(&self) -> bool {
        self.first.is_some()
            || self.lifeline.outcome().is_some()
            || matches!(self.body, ClientBody::Empty | ClientBody::Whole(_))
            || self.body.is_end_stream()
    }

    /// Waits until a first part of it is there, or it has failed, which the
    /// lifeline knows.
    pub(crate) async fn begin(&mut self) {
        let first = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await;
        if let Some(Ok(first)) = first {
            if let Some(bytes) = first.data_ref() {
                // It is counted when it is given out.
                self.left += bytes.len() as u64;
            }
            self.first = Some(first);
        }
    }

    fn fail(&self, outcome: Outcome, error: RequestBodyError) -> Polled {
        self.lifeline.end(outcome);
        Poll::Ready(Some(Err(error)))
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Polled {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(trailers) = frame.trailers_ref() {
            // What HTTP/1.1 refuses while it is read, and HTTP/2 brings here.
            if list_size(trailers) > self.bounds.trailers {
                let error = RequestBodyError::HttpRequestTrailerSectionSize(None);
                return self.fail(Outcome::HeadTooLarge, error);
            }
            if skep_http1::check_trailers(trailers).is_err() {
                return self.fail(Outcome::BadRequest, RequestBodyError::HttpProtocolError);
            }
        }
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                if let Some(upload) = &mut self.upload {
                    upload.brought(bytes);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => self.fail(
                Outcome::BodyTooLarge,
                RequestBodyError::HttpRequestBodySize(None),
            ),
        }
    }
}

/// The size of a list of fields as RFC 9113 §6.5.2 counts it.
pub(crate) fn list_size(fields: &http::HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum()
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return this.pass(first);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.waits_since = None;
                match frame {
                    None => Poll::Ready(None),
                    Some(Ok(frame)) => this.pass(frame),
                    Some(Err(BodyFault::Gone)) => {
                        this.fail(Outcome::ClientGone, RequestBodyError::ConnectionTerminated)
                    }
                    Some(Err(BodyFault::TrailersTooLarge)) => this.fail(
                        Outcome::HeadTooLarge,
                        RequestBodyError::HttpRequestTrailerSectionSize(None),
                    ),
                    Some(Err(BodyFault::Malformed)) => {
                        this.fail(Outcome::BadRequest, RequestBodyError::HttpProtocolError)
                    }
                }
            }
            Poll::Pending => {
                let since = *this.waits_since.get_or_insert_with(Instant::now);
                let late = this.alarm.watch(Some(since + this.bounds.pause), cx);
                let upload = this.upload.as_mut();
                let slow = upload.is_some_and(|upload| upload.poll_too_slow(cx).is_ready());
                if late.is_pending() && !slow {
                    return Poll::Pending;
                }
                this.fail(Outcome::TooSlow, RequestBodyError::ConnectionReadTimeout)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

/// What is wrong with a body of HTTP/2: its client has gone, or it is none.
fn fault_of(error: &hyper::Error) -> BodyFault {
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    let h2 = error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>());
    let broke = io.is_some_and(|io| {
        matches!(
            io.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
        )
    });
    let reset = h2.is_some_and(|h2| h2.is_reset() || h2.is_go_away() || h2.is_io());
    let theirs = h2.is_none_or(|h2| h2.is_remote() || h2.is_io());
    if broke
        || (reset && theirs)
        || error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
    {
        BodyFault::Gone
    } else {
        BodyFault::Malformed
    }
}
