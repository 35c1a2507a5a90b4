//! The attack: waits on a clock for longer than any host lives, without using
//! the CPU, and never responds.
//!
//! The outcome: `deadline`, 504.

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    loop {
        monotonic_clock::subscribe_duration(u64::MAX / 2).block();
    }
}
