//! Every way in which a call can end, by path. Each answer begins with the number
//! of calls that this instance has had, this one included.
//!
//! | path | what it does | outcome |
//! |---|---|---|
//! | `/` | answers | ok |
//! | `/silent` | returns without an answer | no-response |
//! | `/drop-outparam` | drops where its answer goes, and goes on | no-response |
//! | `/error` | answers with an error | no-response |
//! | `/interim` | answers with 103 | trap |
//! | `/unfinished` | drops its body after a first part | trap |
//! | `/leak`, `/leak-whole` | forgets stream and body, after a part or all of what it announced | trap |
//! | `/short`, `/long` | writes less or more than it announced | trap |
//! | `/no-body` | announces ten bytes and takes no body | trap |
//! | `/trap`, `/trap-late` | traps before or after its head | trap |
//! | `/length?status=S` | announces 1234 bytes, writes none, and traps if it is told that it failed | trap, ok for HEAD, 204, 304 |
//! | `/stream?n=N` | writes N bytes, and says so | ok |
//! | `/stall` | writes a first part, then waits for ever | deadline |
//! | `/after?ms=N` | says `finished` N milliseconds after its answer is whole | ok |
//! | `/say` | writes a line | ok |
//! | `/leak-handle` | forgets its request, and answers | ok |

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::OutputStream;

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Ends;

impl Guest for Ends {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let count = (CALLS.fetch_add(1, Relaxed) + 1).to_string();
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/silent" => {}
            "/drop-outparam" => {
                drop(out);
                sleep(1);
            }
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(None))),
            "/interim" => {
                let (body, stream) = begin(out, 103, None);
                finish(body, stream);
            }
            "/unfinished" => {
                let (body, stream) = begin(out, 200, None);
                write(&stream, count.as_bytes());
                drop(stream);
                drop(body);
            }
            "/leak" => {
                let (body, stream) = begin(out, 200, None);
                write(&stream, count.as_bytes());
                std::mem::forget((stream, body));
            }
            "/leak-whole" => {
                let (body, stream) = begin(out, 200, Some(count.len()));
                write(&stream, count.as_bytes());
                std::mem::forget((stream, body));
            }
            "/short" => {
                let (body, stream) = begin(out, 200, Some(10));
                write(&stream, b"short");
                drop(stream);
                let _ = OutgoingBody::finish(body, None);
            }
            "/long" => {
                let (body, stream) = begin(out, 200, Some(5));
                let _ = stream.blocking_write_and_flush(b"so");
                let _ = stream.blocking_write_and_flush(b"long, is it not");
                drop(stream);
                let _ = OutgoingBody::finish(body, None);
            }
            "/no-body" => {
                let headers = Fields::new();
                headers
                    .set("content-length", &[b"10".to_vec()])
                    .expect("it is allowed");
                ResponseOutparam::set(out, Ok(OutgoingResponse::new(headers)));
            }
            "/trap" => std::process::abort(),
            "/trap-late" => {
                let (_body, stream) = begin(out, 200, None);
                write(&stream, count.as_bytes());
                if !query.is_empty() {
                    sleep(number(query, "ms"));
                }
                std::process::abort()
            }
            "/length" => {
                let status = u16::try_from(number(query, "status")).unwrap_or(200);
                let (body, stream) = begin(out, status.max(200), Some(1234));
                finish(body, stream);
            }
            "/stream" => {
                let (body, stream) = begin(out, 200, None);
                let mut left = number(query, "n");
                let chunk = [b'x'; 4096];
                while left > 0 {
                    let now = left.min(4096);
                    write(&stream, &chunk[..usize::try_from(now).unwrap_or(4096)]);
                    left -= now;
                }
                println!("streamed");
                finish(body, stream);
            }
            "/stall" => {
                let (_body, stream) = begin(out, 200, None);
                write(&stream, count.as_bytes());
                sleep(3_600_000);
            }
            "/after" => {
                answer(out, &count);
                sleep(number(query, "ms"));
                println!("finished");
            }
            "/say" => {
                println!("said");
                answer(out, &count);
            }
            "/leak-handle" => {
                std::mem::forget(request);
                answer(out, &count);
            }
            _ => answer(out, &count),
        }
    }
}

wasip2::http::proxy::export!(Ends);

fn answer(out: ResponseOutparam, text: &str) {
    let (body, stream) = begin(out, 200, Some(text.len()));
    write(&stream, text.as_bytes());
    finish(body, stream);
}

fn begin(
    out: ResponseOutparam,
    status: u16,
    length: Option<usize>,
) -> (OutgoingBody, OutputStream) {
    let headers = Fields::new();
    if let Some(length) = length {
        let length = length.to_string().into_bytes();
        headers
            .set("content-length", &[length])
            .expect("it is allowed");
    }
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("it is a status");
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("it is taken once");
    (body, stream)
}

fn write(stream: &OutputStream, bytes: &[u8]) {
    stream
        .blocking_write_and_flush(bytes)
        .expect("somebody reads");
}

fn finish(body: OutgoingBody, stream: OutputStream) {
    drop(stream);
    OutgoingBody::finish(body, None).expect("it is as was announced");
}

fn number(query: &str, name: &str) -> u64 {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

fn sleep(ms: u64) {
    monotonic_clock::subscribe_duration(ms.saturating_mul(1_000_000)).block();
}
