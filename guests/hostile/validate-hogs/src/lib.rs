//! The fault: at its start it takes and touches memory, a mebibyte at a time,
//! until there is no more.
//!
//! What must become of it: rejected in validation, because of its memory.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}

fn validate() -> Result<(), String> {
    let mut hoard = Vec::new();
    loop {
        // Written to, so that the pages are really there.
        hoard.push(vec![0xa5_u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}
