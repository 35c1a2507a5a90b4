//! What all parts of this worker share: its cell in the scoreboard, its ticks,
//! its apps, and whether it is on its way out.

use std::sync::Arc;

use skep_core::route::RouteTable;
use skep_core::{Appetite, appetite};
use skep_sys::{Board, Cell, Ticker};
use tokio::sync::{Notify, watch};

use crate::app::App;
use crate::log::Log;

/// The shared state of one worker.
pub(crate) struct Desk {
    board: Board,
    cell: u16,
    ticker: Ticker,
    apps: Vec<Arc<App>>,
    pub(crate) routes: RouteTable<Arc<App>>,
    pub(crate) log: Log,
    ended: Notify,
    draining: watch::Sender<bool>,
}

impl Desk {
    pub(crate) fn new(
        board: Board,
        cell: u16,
        ticker: Ticker,
        (apps, routes): (Vec<Arc<App>>, RouteTable<Arc<App>>),
        log: Log,
    ) -> Self {
        Self {
            board,
            cell,
            ticker,
            apps,
            routes,
            log,
            ended: Notify::new(),
            draining: watch::Sender::new(false),
        }
    }

    /// This worker's cell.
    pub(crate) fn cell(&self) -> &Cell {
        self.board
            .cell(self.cell)
            .expect("the cell was looked up when the worker began")
    }

    /// All loaded apps.
    pub(crate) fn apps(&self) -> &[Arc<App>] {
        &self.apps
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.ticker
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

    /// A connection or a request has ended.
    pub(crate) fn something_ended(&self) {
        self.ended.notify_waiters();
    }

    /// The next end of a connection or a request.
    pub(crate) async fn next_end(&self) {
        self.ended.notified().await;
    }

    /// Tells every listener and connection to come to an end.
    pub(crate) fn drain(&self) {
        self.cell().set_ready(false);
        self.draining.send_replace(true);
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Waits until nothing is in flight any more.
    pub(crate) async fn all_quiet(&self) {
        loop {
            let end = self.ended.notified();
            tokio::pin!(end);
            end.as_mut().enable();
            if self.cell().connections() == 0 && self.cell().in_flight() == 0 {
                return;
            }
            end.await;
        }
    }
}
