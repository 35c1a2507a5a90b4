//! An HTTP/2 client that sends what the test wrote, frame by frame: it can
//! break every rule, refuse to read, and take its time. What it reads it sorts
//! by stream.
//!
//! [`h2`](crate::h2) is the polite client.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::hpack::{Decoder, Field, literal};
use crate::http::{Address, Failed};
use crate::peer;

/// What an HTTP/2 connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of RFC 9113")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![expect(missing_docs, reason = "the names are those of RFC 9113")]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// The setting of a stream's first window.
pub const INITIAL_WINDOW: u16 = 4;

/// The largest window that there is.
pub const LARGEST_WINDOW: u32 = 0x7fff_ffff;

/// The largest frame that everybody takes.
const FRAME: usize = 16_384;

/// How long a client waits for bytes unless the test says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type, one of [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The bytes of a frame.
    ///
    /// # Panics
    ///
    /// If the payload has 16 MiB or more.
    #[must_use]
    pub fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("it fits into a frame");
        let [zero, length @ ..] = length.to_be_bytes();
        assert_eq!(zero, 0, "it fits into a frame");
        let mut bytes = length.to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let code = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(code.try_into().ok()?))
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Not, so far.
    #[default]
    Open,
    /// As it should.
    Whole,
    /// Its stream was reset, with this code.
    Reset(u32),
}

/// What came of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0 if there was no head.
    pub status: u16,
    /// The fields of the head, without the status.
    pub fields: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
    /// The fields after the body.
    pub trailers: Vec<Field>,
    /// How it ended.
    pub end: End,
}

impl Answer {
    /// The value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(field, _)| field == name);
        all.next().map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether skep turned the request away, with a status or a reset.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        (400..500).contains(&self.status) || (self.status == 0 && self.end != End::Whole)
    }
}

/// Why nothing more comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Silently,
}

/// One connection.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    buffer: Vec<u8>,
    decoder: Decoder,
    answers: BTreeMap<u32, Answer>,
    goaway: Option<u32>,
    ended: bool,
}

