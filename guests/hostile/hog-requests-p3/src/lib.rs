//! The attack: `hog-requests` in WASI 0.3, with responses.
//!
//! | path | what is large |
//! |---|---|
//! | `/method` | the method of requests |
//! | `/path` | their path |
//! | `/fields` | their fields |
//! | `/responses` | the fields of responses |
//! | `/sent` | the fields of requests that are under way |
//!
//! With `?count=N` it makes N and sleeps with them, so that it never computes
//! for long.
//!
//! The outcome: `memory-budget`, 500.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::wit_future;

struct Hog;

/// A little less than one call of the host may take.
const TEXT: usize = 900 << 10;

/// A little less than any URI may be.
const URI: usize = 60_000;

/// A little less than a host lets one set of fields hold.
const FIELDS: usize = 120 << 10;

impl wasip3::exports::http::handler::Guest for Hog {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let count = query
            .strip_prefix("count=")
            .and_then(|count| count.parse().ok());
        match path {
            "/method" => {
                let method = Method::Other("X".repeat(TEXT));
                hoard(count, || {
                    let request = made(Fields::new());
                    let _ = request.set_method(&method);
                    request
                })
                .await
            }
            "/path" => {
                let path = format!("/{}", "x".repeat(URI));
                hoard(count, || {
                    let request = made(Fields::new());
                    let _ = request.set_path_with_query(Some(&path));
                    request
                })
                .await
            }
            "/fields" => hoard(count, || made(large())).await,
            "/responses" => {
                hoard(count, || {
                    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
                    drop(trailers);
                    Response::new(large(), None, no_trailers).0
                })
                .await
            }
            "/sent" => {
                hoard(count, || {
                    let mut sent = Box::pin(client::send(made(large())));
                    // The call begins with the first poll; nobody waits for its
                    // end.
                    let _ = pin!(&mut sent).poll(&mut Context::from_waker(Waker::noop()));
                    sent
                })
                .await
            }
            _ => Err(ErrorCode::HttpProtocolError),
        }
    }
}

wasip3::http::service::export!(Hog);

fn made(fields: Fields) -> Request {
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(fields, None, no_trailers, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some("silent.test"));
    let _ = request.set_path_with_query(Some("/"));
    request
}

fn large() -> Fields {
    let fields = Fields::new();
    let _ = fields.append("x-hog", &vec![b'x'; FIELDS]);
    fields
}

async fn hoard<T>(count: Option<usize>, make: impl Fn() -> T) -> Result<Response, ErrorCode> {
    let mut hoard = Vec::new();
    while count.is_none_or(|count| hoard.len() < count) {
        hoard.push(make());
        std::hint::black_box(&hoard);
    }
    monotonic_clock::wait_for(u64::MAX / 2).await;
    drop(hoard);
    Err(ErrorCode::HttpProtocolError)
}
