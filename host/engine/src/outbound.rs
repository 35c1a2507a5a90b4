//! What a guest's own requests need from outside: somebody who sends them.
//!
//! The engine knows neither grants nor sockets. A handler without a sender has
//! all its requests denied.

use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};

use crate::RequestBody;

/// Why a guest gets no response, or no more of one, in the terms that guests
/// are told.
pub use wasmtime_wasi_http::Error as OutboundError;

/// The body of a guest's own request, and of the response to it.
pub type OutboundBody = RequestBody;

/// A response that is on its way. Dropping it gives the request up.
pub type OutboundReply =
    Pin<Box<dyn Future<Output = Result<Response<OutboundBody>, OutboundError>> + Send>>;

/// How long a guest wants to wait for what, where it says so. A host may wait
/// for less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundTimeouts {
    /// For a connection.
    pub connect: Option<Duration>,
    /// From the request to the head of the response.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response's body.
    pub between_bytes: Option<Duration>,
}

/// Sends the requests of one handler's guests.
pub trait OutboundHttp: Send + Sync {
    /// Sends a request. Its URI has a scheme, `http` or `https`, and the
    /// authority that the guest wrote, which may be empty. `request_id` is of
    /// the request that the instance was made for, or empty.
    ///
    /// When the guest goes, the reply is dropped, or the response's body.
    fn send(
        &self,
        request: Request<OutboundBody>,
        timeouts: OutboundTimeouts,
        request_id: &str,
    ) -> OutboundReply;
}
