//! The fault: its validation asks `wasi:cli/exit` to end the process with 1,
//! as a program does that was told to fail early.
//!
//! What must become of it: rejected in validation, because it exited. The
//! worker does not.

use std::process;

use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}

fn validate() -> Result<(), String> {
    process::exit(1)
}
