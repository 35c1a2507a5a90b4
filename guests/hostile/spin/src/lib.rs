//! The attack: a loop without end and without host calls, so that nothing
//! but the host's interruption ever takes the CPU back.
//!
//! The outcome: `cpu-budget`, 504.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    let mut turns: u64 = 0;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}
