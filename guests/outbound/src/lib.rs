//! Outbound requests of WASI 0.2 for guests that attack with them.
//!
//! Nothing is checked here, and nothing followed: what a guest asks for, the
//! host is asked for.

pub use outbound_targets as targets;

use skep_guest::wasip2::http::outgoing_handler;
use skep_guest::wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, OutgoingRequest, Scheme,
};
use targets::{Pieces, name};

/// Bytes of a response's body that are reported.
const SHOWN: u64 = 256;

/// A response, of which the body has not been read.
#[derive(Debug)]
pub struct Answer(IncomingResponse);

impl Answer {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.status()
    }

    /// Where it redirects to.
    #[must_use]
    pub fn location(&self) -> Option<String> {
        let values = self.0.headers().get("location");
        let first = values.first()?;
        Some(String::from_utf8_lossy(first).into_owned())
    }

    /// How its body begins: what an attacker would have got.
    #[must_use]
    pub fn beginning(&self) -> String {
        let Ok(body) = self.0.consume() else {
            return String::new();
        };
        let Ok(stream) = body.stream() else {
            return String::new();
        };
        let begins = stream.blocking_read(SHOWN).unwrap_or_default();
        String::from_utf8_lossy(&begins).into_owned()
    }
}

/// Begins a `GET`.
///
/// # Errors
///
/// The error code's name, or `invalid-` and the piece of the URL that the host
/// did not take.
pub fn begin(url: &str) -> Result<FutureIncomingResponse, String> {
    let pieces = Pieces::of(url);
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match pieces.scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let refused = |piece: &str| format!("invalid-{piece}");
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| refused("scheme"))?;
    request
        .set_authority(Some(pieces.authority))
        .map_err(|()| refused("authority"))?;
    request
        .set_path_with_query(Some(pieces.path))
        .map_err(|()| refused("path"))?;
    outgoing_handler::handle(request, None).map_err(|code| name(&code))
}

/// Waits for a response that was begun.
///
/// # Errors
///
/// The error code's name.
pub fn finish(begun: &FutureIncomingResponse) -> Result<Answer, String> {
    begun.subscribe().block();
    let got = begun.get().expect("the future was ready");
    let answer: Result<IncomingResponse, ErrorCode> = got.expect("the answer is taken once");
    answer.map(Answer).map_err(|code| name(&code))
}

/// A `GET` from its beginning to its response.
///
/// # Errors
///
/// Those of [`begin`] and [`finish`].
pub fn get(url: &str) -> Result<Answer, String> {
    begin(url).and_then(|begun| finish(&begun))
}
