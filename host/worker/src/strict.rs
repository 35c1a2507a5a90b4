//! HTTP/1.1 framing, watched from outside of the HTTP library.
//!
//! hyper is lenient where two readers of one byte stream may disagree: it takes
//! bare line feeds, drops one of two framing headers, and leaves `Host` alone.
//! Behind or before another proxy that is how requests get smuggled. This
//! follows the framing of a connection and refuses every message that has more
//! than one reading (RFC 9112 §2.2, §3.2, §6.3), before hyper sees its end.
//!
//! Responsible for nothing else: what passes here is still checked by hyper.
//! Pure: bytes in, verdict out, no I/O.

use memchr::{memchr, memmem};

/// A message with more than one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("a line ends without a carriage return")]
    BareLineFeed,
    #[error("a control character in a head")]
    ControlCharacter,
    #[error("a folded header line")]
    FoldedLine,
    #[error("a header line without a name")]
    NoName,
    #[error("more than one Host")]
    RepeatedHost,
    #[error("no Host")]
    NoHost,
    #[error("both Content-Length and Transfer-Encoding")]
    TwoFramings,
    #[error("more than one Content-Length")]
    RepeatedLength,
    #[error("a Content-Length that is not a number")]
    BadLength,
    #[error("a Transfer-Encoding other than chunked")]
    BadEncoding,
    #[error("a Transfer-Encoding in HTTP/1.0")]
    EncodingTooEarly,
    #[error("a malformed chunk")]
    BadChunk,
    #[error("a head that is too large")]
    HeadTooLarge,
}

/// The longest line between chunks, extensions included.
const MAX_CHUNK_LINE: usize = 4096;

/// What HTTP/2 connections begin with, as far as it looks like a head. Exactly
/// this: with a header line in it hyper takes the connection for HTTP/1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

#[derive(Debug)]
enum State {
    /// Between messages, or within a head; what there is of it is in `partial`.
    Head,
    /// Bytes of a body of known length.
    Length(u64),
    /// Within the line that starts a chunk.
    ChunkLine,
    /// Bytes of a chunk and the line break after it.
    Chunk(u64),
    /// Trailer lines.
    Trailers,
    /// Not HTTP/1.
    Http2,
    /// A message was refused; nothing may follow.
    Refused,
}

/// What bytes say that begin the next message, before they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead<'a> {
    /// Its head is not whole.
    Part,
    /// The host it is for; empty if it names none.
    Host(&'a [u8]),
    /// It will be refused.
    Bad,
}

/// Follows the messages of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    /// A line or head that has not arrived whole.
    partial: Vec<u8>,
    max_head: usize,
    /// Whether a message was seen, so that the HTTP/2 preface is not taken
    /// later on.
    begun: bool,
    /// Heads that were whole.
    heads: u64,
}

