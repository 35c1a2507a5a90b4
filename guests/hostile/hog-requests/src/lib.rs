//! The attack: thousands of outbound requests, each as large as the host allows,
//! in places that are not header fields.
//!
//! | path | what is large |
//! |---|---|
//! | `/method` | the method |
//! | `/path` | the path |
//! | `/authority` | the authority |
//! | `/fields` | the fields, of requests that are not sent |
//! | `/sent` | the fields, of requests that are under way |
//!
//! With `?count=N` it makes N and sleeps with them, so that it never computes
//! for long.
//!
//! The outcome: `memory-budget`, 500.

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::wasip2::http::outgoing_handler;
use skep_guest::wasip2::http::types::{Fields, Method, OutgoingRequest, Scheme};
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// A little less than one call of the host may take.
const TEXT: usize = 900 << 10;

/// A little less than any URI may be.
const URI: usize = 60_000;

/// A little less than a host lets one set of fields hold.
const FIELDS: usize = 120 << 10;

fn handle(request: Request) -> Response {
    let count = request.query_value("count").and_then(|it| it.parse().ok());
    match request.path() {
        "/method" => {
            let method = Method::Other("X".repeat(TEXT));
            hoard(count, || with(|request| request.set_method(&method)))
        }
        "/path" => {
            let path = format!("/{}", "x".repeat(URI));
            hoard(count, || {
                with(|request| request.set_path_with_query(Some(&path)))
            })
        }
        "/authority" => {
            let authority = "x".repeat(URI);
            hoard(count, || {
                with(|request| request.set_authority(Some(&authority)))
            })
        }
        "/fields" => hoard(count, || OutgoingRequest::new(large())),
        "/sent" => hoard(count, || {
            let request = OutgoingRequest::new(large());
            let _ = request.set_scheme(Some(&Scheme::Http));
            let _ = request.set_authority(Some("silent.test"));
            let _ = request.set_path_with_query(Some("/"));
            outgoing_handler::handle(request, None)
        }),
        _ => Response::new(404),
    }
}

fn with(set: impl Fn(&OutgoingRequest) -> Result<(), ()>) -> OutgoingRequest {
    let request = OutgoingRequest::new(Fields::new());
    // A host that takes no more is not the one to attack.
    let _ = set(&request);
    request
}

fn large() -> Fields {
    let fields = Fields::new();
    let _ = fields.append("x-hog", &vec![b'x'; FIELDS]);
    fields
}

fn hoard<T>(count: Option<usize>, make: impl Fn() -> T) -> Response {
    let mut hoard = Vec::new();
    while count.is_none_or(|count| hoard.len() < count) {
        hoard.push(make());
        std::hint::black_box(&hoard);
    }
    monotonic_clock::subscribe_duration(u64::MAX / 2).block();
    drop(hoard);
    Response::new(204)
}
