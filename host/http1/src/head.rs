//! A request's head: where it ends, and what it says.

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION,
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, ORIGIN, REFERER, TE, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use httparse::Status;
use memchr::memchr;
use memchr::memmem::Finder;

/// A request that is not read any further, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// RFC 9112 §2.2 lets a recipient take it for a line break; others do not.
    #[error("a line ends without a carriage return")]
    BareLineFeed,
    /// A line of the head that httparse does not read: a method, target,
    /// version, field name or value with characters that it may not have, a
    /// folded line, white space before a colon.
    #[error("a line of the head that is malformed")]
    Malformed,
    /// RFC 9112 §3.2.
    #[error("more than one Host")]
    RepeatedHost,
    /// RFC 9112 §3.2.
    #[error("no Host")]
    NoHost,
    /// RFC 9112 §6.1: the usual way to smuggle a request.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoFramings,
    /// RFC 9112 §6.3 allows equal ones; who repeats it may mean anything.
    #[error("more than one Content-Length")]
    RepeatedLength,
    /// RFC 9110 §8.6.
    #[error("a Content-Length that is not a number")]
    BadLength,
    /// Only `chunked`, once, is understood.
    #[error("a Transfer-Encoding other than chunked")]
    BadEncoding,
    /// RFC 9112 §6.1.
    #[error("a Transfer-Encoding in HTTP/1.0")]
    EncodingTooEarly,
    /// RFC 9112 §7.1.
    #[error("a malformed chunk")]
    BadChunk,
    /// RFC 9110 §6.5.1: a field that would have had to come before the body.
    #[error("a trailer field that does not belong there")]
    BadTrailer,
    /// RFC 9112 §3.2: a fragment is never sent.
    #[error("a target with a fragment")]
    Fragment,
    /// More bytes than `max_head`, or more fields than `max_headers`.
    #[error("a head that is too large")]
    HeadTooLarge,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    #[error("an expectation that is not known")]
    UnknownExpectation,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    None,
    /// So many bytes, at least one.
    Exact(u64),
    /// In chunks, trailers behind them.
    Chunked,
}

/// A request's head.
#[derive(Debug)]
pub struct Head {
    /// What it says, as it was received.
    pub request: Request<()>,
    /// Its bytes, for who hands the connection on unread.
    pub raw: Bytes,
    /// How its body is framed.
    pub length: Length,
    /// What of it decides how the connection goes on.
    pub(crate) manner: Manner,
}

/// What of a request decides how its answer is written and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// HTTP/1.0: no chunks, and no more requests unless it asks for that.
    pub(crate) http10: bool,
    /// The client goes on after the answer.
    pub(crate) keep_alive: bool,
    /// The answer has no content (RFC 9110 §9.3.2).
    pub(crate) is_head: bool,
    /// The client takes trailers (`te: trailers`).
    pub(crate) trailers: bool,
    /// It waits for `100 Continue` before it sends its body.
    pub(crate) expects: bool,
}

/// How far the bytes of a head were looked at that is not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes in which no head ends.
    seen: usize,
    /// Where the newest line begins.
    line: usize,
    /// An empty line came before it and was taken.
    skipped: bool,
    /// How much of its first line was looked at; with the line whole, all.
    looked: usize,
}

/// What a head ends with.
const END: &[u8] = b"\r\n\r\n";

static FIND_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(END));

impl Waiting {
    /// Takes the head that `input` begins with and reads it; `None` if more must
    /// come. `input` is that of the call before, and what came after it.
    pub(crate) fn head(
        &mut self,
        input: &mut BytesMut,
        max: usize,
        max_fields: usize,
    ) -> Result<Option<Head>, Violation> {
        // Most come whole and alone: where such a head ends, its parser finds.
        if self.seen == 0 && input.len() <= max && input.ends_with(END) {
            let raw = input.split().freeze();
            if let Ok(head) = parse(&raw, max_fields) {
                input.extend_from_slice(&raw[head.raw.len()..]);
                return Ok(Some(head));
            }
            input.extend_from_slice(&raw);
        }
        let near = &input[self.seen.saturating_sub(3)..input.len().min(max)];
        let Some(at) = FIND_END.find(near) else {
            return match self.end(input, max) {
                Ok(None) | Err(Violation::HeadTooLarge) if self.is_hopeless(input) => {
                    Err(Violation::Malformed)
                }
                Ok(Some(_)) => Err(Violation::Malformed),
                Ok(None) => Ok(None),
                Err(violation) => Err(violation),
            };
        };
        let raw = input
            .split_to(self.seen.saturating_sub(3) + at + END.len())
            .freeze();
        let parsed = match parse(&raw, max_fields) {
            // It ends where we say, or has two ends.
            Ok(head) if head.raw.len() < raw.len() => Err(Violation::Malformed),
            parsed => parsed,
        };
        match parsed {
            Ok(head) => Ok(Some(head)),
            // It is refused for what is wrong first, as if it came in pieces.
            Err(violation) => match self.end(&raw, max) {
                Err(first) => Err(first),
                // A second empty line, where a head should begin.
                Ok(Some(end)) if end < raw.len() => Err(Violation::Malformed),
                Ok(_) => Err(violation),
            },
        }
    }

