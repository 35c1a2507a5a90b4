//! How the guest `revision` answers, for it and for the bad deploys that are
//! like it but for one thing.
//!
//! | request | answer |
//! |---|---|
//! | `/` | `revision N` at once |
//! | `/sleep/MS` | the same, after MS milliseconds |
//! | `/status/CODE` | the same, with that status |
//! | `/stream/MS` | the same line in 10 pieces, over MS milliseconds |
//!
//! Every answer has the headers `x-revision` and `x-worker`, empty where the
//! host is not skep. Anything else than a number is answered with 400.

use std::env;
use std::io::Write;

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, Response};

/// Into how many pieces `/stream` cuts its body.
const PIECES: u64 = 10;

/// Answers a request.
#[must_use]
pub fn answer(request: &Request) -> Response {
    let (command, number) = match request.path().trim_start_matches('/').split_once('/') {
        None => return plain(200),
        Some((command, number)) => (command, number.parse::<u64>()),
    };
    match (command, number) {
        ("sleep", Ok(ms)) => {
            sleep(ms);
            plain(200)
        }
        ("status", Ok(code @ 200..=599)) => plain(u16::try_from(code).unwrap_or(500)),
        ("stream", Ok(ms)) => stream(ms),
        (_, Ok(_)) => plain(404),
        (_, Err(_)) => plain(400),
    }
}

/// The answer with this status, without a delay.
#[must_use]
pub fn plain(status: u16) -> Response {
    head(Response::new(status)).with_body(body())
}

/// Waits.
pub fn sleep(ms: u64) {
    monotonic_clock::subscribe_duration(ms.saturating_mul(1_000_000)).block();
}

fn stream(ms: u64) -> Response {
    let line = body();
    let headers = [
        ("content-type", "text/plain".to_owned()),
        ("x-revision", revision()),
        ("x-worker", worker()),
    ];
    Response::stream(200, headers, move |writer| {
        let bytes = line.as_bytes();
        // The last piece is what the others leave; they may be a byte each.
        let piece = (bytes.len() / 10).max(1);
        for index in 0..PIECES {
            sleep(ms / PIECES);
            let from = (usize::try_from(index).unwrap_or(0) * piece).min(bytes.len());
            let to = if index + 1 == PIECES {
                bytes.len()
            } else {
                (from + piece).min(bytes.len())
            };
            writer.write_all(&bytes[from..to])?;
            writer.flush()?;
        }
        Ok(())
    })
}

fn head(response: Response) -> Response {
    response
        .with_header("content-type", "text/plain")
        .with_header("x-revision", revision())
        .with_header("x-worker", worker())
}

fn body() -> String {
    format!("revision {}\n", revision())
}

fn revision() -> String {
    env::var("SKEP_REVISION").unwrap_or_default()
}

fn worker() -> String {
    env::var("SKEP_WORKER").unwrap_or_default()
}
