//! The fault: its validation waits on a clock for longer than any host lives,
//! without using the CPU.
//!
//! What must become of it: rejected in validation, because of its deadline.

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}

fn validate() -> Result<(), String> {
    loop {
        monotonic_clock::subscribe_duration(u64::MAX / 2).block();
    }
}
