//! What a connection does with the bytes of clients, polite and other.
#![expect(clippy::unwrap_used, reason = "this is a test as a whole")]

use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use skep_http1::{
    BadAnswer, Connection, Late, Length, Next, Peek, Piece, Preface, Settings, Size, Violation,
    peek_host, preface,
};

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn settings() -> Settings {
    Settings {
        max_head: 4096,
        max_fields: 40,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(5),
        max_requests: 0,
    }
}

/// A server that answers every request with what it got.
struct Server {
    machine: Connection,
    now: Instant,
    input: BytesMut,
    out: BytesMut,
    /// Method, target, body and trailers of every request that was whole.
    seen: Vec<String>,
    refused: Option<Violation>,
    /// A request is answered.
    open: bool,
    closed: bool,
}

impl Server {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            machine: Connection::new(settings, now),
            now,
            input: BytesMut::new(),
            out: BytesMut::new(),
            seen: Vec::new(),
            refused: None,
            open: false,
            closed: false,
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while !self.closed && self.step() {}
    }

    fn step(&mut self) -> bool {
        if !self.open && self.take_head() {
            return true;
        }
        if self.refused.is_some() && self.open {
            self.say(400, "", false);
            return self.follow();
        }
        if !self.open {
            self.machine.drop_input(&mut self.input, self.now);
            return false;
        }
        match self.machine.body(&mut self.input) {
            Ok(Some(Piece::Bytes(bytes))) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                self.seen.last_mut().unwrap().push_str(&text);
                true
            }
            Ok(Some(Piece::End(trailers))) => {
                if let Some(trailers) = trailers {
                    self.seen
                        .last_mut()
                        .unwrap()
                        .push_str(&format!(" {}", trailers.len()));
                }
                self.answer()
            }
            Ok(None) if self.machine.has_whole_body() => self.answer(),
            Ok(None) => false,
            Err(violation) => {
                self.refused = Some(violation);
                self.seen.pop();
                self.machine.drop_body(self.now);
                self.say(400, "", false);
                self.follow()
            }
        }
    }

    fn take_head(&mut self) -> bool {
        match self.machine.head(&mut self.input, self.now) {
            Ok(None) => return false,
            Ok(Some(head)) => {
                let request = head.request;
                let text = format!("{} {} ", request.method(), request.uri());
                self.seen.push(text);
            }
            Err(violation) => self.refused = Some(violation),
        }
        self.open = true;
        true
    }

    fn answer(&mut self) -> bool {
        let text = self.seen.last().unwrap().clone();
        self.say(200, &text, true);
        self.follow()
    }

    fn say(&mut self, status: u16, text: &str, exact: bool) {
        let status = StatusCode::from_u16(status).unwrap();
        let size = if exact {
            Size::Exact(text.len() as u64)
        } else {
            Size::Unknown
        };
        let waiting = self.input.len() as u64;
        let head = (status, &HeaderMap::new());
        self.machine
            .answer(head, size, waiting, DATE, &mut self.out)
            .unwrap();
        if !self.machine.has_all_content() {
            self.machine
                .content(text.as_bytes(), &mut self.out)
                .unwrap();
        }
        self.machine.finish(None, &mut self.out, self.now).unwrap();
    }

    fn follow(&mut self) -> bool {
        match self.machine.next(&self.input, self.now) {
            Next::Again => {
                self.open = false;
                true
            }
            Next::Wait | Next::Linger => {
                self.open &= !self.machine.is_lingering();
                self.closed |= self.machine.is_lingering();
                false
            }
            Next::Close => {
                self.closed = true;
                false
            }
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

const GOOD: &[(&str, &str)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / "),
    ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET / "),
    ("\r\nGET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b "),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST / hello",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST / ",
    ),
    (
        "POST / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\n\r\n",
        "POST / hello",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:chunked\r\n\r\nA\r\n0123456789\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n",
        "POST / 0123456789x 1",
    ),
    (
        "GET http://a/x HTTP/1.1\r\nHost: a\r\nX:  y \t\r\nE:\r\n\r\n",
        "GET http://a/x ",
    ),
];

const BAD: &[(&str, Violation)] = &[
    ("GET / HTTP/1.1\nHost: a\n\n", Violation::BareLineFeed),
    (
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        Violation::BareLineFeed,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n",
        Violation::BareLineFeed,
    ),
    (
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Violation::BareLineFeed,
    ),
    // The request that another reader sees whole.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nX: y\n\r\n0\r\n\r\n",
        Violation::BareLineFeed,
    ),
    (
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Violation::Malformed,
    ),
    ("GET / HTTP/1.1\r\n\r\n", Violation::NoHost),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Violation::Malformed),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Violation::Malformed),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        Violation::RepeatedHost,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n x\r\n\r\n",
        Violation::Malformed,
    ),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Violation::Malformed),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::Malformed),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        Violation::Malformed,
    ),
    ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", Violation::Malformed),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        Violation::Malformed,
    ),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Fragment),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Malformed),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Malformed),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n",
        Violation::UnknownExpectation,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::TwoFramings,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        Violation::TwoFramings,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        Violation::RepeatedLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        Violation::BadLength,
    ),
    // Others count with a sign.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Violation::BadEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::BadEncoding,
    ),
    (
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::EncodingTooEarly,
    ),
];

