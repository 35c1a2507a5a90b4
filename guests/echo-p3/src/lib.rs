//! Reflects bodies in WASI 0.3, where one instance may answer several
//! requests at once.
//!
//! | request | answer |
//! |---|---|
//! | `/counter` | how many requests this instance has begun, this one included |
//! | `/in-flight?ms=N` | how many requests this instance was answering, after N milliseconds |
//! | `/slow?ms=N` | answers after N milliseconds |
//! | anything else | the request body and its trailers, unchanged, as they arrive |

use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_bindgen, wit_future, wit_stream};

/// How much of a body is held at a time.
const CHUNK: usize = 16 * 1024;

static BEGUN: AtomicU64 = AtomicU64::new(0);
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

struct Echo;

impl wasip3::exports::http::handler::Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let begun = BEGUN.fetch_add(1, Ordering::Relaxed) + 1;
        let _guard = InFlight::enter();
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/counter" => Ok(text(format!("{begun}\n"))),
            "/in-flight" => {
                pause(query).await;
                Ok(text(format!("{}\n", IN_FLIGHT.load(Ordering::Relaxed))))
            }
            "/slow" => {
                pause(query).await;
                Ok(text("waited\n".to_owned()))
            }
            _ => reflect(request),
        }
    }
}

wasip3::http::service::export!(Echo);

/// Counts its request as in flight for as long as it lives.
struct InFlight;

impl InFlight {
    fn enter() -> Self {
        IN_FLIGHT.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::Relaxed);
    }
}

fn reflect(request: Request) -> Result<Response, ErrorCode> {
    let headers = Fields::new();
    let content_type = request.get_headers().get("content-type");
    headers
        .set("content-type", &content_type)
        .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;

    // Dropped without a value, the future yields its default: all is well.
    let (verdict, consumed) = wit_future::new(|| Ok(()));
    drop(verdict);
    let (mut source, trailers) = Request::consume_body(request, consumed);
    let (mut sink, contents) = wit_stream::new();
    let (response, _sent) = Response::new(headers, Some(contents), trailers);

    wit_bindgen::spawn(async move {
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            let (result, chunk) = source.read(buffer).await;
            // What the client no longer takes comes back: it has gone.
            let rest = sink.write_all(chunk).await;
            if !rest.is_empty() || !matches!(result, StreamResult::Complete(_)) {
                break;
            }
            buffer = rest;
            buffer.reserve(CHUNK);
        }
    });
    Ok(response)
}

fn text(body: String) -> Response {
    let headers = Fields::from_list(&[
        ("content-type".to_owned(), b"text/plain".to_vec()),
        (
            "content-length".to_owned(),
            body.len().to_string().into_bytes(),
        ),
    ])
    .expect("both fields are valid and allowed");
    let (mut sink, contents) = wit_stream::new();
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, _sent) = Response::new(headers, Some(contents), no_trailers);
    wit_bindgen::spawn(async move {
        sink.write_all(body.into_bytes()).await;
    });
    response
}

/// Waits for the milliseconds under `ms` in `query`.
async fn pause(query: &str) {
    let milliseconds: u64 = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("ms="))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    monotonic_clock::wait_for(milliseconds.saturating_mul(1_000_000)).await;
}
