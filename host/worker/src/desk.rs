//! What all parts of this worker share: its cell in the scoreboard, its ticks,
//! its handlers and its plan, and whether it drains.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use skep_core::{Appetite, HandlerId, Outcome, Plan, appetite, bucket_of};
use skep_sys::{Board, Cell, RegisterRow, Sole as _, Ticker};
use skep_wire::HandlerTally;
use tokio::sync::{Notify, watch};

use crate::admission::Share;
use crate::app::App;
use crate::budget::{Budget, Column};
use crate::log::Log;
use crate::plan::{Loaded, PlanError, Serving, Unserved};
use crate::rooms::{self, Rooms};
use crate::shelf::Shelf;
use crate::validate::Valid;

/// The shared state of one worker.
pub(crate) struct Desk {
    board: Board,
    column: Column,
    ticker: Ticker,
    shelf: Mutex<Shelf>,
    /// Read briefly per request and written when a plan comes, all on one thread,
    /// so the lock never blocks.
    serving: RwLock<Serving<Valid>>,
    pub(crate) log: Log,
    drain_timeout: Duration,
    ended: Notify,
    /// The window of latencies that is open, by the last beat.
    window: AtomicU64,
    /// How many wait for the end of a connection.
    waits: AtomicU32,
    /// How many wait for the end of a request as well; usually none.
    waits_for_requests: AtomicU32,
    /// When a frequent failure was last logged.
    complained: Mutex<Option<Instant>>,
    draining: watch::Sender<bool>,
    /// Listeners that may still take connections.
    accepting: AtomicU32,
    pub(crate) rooms: Arc<Rooms>,
}

/// Who answers a request.
pub(crate) struct Answers {
    pub(crate) app: Arc<App>,
    /// Bytes of the request's path that its route's prefix has.
    pub(crate) prefix: usize,
    /// What the app may do.
    pub(crate) budget: Arc<Budget>,
}

impl Desk {
    pub(crate) fn new(
        board: Board,
        column: Column,
        ticker: Ticker,
        log: Log,
        drain_timeout: Duration,
    ) -> Self {
        Self {
            board,
            column,
            ticker,
            shelf: Mutex::default(),
            serving: RwLock::new(Serving::nothing()),
            log,
            drain_timeout,
            ended: Notify::new(),
            window: AtomicU64::new(0),
            waits: AtomicU32::new(0),
            waits_for_requests: AtomicU32::new(0),
            complained: Mutex::default(),
            draining: watch::Sender::new(false),
            accepting: AtomicU32::new(0),
            rooms: Arc::default(),
        }
    }

    /// This worker's cell.
    pub(crate) fn cell(&self) -> &Cell {
        self.board
            .cell(self.column.cell)
            .expect("the cell was looked up when the worker began")
    }

    /// This worker's column of the pool's sheet.
    pub(crate) fn column(&self) -> &Column {
        &self.column
    }

    /// Where this worker counts what the requests of an app come to.
    pub(crate) fn register_row(&self, row: u32) -> Option<&RegisterRow> {
        self.column.register.row(row)
    }

    /// Latencies are counted in this window from now on.
    pub(crate) fn open_window(&self, number: u64) {
        self.window.store(number, Relaxed);
    }

    /// The window that latencies are counted in.
    pub(crate) fn window(&self) -> u64 {
        self.window.load(Relaxed)
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.ticker
    }

    /// The handlers. Not to be held for longer than a look.
    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic leaves it consistent.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving(&self) -> RwLockReadGuard<'_, Serving<Valid>> {
        // Replaced as a whole.
        self.serving.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who answers a request, or why nobody does.
    pub(crate) fn route(&self, host: Option<&str>, path: &str) -> Result<Answers, Unserved> {
        let serving = self.serving();
        let found = serving.route(host, path)?;
        Ok(Answers {
            app: found.handler.clone().into_app(),
            prefix: found.prefix,
            budget: Arc::clone(found.budget),
        })
    }

    /// Whether a route of the plan names exactly this host, so that it belongs
    /// to no other pool.
    pub(crate) fn names(&self, host: &str) -> bool {
        self.serving().names(host)
    }