const BAD_CHUNKS: &[(&str, Violation)] = &[
    ("xyz\r\n", Violation::BadChunk),
    ("\r\n", Violation::BadChunk),
    ("5 \r\nhello\r\n", Violation::BadChunk),
    (" 5\r\nhello\r\n", Violation::BadChunk),
    ("0x5\r\nhello\r\n", Violation::BadChunk),
    ("+5\r\nhello\r\n", Violation::BadChunk),
    ("5\nhello\r\n", Violation::BareLineFeed),
    ("5;a\nb\r\nhello\r\n", Violation::BareLineFeed),
    ("5;\u{1}\r\nhello\r\n", Violation::BadChunk),
    ("5;\u{7f}\r\nhello\r\n", Violation::BadChunk),
    ("5;a\rb\r\nhello\r\n", Violation::BadChunk),
    ("5\r\nhello\n", Violation::BareLineFeed),
    ("5\r\nhelloo\r\n", Violation::BadChunk),
    ("ffffffffffffffff\r\n", Violation::BadChunk),
    ("0\r\nX: y\n\r\n", Violation::BareLineFeed),
    ("0\r\nX y\r\n\r\n", Violation::Malformed),
    ("0\r\nContent-Length: 5\r\n\r\n", Violation::BadTrailer),
    ("0\r\nX-Forwarded-For: me\r\n\r\n", Violation::BadTrailer),
];

#[test]
fn good_requests_are_read_in_pieces_cut_anywhere() {
    for (first, seen) in GOOD {
        for (second, next) in GOOD {
            let both = format!("{first}{second}");
            for cut in 0..both.len() {
                let mut server = Server::new();
                server.read(&both.as_bytes()[..cut]);
                server.read(&both.as_bytes()[cut..]);
                assert_eq!(server.seen, [*seen, *next], "{both:?} at {cut}");
                assert_eq!(server.refused, None);
                assert!(!server.closed && !server.machine.is_busy());
            }
        }
    }
}

#[test]
fn what_has_two_readings_is_refused_in_pieces_cut_anywhere() {
    let chunked = |text: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{text}")
    };
    let all = BAD
        .iter()
        .map(|(text, violation)| ((*text).to_owned(), *violation));
    let chunks = BAD_CHUNKS
        .iter()
        .map(|(text, violation)| (chunked(text), *violation));
    for (bad, violation) in all.chain(chunks) {
        let text = format!("{bad}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        for cut in 0..bad.len() {
            let mut server = Server::new();
            server.read(&text.as_bytes()[..cut]);
            server.read(&text.as_bytes()[cut..]);
            assert_eq!(server.refused, Some(violation), "{bad:?} at {cut}");
            assert!(
                server.seen.is_empty(),
                "{bad:?} at {cut}: {:?}",
                server.seen
            );
            assert!(server.closed, "{bad:?} at {cut}");
            assert_eq!(server.said().matches("HTTP/1.1 ").count(), 1);
            assert!(server.said().contains("connection: close\r\n"));
        }
    }
}