    /// Whether what has come so far cannot become a head: nobody waits for the
    /// rest of nonsense. It is looked at while there is little of it, and when
    /// its first line is whole.
    fn is_hopeless(&mut self, bytes: &[u8]) -> bool {
        /// Bytes that need no end of a line to be told from a method.
        const LITTLE: usize = 64;
        let (part, looked) = if self.line > 0 {
            (bytes, usize::MAX)
        } else {
            let part = &bytes[..bytes.len().min(LITTLE)];
            (part, part.len())
        };
        if self.looked >= looked {
            return false;
        }
        self.looked = looked;
        let mut fields = [const { MaybeUninit::uninit() }; 1];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(part, &mut fields);
        matches!(
            parsed,
            Err(httparse::Error::Token | httparse::Error::Version)
        )
    }

    /// Takes the one empty line that a client may send before a head (RFC 9112
    /// §2.2). Says whether a head begins behind it.
    pub(crate) fn skip(&mut self, input: &mut BytesMut) -> bool {
        if !self.skipped && input.starts_with(b"\r\n") {
            let _ = input.split_to(2);
            self.skipped = true;
        }
        !input.is_empty() && **input != *b"\r"
    }

    /// Where the head ends that `bytes` begin with; `None` if more must come.
    /// `bytes` are those of the call before, and what came after them. What is
    /// behind `max` bytes is not looked at, so that it makes no difference
    /// whether it has come.
    pub(crate) fn end(&mut self, bytes: &[u8], max: usize) -> Result<Option<usize>, Violation> {
        let near = &bytes[..bytes.len().min(max)];
        while let Some(at) = memchr(b'\n', &near[self.seen..]) {
            let feed = self.seen + at;
            if feed == 0 || bytes[feed - 1] != b'\r' {
                return Err(Violation::BareLineFeed);
            }
            let empty = feed == self.line + 1;
            self.seen = feed + 1;
            self.line = feed + 1;
            if empty {
                return Ok(Some(feed + 1));
            }
        }
        self.seen = near.len();
        if bytes.len() > max {
            return Err(Violation::HeadTooLarge);
        }
        Ok(None)
    }
}

/// Fields for which there is room besides those of the client: whoever forwards a
/// request says where it came from.
const FURTHER: usize = 5;

/// Fields that are parsed without an allocation.
const USUAL: usize = 100;

/// Reads the head that `raw` begins with.
fn parse(raw: &Bytes, max_fields: usize) -> Result<Head, Violation> {
    if max_fields <= USUAL {
        let mut fields = [const { MaybeUninit::uninit() }; USUAL];
        read(raw, &mut fields[..max_fields])
    } else {
        let mut fields = vec![MaybeUninit::uninit(); max_fields];
        read(raw, &mut fields)
    }
}

fn read<'a>(
    raw: &'a Bytes,
    fields: &mut [MaybeUninit<httparse::Header<'a>>],
) -> Result<Head, Violation> {
    let mut parsed = httparse::Request::new(&mut []);
    let used = match parsed.parse_with_uninit_headers(raw, fields) {
        Ok(Status::Complete(used)) if raw[..used].ends_with(END) => used,
        Err(httparse::Error::TooManyHeaders) => return Err(Violation::HeadTooLarge),
        Ok(_) | Err(_) => return Err(Violation::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Violation::Malformed);
    };
    // httparse skips empty lines before a head, and takes bare line feeds for
    // ends of lines.
    let begins = |text: &str| text.as_ptr().addr() - raw.as_ptr().addr();
    let is_bare = |field: &httparse::Header<'_>| raw[begins(field.name) - 2] != b'\r';
    if begins(method) != 0 {
        return Err(Violation::Malformed);
    }
    if parsed.headers.iter().any(is_bare) {
        return Err(Violation::BareLineFeed);
    }
    if memchr(b'#', target.as_bytes()).is_some() {
        return Err(Violation::Fragment);
    }
    let malformed = |_| Violation::Malformed;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Violation::Malformed)?;
    let uri = Uri::from_maybe_shared(raw.slice_ref(target.as_bytes()))
        .map_err(|_| Violation::Malformed)?;
    let mut facts = Facts::new(version == 0);
    let is_head = method == Method::HEAD;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = if version == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len() + FURTHER);
    for field in &*parsed.headers {
        let name = match usual(field.name) {
            Some(name) => name,
            None => HeaderName::from_bytes(field.name.as_bytes()).map_err(malformed_name)?,
        };
        let from = field.value.as_ptr().addr() - raw.as_ptr().addr();
        let value = raw.slice(from..from + field.value.len());
        let value = HeaderValue::from_maybe_shared(value).map_err(malformed)?;
        facts.note(&name, field.name, field.value)?;
        headers.append(name, value);
    }
    let (length, manner) = facts.decide(is_head)?;
    Ok(Head {
        request,
        raw: raw.slice(..used),
        length,
        manner,
    })
}

