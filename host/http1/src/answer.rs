//! Answers on their way into bytes.

use bytes::{BufMut as _, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, StatusCode};

use crate::body::is_early;
use crate::head::{Manner, decimal};

/// What is known of an answer's content before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Exact(u64),
    /// Nothing; the head may say.
    Unknown,
}

/// An answer that cannot be sent as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// 1xx: the client would take the next answer for this one's.
    #[error("an interim status")]
    Interim,
    /// Several lengths, or one that is no number.
    #[error("a Content-Length that is none")]
    BadLength,
    /// The content has another length than the head says.
    #[error("content of another length than Content-Length says")]
    OtherLength,
}

/// How what is left of an answer's content is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; for an answer without content none.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Until the connection is closed.
    UntilClose,
}

/// Whether an answer has no content, whatever its head says (RFC 9110 §6.4.1).
pub(crate) fn is_bare(is_head: bool, status: StatusCode) -> bool {
    is_head
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        )
}

/// How an answer is to be framed, and what its head says of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) framing: Framing,
    says: Option<u64>,
}

pub(crate) fn plan(
    manner: Manner,
    status: StatusCode,
    headers: &HeaderMap,
    size: Size,
) -> Result<Plan, BadAnswer> {
    if status.is_informational() {
        return Err(BadAnswer::Interim);
    }
    let announced = announced(headers)?;
    if is_bare(manner.is_head, status) {
        let says = match status {
            StatusCode::NO_CONTENT => None,
            StatusCode::RESET_CONTENT => Some(0),
            _ => announced.or(match size {
                // What GET would be answered with.
                Size::Exact(length) if length > 0 => Some(length),
                Size::Exact(_) | Size::Unknown => None,
            }),
        };
        return Ok(Plan {
            framing: Framing::Exact(0),
            says,
        });
    }
    let exact = |length| Plan {
        framing: Framing::Exact(length),
        says: Some(length),
    };
    Ok(match (size, announced) {
        (Size::Exact(length), Some(announced)) if length != announced => {
            return Err(BadAnswer::OtherLength);
        }
        (Size::Exact(length), _) | (Size::Unknown, Some(length)) => exact(length),
        (Size::Unknown, None) => Plan {
            framing: if manner.http10 {
                Framing::UntilClose
            } else {
                Framing::Chunked
            },
            says: None,
        },
    })
}

fn announced(headers: &HeaderMap) -> Result<Option<u64>, BadAnswer> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => decimal(length.as_bytes())
            .map(Some)
            .map_err(|_| BadAnswer::BadLength),
        (Some(_), Some(_)) => Err(BadAnswer::BadLength),
    }
}

/// Writes an answer's head. `date` is the value of its `Date` field, unless it
/// has one.
pub(crate) fn write_head(
    out: &mut BytesMut,
    (status, headers): (StatusCode, &HeaderMap),
    plan: Plan,
    manner: Manner,
    keep: bool,
    date: &[u8],
) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    /// Bytes of what we say ourselves.
    const OURS: usize = 160;
    let text: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    out.reserve(text + OURS);
    if status == StatusCode::OK && !manner.http10 {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.put_slice(if manner.http10 {
            b"HTTP/1.0 "
        } else {
            b"HTTP/1.1 "
        });
        out.put_slice(status.as_str().as_bytes());
        out.put_u8(b' ');
        out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
        out.put_slice(b"\r\n");
    }
    let mut dated = false;
    for (name, value) in headers {
        // What is between us and the client is ours to say.
        if *name == CONTENT_LENGTH
            || *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == UPGRADE
            || *name == TE
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION
        {
            continue;
        }
        dated |= *name == DATE;
        put_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if let Some(length) = plan.says {
        out.put_slice(b"content-length: ");
        out.put_slice(itoa::Buffer::new().format(length).as_bytes());
        out.put_slice(b"\r\n");
    }
    if plan.framing == Framing::Chunked {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    if !keep {
        out.put_slice(b"connection: close\r\n");
    } else if manner.http10 {
        out.put_slice(b"connection: keep-alive\r\n");
    }
    if dated {
        out.put_slice(b"\r\n");
    } else {
        out.put_slice(b"date: ");
        out.put_slice(date);
        out.put_slice(b"\r\n\r\n");
    }
}

fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value.trim_ascii());
    out.put_slice(b"\r\n");
}

impl Framing {
    /// Writes some of the content.
    pub(crate) fn write(&mut self, out: &mut BytesMut, bytes: &[u8]) -> Result<(), BadAnswer> {
        if bytes.is_empty() {
            // As a chunk it would be the last one.
            return Ok(());
        }
        match self {
            Self::Exact(left) => {
                *left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or(BadAnswer::OtherLength)?;
                out.put_slice(bytes);
            }
            Self::Chunked => {
                out.reserve(bytes.len() + 20);
                put_hexadecimal(out, bytes.len());
                out.put_slice(b"\r\n");
                out.put_slice(bytes);
                out.put_slice(b"\r\n");
            }
            Self::UntilClose => out.put_slice(bytes),
        }
        Ok(())
    }

    /// Writes the end, with trailers where they can be sent, but for those
    /// which would change what was said before them.
    pub(crate) fn finish(
        self,
        out: &mut BytesMut,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), BadAnswer> {
        match self {
            Self::Exact(0) | Self::UntilClose => Ok(()),
            Self::Exact(_) => Err(BadAnswer::OtherLength),
            Self::Chunked => {
                out.put_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if !is_early(name) {
                        put_field(out, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                out.put_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

fn put_hexadecimal(out: &mut BytesMut, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (number >> (4 * digit)) & 0xf;
        out.put_u8(b"0123456789abcdef"[nibble]);
    }
}
