//! Where events go: to the log, to operators who follow them, and, if they need a
//! person, to the webhook (SPEC §5).
//!
//! All of them get the same event, and the journal waits for none of them. Callers
//! decide what an event says; they may be on any thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use skep_core::{LogFormat, LogLevel, Record};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::alert::Alerts;
use crate::log::Log;

/// Events that are kept for later followers, and how many a follower may lag
/// behind: a day of a quiet fleet, or some seconds of a crash loop of a thousand
/// workers, in less than 1 MiB.
const KEPT: usize = 1000;

/// The least important level of an event; what is below is only logged.
const LEAST: LogLevel = LogLevel::Info;

/// Names of the events that the webhook gets.
const ALERTS: [&str; 4] = [
    "pool.tripped",
    "app.rolled_back",
    "app.quarantined",
    "config.rejected",
];

/// The subject of an alert is the first of these fields that its event has.
/// Alerts of the same name and subject repeat each other.
const SUBJECTS: [&str; 2] = ["app", "pool"];

/// Where events go. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    log: Log,
    alerts: Alerts,
    kept: Arc<Mutex<VecDeque<Arc<Value>>>>,
    followers: broadcast::Sender<Arc<Value>>,
}

/// Events to come.
#[derive(Debug)]
pub(crate) struct Events(broadcast::Receiver<Arc<Value>>);

impl Journal {
    /// A journal that is empty.
    pub(crate) fn new(log: Log, alerts: Alerts) -> Self {
        let (followers, _) = broadcast::channel(KEPT);
        Self {
            log,
            alerts,
            kept: Arc::default(),
            followers,
        }
    }

    /// Publishes an event with the fields that `fill` adds. An event below
    /// [`LogLevel::Info`] is only logged.
    pub(crate) fn event(&self, level: LogLevel, name: &str, fill: impl Fn(Record) -> Record) {
        self.log.record(level, name, &fill);
        if level > LEAST {
            return;
        }
        let line = fill(Record::new(LogFormat::Json, now(), level, name)).finish();
        let line = line.trim_end();
        // Fails only if `fill` added a number that is no JSON: then the event is
        // the line as a text.
        let event = serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
        // An event of level info was asked for by an operator: no alert.
        if ALERTS.contains(&name) && level < LogLevel::Info {
            let subject = SUBJECTS.iter().find_map(|field| event[*field].as_str());
            self.alerts.raise(name, subject.unwrap_or_default(), line);
        }
        let event = Arc::new(event);
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Within the lock, so that a new follower neither misses an event nor
        // gets one twice. Fails when nobody follows.
        let _ = self.followers.send(event);
    }

    /// The newest events, oldest first, and all that come after them: none is
    /// missed and none is in both, whatever other threads publish meanwhile.
    pub(crate) fn follow(&self) -> (Vec<Value>, Events) {
        let kept = self.kept();
        let recent = kept.iter().map(|event| (**event).clone()).collect();
        (recent, Events(self.followers.subscribe()))
    }

    /// The log, for records that are no events.
    pub(crate) const fn log(&self) -> &Log {
        &self.log
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Value>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// The next event, or `None` once there can be none: the journal is gone.
    /// A follower that lags too far behind gets an `events.missed` with their
    /// `count` instead of the oldest. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        match self.0.recv().await {
            Ok(event) => Some((*event).clone()),
            Err(RecvError::Lagged(count)) => {
                let line = Record::new(LogFormat::Json, now(), LogLevel::Warn, "events.missed")
                    .number("count", count)
                    .finish();
                Some(serde_json::from_str(&line).expect("a count is a number"))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        Journal::new(Log::discard(), Alerts::start(None, Log::discard()))
    }

    fn number(event: &Value) -> u64 {
        event["number"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn who_follows_gets_what_was_and_what_comes() {
        let journal = journal();
        let tell = |level, number: u64| {
            journal.event(level, "worker.ready", |line| {
                line.number("number", number).text("pool", "a \"b\"")
            });
        };
        tell(LogLevel::Info, 1);
        tell(LogLevel::Debug, 2);
        let (recent, mut events) = journal.follow();
        assert_eq!(recent.len(), 1);
        assert_eq!(recent[0]["name"], "worker.ready");
        assert_eq!(recent[0]["level"], "info");
        assert_eq!(recent[0]["pool"], "a \"b\"");
        assert!(recent[0]["time"].as_str().unwrap().ends_with('Z'));
        tell(LogLevel::Error, 3);
        assert_eq!(number(&events.next().await.unwrap()), 3);
        assert_eq!(journal.follow().0.len(), 2);
        drop(journal);
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten_and_the_slow_are_told() {
        let journal = journal();
        let mut events = journal.follow().1;
        let total = 3 * KEPT as u64;
        for count in 0..total {
            journal.event(LogLevel::Info, "worker.exited", |line| {
                line.number("number", count)
            });
        }
        let recent = journal.follow().0;
        assert_eq!(recent.len(), KEPT);
        assert_eq!(number(&recent[0]), total - KEPT as u64);
        let missed = events.next().await.unwrap();
        assert_eq!(missed["name"], "events.missed");
        let next = number(&events.next().await.unwrap());
        assert_eq!(missed["count"].as_u64(), Some(next));
    }

    #[tokio::test]
    async fn nothing_is_missed_or_doubled_between_threads() {
        let journal = journal();
        let teller = journal.clone();
        let telling = std::thread::spawn(move || {
            for count in 0..900_u64 {
                teller.event(LogLevel::Info, "worker.spawned", |line| {
                    line.number("number", count)
                });
            }
        });
        while journal.follow().0.len() < 100 {
            tokio::task::yield_now().await;
        }
        let (recent, mut events) = journal.follow();
        telling.join().unwrap();
        drop(journal);
        let mut seen: Vec<u64> = recent.iter().map(number).collect();
        while let Some(event) = events.next().await {
            seen.push(number(&event));
        }
        assert!(seen.iter().copied().eq(0..900));
    }
}
