//! Whether a request has a body, where its head does not say so.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};

use super::{BodyError, RequestBody};

/// How long it may stay open whether a GET has a body. Guests write or finish
/// theirs at once; one that does neither is taken at its word, that it has one.
const UNDECIDED: Duration = Duration::from_secs(1);

/// The request with a field that announces its body, if it has one.
///
/// Without such a field hyper leaves out the body of a GET or a HEAD, because
/// hardly any has one and servers are wary of those that announce one. Guests
/// open a body for each request, used or not: so the first piece decides.
pub(super) async fn announced(request: Request<RequestBody>) -> Request<RequestBody> {
    let silent = matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(CONTENT_LENGTH)
        && request.body().size_hint().exact().is_none();
    if !silent {
        return request;
    }
    let (mut head, mut rest) = request.into_parts();
    let first = match tokio::time::timeout(UNDECIDED, rest.frame()).await {
        Ok(None) => {
            let nothing = Empty::new().map_err(|never| match never {});
            return Request::from_parts(head, nothing.boxed_unsync());
        }
        Ok(first) => first,
        Err(_) => None,
    };
    head.headers
        .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    Request::from_parts(head, Begun { first, rest }.boxed_unsync())
}

/// A body whose first piece was looked at.
struct Begun {
    first: Option<Result<Frame<Bytes>, BodyError>>,
    rest: RequestBody,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Its head has said how long it is.
        SizeHint::default()
    }
}