impl Framing {
    /// `max_head` must be larger than hyper's limit, so that hyper is the one
    /// to answer 431.
    pub(crate) fn new(max_head: usize) -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
            max_head,
            begun: false,
            heads: 0,
        }
    }

    /// A message was seen elsewhere: the HTTP/2 preface is not taken any more.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether the next byte begins a message: the time until then is idle
    /// time, and not the client's slowness.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Head) && self.partial.is_empty()
    }

    /// Heads of HTTP/1 that have begun to arrive.
    pub(crate) fn heads(&self) -> u64 {
        self.heads + u64::from(self.is_within_head())
    }

    /// Whether this connection speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.state, State::Http2)
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn is_within_head(&self) -> bool {
        matches!(self.state, State::Head) && !self.partial.is_empty()
    }

    /// Takes the next bytes of the connection. On a violation the offset says
    /// up to where the bytes belong to messages that were well-formed, or to
    /// the part of the refused one that earlier calls let through.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            match self.step(rest) {
                Ok(used) => rest = &rest[used..],
                Err(violation) => {
                    self.state = State::Refused;
                    return Err((at, violation));
                }
            }
        }
        Ok(())
    }

    /// As [`take`](Self::take), but no further than to the end of a message.
    /// Returns how many bytes it took, at least one of those that are there.
    pub(crate) fn take_message(&mut self, bytes: &[u8]) -> Result<usize, (usize, Violation)> {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(used) => at += used,
                Err(violation) => {
                    self.state = State::Refused;
                    return Err((at, violation));
                }
            }
            if self.is_between() {
                break;
            }
        }
        Ok(at)
    }

    /// What `bytes` say, with which a message begins; of the first `known` it is
    /// known that no head ends there.
    pub(crate) fn ahead<'a>(&self, bytes: &'a [u8], known: usize) -> Ahead<'a> {
        let mut start = 0;
        while bytes[start..].starts_with(b"\r\n") {
            start += 2;
        }
        let seam = known.saturating_sub(3).max(start);
        let Some(end) = memmem::find(&bytes[seam..], b"\r\n\r\n") else {
            // It need not be awaited.
            let bad = bytes[start..].starts_with(b"\n")
                || memmem::find(&bytes[seam..], b"\n\n").is_some()
                || bytes.len() > self.max_head;
            return if bad { Ahead::Bad } else { Ahead::Part };
        };
        host_of(&bytes[start..seam + end + 4])
    }

    /// Consumes some bytes, at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        match &mut self.state {
            State::Http2 => Ok(bytes.len()),
            State::Refused => Err(Violation::BadChunk),
            State::Head => self.head(bytes),
            State::Length(left) => {
                let used = take_up_to(left, bytes.len());
                if *left == 0 {
                    self.state = State::Head;
                }
                Ok(used)
            }
            State::Chunk(left) => {
                let used = take_up_to(left, bytes.len());
                if *left == 0 {
                    self.state = State::ChunkLine;
                }
                Ok(used)
            }
            State::ChunkLine => {
                let Some((line, used)) = take_line(&mut self.partial, bytes, MAX_CHUNK_LINE)?
                else {
                    return Ok(bytes.len());
                };
                let size = chunk_size(line.as_deref().unwrap_or(&bytes[..used]))?;
                self.state = if size == 0 {
                    State::Trailers
                } else {
                    State::Chunk(size.checked_add(2).ok_or(Violation::BadChunk)?)
                };
                Ok(used)
            }
            State::Trailers => {
                let Some((line, used)) = take_line(&mut self.partial, bytes, self.max_head)? else {
                    return Ok(bytes.len());
                };
                if line.as_deref().unwrap_or(&bytes[..used]) == b"\r\n" {
                    self.state = State::Head;
                }
                Ok(used)
            }
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        if self.partial.is_empty() {
            // A client may send an empty line before a request line.
            if bytes[0] == b'\r' || bytes[0] == b'\n' {
                if bytes[0] == b'\n' {
                    return Err(Violation::BareLineFeed);
                }
                if bytes.get(1).is_some_and(|next| *next != b'\n') {
                    return Err(Violation::ControlCharacter);
                }
                if bytes.len() >= 2 {
                    return Ok(2);
                }
            }
            if let Some(end) = memmem::find(bytes, b"\r\n\r\n") {
                return self.whole_head(&bytes[..end + 4]).map(|()| end + 4);
            }
            // A bare line feed would end the head for hyper but not for us.
            if memmem::find(bytes, b"\n\n").is_some() {
                return Err(Violation::BareLineFeed);
            }
            self.keep(bytes)?;
            return Ok(bytes.len());
        }
        // The end may straddle the seam: look again from three bytes before.
        let seam = self.partial.len().saturating_sub(3);
        let before = self.partial.len();
        let room = (self.max_head + 4).saturating_sub(before);
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.partial.starts_with(b"\r") && self.partial.len() >= 2 {
            // The empty line whose first half came alone.
            if self.partial[1] != b'\n' {
                return Err(Violation::ControlCharacter);
            }
            self.partial.clear();
            return Ok(1);
        }
        match memmem::find(&self.partial[seam..], b"\r\n\r\n") {
            Some(end) => {
                let end = seam + end + 4;
                let head = std::mem::take(&mut self.partial);
                self.whole_head(&head[..end])?;
                Ok(end - before)
            }
            None if memmem::find(&self.partial[seam..], b"\n\n").is_some() => {
                Err(Violation::BareLineFeed)
            }
            None => {
                self.check_size()?;
                Ok(bytes.len())
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.partial.extend_from_slice(bytes);
        self.check_size()
    }

    fn check_size(&self) -> Result<(), Violation> {
        if self.partial.len() > self.max_head {
            return Err(Violation::HeadTooLarge);
        }
        Ok(())
    }

    fn whole_head(&mut self, head: &[u8]) -> Result<(), Violation> {
        if head.len() > self.max_head {
            return Err(Violation::HeadTooLarge);
        }
        if !self.begun && head == HTTP2_PREFACE {
            self.state = State::Http2;
            return Ok(());
        }
        self.begun = true;
        self.heads += 1;
        self.state = match body_of(head)? {
            Framed::None => State::Head,
            Framed::Length(length) => State::Length(length),
            Framed::Chunked => State::ChunkLine,
        };
        Ok(())
    }
}

