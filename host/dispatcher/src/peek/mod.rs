//! Which host a connection is for, by the first bytes that came over it.
//!
//! Pure: bytes in, an answer out; nothing is consumed and nothing is kept
//! between two calls. The parsers are those that the workers use (httparse
//! under hyper, h2) or will use (rustls), so that both read a head alike.
//!
//! The answer is given as soon as it is certain: behind the first `Host` line
//! the rest of a head is the worker's to judge. So what was said of some bytes
//! holds for all that come after them.

mod http1;
mod http2;
mod tls;

use skep_core::ConnectionLimits;

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

/// What `bytes`, the first that came, say.
#[must_use]
pub fn hear(bytes: &[u8], limits: &ConnectionLimits) -> Heard {
    let most = most(limits);
    let bytes = &bytes[..bytes.len().min(most)];
    let preface = http2::PREFACE.len().min(bytes.len());
    let heard = match bytes.first() {
        None => Heard::NeedMore,
        Some(&tls::HANDSHAKE) => tls::hear(bytes),
        Some(_) if bytes[..preface] == http2::PREFACE[..preface] => http2::hear(bytes, limits),
        Some(_) => http1::hear(bytes, limits.max_headers),
    };
    match heard {
        Heard::NeedMore if bytes.len() == most => Heard::TooLarge,
        heard => heard,
    }
}

/// Whether the first bytes of a connection are those of HTTP/1, or of nothing.
pub(crate) fn is_http1(bytes: &[u8]) -> bool {
    bytes.first() != Some(&tls::HANDSHAKE) && !bytes.starts_with(http2::PREFACE)
}

#[cfg(test)]
mod tests;
