//! One client: asks again and again, and says of every request how it ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::class::{Class, Kind};
use super::link::{Answer, Failed, Link, Question, Unanswered};
use super::report::{Failure, Tally};
use super::revisions::Revisions;

/// Between two requests of a client that finds nobody listening, which would
/// ask a hundred thousand times a second otherwise.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) kind: Kind,
    pub(super) question: Question,
    pub(super) patience: Duration,
    pub(super) pause: Option<Duration>,
    /// Before its first request.
    pub(super) delay: Duration,
    pub(super) revisions: Revisions,
    /// Written by nobody else; read when somebody wants a report.
    pub(super) tally: Arc<Mutex<Tally>>,
    /// Its sender is gone when it is time to end.
    pub(super) stop: watch::Receiver<()>,
}

impl Client {
    /// Asks until it is time to end, and then until the request under way has
    /// ended.
    pub(super) async fn run(mut self) {
        self.rest(self.delay).await;
        let mut link = None;
        while self.stop.has_changed().is_ok() {
            let began = Instant::now();
            self.count(|tally| tally.begun += 1);
            let ended = match timeout(self.patience, self.one(&mut link)).await {
                Ok(ended) => ended,
                Err(_) => Err(Failed {
                    class: Class::Timeout,
                    text: format!("no whole response within {:?}", self.patience),
                }),
            };
            let class = self.book(began, ended);
            if class == Class::Refused {
                self.rest(AFTER_REFUSAL).await;
            }
            if let Some(pause) = self.pause {
                self.rest(pause).await;
            }
        }
    }

    /// One request, on as many connections as it takes.
    ///
    /// The connection is put back only after a whole response: one that a
    /// request left in any other way is not used again, whoever gave up.
    async fn one(&self, kept: &mut Option<Link>) -> Result<Answer, Failed> {
        loop {
            let mut link = match kept.take() {
                // Told to go before it had asked: it goes.
                Some(link) if link.is_dismissed() => {
                    self.count(|tally| tally.polite_closes += 1);
                    continue;
                }
                Some(link) => link,
                None => {
                    let link = Link::open(&self.question, self.kind).await?;
                    self.count(|tally| tally.connections += 1);
                    link
                }
            };
            match link.ask(&self.question, self.kind).await {
                Ok(answer) => {
                    if self.kind.is_kept() {
                        if answer.closes {
                            self.count(|tally| tally.polite_closes += 1);
                        } else {
                            *kept = Some(link);
                        }
                    }
                    return Ok(answer);
                }
                // See `Class`: nothing was asked, so nothing was lost. A new
                // connection that ends before it served is not of this kind.
                Err(Unanswered::Unsent(_)) if link.answers > 0 => {
                    let polite = link.is_dismissed();
                    self.count(|tally| {
                        if polite {
                            tally.polite_closes += 1;
                        } else {
                            tally.reconnects += 1;
                        }
                    });
                }
                Err(Unanswered::Unsent(failed) | Unanswered::Failed(failed)) => return Err(failed),
            }
        }
    }

    fn book(&self, began: Instant, ended: Result<Answer, Failed>) -> Class {
        let took = began.elapsed();
        let revision = ended.as_ref().ok().and_then(|answer| answer.revision);
        let (class, text) = match ended {
            Ok(answer) if !(200..300).contains(&answer.status) => {
                (Class::Status(answer.status), String::new())
            }
            Ok(answer) => match self.revisions.check(answer.revision, began, answer.at) {
                Ok(()) => (Class::Ok, String::new()),
                Err(text) => (Class::WrongRevision, text),
            },
            Err(failed) => (failed.class, failed.text),
        };
        self.count(|tally| {
            tally.end(class, revision, began, took);
            if class.is_failure() {
                tally.note(Failure {
                    began,
                    took,
                    client: self.number,
                    kind: self.kind,
                    class,
                    revision,
                    text,
                });
            }
        });
        class
    }

    fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Pauses, but not beyond the end. The pace is what was asked for; nothing
    /// is synchronised by it.
    async fn rest(&mut self, pause: Duration) {
        if !pause.is_zero() {
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop.changed() => {}
            }
        }
    }
}
