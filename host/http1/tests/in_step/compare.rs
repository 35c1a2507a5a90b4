//! What two readings may differ in, and what not.
//!
//! What the machine answers must be heard the same by hyper. What it refuses
//! hyper may accept, for one of the [reasons](Reason) that are listed here and
//! that show in the bytes or in what hyper heard. Everything else is a fault.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderName, Version};
use skep_http1::{Violation, check_trailers};

use super::machine::{Server, settings};
use super::{Heard, Reading};

/// Why the machine refuses what hyper accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// RFC 9112 §2.2 lets a recipient take it for a line break.
    BareLineFeed,
    /// hyper skips any number of empty lines before a request, we one.
    EmptyLines,
    /// hyper leaves hosts to its user.
    NoHost,
    RepeatedHost,
    /// hyper takes the encoding and forgets the length, whatever it says.
    TwoFramings,
    /// hyper accepts equal ones.
    RepeatedLength,
    /// hyper accepts all of 64 bits but the last two numbers, we 63 bits.
    LongLength,
    /// hyper accepts more encodings before the last, which must be chunked.
    OtherEncodings,
    /// hyper drops it.
    Fragment,
    /// hyper ignores expectations that it does not know.
    Expectation,
    /// hyper lets space follow the size of a chunk, anything but line breaks be
    /// in its extensions, however long, and zeros without end be before it.
    ChunkLine,
    /// hyper leaves the names of trailers to its user.
    Trailer,
    /// hyper's limit of bytes is larger.
    Size,
    /// hyper does not see a `close` beside bytes that are not ASCII.
    Close,
}

/// How two readings of the same bytes compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// They are the same.
    Alike,
    /// Both refuse the same request, or will: one of them waits for its end.
    BothRefuse,
    /// The machine refuses what hyper answers or begins to.
    Stricter(Reason),
}

/// Compares what the machine made of `bytes` with what hyper did.
///
/// # Errors
///
/// They differ, for none of the reasons.
pub(crate) fn compare(bytes: &[u8], ours: &Server, theirs: &Reading) -> Result<Verdict, String> {
    let our = &ours.reading;
    for (number, (one, other)) in our.whole.iter().zip(&theirs.whole).enumerate() {
        if one != other {
            return Err(format!("request {number} is heard differently"));
        }
    }
    if our.whole.len() > theirs.whole.len() {
        return Err("hyper does not answer what the machine answers".into());
    }
    // What hyper heard of the first request that the machine did not answer.
    let other = theirs.whole.get(our.whole.len()).or(theirs.part.as_ref());
    if our.refused {
        return match (ours.violation, other) {
            (_, None) => Ok(Verdict::BothRefuse),
            (Some(violation), Some(_)) if theirs.refused && theirs.part.is_some() => {
                // hyper, too, heard the head and refused what came behind it.
                let is_of_body = our.part.is_some();
                if is_of_body && theirs.whole.len() == our.whole.len() {
                    Ok(Verdict::BothRefuse)
                } else {
                    excused(bytes, ours, violation, other)
                }
            }
            (Some(violation), other) => excused(bytes, ours, violation, other),
            (None, _) => Err("refused for nothing".into()),
        };
    }
    if our.closed
        && let Some(last) = our.whole.last()
        && let mut lists = last.headers.get_all(CONNECTION).into_iter()
        && lists.any(|list| !list.as_bytes().is_ascii())
    {
        return Ok(Verdict::Stricter(Reason::Close));
    }
    if theirs.whole.len() > our.whole.len() {
        return Err("the machine does not answer what hyper answers".into());
    }
    if theirs.refused {
        // It may be seen before the end of the line or head that we wait for.
        return if our.closed {
            Err("hyper refuses what comes after the machine's last answer".into())
        } else if refuses_in_the_end(bytes) {
            Ok(Verdict::BothRefuse)
        } else {
            Err("hyper refuses what the machine accepts".into())
        };
    }
    match (&our.part, &theirs.part) {
        (None, None) => {}
        (Some(one), Some(other)) if one == other => {}
        _ => return Err("the request that is not whole is heard differently".into()),
    }
    if our.closed != theirs.closed {
        return Err("one of them closes".into());
    }
    Ok(Verdict::Alike)
}

