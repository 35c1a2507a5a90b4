//! What the first bytes of a connection say, before anybody takes them.

use bytes::BytesMut;

use crate::connection::Settings;
use crate::head::{Violation, Waiting};

/// What connections of HTTP/2 begin with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether bytes begin a connection of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// They do.
    Http2,
    /// They do not.
    Other,
    /// They may, if more comes.
    Part,
}

/// Whether a connection that begins with these bytes is one of HTTP/2.
#[must_use]
pub fn preface(bytes: &[u8]) -> Preface {
    let known = bytes.len().min(PREFACE.len());
    if bytes[..known] != PREFACE[..known] {
        Preface::Other
    } else if known == PREFACE.len() {
        Preface::Http2
    } else {
        Preface::Part
    }
}

/// What a prefix of a connection's bytes says of the host that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// More must come.
    More,
    /// The host of the first request, as it was received; `None` for a request
    /// that may have none.
    Host(Option<String>),
    /// No request that would be answered.
    Bad,
    /// Its head is larger than it may be.
    TooLarge,
}

/// The host of the first request, by the parser that [`Connection`] uses: both
/// read a head alike. The answer is given as soon as it is certain, which is
/// when the head is whole: a second `Host` may follow the first.
///
/// [`Connection`]: crate::Connection
#[must_use]
pub fn peek_host(bytes: &[u8], settings: &Settings) -> Peek {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let known = bytes.len().min(settings.max_head.saturating_add(1));
    let mut input = BytesMut::from(&bytes[..known]);
    let head = Waiting::default().head(&mut input, settings.max_head, settings.max_fields);
    let parsed = match head {
        Ok(Some(parsed)) => parsed,
        Ok(None) if bytes.len() < settings.max_head => return Peek::More,
        Ok(None) | Err(Violation::HeadTooLarge) => return Peek::TooLarge,
        Err(_) => return Peek::Bad,
    };
    let request = parsed.request;
    // A target with a host in it goes before the field (RFC 9112 §3.2.2); the
    // worker refuses requests in which they differ.
    let authority = request
        .uri()
        .authority()
        .map(|host| host.as_str().to_owned());
    let field = || {
        let host = request.headers().get(http::header::HOST)?;
        Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
    };
    Peek::Host(authority.or_else(field))
}
