//! What one request is accounted for: counters, permits, and its one outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Instant;

use http::StatusCode;
use skep_core::{LogLevel, Outcome, bucket_of};
use skep_engine::{Ended, Witness};

use crate::app::{Admitted, App};
use crate::desk::Desk;
use crate::socket::Pulse;

/// An outcome that something other than the guest decides: the request's body
/// was too large or too slow.
#[derive(Debug, Default)]
pub(crate) struct Override(AtomicU8);

impl Override {
    pub(crate) fn set(&self, outcome: Outcome) {
        // 0 is free: nothing overrides with `Ok`.
        self.0.store(outcome as u8, Relaxed);
    }

    pub(crate) fn get(&self) -> Option<Outcome> {
        match self.0.load(Relaxed) {
            0 => None,
            index => Outcome::ALL.get(usize::from(index)).copied(),
        }
    }
}

/// One request from its head to its outcome. Whatever happens to it, dropping
/// this counts it once.
pub(crate) struct Account {
    desk: Arc<Desk>,
    pulse: Arc<Pulse>,
    began: Instant,
    request_id: Option<Arc<str>>,
    app: Option<Arc<App>>,
    admitted: Option<Admitted>,
    overridden: Option<Arc<Override>>,
    guest: bool,
    outcome: Option<Outcome>,
    /// What the guest answered.
    status: Option<StatusCode>,
}

impl Account {
    pub(crate) fn open(desk: &Arc<Desk>, pulse: &Arc<Pulse>) -> Self {
        desk.cell().request_started();
        pulse.request_began();
        Self {
            desk: Arc::clone(desk),
            pulse: Arc::clone(pulse),
            began: Instant::now(),
            request_id: None,
            app: None,
            admitted: None,
            overridden: None,
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

    pub(crate) fn overridden_by(&mut self, overridden: &Arc<Override>) {
        self.overridden = Some(Arc::clone(overridden));
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
        if ended.outcome != Outcome::Ok {
            self.log_failure(&ended);
        }
        self.status = ended.status;
        // Whatever a guest makes of a request whose body was refused, it is for
        // that that the request ended.
        let overridden = self.overridden.as_ref().and_then(|o| o.get());
        self.outcome = Some(overridden.unwrap_or(ended.outcome));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.guest {
            self.desk.ticker().leave();
        }
        let outcome = self
            .outcome
            .or_else(|| self.overridden.as_ref().and_then(|o| o.get()))
            .unwrap_or(Outcome::ClientGone);
        let elapsed = self.began.elapsed();
        let good = outcome == Outcome::Ok;
        let cell = self.desk.cell();
        cell.request_ended(outcome as usize, bucket_of(elapsed), good);
        if let Some(app) = &self.app {
            app.counts.ended(outcome, self.status, elapsed);
            app.request_ended();
        }
        self.pulse.request_ended();
        self.admitted = None;
        self.desk.something_ended();
    }
}
