//! What tests count: the steps of pools.

use std::cell::Cell;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// A pool steps.
pub(super) fn count() {
    STEPS.set(STEPS.get() + 1);
}

/// How often pools have stepped in this thread.
pub(super) fn steps() -> u64 {
    STEPS.get()
}
