//! The attack: recursion without end, in frames that take less of the guest's
//! own stack than of the host's, so that it is the host's that must hold.
//!
//! The outcome: `trap` (call stack exhausted), 500.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    Response::text(sink(0).to_string())
}

/// Not a tail call, and of no known end: the compiler must keep the frames.
#[expect(unconditional_recursion, reason = "this is the attack")]
#[inline(never)]
fn sink(depth: u64) -> u64 {
    sink(std::hint::black_box(depth + 1)) ^ depth
}
