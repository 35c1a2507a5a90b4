//! Alerts: events that need a person, sent to the webhook.
//!
//! A webhook may be slow, dead or hostile, and speaks HTTP and TLS, which the
//! primary does not. So a process of its own, the alerter, talks to it; it is
//! started when an alert waits and stopped when it has been idle for a while.
//! This module keeps the alerts that wait ([`outbox`]) and runs that process. The
//! alerter gets one alert at a time, so that it is known which alert it died of.
//! Raising an alert waits for nothing.
//!
//! ```text
//! Absent{not_before} ──an alert waits──▶ Idle{since} ──the next one──▶ Busy{id, by}
//!        ▲  ▲                             │      ▲                       │  │
//!        │  └───long idle, other webhook──┘      └──delivered, given up──┘  │
//!        └────────────────died, late, nonsense──────────────────────────────┘
//! ```

mod outbox;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_core::identity::Role;
use skep_core::{AlertSpec, LogLevel};
use skep_sys::{Channel, Child, Output, Schedule, Spawn};
use skep_wire::{FromAlerter, ToAlerter};
use tokio::select;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use self::outbox::{Alert, Outbox, Raised};
use crate::channel_end::ChannelEnd;
use crate::log::{Listening, Log, Speaker};
use crate::walls::identity_of;

/// The times of an alerter's life.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long an idle alerter is kept: a failed rollback is often followed by
    /// a tripped breaker.
    idle: Duration,
    /// How long it may work on one alert: all its attempts with all their
    /// pauses take less than four minutes.
    busy: Duration,
    /// Pause after the first death; doubles up to `longest_pause`.
    pause: Duration,
    /// Longest pause.
    longest_pause: Duration,
    /// How long it has at the primary's shutdown, which people wait for.
    end: Duration,
}

const PACE: Pace = Pace {
    idle: Duration::from_secs(30),
    busy: Duration::from_secs(300),
    pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(30),
    end: Duration::from_secs(1),
};

/// How much later than its own deadline the task may notice it.
const SLACK: Duration = Duration::from_millis(500);

/// Sends alerts to the webhook. Clones share one outbox.
#[derive(Clone, Debug)]
pub(crate) struct Alerts {
    shared: Arc<Shared>,
    pace: Pace,
}

#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    changed: Notify,
    task: Mutex<Option<JoinHandle<()>>>,
    log: Log,
}

impl Alerts {
    /// Sends alerts to the webhook of `spec`, if there is one. Must be called
    /// within a tokio runtime.
    pub(crate) fn start(spec: Option<AlertSpec>, log: Log) -> Self {
        let processes = Processes { log: log.clone() };
        Self::with(processes, PACE, spec, log)
    }

    fn with<S: Start>(start: S, pace: Pace, spec: Option<AlertSpec>, log: Log) -> Self {
        let shared = Arc::new(Shared {
            outbox: Mutex::new(Outbox::new(spec.map(|spec| spec.webhook))),
            changed: Notify::new(),
            task: Mutex::default(),
            log,
        });
        let task = Task {
            start,
            pace,
            shared: shared.clone(),
            pause: pace.pause,
            alerter: Alerter::Absent {
                not_before: Instant::now(),
            },
        };
        let task = tokio::spawn(task.run());
        *locked(&shared.task) = Some(task);
        Self { shared, pace }
    }

    /// Raises the alert of the event `name` about `subject`, whose JSON text is
    /// `event_json`. An alert of the same name and subject within a minute is
    /// only counted, and the next one has that count as `repeated`. An alert for
    /// which the outbox has no room is dropped, and the log says so. Waits for
    /// nothing; from any thread.
    pub(crate) fn raise(&self, name: &str, subject: &str, event_json: &str) {
        let now = Instant::now().into_std();
        let raised = locked(&self.shared.outbox).raise(now, name, subject, event_json);
        match raised {
            Raised::Waits => self.shared.changed.notify_one(),
            Raised::Repeated | Raised::Nobody => {}
            Raised::Full => self
                .shared
                .log
                .record(LogLevel::Error, "alert.dropped", |line| {
                    line.text("alert", name)
                        .text("subject", subject)
                        .text("message", "too many wait for the webhook to answer")
                }),
        }
    }