/// The host of a whole head: that of a target with a host in it (RFC 9112
/// §3.2.2), or that of the field.
fn host_of(head: &[u8]) -> Ahead<'_> {
    let mut lines = Lines(head);
    let Some(Ok(request)) = lines.next() else {
        return Ahead::Bad;
    };
    let target = request.split(|byte| *byte == b' ').nth(1).unwrap_or(b"");
    if !target.starts_with(b"/")
        && let Some(scheme) = memmem::find(target, b"://")
    {
        let rest = &target[scheme + 3..];
        let end = rest.iter().position(|byte| b"/?#".contains(byte));
        return Ahead::Host(&rest[..end.unwrap_or(rest.len())]);
    }
    let fields = lines.map_while(Result::ok);
    let mut hosts = fields.filter_map(|line| field(line, b"host"));
    Ahead::Host(hosts.next().unwrap_or(b""))
}

fn take_up_to(left: &mut u64, available: usize) -> usize {
    let used = usize::try_from(*left).map_or(available, |left| left.min(available));
    *left -= used as u64;
    used
}

/// Takes a line with its line break: `Some((None, n))` if it lies whole in the
/// first `n` of `bytes`, `Some((Some(line), n))` if it began earlier.
#[expect(clippy::type_complexity, reason = "local to the two callers above")]
fn take_line(
    partial: &mut Vec<u8>,
    bytes: &[u8],
    limit: usize,
) -> Result<Option<(Option<Vec<u8>>, usize)>, Violation> {
    let end = memchr(b'\n', bytes).map(|at| at + 1);
    if partial.len() + end.unwrap_or(bytes.len()) > limit {
        return Err(Violation::BadChunk);
    }
    let Some(used) = end else {
        partial.extend_from_slice(bytes);
        return Ok(None);
    };
    let line = if partial.is_empty() {
        None
    } else {
        partial.extend_from_slice(&bytes[..used]);
        Some(std::mem::take(partial))
    };
    let whole = line.as_deref().unwrap_or(&bytes[..used]);
    if !whole.ends_with(b"\r\n") {
        return Err(Violation::BareLineFeed);
    }
    Ok(Some((line, used)))
}

fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    // 15 digits cannot overflow with the line break added.
    if digits == 0 || digits > 15 {
        return Err(Violation::BadChunk);
    }
    match line[digits] {
        b'\r' if line.len() == digits + 2 => {}
        b';' => {}
        _ => return Err(Violation::BadChunk),
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| Violation::BadChunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Violation::BadChunk)
}

/// How the body of a request is framed.
#[derive(Debug, PartialEq, Eq)]
enum Framed {
    None,
    Length(u64),
    Chunked,
}

fn body_of(head: &[u8]) -> Result<Framed, Violation> {
    let mut lines = Lines(head);
    let request = lines.next().ok_or(Violation::NoName)??;
    let mut hosts = 0_u32;
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let line = line?;
        let Some(&first) = line.first() else { break };
        if first == b' ' || first == b'\t' {
            return Err(Violation::FoldedLine);
        }
        // Only three fields matter here; most lines are told by one letter.
        match first | 0x20 {
            b'h' if field(line, b"host").is_some() => hosts += 1,
            b'c' => {
                if let Some(value) = field(line, b"content-length") {
                    if length.is_some() {
                        return Err(Violation::RepeatedLength);
                    }
                    length = Some(decimal(value)?);
                }
            }
            b't' => {
                if let Some(value) = field(line, b"transfer-encoding") {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Violation::BadEncoding);
                    }
                    chunked = true;
                }
            }
            b':' => return Err(Violation::NoName),
            _ => {}
        }
    }
    let old = request.ends_with(b" HTTP/1.0");
    match hosts {
        0 if !old => return Err(Violation::NoHost),
        0 | 1 => {}
        _ => return Err(Violation::RepeatedHost),
    }
    match (length, chunked) {
        (Some(_), true) => Err(Violation::TwoFramings),
        (None, true) if old => Err(Violation::EncodingTooEarly),
        (None, true) => Ok(Framed::Chunked),
        (None | Some(0), false) => Ok(Framed::None),
        (Some(length), false) => Ok(Framed::Length(length)),
    }
}

/// The value of a header line of this name, without the space around it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.get(name.len()..)?;
    if !line[..name.len()].eq_ignore_ascii_case(name) {
        return None;
    }
    // A name with a space before its colon is hyper's to refuse.
    let value = value.trim_ascii_start().strip_prefix(b":")?;
    Some(value.trim_ascii())
}

fn decimal(text: &[u8]) -> Result<u64, Violation> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Violation::BadLength);
    }
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Violation::BadLength)
}

/// The lines of a head, without their line breaks.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr(b'\n', self.0)?;
        let (line, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        let Some(line) = line.strip_suffix(b"\r") else {
            return Some(Err(Violation::BareLineFeed));
        };
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return Some(Err(Violation::ControlCharacter));
        }
        Some(Ok(line))
    }
}

#[cfg(test)]
#[path = "strict_tests.rs"]
mod tests;
