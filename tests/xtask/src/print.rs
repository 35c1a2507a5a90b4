//! The only place that prints: results on stdout, progress on stderr.

use std::fmt::Display;

/// Results.
#[expect(clippy::print_stdout, reason = "this is where results are printed")]
pub(crate) fn result(text: impl Display) {
    println!("{text}");
}

/// What is going on.
#[expect(clippy::print_stderr, reason = "this is where progress is printed")]
pub(crate) fn progress(text: impl Display) {
    eprintln!("{text}");
}