    /// Sends alerts to another webhook, or none, from now on. Those that wait go
    /// there; the old webhook may have got the first of them as well.
    pub(crate) fn reconfigure(&self, spec: Option<AlertSpec>) {
        let rest = locked(&self.shared.outbox).reconfigure(spec.map(|spec| spec.webhook));
        for alert in rest {
            self.shared
                .undelivered(&alert, "no webhook is configured any more");
        }
        self.shared.changed.notify_one();
    }

    /// Takes no more alerts, gives those that wait a second to be delivered, and
    /// ends the alerter. Alerts that were not delivered are logged.
    pub(crate) async fn finish(self) {
        let by = Instant::now() + self.pace.end;
        locked(&self.shared.outbox).end(by.into_std());
        self.shared.changed.notify_one();
        let task = locked(&self.shared.task).take();
        if let Some(mut task) = task
            && timeout(self.pace.end + SLACK, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Shared {
    fn undelivered(&self, alert: &Alert, reason: &str) {
        self.log
            .record(LogLevel::Error, "alert.undelivered", |line| {
                line.text("alert", &alert.name)
                    .text("reason", reason)
                    .text("event", &alert.event)
            });
    }
}

/// Starts alerters: processes, or stand-ins in tests.
trait Start: Send + 'static {
    /// Dropping it ends the alerter.
    type Life: Send;

    fn start(&mut self) -> io::Result<(ChannelEnd, Self::Life)>;
}

/// Alerters as processes of this executable.
struct Processes {
    log: Log,
}

impl Start for Processes {
    /// Dropping the child kills and reaps it; then the rest of its output is
    /// read. That it ended is noticed when its channel closes.
    type Life = (Child, Listening);

    fn start(&mut self) -> io::Result<(ChannelEnd, Self::Life)> {
        let (ours, theirs) = Channel::pair()?;
        let (output, written) = Output::pipe()?;
        let child = skep_sys::spawn(Spawn {
            role: "alerter",
            title: "skep: alerter",
            channel: theirs,
            output: Some(written),
            identity: identity_of(Role::Alerter),
            schedule: Schedule::Usual,
        })?;
        let speaker = Speaker::role("alerter", None);
        let listening = self.log.listen(output, speaker, child.pid());
        Ok((ChannelEnd::new(ours)?, (child, listening)))
    }
}

/// The process that talks to the webhook.
enum Alerter<L> {
    Absent {
        not_before: Instant,
    },
    Present {
        webhook: String,
        channel: ChannelEnd,
        work: Work,
        /// Dropping it ends the alerter.
        _life: L,
    },
}

/// What an alerter is doing.
#[derive(Clone, Copy)]
enum Work {
    Idle { since: Instant },
    Busy { id: u64, by: Instant },
}

impl Work {
    fn has(self, alert: u64) -> bool {
        matches!(self, Self::Busy { id, .. } if id == alert)
    }
}

struct Task<S: Start> {
    start: S,
    pace: Pace,
    shared: Arc<Shared>,
    /// The next pause.
    pause: Duration,
    alerter: Alerter<S::Life>,
}

impl<S: Start> Task<S> {
    async fn run(mut self) {
        loop {
            if self.outbox().is_over(Instant::now().into_std()) {
                break;
            }
            self.advance();
            let deadline = self.deadline();
            select! {
                biased;
                () = self.shared.changed.notified() => {}
                said = said(&mut self.alerter) => self.heard(said),
                () = until(deadline) => self.late(),
            }
        }
        let rest = self.outbox().rest();
        for alert in rest {
            self.shared.undelivered(&alert, "skep ended");
        }
    }

    /// Starts an alerter and hands it the next alert, where that is due.
    fn advance(&mut self) {
        let (webhook, first) = {
            let outbox = self.outbox();
            (
                outbox.webhook().map(str::to_owned),
                outbox.first().map(|alert| (alert.id, alert.event.clone())),
            )
        };
        let now = Instant::now();
        if let Alerter::Present { webhook: told, .. } = &self.alerter
            && webhook.as_ref() != Some(told)
        {
            self.alerter = Alerter::Absent { not_before: now };
        }
        let (Some(webhook), Some((id, event))) = (webhook, first) else {
            return;
        };
        if matches!(self.alerter, Alerter::Absent { not_before } if not_before <= now)
            && let Err(error) = self.begin(webhook)
        {
            return self.died(&format!("the alerter cannot be started: {error}"));
        }
        let Alerter::Present { channel, work, .. } = &mut self.alerter else {
            return;
        };
        if matches!(work, Work::Idle { .. }) {
            *work = Work::Busy {
                id,
                by: now + self.pace.busy,
            };
            if let Err(error) = channel.say(&ToAlerter::Alert { id, event }, Vec::new()) {
                self.died(&format!("it cannot be told: {error}"));
            }
        }
    }

    fn begin(&mut self, webhook: String) -> io::Result<()> {
        let (mut channel, life) = self.start.start()?;
        let begin = ToAlerter::Begin {
            webhook: webhook.clone(),
        };
        channel.say(&begin, Vec::new()).map_err(io::Error::other)?;
        self.alerter = Alerter::Present {
            webhook,
            channel,
            work: Work::Idle {
                since: Instant::now(),
            },
            _life: life,
        };
        Ok(())
    }

    fn heard(&mut self, said: Said) {
        let answer = match said {
            Said::Answer(answer) => answer,
            Said::End => return self.died("the alerter ended"),
            Said::Nonsense(why) => {
                return self.died(&format!("the alerter's answer makes no sense: {why}"));
            }
        };
        let (FromAlerter::Delivered { id: about, .. } | FromAlerter::GaveUp { id: about, .. }) =
            &answer;
        let about = *about;
        match &mut self.alerter {
            Alerter::Present { work, .. } if work.has(about) => {
                *work = Work::Idle {
                    since: Instant::now(),
                };
            }
            _ => return self.died("the alerter answered for another alert"),
        }
        self.pause = self.pace.pause;
        let done = self.outbox().done(about);
        // The webhook was removed while the answer was on its way.
        let Some(alert) = done else { return };
        match answer {
            FromAlerter::Delivered { attempts, .. } => {
                self.shared
                    .log
                    .record(LogLevel::Info, "alert.delivered", |line| {
                        line.text("alert", &alert.name).number("attempts", attempts)
                    });
            }
            FromAlerter::GaveUp { reason, .. } => self.shared.undelivered(&alert, &reason),
        }
    }

    /// The deadline has passed.
    fn late(&mut self) {
        let now = Instant::now();
        match &self.alerter {
            Alerter::Present {
                work: Work::Busy { by, .. },
                ..
            } if *by <= now => self.died("the alerter did not answer in time"),
            Alerter::Present {
                work: Work::Idle { since },
                ..
            } if *since + self.pace.idle <= now => {
                self.alerter = Alerter::Absent { not_before: now };
                self.shared
                    .log
                    .record(LogLevel::Debug, "alerter.exited", |line| {
                        line.text("reason", "it had nothing to do")
                    });
            }
            // A pause is over, or the outbox has ended: the loop handles both.
            _ => {}
        }
    }

    /// The alerter has died or cannot be used any more: ends it.
    fn died(&mut self, why: &str) {
        let about = match &self.alerter {
            Alerter::Absent { .. } => self.outbox().first().map(|alert| alert.id),
            Alerter::Present { work, .. } => match work {
                Work::Busy { id, .. } => Some(*id),
                // An alerter that is idle when it dies has lost no alert.
                Work::Idle { .. } => None,
            },
        };
        self.alerter = Alerter::Absent {
            not_before: Instant::now() + self.pause,
        };
        self.pause = (self.pause * 2).min(self.pace.longest_pause);
        self.shared
            .log
            .record(LogLevel::Warn, "alerter.exited", |line| {
                line.text("reason", why)
            });
        let given_up = about.and_then(|id| self.outbox().died(id));
        if let Some(alert) = given_up {
            self.shared.undelivered(&alert, why);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let outbox = self.outbox();
        let own = match &self.alerter {
            Alerter::Absent { not_before } => outbox.first().map(|_| *not_before),
            Alerter::Present { work, .. } => Some(match work {
                Work::Idle { since } => *since + self.pace.idle,
                Work::Busy { by, .. } => *by,
            }),
        };
        let end = outbox.ends().map(Instant::from_std);
        own.into_iter().chain(end).min()
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        locked(&self.shared.outbox)
    }
}

/// What an alerter said.
enum Said {
    Answer(FromAlerter),
    End,
    Nonsense(String),
}

async fn said<L>(alerter: &mut Alerter<L>) -> Said {
    let Alerter::Present { channel, .. } = alerter else {
        return std::future::pending().await;
    };
    match channel.next().await {
        Ok(Some(answer)) => Said::Answer(answer),
        Ok(None) => Said::End,
        Err(error) => Said::Nonsense(error.to_string()),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ignores poisoning: no panic leaves what is locked here half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
