//! The primary as a process, with workers and builders that only pretend.
//!
//! Children of the primary are the same executable again, so this test has its
//! own `main`: by its first argument it is the primary under test, a worker, a
//! builder, or what runs the tests.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests, though without the harness that clippy knows them by"
)]

mod pretend;
mod primary;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => pretend::worker(),
        Some("builder") => pretend::builder(),
        Some("primary") => primary::play(),
        _ => run::all(),
    }
}
