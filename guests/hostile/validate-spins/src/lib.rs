//! The fault: its validation is a loop without end and without host calls.
//!
//! What must become of it: rejected in validation, because of its budget of
//! CPU time or its deadline. Its neighbours in the worker go on meanwhile.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}

fn validate() -> Result<(), String> {
    let mut turns: u64 = 0;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}
