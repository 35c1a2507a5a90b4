//! What one request is accounted for: counters, permits, and its one outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use skep_core::{LogLevel, Outcome, bucket_of, status_class, tally_bucket_of};
use skep_engine::{Ended, Witness};
use skep_sys::{Ending, Took};

use crate::app::{Admitted, App};
use crate::desk::Desk;
use crate::lifeline::Lifeline;

/// Bytes of a path that a record tells: enough to know what was asked for.
const MAX_PATH: usize = 256;

/// Bytes of a method that a record tells; those that have names are shorter.
const MAX_METHOD: usize = 32;

/// One request from its head to its outcome. Dropping this counts the request,
/// whatever happened to it, exactly once.
pub(crate) struct Account {
    desk: Arc<Desk>,
    lifeline: Arc<Lifeline>,
    began: Instant,
    asked: Option<Asked>,
    app: Option<Arc<App>>,
    /// Where in the register the request is counted.
    row: Option<u32>,
    admitted: Option<Admitted>,
    guest: bool,
    outcome: Option<Outcome>,
    /// What the guest answered.
    status: Option<StatusCode>,
}

/// What a request was, for the record of its failure.
struct Asked {
    id: Arc<str>,
    method: Method,
    target: Option<PathAndQuery>,
}

impl Asked {
    /// The path, without the query, which may hold secrets.
    fn path(&self) -> &str {
        let path = self.target.as_ref().map_or("*", PathAndQuery::path);
        &path[..path.floor_char_boundary(MAX_PATH)]
    }

    fn method(&self) -> &str {
        let method = self.method.as_str();
        &method[..method.floor_char_boundary(MAX_METHOD)]
    }
}

impl Account {
    pub(crate) fn open(desk: &Arc<Desk>, lifeline: &Arc<Lifeline>) -> Self {
        desk.cell().request_started();
        Self {
            desk: Arc::clone(desk),
            lifeline: Arc::clone(lifeline),
            began: Instant::now(),
            asked: None,
            app: None,
            row: None,
            admitted: None,
            guest: false,
            outcome: None,
            status: None,
        }
    }

    /// The request is for the app that is counted in this row of the register,
    /// whether anybody answers it or not.
    pub(crate) fn counted_in(&mut self, row: u32) {
        self.row = Some(row);
        if let Some(row) = self.desk.register_row(row) {
            row.request_began();
        }
    }

    pub(crate) fn routed(&mut self, app: &Arc<App>, request_id: &Arc<str>, head: &Parts) {
        app.request_began();
        self.app = Some(Arc::clone(app));
        self.asked = Some(Asked {
            id: Arc::clone(request_id),
            method: head.method.clone(),
            target: head.uri.path_and_query().cloned(),
        });
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

    /// The status that the client was answered with, if it was.
    fn answered(&self, outcome: Outcome) -> Option<u16> {
        let begun = self.lifeline.has_begun();
        match self.status {
            Some(status) if begun || outcome == Outcome::Ok => Some(status.as_u16()),
            // The status is not known here, or no client was left to answer.
            _ if begun || outcome == Outcome::ClientGone => None,
            _ => Some(outcome.reply().status),
        }
    }

    /// Counts how the request ended where its app is counted.
    fn register(&self, outcome: Outcome, elapsed: Duration) {
        let Some(row) = self.row.and_then(|row| self.desk.register_row(row)) else {
            return;
        };
        // Immediate refusals would hide how long guests take.
        let latency = self.guest.then(|| Took {
            bucket: bucket_of(elapsed),
            fine: tally_bucket_of(elapsed),
            window: self.desk.window(),
        });
        row.request_ended(Ending {
            outcome: outcome as usize,
            status: self.answered(outcome).map(status_class),
            latency,
        });
        if let Some(app) = &self.app {
            app.tell_use();
        }
    }

    fn log_failure(&self, ended: &Ended) {
        let (Some(app), Some(asked)) = (&self.app, &self.asked) else {
            return;
        };
        if let Some(record) = app.log.record(LogLevel::Warn, "request.failed") {
            let cpu = ended.cpu.as_secs_f64() * 1e3;
            let record = record
                .text("tenant", app.log.tenant())
                .text("request", &asked.id)
                .text("method", asked.method())
                .text("path", asked.path())
                .text("outcome", ended.outcome.name());
            let record = match self.answered(ended.outcome) {
                Some(status) => record.number("status", status),
                None => record,
            };
            app.log.write(
                record
                    .number("cpu_ms", format_args!("{cpu:.1}"))
                    .text("reason", ended.detail.as_deref().unwrap_or("unknown")),
            );
        }
    }
}

impl Witness for Account {
    fn ended(mut self, ended: Ended) {
        // If something else has ended the request, that is its outcome, whatever
        // the guest returned.
        let outcome = self.lifeline.outcome().unwrap_or(ended.outcome);
        self.status = ended.status;
        if outcome != Outcome::Ok {
            if outcome == ended.outcome {
                self.log_failure(&ended);
            }
            self.lifeline.cut();
        }
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
        // Before the app is told of the end, which may drop its handler.
        self.register(outcome, elapsed);
        let cell = self.desk.cell();
        cell.request_ended(outcome as usize, bucket_of(elapsed), good);
        if let Some(app) = &self.app {
            app.counts.ended(outcome, self.status, elapsed);
            app.request_ended();
        }
        self.admitted = None;
        self.desk.request_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_the_path_without_its_query_and_not_more_than_there_is_room_for() {
        let asked = |method: &str, target: &str| Asked {
            id: "".into(),
            method: method.parse().unwrap(),
            target: target.parse().ok(),
        };
        let one = asked("PATCH", "/a/b?key=secret");
        assert_eq!((one.method(), one.path()), ("PATCH", "/a/b"));
        let long = asked(&"M".repeat(100), &format!("/{}", "\u{fc}".repeat(200)));
        assert_eq!(long.method().len(), MAX_METHOD);
        assert_eq!(long.path().len(), MAX_PATH - 1);
    }
}
