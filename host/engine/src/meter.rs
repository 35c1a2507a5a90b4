//! CPU time of one call, and the yields that keep its neighbours quick.
//!
//! A guest that runs for a millisecond meets an epoch tick, yields to the
//! event loop, and goes on after everything else that was ready. What it has
//! used is the sum over its turns. A call that never yields is timed with the
//! monotonic clock, which costs no system call; from the first yield on the
//! thread's CPU clock is used, so that a machine that is busy with other
//! processes does not eat the budget.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wasmtime::UpdateDeadline;

/// Clocks that this crate may not read by itself.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CPU time of the calling thread.
    pub thread_cpu: fn() -> Duration,
}

/// The guest used up its CPU budget.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the CPU budget of {0:?} is used up")]
pub(crate) struct CpuExhausted(Duration);

/// CPU time after which a call counts as one that computes: twice what a guest
/// gets in a turn, so that one which a tick met by chance does not.
const COMPUTES: Duration = Duration::from_millis(2);

static COMPUTING: AtomicU32 = AtomicU32::new(0);

/// Calls of this process that have computed for long and have not ended.
/// While there are any, a turn of the event loop takes as many milliseconds.
#[must_use]
pub fn computing() -> u32 {
    COMPUTING.load(Relaxed)
}

/// Counts a call as computing while it lives.
#[derive(Debug)]
struct Computing(());

impl Computing {
    fn begin() -> Self {
        COMPUTING.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.fetch_sub(1, Relaxed);
    }
}

/// What one call has used, between its turns.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Clock,
    budget: Duration,
    used: Duration,
    yielded: bool,
    computing: Option<Computing>,
}

#[derive(Clone, Copy)]
enum Reading {
    Wall(Instant),
    Cpu(Duration),
}

/// The turn that is running on this thread. A worker polls one guest at a time
/// and wasmtime's callback cannot be given a borrow of the meter.
#[derive(Clone, Copy)]
struct Turn {
    clock: Clock,
    began: Reading,
    budget: Duration,
    used: Duration,
    yielded: bool,
}

impl Turn {
    fn used(&self) -> Duration {
        let now = match self.began {
            Reading::Wall(began) => began.elapsed(),
            Reading::Cpu(began) => (self.clock.thread_cpu)().saturating_sub(began),
        };
        self.used + now
    }
}

thread_local! {
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

impl Meter {
    pub(crate) fn new(clock: Clock, budget: Duration) -> Self {
        Self {
            clock,
            budget,
            used: Duration::ZERO,
            yielded: false,
            computing: None,
        }
    }

    /// Starts to count from nothing.
    pub(crate) fn renew(&mut self) {
        self.used = Duration::ZERO;
        self.computing = None;
    }

    /// CPU time used so far.
    pub(crate) fn used(&self) -> Duration {
        self.used
    }

    /// Runs one turn of the call.
    pub(crate) fn turn<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        let began = if self.yielded {
            Reading::Cpu((self.clock.thread_cpu)())
        } else {
            Reading::Wall(Instant::now())
        };
        let outer = TURN.replace(Some(Turn {
            clock: self.clock,
            began,
            budget: self.budget,
            used: self.used,
            yielded: self.yielded,
        }));
        let result = poll();
        if let Some(turn) = TURN.replace(outer) {
            self.used = turn.used();
            self.yielded = turn.yielded;
            if self.used >= COMPUTES && self.computing.is_none() {
                self.computing = Some(Computing::begin());
            }
        }
        result
    }
}

/// What a guest does when it meets a tick: yield, or end.
pub(crate) fn on_tick() -> wasmtime::Result<UpdateDeadline> {
    if let Some(mut turn) = TURN.get() {
        if turn.used() >= turn.budget {
            return Err(CpuExhausted(turn.budget).into());
        }
        turn.yielded = true;
        TURN.set(Some(turn));
    }
    // tokio's own yield wakes the task only after the I/O driver has been
    // polled; waking it at once would starve the sockets.
    Ok(UpdateDeadline::YieldCustom(
        1,
        Box::pin(tokio::task::yield_now()),
    ))
}
