//! The attack: takes and touches memory, a mebibyte at a time, until there is
//! no more.
//!
//! The outcome: `memory-budget`, 500. An allocation that is denied traps.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    let mut hoard = Vec::new();
    loop {
        // Written to, so that the pages are really there.
        hoard.push(vec![0xa5_u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}
