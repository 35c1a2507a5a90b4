//! What reading a request and answering it costs, in instructions: to be run
//! under `valgrind --tool=callgrind --toggle-collect='*::round'`, or twice with
//! different numbers of rounds, for the difference.

use std::cell::RefCell;
use std::convert::Infallible;
use std::hint::black_box;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use skep_http1::{Connection, Next, Piece, Settings, Size};

const GET: &[u8] = include_bytes!("../../corpus/http1/browser-000");

const ANSWER: &[u8] = b"Hello, world!";

fn post() -> Vec<u8> {
    let mut post = b"POST /api/items HTTP/1.1\r\nHost: www.example.org\r\n\
        User-Agent: curl/8.5.0\r\nAccept: */*\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\n\r\n"
        .to_vec();
    post.extend([b'x'; 100]);
    post
}

fn chunked() -> Vec<u8> {
    let mut post = b"POST /api/items HTTP/1.1\r\nHost: www.example.org\r\n\
        User-Agent: curl/8.5.0\r\nAccept: */*\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..4 {
        post.extend(b"19\r\n");
        post.extend([b'x'; 25]);
        post.extend(b"\r\n");
    }
    post.extend(b"0\r\n\r\n");
    post
}

/// `what` is a request (0 to 2) by the machine, or (3 to 5) by hyper.
///
/// # Panics
///
/// There is no such request, or it is not answered.
pub fn spend(what: u64, rounds: u64) {
    let request = match what % 3 {
        0 => GET.to_vec(),
        1 => post(),
        _ => chunked(),
    };
    let answered = match what / 3 {
        0 => machine(&request, rounds),
        1 => with_hyper(&request, rounds),
        _ => panic!("0 to 5"),
    };
    assert_eq!(answered, rounds);
    println!("{} bytes, {rounds} rounds", request.len());
}

fn machine(request: &[u8], rounds: u64) -> u64 {
    let now = Instant::now();
    let settings = Settings {
        max_head: 16 << 10,
        max_fields: 100,
        header_timeout: std::time::Duration::from_secs(10),
        body_timeout: std::time::Duration::from_secs(10),
        max_requests: 0,
    };
    let mut machine = Connection::new(settings, now);
    let mut input = BytesMut::new();
    let mut out = BytesMut::with_capacity(4096);
    let headers = HeaderMap::new();
    let mut answered = 0;
    for _ in 0..rounds {
        // What a socket does.
        input.reserve(8192);
        input.extend_from_slice(request);
        let head = machine
            .head(&mut input, now)
            .expect("it is good")
            .expect("it is whole");
        let mut length = 0;
        loop {
            match machine.body(&mut input).expect("it is good") {
                Some(Piece::Bytes(bytes)) => length += bytes.len(),
                Some(Piece::End(_)) | None => break,
            }
        }
        assert!(machine.has_whole_body() && length <= 100);
        black_box(head);
        let head = (StatusCode::OK, &headers);
        let size = Size::Exact(ANSWER.len() as u64);
        let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
        machine
            .answer(head, size, 0, date, &mut out)
            .expect("it can be sent");
        machine
            .content(ANSWER, &mut out)
            .expect("it is what was announced");
        machine.finish(None, &mut out, now).expect("all was said");
        answered += u64::from(machine.next(&input, now) == Next::Again);
        black_box(&out);
        out.clear();
    }
    answered
}

/// A client that sends a request whenever the one before it is answered.
struct Client<'a> {
    request: &'a [u8],
    left: &'a RefCell<u64>,
    ready: bool,
}

impl Read for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ready {
            return Poll::Pending;
        }
        if *self.left.borrow() > 0 {
            *self.left.borrow_mut() -= 1;
            self.ready = false;
            into.put_slice(self.request);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Client<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ready = true;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(black_box(bytes).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn with_hyper(request: &[u8], rounds: u64) -> u64 {
    let left = RefCell::new(rounds);
    let answered = RefCell::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        *answered.borrow_mut() += 1;
        async {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                black_box(frame.expect("it is good"));
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(ANSWER))))
        }
    });
    let client = Client {
        request,
        left: &left,
        ready: true,
    };
    let mut connection = pin!(
        Builder::new()
            .max_headers(100)
            .max_buf_size(16 << 10)
            .serve_connection(client, service)
    );
    let mut cx = Context::from_waker(Waker::noop());
    while connection.as_mut().poll(&mut cx).is_pending() {}
    answered.take()
}
