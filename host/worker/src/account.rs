//! What one request is accounted for: counters, permits, and its one outcome.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use skep_core::{LogLevel, Outcome, bucket_of};
use skep_engine::{Ended, Witness};

use crate::app::{Admitted, App};
use crate::desk::Desk;
use crate::lifeline::Lifeline;

/// One request from its head to its outcome. Whatever happens to it, dropping
/// this counts it once.
pub(crate) struct Account {
    desk: Arc<Desk>,
    lifeline: Arc<Lifeline>,
    began: Instant,
    request_id: Option<Arc<str>>,
    app: Option<Arc<App>>,
    admitted: Option<Admitted>,
    guest: bool,
    outcome: Option<Outcome>,
    /// What the guest answered.
    status: Option<StatusCode>,
}

impl Account {
    pub(crate) fn open(desk: &Arc<Desk>, lifeline: &Arc<Lifeline>) -> Self {
        desk.cell().request_started();
        Self {
            desk: Arc::clone(desk),
            lifeline: Arc::clone(lifeline),
            began: Instant::now(),
            request_id: None,
            app: None,
            admitted: None,
            guest: false,
            outcome: None,
            status: None,
        }
    }

    pub(crate) fn routed(&mut self, app: &Arc<App>, request_id: &Arc<str>) {
        app.request_began();
        self.app = Some(Arc::clone(app));
        self.request_id = Some(Arc::clone(request_id));
    }

    pub(crate) fn admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// A guest runs from now on: ticks are needed.
    pub(crate) fn guest_begins(&mut self) {
        self.desk.ticker().enter();
        self.guest = true;
    }

    /// Ends without a guest having been asked, or without its answer.
    pub(crate) fn close(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    fn log_failure(&self, ended: &Ended) {
        let (Some(app), Some(request)) = (&self.app, &self.request_id) else {
            return;
        };
        if let Some(record) = app.log.record(LogLevel::Warn, "request.failed") {
            let cpu = ended.cpu.as_secs_f64() * 1e3;
            app.log.write(
                record
                    .text("request", request)
                    .text("outcome", ended.outcome.name())
                    .number("cpu_ms", format_args!("{cpu:.1}"))
                    .text("reason", ended.detail.as_deref().unwrap_or("unknown")),
            );
        }
    }
}

impl Witness for Account {
    fn ended(mut self, ended: Ended) {
        // Whatever a guest makes of a request that something else has ended, it
        // is for that that the request ended.
        let outcome = self.lifeline.outcome().unwrap_or(ended.outcome);
        if outcome != Outcome::Ok {
            if outcome == ended.outcome {
                self.log_failure(&ended);
            }
            self.lifeline.cut();
        }
        self.status = ended.status;
        self.outcome = Some(outcome);
    }

    fn last_taken(&self) -> Option<Instant> {
        self.lifeline.last_taken()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.guest {
            self.desk.ticker().leave();
        }
        let outcome = self
            .outcome
            .or_else(|| self.lifeline.outcome())
            .unwrap_or(Outcome::ClientGone);
        let elapsed = self.began.elapsed();
        let good = outcome == Outcome::Ok;
        let cell = self.desk.cell();
        cell.request_ended(outcome as usize, bucket_of(elapsed), good);
        if let Some(app) = &self.app {
            app.counts.ended(outcome, self.status, elapsed);
            app.request_ended();
        }
        self.admitted = None;
        self.desk.something_ended();
    }
}
