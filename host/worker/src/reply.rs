//! Responses: the guest's, or ours in its place.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use skep_core::Refusal;
use skep_engine::{CutShort, GuestBody};

use crate::account::Account;

/// The body of any response.
pub(crate) enum ReplyBody {
    /// What a guest says.
    Guest(GuestBody<Account>),
    /// What we say.
    Ours(Full<Bytes>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Self::Guest(body) => Pin::new(body).poll_frame(cx),
            Self::Ours(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never: Infallible| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Guest(body) => body.is_end_stream(),
            Self::Ours(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Guest(body) => body.size_hint(),
            Self::Ours(body) => body.size_hint(),
        }
    }
}

/// The field that names a request in both directions and in the log.
pub(crate) const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// The response for an outcome without a guest's own. It says the status and
/// the request's id, and nothing of the inside.
pub(crate) fn refusal(
    refusal: impl Into<Refusal>,
    request_id: &str,
    http1: bool,
) -> Response<ReplyBody> {
    let reply = refusal.into().reply();
    let status = StatusCode::from_u16(reply.status).expect("outcomes have valid statuses");
    let text = format!(
        "{} {}\nrequest {request_id}\n",
        status.as_str(),
        status.canonical_reason().unwrap_or("Client Gone"),
    );
    let mut response = Response::new(ReplyBody::Ours(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(seconds) = reply.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if reply.close && http1 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
