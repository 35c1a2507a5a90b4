//! The attack: executes `unreachable` before there is a response.
//!
//! The outcome: `trap`, 500.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    core::arch::wasm32::unreachable()
}
