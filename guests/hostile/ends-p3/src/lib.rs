//! Every way in which a call can end, by path, in WASI 0.3. Each answer begins
//! with the number of calls that this instance has had, this one included.
//!
//! | path | what it does | outcome |
//! |---|---|---|
//! | `/` | answers | ok |
//! | `/error` | answers with an error | no-response |
//! | `/interim` | answers with 103 | trap |
//! | `/leak` | forgets its body after a first part | trap |
//! | `/short`, `/long` | writes less or more than it announced, the rest N milliseconds later | trap |
//! | `/no-body` | announces ten bytes and has no body | trap |
//! | `/trap`, `/trap-late` | traps before or after its head | trap |
//! | `/length?status=S` | announces 1234 bytes and writes none | trap, ok for HEAD, 204, 304 |
//! | `/stream?n=N` | writes N bytes, and says so | ok |
//! | `/stall` | writes a first part, then waits for ever | deadline |
//! | `/after?ms=N` | says `finished` N milliseconds after its answer is whole | ok |
//! | `/wait?ms=N` | says `waits`, and answers after N milliseconds | ok |
//! | `/say` | writes a line | ok |
//! | `/pass` | hands the body of its request on, and is gone | ok |
//! | `/leak-handle` | forgets its request, and answers | ok |

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::StreamWriter;
use wasip3::{wit_bindgen, wit_future, wit_stream};

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Ends;

impl wasip3::exports::http::handler::Guest for Ends {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let count = (CALLS.fetch_add(1, Relaxed) + 1).to_string();
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let ms = number(query, "ms");
        if path == "/pass" {
            let (verdict, consumed) = wit_future::new(|| Ok(()));
            drop(verdict);
            let (body, trailers) = Request::consume_body(request, consumed);
            return Ok(Response::new(Fields::new(), Some(body), trailers).0);
        }
        if path == "/leak-handle" {
            std::mem::forget(request);
            return Ok(answer(count));
        }
        drop(request);
        match path {
            "/error" => Err(ErrorCode::InternalError(None)),
            "/interim" => Ok(begin(103, None).0),
            "/leak" => {
                let (response, mut sink) = begin(200, None);
                wit_bindgen::spawn(async move {
                    sink.write_all(count.into_bytes()).await;
                    std::mem::forget(sink);
                });
                Ok(response)
            }
            "/short" | "/long" => {
                let (announced, first, rest) = match path {
                    "/short" => (10, "sh", "ort"),
                    _ => (5, "long,", " is it not"),
                };
                let (response, mut sink) = begin(200, Some(announced));
                wit_bindgen::spawn(async move {
                    sink.write_all(first.as_bytes().to_vec()).await;
                    if ms > 0 {
                        sleep(ms).await;
                    }
                    sink.write_all(rest.as_bytes().to_vec()).await;
                });
                Ok(response)
            }
            "/no-body" => Ok(empty(200, "10")),
            "/trap" => std::process::abort(),
            "/trap-late" => {
                let (response, mut sink) = begin(200, None);
                wit_bindgen::spawn(async move {
                    sink.write_all(count.into_bytes()).await;
                    if ms > 0 {
                        sleep(ms).await;
                    }
                    std::process::abort();
                });
                Ok(response)
            }
            "/length" => {
                let status = u16::try_from(number(query, "status")).unwrap_or(200);
                let (response, sink) = begin(status.max(200), Some(1234));
                drop(sink);
                Ok(response)
            }
            "/stream" => {
                let (response, mut sink) = begin(200, None);
                let mut left = usize::try_from(number(query, "n")).unwrap_or(0);
                wit_bindgen::spawn(async move {
                    while left > 0 {
                        let now = left.min(4096);
                        if !sink.write_all(vec![b'x'; now]).await.is_empty() {
                            return;
                        }
                        left -= now;
                    }
                    println!("streamed");
                });
                Ok(response)
            }
            "/stall" => {
                let (response, mut sink) = begin(200, None);
                wit_bindgen::spawn(async move {
                    sink.write_all(count.into_bytes()).await;
                    sleep(3_600_000).await;
                });
                Ok(response)
            }
            "/after" => {
                wit_bindgen::spawn(async move {
                    sleep(ms).await;
                    println!("finished");
                });
                Ok(answer(count))
            }
            "/wait" => {
                println!("waits");
                sleep(ms).await;
                Ok(answer(count))
            }
            "/say" => {
                println!("said");
                Ok(answer(count))
            }
            _ => Ok(answer(count)),
        }
    }
}

wasip3::http::service::export!(Ends);

fn answer(text: String) -> Response {
    let (response, mut sink) = begin(200, Some(text.len()));
    wit_bindgen::spawn(async move {
        sink.write_all(text.into_bytes()).await;
    });
    response
}

fn begin(status: u16, length: Option<usize>) -> (Response, StreamWriter<u8>) {
    let (sink, contents) = wit_stream::new();
    let length = length.map(|length| length.to_string());
    (respond(status, length.as_deref(), Some(contents)), sink)
}

fn empty(status: u16, length: &str) -> Response {
    respond(status, Some(length), None)
}

fn respond(
    status: u16,
    length: Option<&str>,
    contents: Option<wit_bindgen::StreamReader<u8>>,
) -> Response {
    let headers = Fields::new();
    if let Some(length) = length {
        headers
            .set("content-length", &[length.as_bytes().to_vec()])
            .expect("it is allowed");
    }
    // Dropped without a value, the future yields its default: no trailers.
    let (trailers, none) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, _sent) = Response::new(headers, contents, none);
    response.set_status_code(status).expect("it is a status");
    response
}

fn number(query: &str, name: &str) -> u64 {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

async fn sleep(ms: u64) {
    monotonic_clock::wait_for(ms.saturating_mul(1_000_000)).await;
}
