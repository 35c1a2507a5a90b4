//! A server on the machine that reads every body and then answers.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use skep_http1::{Connection, Late, Next, Piece, Settings, Size, Violation};

use super::{Heard, Reading};

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Small, so that inputs of a few KiB reach them.
pub(crate) fn settings() -> Settings {
    Settings {
        max_head: 4096,
        max_fields: 40,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(5),
        max_requests: 0,
    }
}

/// Such a server, with one connection.
#[derive(Debug)]
pub(crate) struct Server {
    machine: Connection,
    now: Instant,
    input: BytesMut,
    /// All that was said.
    pub(crate) out: BytesMut,
    pub(crate) reading: Reading,
    pub(crate) violation: Option<Violation>,
    answering: bool,
    unheard: usize,
}

impl Server {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            machine: Connection::new(settings(), now),
            now,
            input: BytesMut::new(),
            out: BytesMut::new(),
            reading: Reading::default(),
            violation: None,
            answering: false,
            unheard: 0,
        }
    }

    /// What it makes of these bytes, which come in these pieces.
    pub(crate) fn hear<'a>(now: Instant, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut server = Self::new(now);
        for piece in pieces {
            server.read(piece);
        }
        server
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) {
        if self.reading.closed {
            return;
        }
        self.input.extend_from_slice(bytes);
        while !self.reading.closed && self.step() {}
    }

    /// What of `bytes`, all that was read, is not heard: where it was refused,
    /// that head, line of a chunk, or trailers, and what is behind it.
    pub(crate) fn unheard<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[bytes.len() - self.unheard..]
    }

    fn step(&mut self) -> bool {
        if !self.answering {
            self.unheard = self.input.len();
            return match self.machine.head(&mut self.input, self.now) {
                Ok(None) => false,
                Ok(Some(head)) => {
                    self.reading.part = Some(Heard::new(head.request));
                    self.answering = true;
                    true
                }
                Err(violation) => {
                    self.answering = true;
                    self.refuse(violation);
                    false
                }
            };
        }
        match self.machine.body(&mut self.input) {
            Ok(Some(Piece::Bytes(bytes))) => {
                assert!(!bytes.is_empty(), "a piece of nothing");
                if let Some(part) = &mut self.reading.part {
                    part.body.extend_from_slice(&bytes);
                }
                true
            }
            Ok(Some(Piece::End(trailers))) => {
                if let Some(part) = &mut self.reading.part {
                    part.trailers = trailers;
                }
                self.answer();
                true
            }
            Ok(None) if self.machine.has_whole_body() => {
                self.answer();
                true
            }
            Ok(None) => {
                assert!(self.machine.deadline().is_none(), "its guest is waited for");
                false
            }
            Err(violation) => {
                self.unheard = self.input.len();
                self.machine.drop_body(self.now);
                self.refuse(violation);
                false
            }
        }
    }

    /// Answers the request that has come whole, in one of several ways.
    fn answer(&mut self) {
        let heard = self.reading.part.take().expect("a request is answered");
        let mut headers = HeaderMap::new();
        let way = heard.body.len() + heard.headers.len();
        let status = match way % 16 {
            _ if heard.method == Method::CONNECT => StatusCode::BAD_REQUEST,
            14 => StatusCode::NO_CONTENT,
            15 => StatusCode::NOT_MODIFIED,
            _ => StatusCode::OK,
        };
        let text = &heard.body[..heard.body.len().min(100)];
        let size = match way % 3 {
            // It would end a connection of HTTP/1.0.
            0 if heard.version == Version::HTTP_11 => Size::Unknown,
            _ => Size::Exact(text.len() as u64),
        };
        headers.insert("x", HeaderValue::from_static("y"));
        self.machine
            .answer((status, &headers), size, 0, DATE, &mut self.out)
            .expect("it can be sent");
        if !self.machine.has_all_content() {
            for piece in text.chunks(30) {
                self.machine
                    .content(piece, &mut self.out)
                    .expect("it is what was announced");
            }
        }
        let trailers = HeaderMap::from_iter([(
            HeaderName::from_static("x-sum"),
            HeaderValue::from_static("1"),
        )]);
        self.machine
            .finish(Some(&trailers), &mut self.out, self.now)
            .expect("all was said");
        self.reading.whole.push(heard);
        self.follow();
    }

    fn refuse(&mut self, violation: Violation) {
        self.violation = Some(violation);
        self.reading.refused = true;
        let status = match violation {
            Violation::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Violation::UnknownExpectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        };
        let head = (status, &HeaderMap::new());
        self.machine
            .answer(head, Size::Exact(0), 0, DATE, &mut self.out)
            .expect("it can be sent");
        self.machine
            .finish(None, &mut self.out, self.now)
            .expect("all was said");
        self.follow();
        assert!(self.reading.closed, "who is refused is not heard again");
    }

    fn follow(&mut self) {
        match self.machine.next(&self.input, self.now) {
            Next::Again => self.answering = false,
            Next::Wait => panic!("all was read and all was said"),
            Next::Linger | Next::Close => self.reading.closed = true,
        }
    }
}

