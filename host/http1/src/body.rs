//! A request's body on its way out of its framing.

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use crate::head::{Length, Violation, Waiting};

/// The longest line that begins a chunk, its extensions and its end included. Nobody sends
/// extensions but to confuse.
const MAX_CHUNK_LINE: usize = 4096;

/// Bytes of the extensions of all chunks of a body: what they cost us must not
/// be more than what the chunks bring.
const MAX_EXTENSIONS: usize = 16 << 10;

/// A piece of a request's body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some bytes, at least one.
    Bytes(Bytes),
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
}

/// What is left of a body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing: its end was told.
    Whole,
    /// So many bytes.
    Exact(u64),
    /// Chunks, at this place, whose extensions took so many bytes so far.
    Chunked(Place, usize),
    /// It was refused, or the client has gone: nothing of it makes sense.
    Broken,
}

/// Where in a chunked body the next byte belongs.
#[derive(Debug)]
pub(crate) enum Place {
    /// To the line that begins a chunk.
    Size,
    /// To a chunk, of which so much is left.
    Chunk(u64),
    /// To the line break behind a chunk.
    Break,
    /// To the trailers.
    Trailers(Waiting),
}

/// What the trailers of a body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_head: usize,
    pub(crate) max_fields: usize,
}

impl Body {
    pub(crate) fn new(length: Length) -> Self {
        match length {
            Length::None => Self::Whole,
            Length::Exact(length) => Self::Exact(length),
            Length::Chunked => Self::Chunked(Place::Size, 0),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// The next piece; `None` if more must come.
    pub(crate) fn next(
        &mut self,
        input: &mut BytesMut,
        bounds: Bounds,
    ) -> Result<Option<Piece>, Violation> {
        let piece = self.step(input, bounds);
        if piece.is_err() {
            *self = Self::Broken;
        }
        piece
    }

    fn step(&mut self, input: &mut BytesMut, bounds: Bounds) -> Result<Option<Piece>, Violation> {
        let (place, extensions) = match self {
            Self::Whole | Self::Broken => return Ok(None),
            Self::Exact(0) => {
                *self = Self::Whole;
                return Ok(Some(Piece::End(None)));
            }
            Self::Exact(left) => return Ok(take(left, input).map(Piece::Bytes)),
            Self::Chunked(place, extensions) => (place, extensions),
        };
        loop {
            match place {
                Place::Chunk(left) => {
                    let bytes = take(left, input);
                    if *left == 0 {
                        *place = Place::Break;
                    }
                    return Ok(bytes.map(Piece::Bytes));
                }
                Place::Break => {
                    match **input {
                        [b'\r', b'\n', ..] => {}
                        [] | [b'\r'] => return Ok(None),
                        [b'\n', ..] => return Err(Violation::BareLineFeed),
                        _ => return Err(Violation::BadChunk),
                    }
                    let _ = input.split_to(2);
                    *place = Place::Size;
                }
                Place::Size => {
                    let near = &input[..input.len().min(MAX_CHUNK_LINE)];
                    let Some(feed) = memchr(b'\n', near) else {
                        if near.len() == MAX_CHUNK_LINE {
                            return Err(Violation::BadChunk);
                        }
                        return Ok(None);
                    };
                    let (size, extension) = chunk_size(&input[..=feed])?;
                    *extensions += extension;
                    if *extensions > MAX_EXTENSIONS {
                        return Err(Violation::BadChunk);
                    }
                    let _ = input.split_to(feed + 1);
                    *place = if size == 0 {
                        Place::Trailers(Waiting::default())
                    } else {
                        Place::Chunk(size)
                    };
                }
                Place::Trailers(waiting) => {
                    let Some(end) = waiting.end(input, bounds.max_head)? else {
                        return Ok(None);
                    };
                    let trailers = input.split_to(end).freeze();
                    let trailers = parse_trailers(&trailers, bounds.max_fields)?;
                    *self = Self::Whole;
                    return Ok(Some(Piece::End(trailers)));
                }
            }
        }
    }
}

/// What there is of the next `left` bytes.
fn take(left: &mut u64, input: &mut BytesMut) -> Option<Bytes> {
    let some = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    if some == 0 {
        return None;
    }
    *left -= some as u64;
    Some(input.split_to(some).freeze())
}

/// The size that a chunk's first line says, and how many bytes its extensions
/// have.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Violation> {
    let Some(text) = line.strip_suffix(b"\n") else {
        return Err(Violation::BadChunk);
    };
    let Some(text) = text.strip_suffix(b"\r") else {
        return Err(Violation::BareLineFeed);
    };
    let digits = text
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    // 15 digits cannot overflow.
    if digits == 0 || digits > 15 {
        return Err(Violation::BadChunk);
    }
    let (size, extension) = text.split_at(digits);
    let is_control = |byte: &u8| (byte.is_ascii_control() && *byte != b'\t') || *byte >= 0x80;
    if !(extension.is_empty() || extension.starts_with(b";")) || extension.iter().any(is_control) {
        return Err(Violation::BadChunk);
    }
    let size = std::str::from_utf8(size).map_err(|_| Violation::BadChunk)?;
    let size = u64::from_str_radix(size, 16).map_err(|_| Violation::BadChunk)?;
    Ok((size, extension.len()))
}

fn parse_trailers(bytes: &Bytes, max_fields: usize) -> Result<Option<HeaderMap>, Violation> {
    if **bytes == *b"\r\n" {
        return Ok(None);
    }
    let mut fields = vec![httparse::EMPTY_HEADER; max_fields];
    let fields = match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((used, fields))) if used == bytes.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Violation::HeadTooLarge),
        Ok(_) | Err(_) => return Err(Violation::Malformed),
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Violation::Malformed);
        };
        trailers.append(name, value);
    }
    check_trailers(&trailers)?;
    Ok(Some(trailers))
}

/// Refuses trailers that say what must be known before a body is read: its
/// framing, where it goes, who sends it (RFC 9110 §6.5.1). Who merges trailers
/// with the head would believe them. For HTTP/2, too.
///
/// # Errors
///
/// [`Violation::BadTrailer`].
pub fn check_trailers(trailers: &HeaderMap) -> Result<(), Violation> {
    if trailers.keys().any(is_early) {
        return Err(Violation::BadTrailer);
    }
    Ok(())
}

/// Whether this must be known before a body is read.
pub(crate) fn is_early(name: &HeaderName) -> bool {
    const EARLY: [HeaderName; 18] = [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        CONNECTION,
        UPGRADE,
        TE,
        TRAILER,
        EXPECT,
        AUTHORIZATION,
        COOKIE,
        FORWARDED,
        PROXY_AUTHORIZATION,
        CONTENT_TYPE,
        CONTENT_ENCODING,
        CONTENT_RANGE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("x-request-id"),
    ];
    EARLY.contains(name) || name.as_str().starts_with("x-forwarded-")
}
