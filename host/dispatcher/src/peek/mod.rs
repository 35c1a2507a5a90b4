//! Which host a connection is for, by the first bytes that came over it.
//!
//! Pure: bytes in, an answer out; nothing is consumed and nothing is kept
//! between two calls. The parsers are those that the workers use (skep-http1,
//! h2) or will use (rustls), so that both read a head alike.
//!
//! The answer is given when it is certain, and holds whatever bytes follow.

mod http2;
mod tls;

use skep_core::ConnectionLimits;
use skep_http1::{Peek, Settings, peek_host};
use skep_wire::Spoken;

/// What a prefix of a connection's bytes says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing yet.
    NeedMore,
    /// The host that the connection is for, as it was received; `None` for a
    /// request that may have none.
    Host(Option<String>),
    /// It is no head of a protocol that we speak.
    Bad,
    /// The head is larger than it may be.
    TooLarge,
}

/// Fewest bytes that are looked at: what a `ClientHello` may have.
const LEAST: usize = 18 << 10;

/// How many bytes of a connection are looked at, at most.
#[must_use]
pub fn most(limits: &ConnectionLimits) -> usize {
    limits.max_head.max(LEAST)
}

/// What a connection speaks whose next bytes are these, as far as that is known.
/// One that has spoken HTTP/1.1 goes on so.
#[must_use]
pub fn spoken(bytes: &[u8], before: Spoken) -> Spoken {
    match before {
        Spoken::Nothing if bytes.starts_with(http2::PREFACE) => Spoken::Http2 { greeted: false },
        before => before,
    }
}

/// What `bytes` say, the next that come over a connection which has `spoken`
/// that already.
#[must_use]
pub fn hear(bytes: &[u8], limits: &ConnectionLimits, spoken: Spoken) -> Heard {
    let most = most(limits);
    let bytes = &bytes[..bytes.len().min(most)];
    let preface = http2::PREFACE.len().min(bytes.len());
    let heard = match (bytes.first(), spoken) {
        (None, _) => Heard::NeedMore,
        (Some(_), Spoken::Http1) => http1(bytes, limits),
        (Some(_), Spoken::Http2 { greeted }) => http2::hear(bytes, limits, greeted),
        (Some(&tls::HANDSHAKE), Spoken::Nothing) => tls::hear(bytes),
        (Some(_), Spoken::Nothing) if bytes[..preface] == http2::PREFACE[..preface] => {
            http2::hear(bytes, limits, false)
        }
        (Some(_), Spoken::Nothing) => http1(bytes, limits),
    };
    match heard {
        Heard::NeedMore if bytes.len() == most => Heard::TooLarge,
        heard => heard,
    }
}

/// The host of a request of HTTP/1.1.
fn http1(bytes: &[u8], limits: &ConnectionLimits) -> Heard {
    let settings = Settings {
        max_head: limits.max_head,
        max_fields: limits.max_headers,
        header_timeout: limits.header_timeout,
        body_timeout: limits.body_timeout,
        max_requests: limits.max_requests_per_connection,
    };
    match peek_host(bytes, &settings) {
        Peek::More => Heard::NeedMore,
        Peek::Host(host) => Heard::Host(host),
        Peek::Bad => Heard::Bad,
        Peek::TooLarge => Heard::TooLarge,
    }
}

/// Whether the next bytes of a connection are those of HTTP/1, or of nothing.
pub(crate) fn is_http1(bytes: &[u8], spoken: Spoken) -> bool {
    match spoken {
        Spoken::Http1 => true,
        Spoken::Http2 { .. } => false,
        Spoken::Nothing => {
            bytes.first() != Some(&tls::HANDSHAKE) && !bytes.starts_with(http2::PREFACE)
        }
    }
}

#[cfg(test)]
mod tests;