/// A server that does what it likes, by a script, and must keep the
/// machine's promises: no panic, one answer a request, nothing of a body that
/// nobody reads taken for a request.
pub(crate) fn wild(now: Instant, bytes: &[u8], script: &[u8], honest: &Reading) {
    let mut server = Server::new(now);
    let mut script = script.iter().copied().cycle();
    let mut next = move || script.next().unwrap_or(0);
    let mut rest = bytes;
    let mut heads = 0_usize;
    let mut refused = false;
    let mut answers = 0_usize;
    // A request was taken and not answered.
    let mut open = false;
    let mut over = false;
    // Past the last byte, long enough for every time limit.
    let mut patience = 24;
    while patience > 0 {
        let some = 1 + usize::from(next()) % 97;
        let (piece, behind) = rest.split_at(some.min(rest.len()));
        rest = behind;
        server.input.extend_from_slice(piece);
        if rest.is_empty() {
            patience -= 1;
        }
        match next() % 16 {
            0 => server.now += Duration::from_secs(u64::from(next() % 4)),
            1 => server.machine.drop_body(server.now),
            2 => server.machine.drop_input(&mut server.input, server.now),
            3 => server.machine.invite(&mut server.out),
            4 if rest.is_empty() => server.machine.eof(),
            5 => server.machine.leave(Duration::from_secs(1), server.now),
            6 => server.machine.postpone(server.now),
            7 => {
                let _ = server.machine.probe(&mut server.out);
            }
            8 => server.machine.close_after_answer(),
            9 | 10 => {
                let _ = server.machine.body(&mut server.input);
            }
            _ => {}
        }
        if over {
            assert!(matches!(
                server.machine.head(&mut server.input, server.now),
                Ok(None)
            ));
        } else if !open {
            match server.machine.head(&mut server.input, server.now) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    let heard = Heard::new(head.request);
                    let part = honest.part.as_ref();
                    let other = honest.whole.get(heads).or(part);
                    assert!(heads <= honest.whole.len());
                    let other = other.expect("bytes of a body were taken for a request");
                    assert_eq!((&heard.method, &heard.uri), (&other.method, &other.uri));
                    assert_eq!(heard.headers, other.headers);
                    heads += 1;
                    open = true;
                }
                Err(_) => {
                    refused = true;
                    open = true;
                }
            }
        }
        if open && next() % 3 == 0 {
            let mut headers = HeaderMap::new();
            if next() % 4 == 0 {
                headers.insert("content-length", HeaderValue::from_static("5"));
            }
            let status = StatusCode::from_u16(200 + u16::from(next() % 7)).expect("in range");
            let size = if next() % 2 == 0 {
                Size::Unknown
            } else {
                Size::Exact(5)
            };
            let waiting = u64::from(next()) << (next() % 16);
            let _ = server.machine.takes_trailers();
            server
                .machine
                .answer((status, &headers), size, waiting, DATE, &mut server.out)
                .expect("it can be sent");
            answers += 1;
            if !server.machine.has_all_content() {
                server
                    .machine
                    .content(b"hello", &mut server.out)
                    .expect("it is what was announced");
            }
            server
                .machine
                .finish(None, &mut server.out, server.now)
                .expect("all was said");
            open = false;
        }
        let answered = answers == heads + usize::from(refused) && answers > 0;
        if answered && !over {
            match server.machine.next(&server.input, server.now) {
                Next::Again | Next::Wait => {}
                Next::Linger | Next::Close => over = true,
            }
        }
        match server.machine.late(server.now) {
            Late::No => {}
            Late::Close => over = true,
            Late::Refuse => {
                assert!(!open && !over);
                refused = true;
                open = true;
            }
        }
        assert!(!over || !refused || answers == heads + 1);
        if server.machine.is_closed() {
            over = true;
        }
    }
}
