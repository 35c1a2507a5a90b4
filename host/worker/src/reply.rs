//! Responses: the guest's, or ours in its place.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use skep_core::{LogLevel, Refusal};
use skep_engine::{CutShort, GuestBody};

use crate::account::Account;
use crate::app::App;
use crate::lifeline::Lifeline;

/// An answer.
pub(crate) struct Reply {
    pub(crate) response: Response<ReplyBody>,
    /// The connection ends with it, where it carries nothing else.
    pub(crate) close: bool,
}

/// The body of any response.
pub(crate) enum ReplyBody {
    /// What a guest says.
    Guest(GuestReply),
    /// What we say.
    Ours(Full<Bytes>),
}

/// What a guest says, whose guest it is, and what it answers.
pub(crate) struct GuestReply {
    pub(crate) body: GuestBody<Account>,
    pub(crate) app: Arc<App>,
    pub(crate) lifeline: Arc<Lifeline>,
}

impl GuestReply {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let goes_on = matches!(&polled, Some(Ok(frame)) if frame.is_data());
        Poll::Ready(match self.lifeline.outcome() {
            // The guest may end its body well although the request broke off.
            Some(outcome) if !goes_on && !matches!(polled, Some(Err(_))) => {
                Some(Err(CutShort(outcome)))
            }
            _ => polled,
        })
    }

    /// Whether nothing is to be asked any more.
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.lifeline.outcome().is_none()
    }
}

impl ReplyBody {
    /// Its client takes no trailers, which the guest's owner should know.
    pub(crate) fn trailers_are_dropped(&self) {
        if let Self::Guest(said) = self
            && let log = &said.app.log
            && let Some(record) = log.record(LogLevel::Info, "response.trailers_dropped")
        {
            let reason = "the client did not say `te: trailers`";
            log.write(record.text("reason", reason));
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Self::Guest(said) => said.poll_frame(cx),
            Self::Ours(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never: Infallible| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Guest(said) => said.is_end_stream(),
            Self::Ours(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Guest(said) => said.body.size_hint(),
            Self::Ours(body) => body.size_hint(),
        }
    }
}

/// The field that names a request in both directions and in the log.
pub(crate) const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// The response for an outcome without a guest's own. It says the status and
/// the request's id, and nothing of the inside.
pub(crate) fn refusal(refusal: impl Into<Refusal>, request_id: &HeaderValue) -> Reply {
    let reply = refusal.into().reply();
    let status = StatusCode::from_u16(reply.status).expect("outcomes have valid statuses");
    let text = format!(
        "{} {}\nrequest {}\n",
        status.as_str(),
        status.canonical_reason().unwrap_or("Client Gone"),
        request_id.to_str().unwrap_or_default(),
    );
    let mut response = Response::new(ReplyBody::Ours(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(REQUEST_ID, request_id.clone());
    if let Some(seconds) = reply.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    Reply {
        response,
        close: reply.close,
    }
}
