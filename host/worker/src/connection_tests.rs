//! How connections end when their worker drains. No app is loaded: every
//! response is a 404, which is an answer like any other.

use std::io;
use std::time::Instant;

use skep_core::{LogFormat, LogLevel, LogSpec, WorkerId};
use skep_sys::{Board, Register, Sheet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::budget::Column;
use crate::log::Log;
use crate::ticker;

/// Of which half is the linger.
const DRAIN: Duration = Duration::from_millis(600);

/// Long enough for anything that ends.
const PATIENCE: Duration = Duration::from_secs(20);

const GET: &str = "GET /x HTTP/1.1\r\nhost: a\r\n\r\n";

/// A desk at which nothing is served. A process has one ticker, so the tests
/// wait for each other.
pub(crate) fn desk() -> Arc<Desk> {
    let began = Instant::now();
    let ticker = loop {
        match ticker::start() {
            Ok(ticker) => break ticker,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::yield_now();
    };
    let board = Board::create(1).unwrap();
    let spec = LogSpec {
        format: LogFormat::Text,
        level: LogLevel::Error,
    };
    let log = Log::new(spec, WorkerId(1));
    let column = Column {
        sheet: Arc::new(Sheet::create().unwrap()),
        cell: 0,
        register: Arc::new(Register::create().unwrap()),
    };
    Arc::new(Desk::new(board, column, ticker, log, DRAIN))
}

/// A client with its connection to a worker.
struct Client {
    socket: UnixStream,
    read: Vec<u8>,
}

impl Client {
    fn connect(desk: &Arc<Desk>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let limits = Arc::new(ConnectionLimits::default());
        desk.cell().connection_opened();
        let socket = (Socket::Unix(theirs), Peer::Unix);
        tokio::spawn(serve(Arc::clone(desk), limits, socket, None));
        Self {
            socket: ours,
            read: Vec::new(),
        }
    }

    async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    async fn more(&mut self) -> io::Result<usize> {
        let read = self.socket.read_buf(&mut self.read);
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    }

    /// The next response, whose body ends with its request id.
    async fn response(&mut self) -> String {
        loop {
            let text = String::from_utf8(self.read.clone()).unwrap();
            if let Some(end) = text.find("\r\n\r\n") {
                let head = text[..end].to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if text.len() >= end + 4 + length {
                    self.read.drain(..end + 4 + length);
                    assert!(
                        head.starts_with("http/1.") && head.contains(" 404 "),
                        "{head}"
                    );
                    return head;
                }
            }
            assert_ne!(self.more().await.unwrap(), 0, "{text:?}");
        }
    }

    /// That the connection ends, and nothing more is said.
    async fn ends(&mut self) {
        assert_eq!(self.more().await.unwrap(), 0);
        assert!(self.read.is_empty());
    }
}

/// Lets everybody else do all they can.
async fn others() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn closes(head: &str) -> bool {
    head.contains("connection: close")
}

async fn quiet(desk: &Desk) {
    tokio::time::timeout(PATIENCE, desk.all_quiet())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_drain_loses_no_request() {
    let desk = desk();
    let mut used = Client::connect(&desk);
    used.send(GET).await;
    assert!(!closes(&used.response().await));
    let mut old = Client::connect(&desk);
    old.send("GET /x HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        .await;
    assert!(old.response().await.contains("connection: keep-alive"));
    let mut fresh = Client::connect(&desk);
    let mut half = Client::connect(&desk);
    half.send("GET /x HTTP/1.1\r\nho").await;
    let mut silent = Client::connect(&desk);
    silent.send(GET).await;
    silent.response().await;
    let mut never = Client::connect(&desk);
    let mut pipelining = Client::connect(&desk);
    let mut http2 = Client::connect(&desk);
    http2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    http2
        .socket
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    others().await;

    let began = Instant::now();
    desk.drain();
    others().await;

    // What comes within the linger is answered, and told that it is the last.
    used.send(GET).await;
    assert!(closes(&used.response().await));
    used.ends().await;
    old.send("GET /x HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        .await;
    assert!(!old.response().await.contains("keep-alive"));
    old.ends().await;
    fresh.send(GET).await;
    assert!(closes(&fresh.response().await));
    fresh.ends().await;
    // Of several that came together, the last.
    pipelining.send(&GET.repeat(3)).await;
    assert!(!closes(&pipelining.response().await));
    assert!(!closes(&pipelining.response().await));
    assert!(closes(&pipelining.response().await));
    pipelining.ends().await;
    assert!(began.elapsed() < PATIENCE);

    // Nobody is waited for who says nothing; who has begun to is.
    silent.ends().await;
    never.ends().await;
    assert!(began.elapsed() >= DRAIN / 2, "{:?}", began.elapsed());
    half.send("st: a\r\n\r\n").await;
    assert!(closes(&half.response().await));
    half.ends().await;

    // Over HTTP/2 they are told to go, and cut off if they do not listen.
    while http2.more().await.unwrap() > 0 {}
    let (mut rest, mut kinds) = (&http2.read[..], Vec::new());
    while let [a, b, c, kind, ..] = *rest {
        kinds.push(kind);
        rest = &rest[9 + usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c)..];
    }
    assert!(kinds.contains(&7), "no GOAWAY in {kinds:?}");
    quiet(&desk).await;
    assert_eq!(desk.cell().in_flight(), 0);
}
