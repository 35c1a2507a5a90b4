//! The fault: answers that the interfaces allow, or that nothing prevents, and
//! that a host gets wrong which believes in tidy guests.
//!
//! | request | what it does | the outcome |
//! |---|---|---|
//! | `/drops-outparam` | drops its response-outparam unset, and goes on for a moment | 500, `no-response` |
//! | `/silent` | returns without a response | 500, `no-response` |
//! | `/leaks` | writes a part of a body, and forgets stream and body | cut at once, `trap` |
//! | `/unfinished` | drops its body without finishing it | cut at once, `trap` |
//! | `/calls` | says how many calls this instance has had, this one included | `ok` |
//! | `/announces?write=N` | announces 1,234 bytes to `HEAD`, or with a 304 to anything else, and writes N of them (0) | `ok`, and no content |
//! | `/content?status=N` | writes content with any status | `ok`, and no content where there may be none |
//! | `/streams` | writes three pieces of a body, also where the client asked with `HEAD` | `ok` |
//! | `/writes-first?bytes=N` | writes N bytes before it hands its response over | `ok`, or at once a failure that is explained in the log |
//! | `/forwards` | the request's body, and a good end however that ends | that of the request |
//! | `/trailers` | a body and a trailer that nobody announced | `ok` |
//! | `/spaces` | a field value with white space at both ends | trimmed, or 500 |
//! | `/request` | says what it sees of its request, a line for each field | `ok` |
//! | `/asks?port=N` | sends a GET with a body of unknown length to that port of 127.0.0.1, and answers with its status | `ok` |

use std::sync::atomic::{AtomicU64, Ordering};

use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};

const MILLISECOND: u64 = 1_000_000;

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Unruly;

impl wasip2::exports::http::incoming_handler::Guest for Unruly {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/drops-outparam" => {
                drop(out);
                monotonic_clock::subscribe_duration(MILLISECOND).block();
            }
            "/silent" => {}
            "/leaks" => {
                let body = begin(out, 200, &[]);
                let stream = body.write().expect("the stream is taken once");
                // Whether the client still takes it is all the same.
                let _ = stream.blocking_write_and_flush(b"a part\n");
                std::mem::forget((stream, body));
            }
            "/unfinished" => {
                let body = begin(out, 200, &[]);
                write(&body, b"a part\n");
            }
            "/calls" => whole(out, 200, &[], format!("{calls}\n").as_bytes()),
            "/announces" => announces(&request, query, out),
            "/content" => {
                let status = number(query, "status");
                let status = u16::try_from(status).expect("a status is a small number");
                whole(out, status, &[], b"content\n");
            }
            "/streams" => {
                let body = begin(out, 200, &[]);
                let stream = body.write().expect("the stream is taken once");
                for piece in ["one\n", "two\n", "three\n"] {
                    monotonic_clock::subscribe_duration(MILLISECOND).block();
                    stream
                        .blocking_write_and_flush(piece.as_bytes())
                        .expect("the host refuses the content");
                }
                drop(stream);
                OutgoingBody::finish(body, None).expect("no length was announced");
            }
            "/forwards" => {
                let incoming = request.consume().expect("the body is taken once");
                let from = incoming.stream().expect("the stream is taken once");
                let body = begin(out, 200, &[]);
                let into = body.write().expect("the stream is taken once");
                while into.blocking_splice(&from, 4096).is_ok() {}
                drop(into);
                OutgoingBody::finish(body, None).expect("no length was announced");
            }
            "/writes-first" => writes_first(number(query, "bytes"), out),
            "/trailers" => {
                let body = begin(out, 200, &[]);
                write(&body, b"a body\n");
                let trailers = fields(&[("x-sum", " 1 ")]);
                OutgoingBody::finish(body, Some(trailers)).expect("no length was announced");
            }
            "/spaces" => whole(out, 200, &[("x-space", " \tv \t")], b"spaces\n"),
            "/request" => whole(out, 200, &[], seen(&request).as_bytes()),
            "/asks" => {
                let status = ask(number(query, "port"));
                whole(out, status, &[], b"asked\n");
            }
            _ => whole(out, 200, &[], b"a good response\n"),
        }
    }
}

wasip2::http::proxy::export!(Unruly);

fn fields(of: &[(&str, &str)]) -> Fields {
    let entries: Vec<_> = of
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&entries).expect("the host refuses the fields")
}

/// Hands a head over.
fn begin(out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> OutgoingBody {
    let response = OutgoingResponse::new(fields(headers));
    response
        .set_status_code(status)
        .expect("the host refuses the status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    body
}

/// A body of one piece.
fn write(body: &OutgoingBody, content: &[u8]) {
    let stream = body.write().expect("the stream is taken once");
    stream
        .blocking_write_and_flush(content)
        .expect("the host refuses the content");
}

fn whole(out: ResponseOutparam, status: u16, headers: &[(&str, &str)], content: &[u8]) {
    let body = begin(out, status, headers);
    write(&body, content);
    OutgoingBody::finish(body, None).expect("no length was announced");
}

/// What `wstd` does: it unwraps the end, whatever was asked for.
fn announces(request: &IncomingRequest, query: &str, out: ResponseOutparam) {
    let status = match request.method() {
        Method::Head => 200,
        _ => 304,
    };
    let body = begin(out, status, &[("content-length", "1234")]);
    let bytes = number(query, "write");
    if bytes > 0 {
        let bytes = usize::try_from(bytes).expect("it is a small number");
        write(&body, &vec![b'x'; bytes]);
    }
    OutgoingBody::finish(body, None).expect("there may be no content");
}

/// What programs do that make a response whole before they send it.
fn writes_first(bytes: u64, out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    let stream = body.write().expect("the stream is taken once");
    let mut left = bytes;
    while left > 0 {
        stream.subscribe().block();
        let permit = stream.check_write().expect("the host refuses to write");
        let piece = usize::try_from(permit.min(left)).expect("a permit fits into memory");
        stream
            .write(&vec![b'x'; piece])
            .expect("it is within its permit");
        left -= piece as u64;
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("no length was announced");
    ResponseOutparam::set(out, Ok(response));
}

/// A line for each part of a request, and for each of its fields.
fn seen(request: &IncomingRequest) -> String {
    let mut text = format!(
        "method={:?}\nscheme={:?}\nauthority={:?}\n",
        request.method(),
        request.scheme(),
        request.authority()
    );
    for (name, value) in request.headers().entries() {
        text += &format!("{name}: {}\n", value.escape_ascii());
    }
    text
}

fn ask(port: u64) -> u16 {
    let request = OutgoingRequest::new(Fields::new());
    let authority = format!("127.0.0.1:{port}");
    request
        .set_scheme(Some(&Scheme::Http))
        .expect("a scheme of its own");
    request
        .set_authority(Some(&authority))
        .expect("an authority like others");
    request
        .set_path_with_query(Some("/_search"))
        .expect("a path like others");
    let body = request.body().expect("the body is taken once");
    let answer = outgoing_handler::handle(request, None).expect("it was granted");
    write(&body, b"query");
    OutgoingBody::finish(body, None).expect("no length was announced");
    answer.subscribe().block();
    let answer = answer.get().expect("it was waited for");
    let answer = answer.expect("it is taken once");
    answer.expect("the server answers").status()
}

/// The number under `name` in the query, or 0.
fn number(query: &str, name: &str) -> u64 {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(is, _)| *is == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}