/// Whether the machine refuses what begins with this, when the lines end.
fn refuses_in_the_end(bytes: &[u8]) -> bool {
    let end: &[u8] = if bytes.ends_with(b"\r") {
        b"\n\r\n"
    } else {
        b"\r\n\r\n"
    };
    let ended = Server::hear(std::time::Instant::now(), [bytes, end]);
    ended.reading.refused
}

fn excused(
    bytes: &[u8],
    ours: &Server,
    violation: Violation,
    other: Option<&Heard>,
) -> Result<Verdict, String> {
    match other.and_then(|other| reason(bytes, ours, violation, other)) {
        Some(reason) => Ok(Verdict::Stricter(reason)),
        None => Err(format!(
            "hyper accepts what the machine refuses as {violation:?}"
        )),
    }
}

/// The reason why the machine refuses what hyper heard, if it shows.
fn reason(bytes: &[u8], ours: &Server, violation: Violation, other: &Heard) -> Option<Reason> {
    let all = |name: HeaderName| other.headers.get_all(name).into_iter();
    let (reason, shows) = match violation {
        Violation::BareLineFeed => {
            // In the head, trailers, or line of a chunk that is refused.
            let rest = ours.unheard(bytes);
            let is_bare = |at: usize| rest[at] == b'\n' && (at == 0 || rest[at - 1] != b'\r');
            (Reason::BareLineFeed, (0..rest.len()).any(is_bare))
        }
        Violation::Malformed => {
            let two = ours.unheard(bytes).starts_with(b"\r\n\r\n");
            (Reason::EmptyLines, two)
        }
        Violation::NoHost => {
            let none = all(HOST).count() == 0 && other.version == Version::HTTP_11;
            (Reason::NoHost, none)
        }
        Violation::RepeatedHost => (Reason::RepeatedHost, all(HOST).count() > 1),
        Violation::BadLength if other.headers.contains_key(CONTENT_LENGTH) => {
            let long = |value: &http::HeaderValue| value.len() >= 19;
            (Reason::LongLength, all(CONTENT_LENGTH).all(long))
        }
        Violation::TwoFramings | Violation::BadLength => {
            let both = times(bytes, b"content-length") > 0 && all(TRANSFER_ENCODING).count() > 0;
            (Reason::TwoFramings, both)
        }
        Violation::RepeatedLength => {
            let repeated = times(bytes, b"content-length") > 1
                && (all(CONTENT_LENGTH).count() == 1 || all(TRANSFER_ENCODING).count() > 0);
            (Reason::RepeatedLength, repeated)
        }
        Violation::BadEncoding => {
            let is_other =
                |value: &http::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"chunked");
            let others = all(TRANSFER_ENCODING).count() > 1 || all(TRANSFER_ENCODING).any(is_other);
            (Reason::OtherEncodings, others)
        }
        Violation::Fragment => (Reason::Fragment, bytes.contains(&b'#')),
        Violation::UnknownExpectation => (Reason::Expectation, all(EXPECT).count() > 0),
        Violation::BadChunk => (Reason::ChunkLine, !is_plain_chunk_line(ours.unheard(bytes))),
        Violation::BadTrailer => {
            let trailers = other.trailers.as_ref();
            let is_bad = trailers.is_some_and(|trailers| check_trailers(trailers).is_err());
            (Reason::Trailer, is_bad)
        }
        Violation::HeadTooLarge => (Reason::Size, bytes.len() > settings().max_head),
        Violation::EncodingTooEarly => return None,
    };
    shows.then_some(reason)
}

/// How often a name is in these bytes, whatever its case.
fn times(bytes: &[u8], name: &[u8]) -> usize {
    bytes
        .windows(name.len())
        .filter(|part| part.eq_ignore_ascii_case(name))
        .count()
}

/// Whether these bytes begin with a line that begins a chunk as everybody
/// writes it.
fn is_plain_chunk_line(bytes: &[u8]) -> bool {
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let rest = &bytes[digits..];
    let is_plain = |byte: &u8| matches!(*byte, b'\t' | b' '..=b'~');
    let extension = match rest.first() {
        Some(b';') => rest.iter().take_while(|byte| is_plain(byte)).count(),
        _ => 0,
    };
    let length = digits + extension + 2;
    (1..=15).contains(&digits) && rest[extension..].starts_with(b"\r\n") && length <= 4096
}
