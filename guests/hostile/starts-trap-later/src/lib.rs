//! The attack: passes validation and serves, and from some moment on
//! (`TRAP_AFTER` in its environment, in seconds since 1970) traps whenever it
//! is instantiated.
//!
//! The outcome: `ok` at first, then `trap`, 500, for every request that needs
//! a new instance. No worker restarts for it.

use skep_guest::wasip2::cli::environment;
use skep_guest::wasip2::clocks::wall_clock;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

// What a component's core module exports under this name is called when it is
// instantiated, and by nobody else.
#[expect(unsafe_code, reason = "the name is given by the tools' convention")]
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    let after = environment::get_environment()
        .into_iter()
        .find_map(|(name, value)| (name == "TRAP_AFTER").then_some(value))
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(u64::MAX);
    if wall_clock::now().seconds >= after {
        core::arch::wasm32::unreachable()
    }
}

fn handle(_: Request) -> Response {
    Response::text("not yet\n")
}
