//! The fault: its start function traps, so there is never an instance of it.
//! It compiles, and its imports and exports are those of a handler.
//!
//! What must become of it: rejected in validation, because of a trap.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

// What a component's core module exports under this name is called when it is
// instantiated, and by nobody else.
#[expect(unsafe_code, reason = "the name is given by the tools' convention")]
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    core::arch::wasm32::unreachable()
}

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}
