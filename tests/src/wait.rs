//! Waiting for a condition: with a deadline, and with the last state in the
//! message of the failure.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at that cannot tell when it changes.
const POLL: Duration = Duration::from_millis(5);

/// Looks at something until it is as wanted, and returns it.
///
/// # Panics
///
/// After `deadline`, with `what` was waited for and what was seen last.
pub fn wait_for<T: Debug>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let by = Instant::now() + deadline;
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < by,
            "waited {deadline:?} for {what}; seen last: {seen:#?}"
        );
        // Polling, not synchronisation: nothing relies on how long this takes.
        thread::sleep(POLL);
    }
}

/// Looks at something until it is as wanted or the deadline has passed, and
/// returns what was seen last.
pub fn settles<T>(
    deadline: Duration,
    mut look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let by = Instant::now() + deadline;
    loop {
        let seen = look();
        if wanted(&seen) || Instant::now() >= by {
            return seen;
        }
        thread::sleep(POLL);
    }
}

/// Lets a client take its time. What follows must not rely on it: a pause is
/// how slow a client is, or how long something is measured, and never how long
/// something else takes.
pub fn pause(time: Duration) {
    thread::sleep(time);
}
