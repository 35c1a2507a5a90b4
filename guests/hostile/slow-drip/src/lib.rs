//! The attack: sends headers at once and then one byte a second for ever, so
//! that the connection never looks idle.
//!
//! The outcome: `deadline`; a 200 whose body is cut off, the connection closed.

use std::io::Write;

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

const SECOND: u64 = 1_000_000_000;

fn handle(_: Request) -> Response {
    Response::stream(200, [("content-type", "text/plain")], |writer| {
        loop {
            writer.write_all(b".")?;
            writer.flush()?;
            monotonic_clock::subscribe_duration(SECOND).block();
        }
    })
}
