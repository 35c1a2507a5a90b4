//! The dispatcher: hands the connections of one listener out to workers. What
//! it does is `skep-dispatcher`'s.

use std::process::ExitCode;

/// Plays the role to its end.
pub(super) fn run() -> ExitCode {
    // A title is for people who read process lists.
    let _ = skep_sys::process::set_title("skep dispatcher");
    skep_dispatcher::run()
}