#[test]
fn heads_and_trailers_are_bounded() {
    let field = |n: usize| format!("x: {}\r\n", "y".repeat(n));
    for (fields, fits) in [
        (field(4000), true),
        (field(4096), false),
        (field(1).repeat(38), true),
        (field(1).repeat(41), false),
    ] {
        let mut server = Server::new();
        server.read(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        assert_eq!(server.refused.is_none(), fits);
        if !fits {
            assert_eq!(server.refused, Some(Violation::HeadTooLarge));
        }
        let mut server = Server::new();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
        server.read(format!("{head}{fields}\r\n").as_bytes());
        assert_eq!(server.refused.is_none(), fits);
    }
    // Without an end it need not be awaited.
    let mut server = Server::new();
    server.read("GET / HTTP/1.1\r\nHost: a\r\nx: ".as_bytes());
    server.read(&[b'y'; 5000]);
    assert_eq!(server.refused, Some(Violation::HeadTooLarge));
    let mut server = Server::new();
    server.read(b"\x16\x03\x01\x02\x00\x01");
    assert_eq!(server.refused, Some(Violation::Malformed));
}

fn begin(request: &str) -> Server {
    let mut server = Server::new();
    server.input.extend_from_slice(request.as_bytes());
    assert!(server.take_head());
    server
}

#[test]
fn an_early_answer_is_announced_or_the_rest_is_read() {
    // Little is left: it is read on, and the next request answered.
    let mut server = begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    server.machine.drop_body(server.now);
    server.say(413, "no", true);
    assert!(!server.said().contains("connection: close"));
    assert_eq!(server.machine.next(&server.input, server.now), Next::Wait);
    server
        .input
        .extend_from_slice(b"defghijGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    server.machine.drop_input(&mut server.input, server.now);
    assert_eq!(server.machine.next(&server.input, server.now), Next::Again);
    assert!(server.take_head());
    assert_eq!(server.seen.last().unwrap(), "GET /next ");

    // Too much, or nobody knows how much.
    for framing in ["Content-Length: 300000", "Transfer-Encoding: chunked"] {
        let mut server = begin(&format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        server.machine.drop_body(server.now);
        server.say(413, "no", true);
        assert!(server.said().contains("connection: close"), "{framing}");
        server.machine.drop_input(&mut server.input, server.now);
        assert_eq!(server.machine.next(&server.input, server.now), Next::Linger);
        // As long as the client sends, and not for ever.
        for _ in 0..6 {
            server.now += Duration::from_millis(4900);
            server.input.extend_from_slice(&[b'x'; 1000]);
            server.machine.drop_input(&mut server.input, server.now);
            assert!(server.input.is_empty());
            assert_eq!(server.machine.late(server.now), Late::No);
        }
        server.now += Duration::from_secs(1);
        assert_eq!(server.machine.late(server.now), Late::Close);
    }
}

#[test]
fn a_client_that_expects_it_is_invited_once_and_before_the_answer() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut server = begin(request);
    assert!(server.machine.owes_continue());
    server.machine.invite(&mut server.out);
    server.machine.invite(&mut server.out);
    assert_eq!(server.said(), "HTTP/1.1 100 Continue\r\n\r\n");
    server.read(b"hello");
    assert_eq!(server.seen, ["POST / hello"]);

    // It need not be, if it did not wait.
    let mut server = begin(&format!("{request}hel"));
    assert!(matches!(
        server.machine.body(&mut server.input),
        Ok(Some(Piece::Bytes(_)))
    ));
    assert!(!server.machine.owes_continue());

    // Answered without: whether the next byte is of the body, nobody knows.
    let mut server = begin(request);
    server.machine.drop_body(server.now);
    server.say(200, "no", true);
    assert!(server.said().contains("connection: close"));
    assert_eq!(server.machine.next(&server.input, server.now), Next::Linger);

    // Nobody else waits for it.
    let old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let none = "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n";
    for request in [old, none] {
        assert!(!begin(request).machine.owes_continue());
    }
}

fn answered(
    request: &str,
    status: u16,
    fields: &[(&'static str, &'static str)],
    size: Size,
) -> Result<(String, Server), BadAnswer> {
    let mut server = begin(request);
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let status = StatusCode::from_u16(status).unwrap();
    server
        .machine
        .answer((status, &headers), size, 0, DATE, &mut server.out)?;
    let said = server.said();
    server.out.clear();
    Ok((said, server))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";

#[test]
fn answers_are_framed_by_what_is_known_of_them() {
    let has = |said: &str, fields: &[&str]| {
        for field in ["content-length", "transfer-encoding", "connection"] {
            let line = said.lines().find(|line| line.starts_with(field));
            let wanted = fields
                .iter()
                .find(|wanted| wanted.starts_with(field))
                .copied();
            assert_eq!(line, wanted, "{said}");
        }
    };
    let exact = answered(GET, 200, &[("x", "y")], Size::Exact(5)).unwrap().0;
    has(&exact, &["content-length: 5"]);
    assert!(exact.starts_with("HTTP/1.1 200 OK\r\nx: y\r\n") && exact.ends_with("GMT\r\n\r\n"));
    has(
        &answered(GET, 200, &[], Size::Unknown).unwrap().0,
        &["transfer-encoding: chunked"],
    );
    has(
        &answered(GET, 200, &[("content-length", "7")], Size::Unknown)
            .unwrap()
            .0,
        &["content-length: 7"],
    );
    // What is between us and the client is ours to say.
    let theirs = [
        ("connection", "keep-alive"),
        ("transfer-encoding", "gzip"),
        ("upgrade", "x"),
    ];
    has(
        &answered(GET, 200, &theirs, Size::Exact(0)).unwrap().0,
        &["content-length: 0"],
    );
    // Without content a length may be announced.
    for (request, status) in [(HEAD, 200), (GET, 304)] {
        has(
            &answered(request, status, &[("content-length", "7")], Size::Unknown)
                .unwrap()
                .0,
            &["content-length: 7"],
        );
        has(
            &answered(request, status, &[], Size::Unknown).unwrap().0,
            &[],
        );
        assert!(
            answered(request, status, &[], Size::Exact(9))
                .unwrap()
                .1
                .machine
                .has_all_content()
        );
    }
    has(
        &answered(GET, 204, &[("content-length", "7")], Size::Exact(0))
            .unwrap()
            .0,
        &[],
    );
    has(
        &answered(GET, 205, &[], Size::Unknown).unwrap().0,
        &["content-length: 0"],
    );
    // HTTP/1.0 has no chunks.
    has(
        &answered(OLD, 200, &[], Size::Exact(5)).unwrap().0,
        &["content-length: 5", "connection: keep-alive"],
    );
    has(
        &answered(OLD, 200, &[], Size::Unknown).unwrap().0,
        &["connection: close"],
    );
    has(
        &answered("GET / HTTP/1.0\r\n\r\n", 200, &[], Size::Exact(1))
            .unwrap()
            .0,
        &["content-length: 1", "connection: close"],
    );

    let bad = |status, fields: &[_], size| answered(GET, status, fields, size).err();
    assert_eq!(bad(101, &[], Size::Unknown), Some(BadAnswer::Interim));
    let twice = [("content-length", "1"), ("content-length", "1")];
    assert_eq!(bad(200, &twice, Size::Unknown), Some(BadAnswer::BadLength));
    assert_eq!(
        bad(200, &[("content-length", "x")], Size::Unknown),
        Some(BadAnswer::BadLength)
    );
    assert_eq!(
        bad(200, &[("content-length", "1")], Size::Exact(2)),
        Some(BadAnswer::OtherLength)
    );
}

#[test]
fn content_is_as_long_as_announced_and_trailers_go_to_who_takes_them() {
    let (_, mut server) = answered(GET, 200, &[("content-length", "3")], Size::Unknown).unwrap();
    server.machine.content(b"ab", &mut server.out).unwrap();
    assert_eq!(
        server.machine.finish(None, &mut server.out, server.now),
        Err(BadAnswer::OtherLength)
    );
    assert_eq!(
        server.machine.content(b"cd", &mut server.out),
        Err(BadAnswer::OtherLength)
    );

    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    // It was said before, and whoever merges them would believe this one.
    trailers.insert("content-length", HeaderValue::from_static("1"));
    for (te, takes) in [("", false), ("TE: gzip, Trailers\r\n", true)] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\n");
        let (_, mut server) = answered(&request, 200, &[], Size::Unknown).unwrap();
        assert_eq!(server.machine.takes_trailers(), takes);
        server.machine.content(b"", &mut server.out).unwrap();
        server
            .machine
            .content(&[b'x'; 26], &mut server.out)
            .unwrap();
        server
            .machine
            .finish(Some(&trailers), &mut server.out, server.now)
            .unwrap();
        let sum = if takes { "x-sum: 1\r\n" } else { "" };
        assert_eq!(
            server.said(),
            format!("1a\r\n{}\r\n0\r\n{sum}\r\n", "x".repeat(26))
        );
    }
}

#[test]
fn silence_ends_a_connection_and_slowness_a_head() {
    let mut server = Server::new();
    let began = server.now;
    server.now += Duration::from_secs(9);
    assert_eq!(server.machine.late(server.now), Late::No);
    server.read(b"GET / HT");
    // From its first byte on.
    server.now += Duration::from_secs(9);
    server.read(b"TP/1.1\r\n");
    assert_eq!(
        server.machine.deadline(),
        Some(began + Duration::from_secs(19))
    );
    server.now += Duration::from_secs(1);
    assert_eq!(server.machine.late(server.now), Late::Refuse);
    server.say(408, "", true);
    assert_eq!(server.machine.next(&server.input, server.now), Next::Linger);
    server.machine.eof();
    assert!(server.machine.is_closed());

    let mut server = Server::new();
    server.read(GET.as_bytes());
    let idle = server.now + Duration::from_secs(10);
    assert_eq!(server.machine.deadline(), Some(idle));
    assert_eq!(server.machine.late(idle), Late::Close);
}

#[test]
fn who_is_to_leave_leaves_with_an_answer_and_not_before_what_has_come() {
    let mut server = begin(GET);
    server.machine.leave(Duration::from_secs(1), server.now);
    server.input.extend_from_slice(GET.as_bytes());
    server.say(200, "a", true);
    assert!(!server.said().contains("connection: close"));
    assert_eq!(server.machine.next(&server.input, server.now), Next::Again);
    assert!(server.take_head());
    server.say(200, "b", true);
    assert!(server.said().contains("connection: close"));
    assert_eq!(server.machine.next(&server.input, server.now), Next::Close);

    let mut server = Server::new();
    server.now += Duration::from_secs(5);
    server.machine.leave(Duration::from_secs(1), server.now);
    assert_eq!(server.machine.late(server.now), Late::No);
    server.now += Duration::from_secs(1);
    assert_eq!(server.machine.late(server.now), Late::Close);

    let mut server = Server::with(Settings {
        max_requests: 2,
        ..settings()
    });
    server.read(GET.repeat(3).as_bytes());
    assert_eq!(server.seen.len(), 2);
    assert_eq!(server.said().matches("connection: close").count(), 1);
    assert!(server.closed);
}

#[test]
fn an_empty_line_is_no_request_that_has_begun() {
    let mut server = Server::new();
    server.read(GET.as_bytes());
    let idle = server.machine.idle_since();
    for piece in ["\r", "\n"] {
        server.now += Duration::from_secs(1);
        server.read(piece.as_bytes());
        assert!(!server.machine.is_busy());
        assert_eq!(server.machine.idle_since(), idle);
    }
    // Not 408, which the next request's answer would be taken for.
    server.now += Duration::from_secs(8);
    assert_eq!(server.machine.late(server.now), Late::Close);

    // One it is.
    let mut server = Server::new();
    for piece in ["\r\n", "\r\n", GET] {
        server.read(piece.as_bytes());
    }
    assert_eq!(server.refused, Some(Violation::Malformed));
}

#[test]
fn limits_are_the_same_in_pieces_cut_anywhere() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line = |length: usize| format!("{chunked}1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(length));
    let head = |first: &str, length: usize| {
        format!(
            "GET / {first}\r\nHost: a\r\nX: {}\r\n\r\n",
            "y".repeat(length)
        )
    };
    for (text, violation) in [
        (line(4092), None),
        (line(4093), Some(Violation::BadChunk)),
        (head("HTTP/1.1", 4064), None),
        (head("HTTP/1.1", 4065), Some(Violation::HeadTooLarge)),
        (head("HTTP/9.1", 4065), Some(Violation::Malformed)),
        // What is behind the limit is not looked at: 4,096 bytes come before.
        (
            head("HTTP/1.1", 4067).replace("\r\n\r\n", "\n\n"),
            Some(Violation::BareLineFeed),
        ),
        (
            head("HTTP/1.1", 4068).replace("\r\n\r\n", "\n\n"),
            Some(Violation::HeadTooLarge),
        ),
    ] {
        for size in [1, 2, 4095, 4096, 4097, text.len()] {
            let mut server = Server::new();
            for piece in text.as_bytes().chunks(size) {
                server.read(piece);
            }
            assert_eq!(
                server.refused,
                violation,
                "{} in pieces of {size}",
                text.len()
            );
        }
    }
}

#[test]
fn a_half_closed_client_is_not_waited_for() {
    // Its body never comes, whoever wants it.
    for wanted in [true, false] {
        let mut server = begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
        assert!(server.machine.body(&mut server.input).unwrap().is_some());
        server.machine.eof();
        if wanted {
            assert_eq!(server.machine.body(&mut server.input), Ok(None));
        } else {
            server.machine.drop_body(server.now);
            server.machine.drop_input(&mut server.input, server.now);
        }
        server.say(400, "no", true);
        assert_eq!(server.machine.next(&server.input, server.now), Next::Close);
    }
    // What came before is answered, behind a body that nobody wanted, too.
    let mut server = begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    server.machine.drop_body(server.now);
    server.say(413, "no", true);
    server.input.extend_from_slice(b"abc");
    server.input.extend_from_slice(GET.as_bytes());
    server.machine.drop_input(&mut server.input, server.now);
    server.machine.eof();
    assert_eq!(server.machine.next(&server.input, server.now), Next::Again);
    assert!(server.take_head());
}

#[test]
fn who_was_told_that_the_connection_goes_on_finds_it_so() {
    for (length, waiting) in [(256 << 10, 0), (300_000, 50_000)] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let mut server = begin(&head);
        server.machine.drop_body(server.now);
        let no = (StatusCode::PAYLOAD_TOO_LARGE, &HeaderMap::new());
        let none = Size::Exact(0);
        server
            .machine
            .answer(no, none, waiting, DATE, &mut server.out)
            .unwrap();
        server
            .machine
            .finish(None, &mut server.out, server.now)
            .unwrap();
        assert!(!server.said().contains("connection: close"));
        let mut left: usize = length;
        while left > 0 {
            let some = left.min(10_000);
            server.input.extend_from_slice(&vec![b'x'; some]);
            server.machine.drop_input(&mut server.input, server.now);
            left -= some;
        }
        assert_eq!(server.machine.next(&server.input, server.now), Next::Again);
    }
    // But not for as long as one likes.
    let mut server = begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    server.machine.drop_body(server.now);
    server.say(413, "no", true);
    for _ in 0..7 {
        server.now += Duration::from_secs(4);
        server.input.extend_from_slice(b"x");
        server.machine.drop_input(&mut server.input, server.now);
        assert_eq!(server.machine.late(server.now), Late::No);
    }
    server.now += Duration::from_secs(2);
    assert_eq!(server.machine.late(server.now), Late::Close);
}

#[test]
fn lists_that_are_not_text_close_a_connection() {
    for (request, closed) in [
        (
            &b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"[..],
            false,
        ),
        (
            b"GET / HTTP/1.0\r\nConnection: \xff, keep-alive\r\n\r\n",
            true,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: \xff, close\r\n\r\n",
            true,
        ),
    ] {
        let mut server = Server::new();
        server.read(request);
        assert_eq!(server.closed, closed);
    }
}

#[test]
fn a_peek_and_a_connection_agree() {
    let settings = settings();
    for (good, _) in GOOD {
        let host = (!good.contains("1.0")).then(|| "a".to_owned());
        assert_eq!(
            peek_host(good.as_bytes(), &settings),
            Peek::Host(host),
            "{good:?}"
        );
        let head = good.find("\r\n\r\n").unwrap();
        for cut in 0..head {
            let peek = peek_host(&good.as_bytes()[..cut], &settings);
            assert_eq!(peek, Peek::More, "{:?}", &good[..cut]);
        }
    }
    for (bad, violation) in BAD {
        let wanted = match violation {
            Violation::HeadTooLarge => Peek::TooLarge,
            _ => Peek::Bad,
        };
        assert_eq!(peek_host(bad.as_bytes(), &settings), wanted, "{bad:?}");
    }
    assert_eq!(preface(b""), Preface::Part);
    assert_eq!(preface(b"PRI * HT"), Preface::Part);
    assert_eq!(
        preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxyz"),
        Preface::Http2
    );
    assert_eq!(preface(b"PUT"), Preface::Other);
}

#[test]
fn length_is_what_a_head_says() {
    let mut server = Server::new();
    server
        .input
        .extend_from_slice(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let head = server
        .machine
        .head(&mut server.input, server.now)
        .unwrap()
        .unwrap();
    assert_eq!(head.length, Length::Exact(5));
    assert!(head.raw.starts_with(b"POST") && head.raw.ends_with(b"\r\n\r\n"));
}

fn pieces(text: &[u8], cuts: &[usize]) -> Server {
    let mut server = Server::new();
    let mut at = 0;
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.sort_unstable();
    for cut in cuts.into_iter().chain([text.len()]) {
        server.read(&text[at..cut.max(at)]);
        at = cut.max(at);
    }
    server
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Mutations of requests, cut anywhere, mean what they mean in one piece.
    #[test]
    fn cuts_make_no_difference(
        which in prop::collection::vec(0..GOOD.len() + BAD.len(), 1..4),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, any::<bool>()), 0..4),
        cuts in prop::collection::vec(any::<usize>(), 0..5),
    ) {
        let texts = GOOD.iter().map(|(text, _)| *text).chain(BAD.iter().map(|(text, _)| *text));
        let texts: Vec<_> = texts.collect();
        let mut text: Vec<u8> = which.iter().flat_map(|index| texts[*index].bytes()).collect();
        for (at, what, insert) in edits {
            let at = at.index(text.len());
            let bits: [&[u8]; 12] = [b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\r\n", b"\n\r\n", b"0", b",", b";", b"\x7f"];
            if insert {
                text.splice(at..at, bits[what].iter().copied());
            } else {
                text.remove(at);
                if text.is_empty() {
                    return Ok(());
                }
            }
        }
        let whole = pieces(&text, &[]);
        let cut = pieces(&text, &cuts);
        prop_assert_eq!(&whole.seen, &cut.seen);
        prop_assert_eq!(whole.refused.is_some(), cut.refused.is_some(), "{:?} {:?} {:?}", String::from_utf8_lossy(&text), whole.refused, cut.refused);
        prop_assert_eq!(whole.closed, cut.closed, "{:?}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..3)) {
        pieces(&bytes, &cuts);
        let _ = peek_host(&bytes, &settings());
    }
}