/// A field's name as most clients spell it, which saves looking at each letter.
fn usual(name: &str) -> Option<HeaderName> {
    const PRIORITY: HeaderName = HeaderName::from_static("priority");
    const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
    const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    // Ordered by how often they come.
    Some(match name.len() {
        4 if name == "Host" => HOST,
        4 if name == "host" => HOST,
        10 if name == "User-Agent" => USER_AGENT,
        10 if name == "Connection" => CONNECTION,
        6 if name == "Accept" => ACCEPT,
        6 if name == "Cookie" => COOKIE,
        15 if name == "Accept-Encoding" => ACCEPT_ENCODING,
        15 if name == "Accept-Language" => ACCEPT_LANGUAGE,
        14 if name == "Content-Length" => CONTENT_LENGTH,
        12 if name == "Content-Type" => CONTENT_TYPE,
        7 if name == "Referer" => REFERER,
        6 if name == "Origin" => ORIGIN,
        13 if name == "Authorization" => AUTHORIZATION,
        13 if name == "Cache-Control" => CACHE_CONTROL,
        17 if name == "Transfer-Encoding" => TRANSFER_ENCODING,
        8 if name == "Priority" => PRIORITY,
        14 if name == "Sec-Fetch-Dest" => SEC_FETCH_DEST,
        14 if name == "Sec-Fetch-Mode" => SEC_FETCH_MODE,
        14 if name == "Sec-Fetch-Site" => SEC_FETCH_SITE,
        15 if name == "X-Forwarded-For" => X_FORWARDED_FOR,
        17 if name == "X-Forwarded-Proto" => X_FORWARDED_PROTO,
        12 if name == "X-Request-Id" => X_REQUEST_ID,
        _ => return None,
    })
}

fn malformed_name(_: http::header::InvalidHeaderName) -> Violation {
    Violation::Malformed
}

/// What the fields say that decide about the connection.
struct Facts {
    http10: bool,
    hosts: u32,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    trailers: bool,
    expects: bool,
}

impl Facts {
    fn new(http10: bool) -> Self {
        Self {
            http10,
            hosts: 0,
            length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            trailers: false,
            expects: false,
        }
    }

    fn note(&mut self, name: &HeaderName, text: &str, value: &[u8]) -> Result<(), Violation> {
        // Most are none of these, which their lengths say.
        match text.len() {
            4 if *name == HOST => self.hosts += 1,
            14 if *name == CONTENT_LENGTH => {
                if self.length.is_some() {
                    return Err(Violation::RepeatedLength);
                }
                self.length = Some(decimal(value)?);
            }
            17 if *name == TRANSFER_ENCODING => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::BadEncoding);
                }
                self.chunked = true;
            }
            10 if *name == CONNECTION => {
                self.close |= has_token(value, b"close");
                // Who cannot read all of the list closes.
                self.keep_alive |= value.is_ascii() && has_token(value, b"keep-alive");
            }
            2 if *name == TE => self.trailers |= has_token(value, b"trailers"),
            6 if *name == EXPECT => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Violation::UnknownExpectation);
                }
                self.expects = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn decide(&self, is_head: bool) -> Result<(Length, Manner), Violation> {
        match self.hosts {
            0 if !self.http10 => return Err(Violation::NoHost),
            0 | 1 => {}
            _ => return Err(Violation::RepeatedHost),
        }
        let length = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Violation::TwoFramings),
            (None, true) if self.http10 => return Err(Violation::EncodingTooEarly),
            (None, true) => Length::Chunked,
            (None | Some(0), false) => Length::None,
            (Some(length), false) => Length::Exact(length),
        };
        let manner = Manner {
            http10: self.http10,
            keep_alive: !self.close && (!self.http10 || self.keep_alive),
            is_head,
            trailers: self.trailers && !self.http10,
            // Of HTTP/1.0 it is ignored (RFC 9110 §10.1.1).
            expects: self.expects && !self.http10 && length != Length::None,
        };
        Ok((length, manner))
    }
}

/// Whether a comma-separated list has this token, whatever its case.
fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// A length in decimal digits. With more than 63 bits it is refused: others
/// count with a sign, or keep the last numbers for themselves.
pub(crate) fn decimal(text: &[u8]) -> Result<u64, Violation> {
    let mut number = 0_i64;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Violation::BadLength);
        }
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_add(digit.into()))
            .ok_or(Violation::BadLength)?;
    }
    if text.is_empty() {
        return Err(Violation::BadLength);
    }
    Ok(number.unsigned_abs())
}
