//! The fault: its validation executes `unreachable`.
//!
//! What must become of it: rejected in validation, because of a trap.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}

fn validate() -> Result<(), String> {
    core::arch::wasm32::unreachable()
}