impl Frames {
    /// A connection on which nothing was said yet.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn silent(address: &Address) -> Result<Self, Failed> {
        Self::from_peer(address, Ipv4Addr::LOCALHOST)
    }

    /// The same, from another address of this machine.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn from_peer(address: &Address, from: Ipv4Addr) -> Result<Self, Failed> {
        let stream = peer::connect(address, from)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            decoder: Decoder::default(),
            answers: BTreeMap::new(),
            goaway: None,
            ended: false,
        })
    }

    /// A connection that has begun as it should, with these settings.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn open(address: &Address, settings: &[(u16, u32)]) -> Result<Self, Failed> {
        let mut frames = Self::silent(address)?;
        frames.begin(settings)?;
        Ok(frames)
    }

    /// Sends the preface and settings.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn begin(&mut self, settings: &[(u16, u32)]) -> Result<(), Failed> {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        self.send(PREFACE)?;
        self.frame(kind::SETTINGS, 0, 0, &payload)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failed> {
        Ok(self.stream.write_all(bytes.as_ref())?)
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Result<(), Failed> {
        self.send(Frame::bytes(kind, flags, stream, payload))
    }

    /// Sends a block of header fields, in as many frames as it takes.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn block(&mut self, stream: u32, block: &[u8], end_stream: bool) -> Result<(), Failed> {
        let mut pieces = block.chunks(FRAME).peekable();
        let first = pieces.next().unwrap_or_default();
        let ends = |last: bool| if last { flag::END_HEADERS } else { 0 };
        let end_stream = if end_stream { flag::END_STREAM } else { 0 };
        let flags = end_stream | ends(pieces.peek().is_none());
        let mut bytes = Frame::bytes(kind::HEADERS, flags, stream, first);
        while let Some(piece) = pieces.next() {
            let flags = ends(pieces.peek().is_none());
            bytes.extend(Frame::bytes(kind::CONTINUATION, flags, stream, piece));
        }
        self.send(bytes)
    }

    /// Begins a request: its pseudo-fields and these fields.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn request(
        &mut self,
        stream: u32,
        [method, authority, path]: [&str; 3],
        fields: &[(&str, &str)],
        end_stream: bool,
    ) -> Result<(), Failed> {
        self.block(stream, &head([method, authority, path], fields), end_stream)
    }

    /// Sends a GET without a body.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn get(&mut self, stream: u32, path: &str) -> Result<(), Failed> {
        self.request(stream, ["GET", "localhost", path], &[], true)
    }

    /// Sends a piece of a body.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn data(&mut self, stream: u32, piece: &[u8], end_stream: bool) -> Result<(), Failed> {
        let flags = if end_stream { flag::END_STREAM } else { 0 };
        self.frame(kind::DATA, flags, stream, piece)
    }

    /// Allows so many more bytes on a stream, or on the connection.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn window(&mut self, stream: u32, more: u32) -> Result<(), Failed> {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn finish_sending(&mut self) -> Result<(), Failed> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// The next frame; `None` if none comes in time, or ever. Settings are
    /// acknowledged, answers sorted.
    pub fn next(&mut self, patience: Duration) -> Option<Frame> {
        let by = Instant::now() + patience;
        while !self.ended {
            if let Some(frame) = self.buffered() {
                self.take(&frame);
                return Some(frame);
            }
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut piece = vec![0; 64 << 10];
            self.stream.set_read_timeout(Some(left)).ok()?;
            match self.stream.read(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(read) => self.buffer.extend(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match Failed::from(error) {
                    Failed::TimedOut => return None,
                    _ => self.ended = true,
                },
            }
        }
        None
    }

    fn buffered(&mut self) -> Option<Frame> {
        let (head, rest) = self.buffer.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & LARGEST_WINDOW,
            payload: rest.get(..length)?.to_vec(),
        };
        self.buffer.drain(..9 + length);
        Some(frame)
    }

    fn take(&mut self, frame: &Frame) {
        let answer = match frame.kind {
            kind::SETTINGS if frame.flags & flag::ACK == 0 => {
                // If it cannot be sent, the end will be seen.
                let _ = self.frame(kind::SETTINGS, flag::ACK, 0, &[]);
                return;
            }
            kind::GOAWAY => {
                self.goaway = frame.code();
                return;
            }
            _ if frame.stream == 0 => return,
            _ => self.answers.entry(frame.stream).or_default(),
        };
        match frame.kind {
            kind::DATA => answer.body.extend(&frame.payload),
            kind::HEADERS => {
                let fields = self.decoder.fields(&frame.payload).unwrap_or_default();
                let status = fields.iter().find(|(name, _)| name == ":status");
                match status.and_then(|(_, value)| value.parse().ok()) {
                    Some(status) => {
                        answer.status = status;
                        answer.fields = fields.into_iter().skip(1).collect();
                    }
                    None => answer.trailers = fields,
                }
            }
            kind::RST_STREAM => answer.end = End::Reset(frame.code().unwrap_or(u32::MAX)),
            _ => return,
        }
        let ends = matches!(frame.kind, kind::DATA | kind::HEADERS);
        if ends && frame.flags & flag::END_STREAM != 0 {
            answer.end = End::Whole;
        }
    }

    /// What came of a stream when it, the connection or the test's patience
    /// has ended.
    pub fn answer(&mut self, stream: u32) -> Answer {
        self.answer_within(stream, PATIENCE)
    }

    /// The same, with another patience.
    pub fn answer_within(&mut self, stream: u32, patience: Duration) -> Answer {
        let by = Instant::now() + patience;
        while self.so_far(stream).end == End::Open {
            let left = by.saturating_duration_since(Instant::now());
            if self.next(left).is_none() {
                break;
            }
        }
        self.so_far(stream)
    }

    /// What has been read of a stream.
    #[must_use]
    pub fn so_far(&self, stream: u32) -> Answer {
        self.answers.get(&stream).cloned().unwrap_or_default()
    }

    /// A frame that is as wanted; `None` if none comes in time.
    pub fn wait_for(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&Frame) -> bool,
    ) -> Option<Frame> {
        let by = Instant::now() + patience;
        loop {
            let left = by.saturating_duration_since(Instant::now());
            let frame = self.next(left)?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads until the server says goodbye or closes; `None` if it does
    /// neither in time.
    pub fn closed(&mut self, patience: Duration) -> Option<Closed> {
        let by = Instant::now() + patience;
        while self.goaway.is_none() && !self.ended {
            let left = by.saturating_duration_since(Instant::now());
            if self.next(left).is_none() && !self.ended {
                return None;
            }
        }
        Some(match self.goaway {
            Some(code) => Closed::GoAway(code),
            None => Closed::Silently,
        })
    }

    /// Whether the server still answers pings on this connection.
    pub fn is_alive(&mut self, patience: Duration) -> bool {
        let sent = self.frame(kind::PING, 0, 0, b"are you?").is_ok();
        let pong = |frame: &Frame| frame.kind == kind::PING && frame.payload == b"are you?";
        sent && self.wait_for(patience, pong).is_some()
    }
}

/// The block of a request's head.
#[must_use]
pub fn head([method, authority, path]: [&str; 3], fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
    ];
    pseudo
        .iter()
        .chain(fields)
        .flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes()))
        .collect()
}
