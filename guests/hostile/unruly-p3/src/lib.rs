//! The fault: `unruly` in WASI 0.3, whose answers and ends take another way
//! through the host.
//!
//! | request | what it does | the outcome |
//! |---|---|---|
//! | `/short` | writes 5 of the 10 bytes that it announced | cut, `trap` |
//! | `/after?ms=N` | answers, goes on for N milliseconds, and says `finished` in the log | `ok` |
//! | `/passes` | passes the request's body and trailers on as they are | `ok`; `client-gone` where the client hangs up |
//! | `/silent` | returns an error and no response | 500, `no-response` |
//! | `/calls` | says how many calls this instance has had, this one included | `ok` |
//! | `/announces` | announces 1,234 bytes to `HEAD`, or with a 304 to anything else, and writes none | `ok` |
//! | `/content?status=N` | writes content with any status | `ok`, and no content where there may be none |
//! | `/trailers` | a body and a trailer that nobody announced | `ok` |
//! | `/spaces` | a field value with white space at both ends | trimmed, or 500 |
//! | `/request` | says what it sees of its request, a line for each field | `ok` |

use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

const MILLISECOND: u64 = 1_000_000;

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Unruly;

impl wasip3::exports::http::handler::Guest for Unruly {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path {
            "/short" => whole(200, &[("content-length", "10")], "half\n", &[]),
            "/after" => {
                let pause = number(query, "ms") * MILLISECOND;
                wit_bindgen::spawn(async move {
                    monotonic_clock::wait_for(pause).await;
                    println!("finished");
                });
                empty(200, &[])
            }
            "/passes" => return Ok(pass(request)),
            "/silent" => return Err(ErrorCode::InternalError(None)),
            "/calls" => whole(200, &[], &format!("{calls}\n"), &[]),
            "/announces" => {
                let status = match request.get_method() {
                    Method::Head => 200,
                    _ => 304,
                };
                empty(status, &[("content-length", "1234")])
            }
            "/content" => {
                let status = number(query, "status");
                let status = u16::try_from(status).expect("a status is a small number");
                whole(status, &[], "content\n", &[])
            }
            "/trailers" => whole(200, &[], "a body\n", &[("x-sum", " 1 ")]),
            "/spaces" => whole(200, &[("x-space", " \tv \t")], "spaces\n", &[]),
            "/request" => whole(200, &[], &seen(&request), &[]),
            _ => whole(200, &[], "a good response\n", &[]),
        })
    }
}

wasip3::http::service::export!(Unruly);

fn fields(of: &[(&str, &str)]) -> Fields {
    let entries: Vec<_> = of
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&entries).expect("the host refuses the fields")
}

fn empty(status: u16, headers: &[(&str, &str)]) -> Response {
    // Dropped without a value, the future yields its default: no trailers.
    let (trailers, none) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, _sent) = Response::new(fields(headers), None, none);
    response
        .set_status_code(status)
        .expect("the host refuses the status");
    response
}

fn whole(
    status: u16,
    headers: &[(&str, &str)],
    content: &str,
    trailers: &[(&str, &str)],
) -> Response {
    let (mut body, contents) = wit_stream::new();
    let (end, ended) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields(headers), Some(contents), ended);
    response
        .set_status_code(status)
        .expect("the host refuses the status");
    let content = content.as_bytes().to_vec();
    let trailers = (!trailers.is_empty()).then(|| fields(trailers));
    // Nobody reads the stream before the response is returned.
    wit_bindgen::spawn(async move {
        body.write_all(content).await;
        drop(body);
        // Whether the host still wants to know is all the same.
        let _ = end.write(Ok(trailers)).await;
    });
    response
}

fn pass(request: Request) -> Response {
    // Dropped without a value, the future yields its default: all is well.
    let (verdict, consumed) = wit_future::new(|| Ok(()));
    drop(verdict);
    let (body, trailers) = Request::consume_body(request, consumed);
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    response
}

/// A line for each part of a request, and for each of its fields.
fn seen(request: &Request) -> String {
    let mut text = format!(
        "method={:?}\nscheme={:?}\nauthority={:?}\n",
        request.get_method(),
        request.get_scheme(),
        request.get_authority()
    );
    for (name, value) in request.get_headers().copy_all() {
        text += &format!("{name}: {}\n", value.escape_ascii());
    }
    text
}

/// The number under `name` in the query, or 0.
fn number(query: &str, name: &str) -> u64 {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(is, _)| *is == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}
