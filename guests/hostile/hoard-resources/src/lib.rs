//! The attack: makes resources of the host's and drops none of them. Each
//! costs the host memory that no linear memory shows.
//!
//! | path | what is kept |
//! |---|---|
//! | `/fields` | empty header fields |
//! | `/pollables` | timers that never fire |
//! | `/requests` | outbound requests that are never sent |
//! | `/streams` | handles of stdout |
//!
//! The outcome: the host gives no more than 4,096 at a time and the guest
//! traps: `trap`, 500.

use skep_guest::wasip2::cli::stdout;
use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::wasip2::http::types::{Fields, OutgoingRequest};
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    match request.path() {
        "/fields" => hoard(Fields::new),
        "/pollables" => hoard(|| monotonic_clock::subscribe_duration(u64::MAX / 2)),
        "/requests" => hoard(|| OutgoingRequest::new(Fields::new())),
        "/streams" => hoard(stdout::get_stdout),
        _ => Response::new(404),
    }
}

fn hoard<T>(make: impl Fn() -> T) -> Response {
    let mut hoard = Vec::new();
    loop {
        hoard.push(make());
        std::hint::black_box(&hoard);
    }
}
