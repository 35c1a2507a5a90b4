//! What this thread knows of the event loop that it runs: which turn it is, and what
//! has happened in it.

use std::cell::Cell;
use std::task::Poll;

thread_local! {
    /// How often this thread had nothing left to do.
    static TURN: Cell<u64> = const { Cell::new(0) };
    /// Calls that began in this turn.
    static CALLS: Cell<u32> = const { Cell::new(0) };
    /// And in the one before.
    static CALLS_BEFORE: Cell<u32> = const { Cell::new(0) };
}

/// Calls in one turn from which on the worker has no time to spare: while it answers
/// several at a time, others wait.
const BUSY: u32 = 3;

/// To be called by a thread that runs guests whenever it has nothing left to do but
/// to look at its sockets: a turn of its event loop ends.
pub fn sockets_are_looked_at() {
    TURN.set(TURN.get().wrapping_add(1));
    CALLS_BEFORE.set(CALLS.replace(0));
}

/// The number of this turn.
pub(crate) fn turn() -> u64 {
    TURN.get()
}

/// A call begins.
pub(crate) fn call_begins() {
    CALLS.set(CALLS.get().saturating_add(1));
}

/// Whether calls come in numbers: in this turn, or in the one before.
pub(crate) fn is_busy() -> bool {
    CALLS.get().max(CALLS_BEFORE.get()) >= BUSY
}

/// Lets everything run that is ready by now, without a look at the sockets.
pub(crate) async fn behind_what_is_ready() {
    let mut went = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut went, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets the sockets be looked at, and everything run that is ready then.
pub(crate) async fn behind_the_sockets() {
    // tokio wakes a task that yields only after its I/O driver has been polled and
    // everything else that was ready has run.
    tokio::task::yield_now().await;
}

/// As [`behind_the_sockets`], by somebody who always does so: the thread always has
/// something to do then, and a turn ends with this.
pub(crate) async fn behind_the_next_calls() {
    sockets_are_looked_at();
    behind_the_sockets().await;
}