    /// Serves this plan from now on, without those handlers that are in
    /// `quarantine`. Handlers that it does not name are retired. Says what those
    /// of the plan before have counted.
    pub(crate) fn serve(
        &self,
        plan: &Plan,
        quarantine: impl Fn(HandlerId) -> bool,
    ) -> Result<Vec<HandlerTally>, PlanError> {
        let next = {
            let shelf = self.shelf();
            let find = |handler| match shelf.find(handler) {
                Some(valid) => Some(Loaded::Valid(valid)),
                None => quarantine(handler).then_some(Loaded::Quarantined),
            };
            Serving::new(plan, &self.serving(), find)?
        };
        for (valid, row) in next.rows() {
            valid.told_in(row);
        }
        for valid in next.stable() {
            valid
                .admission
                .resize(Share::of(&valid.limits, plan.workers));
        }
        let before = {
            let mut serving = self.serving.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *serving, next)
        };
        let tallies = before.handlers().iter().map(tally).collect();
        drop(before);
        self.shelf()
            .retire(&plan.handlers(), Instant::now() + self.drain_timeout);
        Ok(tallies)
    }

    /// Whether there are observed apps.
    pub(crate) fn is_observed(&self) -> bool {
        !self.serving().observed().is_empty()
    }

    /// The handlers of observed apps, and how many requests they have counted.
    pub(crate) fn observed(&self) -> Vec<(HandlerId, u64)> {
        let serving = self.serving();
        let counted = |valid: &Valid| (valid.id, valid.counts.requests());
        serving.observed().iter().map(counted).collect()
    }

    /// What some of the observed handlers have counted.
    pub(crate) fn tallies(&self, of: &BTreeSet<HandlerId>) -> Vec<HandlerTally> {
        let serving = self.serving();
        let wanted = serving.observed().iter();
        wanted
            .filter(|valid| of.contains(&valid.id))
            .map(tally)
            .collect()
    }

    /// Whether this worker should take another connection.
    pub(crate) fn appetite(&self, limit: u32) -> Appetite {
        let ready = self.board.iter().filter(|cell| cell.is_ready());
        appetite(
            self.cell().connections(),
            limit,
            ready.map(Cell::connections),
        )
    }

    /// Whether no other worker of its pool takes connections.
    pub(crate) fn is_alone(&self) -> bool {
        self.board
            .iter()
            .filter(|cell| cell.is_ready())
            .nth(1)
            .is_none()
    }

    /// Counts a request whose head was refused before anybody could read it.
    pub(crate) fn refused_unread(&self, outcome: Outcome) {
        self.cell().request_started();
        let bucket = bucket_of(Duration::ZERO);
        self.cell().request_ended(outcome as usize, bucket, false);
    }

    /// A connection has ended.
    pub(crate) fn connection_ended(&self) {
        if self.waits.load(Relaxed) > 0 {
            self.ended.notify_waiters();
        } else {
            self.request_ended();
        }
    }

    /// A request, or the taking of connections, has ended.
    pub(crate) fn request_ended(&self) {
        if self.waits_for_requests.load(Relaxed) > 0 {
            self.ended.notify_waiters();
        }
    }

    /// The next end of a connection.
    pub(crate) async fn next_end(&self) {
        let _waiting = Waiting::on(&self.waits);
        self.ended.notified().await;
    }

    /// The next end of a connection or of a request, after which its connection may
    /// make room.
    pub(crate) async fn next_rest(&self) {
        let _waiting = Waiting::on(&self.waits_for_requests);
        self.ended.notified().await;
    }

    /// Whether a frequent failure may be logged now: once a second.
    pub(crate) fn may_complain(&self) -> bool {
        let mut complained = self
            .complained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = complained.is_none_or(|then| now - then >= Duration::from_secs(1));
        if may {
            *complained = Some(now);
        }
        may
    }

    /// Tells every listener and connection to come to an end.
    pub(crate) fn drain(&self) {
        self.cell().set_ready(false);
        self.draining.send_replace(true);
        self.rooms.drain();
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// How long a connection that is to end may stay silent before it does.
    pub(crate) fn linger(&self) -> Duration {
        rooms::linger(self.drain_timeout)
    }

    /// Counts a listener that takes connections, until the result is dropped.
    pub(crate) fn accepting(self: &Arc<Self>) -> Accepting {
        self.accepting.add(1);
        Accepting(Arc::clone(self))
    }

    /// Waits until nothing is in flight any more.
    pub(crate) async fn all_quiet(&self) {
        let _waiting = Waiting::on(&self.waits_for_requests);
        loop {
            let end = self.ended.notified();
            tokio::pin!(end);
            end.as_mut().enable();
            let cell = self.cell();
            if self.accepting.load(Relaxed) == 0 && cell.connections() == 0 && cell.in_flight() == 0
            {
                return;
            }
            end.await;
        }
    }
}

/// A listener that takes connections.
pub(crate) struct Accepting(Arc<Desk>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.sub(1);
        self.0.request_ended();
    }
}

/// Somebody waits for an end, until this is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn on(waits: &'a AtomicU32) -> Self {
        waits.add(1);
        Self(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

fn tally(valid: &Valid) -> HandlerTally {
    valid.counts.tally(valid.id)
}
