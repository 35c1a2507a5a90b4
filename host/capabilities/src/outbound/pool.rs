//! The connections of one app: how many there are, and those that wait for
//! their next request.
//!
//! One that waits is given to a request for the same place, or closed for
//! another that needs its right to be open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::connection::Connection;
use super::target::Target;

/// How long a connection waits for its next request. Servers close theirs
/// after 5 s (Node), 15 s or more; one that is closed while a request is on its
/// way fails that request.
const IDLE: Duration = Duration::from_secs(4);

/// Requests of one app that may wait for a connection, for each that it may
/// have: they hold memory that no limit of the guest counts.
const WAITING_PER_CONNECTION: u32 = 8;

/// What a connection may be used for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) handler: u64,
    pub(super) target: Target,
}

/// One app's connections.
pub(crate) struct Pool {
    state: Mutex<State>,
    /// Something has changed that a waiting request may use.
    freed: Notify,
}

struct State {
    limit: u32,
    open: u32,
    waiting: u32,
    /// The one that has waited longest first.
    idle: Vec<Idle>,
}

struct Idle {
    usage: Use,
    connection: Connection,
    since: Instant,
}

/// The right to have one connection open, until it is dropped.
pub(super) struct Slot(Arc<Pool>);

/// What a request gets.
pub(super) enum Found {
    /// A connection that was used before.
    Waiting(Connection),
    /// The right to open one.
    Slot(Slot),
}

/// Too many requests wait already.
pub(super) struct Crowded;

impl Pool {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            state: Mutex::new(State {
                limit,
                open: 0,
                waiting: 0,
                idle: Vec::new(),
            }),
            freed: Notify::new(),
        }
    }

    /// Changes how many may be open.
    pub(super) fn limit(&self, limit: u32) {
        self.state().limit = limit;
        self.freed.notify_waiters();
    }

    /// A connection that waits, or the right to open one; waits for either.
    /// With `fresh` only the right.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        usage: &Use,
        fresh: bool,
    ) -> Result<Found, Crowded> {
        if let Some(found) = self.try_obtain(usage, fresh) {
            return Ok(found);
        }
        let _place = Place::take(self)?;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on nothing is missed.
            freed.as_mut().enable();
            if let Some(found) = self.try_obtain(usage, fresh) {
                return Ok(found);
            }
            freed.await;
        }
    }

    fn try_obtain(self: &Arc<Self>, usage: &Use, fresh: bool) -> Option<Found> {
        // Dropped after the lock is let go.
        let _evicted;
        let mut state = self.state();
        if !fresh
            && let Some(at) = state
                .idle
                .iter()
                .rposition(|idle| idle.usage == *usage && idle.connection.is_ready())
        {
            return Some(Found::Waiting(state.idle.remove(at).connection));
        }
        if state.open < state.limit {
            state.open += 1;
            return Some(Found::Slot(Slot(Arc::clone(self))));
        }
        // Its right comes free when it is closed, in a moment.
        _evicted = (!state.idle.is_empty()).then(|| state.idle.remove(0));
        drop(state);
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, usage: Use, connection: Connection) {
        let idle = Idle {
            usage,
            connection,
            since: Instant::now(),
        };
        let mut state = self.state();
        if state.open <= state.limit {
            state.idle.push(idle);
            drop(state);
            self.freed.notify_one();
        } else {
            drop(state);
            drop(idle);
        }
    }

    /// Closes what has waited for too long or is closed already.
    pub(super) fn expire(&self) {
        let over = |idle: &Idle| idle.since.elapsed() >= IDLE || idle.connection.is_closed();
        self.close(over);
    }

    /// Closes what a handler leaves.
    pub(super) fn forget(&self, handler: u64) {
        self.close(|idle| idle.usage.handler == handler);
    }

    fn close(&self, which: impl Fn(&Idle) -> bool) {
        let closed: Vec<Idle> = self
            .state()
            .idle
            .extract_if(.., |idle| which(idle))
            .collect();
        drop(closed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().open -= 1;
        self.0.freed.notify_one();
    }
}

/// A place among those who wait.
struct Place<'a>(&'a Pool);

impl<'a> Place<'a> {
    fn take(pool: &'a Pool) -> Result<Self, Crowded> {
        let mut state = pool.state();
        if state.waiting >= state.limit.saturating_mul(WAITING_PER_CONNECTION) {
            return Err(Crowded);
        }
        state.waiting += 1;
        Ok(Self(pool))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}
