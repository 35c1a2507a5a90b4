//! The primary as a process, with workers and builders that only pretend.
//!
//! Children of the primary are the same executable again, so this test has its
//! own `main`: by its first argument it is the primary under test, a worker, a
//! builder, a dispatcher, the connector, or what runs the tests.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are tests, though without the harness that clippy knows them by"
)]

mod companions;
mod crowd;
mod pretend;
mod primary;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => pretend::worker(),
        Some("builder") => pretend::builder(),
        Some("dispatcher") => pretend::dispatcher(),
        Some("connector") => pretend::connector(),
        Some("primary") => primary::play(),
        Some("primary-of") => primary::play_file(),
        _ => run::all(),
    }
}
