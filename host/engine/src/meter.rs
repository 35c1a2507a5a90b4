//! CPU time of one call, and its turns among the others.
//!
//! A guest's every poll is a turn. It begins at once or after a wait in the queue, as
//! its tenant's share says, and ends when the guest waits for something or meets
//! an epoch tick; then it is queued again. What it has used is the sum over its
//! turns. A call that never meets a tick is timed with the monotonic clock, which
//! costs no system call; from the first tick on, and while tenants compete, the
//! thread's CPU clock is used, so that a machine that is busy with other processes
//! does not eat the budget.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use wasmtime::UpdateDeadline;

use crate::run_queue::Entry;
use crate::tenants::HandlerShare;

/// Clocks that this crate may not read or set by itself.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CPU time of the calling thread.
    pub thread_cpu: fn() -> Duration,
    /// Called before a guest runs for a moment that no call waits for: [`tick`](crate::tick)s
    /// must come meanwhile.
    pub ticks: fn(),
}

/// The guest used up its CPU budget.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the CPU budget of {0:?} is used up")]
pub(crate) struct CpuExhausted(Duration);

/// CPU time after which a call counts as one that computes: twice what a guest
/// gets in a turn, so that one which a tick met by chance does not.
const COMPUTES: Duration = Duration::from_millis(2);

/// What a request costs its worker besides its guest's turns: reading, parsing,
/// routing, writing (DESIGN §10). A tenant is charged for it, or one of many tiny
/// requests would have twice its share.
const OVERHEAD: Duration = Duration::from_micros(10);

static COMPUTING: AtomicU32 = AtomicU32::new(0);

/// Calls of this process that have computed for long and have not ended.
/// While there are any, a turn of the event loop takes a slice of one of them.
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
    share: Arc<HandlerShare>,
    entry: Entry,
    clock: Clock,
    budget: Duration,
    used: Duration,
    /// What its tenant is still to be charged besides.
    overhead: Duration,
    preempted: bool,
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
    /// It has met a tick.
    is_over: bool,
}

impl Turn {
    /// CPU time of this turn so far.
    fn spent(&self, now: Instant) -> Duration {
        match self.began {
            Reading::Wall(began) => now.saturating_duration_since(began),
            Reading::Cpu(began) => (self.clock.thread_cpu)().saturating_sub(began),
        }
    }
}

thread_local! {
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

impl Meter {
    /// For what is not a request of its own.
    pub(crate) fn new(share: &Arc<HandlerShare>, clock: Clock, budget: Duration) -> Self {
        Self {
            share: Arc::clone(share),
            entry: Entry::None,
            clock,
            budget,
            used: Duration::ZERO,
            overhead: Duration::ZERO,
            preempted: false,
            computing: None,
        }
    }

    /// For a request.
    pub(crate) fn of_request(share: &Arc<HandlerShare>, clock: Clock, budget: Duration) -> Self {
        let mut meter = Self::new(share, clock, budget);
        meter.overhead = OVERHEAD;
        meter
    }

    /// Charges a tenant for a request whose guest is metered with its instance.
    pub(crate) fn charge_overhead(share: &Arc<HandlerShare>) {
        share.charge(Instant::now(), Duration::ZERO, OVERHEAD);
    }

    /// Starts to count from nothing.
    pub(crate) fn renew(&mut self) {
        self.used = Duration::ZERO;
        self.preempted = false;
        self.computing = None;
    }

    /// CPU time used so far.
    pub(crate) fn used(&self) -> Duration {
        self.used
    }

    /// Runs one turn of the call, if it is its turn. Otherwise the task is woken
    /// when it is.
    pub(crate) fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        let now = Instant::now();
        let Some(go) = self.share.may_go(&mut self.entry, now, cx) else {
            return Poll::Pending;
        };
        let began = if self.preempted || go.contended {
            Reading::Cpu((self.clock.thread_cpu)())
        } else {
            Reading::Wall(now)
        };
        let outer = TURN.replace(Some(Turn {
            clock: self.clock,
            began,
            budget: self.budget,
            used: self.used,
            is_over: false,
        }));
        let result = poll(cx);
        if let Some(turn) = TURN.replace(outer) {
            let now = Instant::now();
            let spent = turn.spent(now);
            self.used += spent;
            let overhead = std::mem::take(&mut self.overhead);
            self.share.charge(now, spent, overhead);
            if self.used >= COMPUTES && self.computing.is_none() {
                self.computing = Some(Computing::begin());
            }
            if turn.is_over {
                self.preempted = true;
                if result.is_pending() {
                    self.share.preempted(&mut self.entry, now, cx);
                }
            }
        }
        result
    }

    /// The call is over: it is queued no more.
    pub(crate) fn end(&mut self) {
        self.share.leave(&mut self.entry);
        self.computing = None;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a guest does when it meets a tick: end its turn, or end.
pub(crate) fn on_tick() -> wasmtime::Result<UpdateDeadline> {
    if let Some(mut turn) = TURN.get() {
        if turn.used + turn.spent(Instant::now()) >= turn.budget {
            return Err(CpuExhausted(turn.budget).into());
        }
        turn.is_over = true;
        TURN.set(Some(turn));
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(NextTurn)))
}

/// Ends when the call has another turn. It wakes nobody: the meter does, which
/// is queued for the whole call.
struct NextTurn;

impl Future for NextTurn {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if TURN.get().is_some_and(|turn| turn.is_over) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}
