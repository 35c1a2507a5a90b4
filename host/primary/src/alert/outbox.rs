//! The alerts that wait to be delivered: which are kept, which are counted as
//! repetitions, which are given up. Pure: the time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Most alerts that wait. A bad day has a handful; more than this means that the
/// webhook does not answer, and the log has all events anyway.
const WAITING: usize = 64;

/// How long after an alert others of its name and subject are only counted.
const SAME: Duration = Duration::from_secs(60);

/// How long repetitions are remembered that no later alert has reported; bounds
/// the memory to the names and subjects of an hour.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How often an alert is tried again after an alerter died of it.
const RETRIES: u32 = 3;

/// What became of an alert that was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raised {
    /// It waits.
    Waits,
    /// It repeats a recent one: it is counted, and the next one reports it.
    Repeated,
    /// Too many wait.
    Full,
    /// There is no webhook, or the outbox has ended.
    Nobody,
}

/// An alert that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alert {
    /// Its number.
    pub(super) id: u64,
    /// The event's name.
    pub(super) name: String,
    /// The event, a JSON object as text.
    pub(super) event: String,
    deaths: u32,
}

/// The last alert of a name and a subject.
#[derive(Debug)]
struct Told {
    at: Instant,
    repeated: u64,
}

/// The alerts that wait to be delivered, oldest first.
#[derive(Debug)]
pub(super) struct Outbox {
    webhook: Option<String>,
    waiting: VecDeque<Alert>,
    told: BTreeMap<(String, String), Told>,
    last_id: u64,
    ends: Option<Instant>,
}

impl Outbox {
    pub(super) const fn new(webhook: Option<String>) -> Self {
        Self {
            webhook,
            waiting: VecDeque::new(),
            told: BTreeMap::new(),
            last_id: 0,
            ends: None,
        }
    }

    /// The webhook that gets the alerts.
    pub(super) fn webhook(&self) -> Option<&str> {
        self.webhook.as_deref()
    }

    /// Exchanges the webhook. Alerts that wait go to the new one; without one
    /// they are returned.
    pub(super) fn reconfigure(&mut self, webhook: Option<String>) -> VecDeque<Alert> {
        self.webhook = webhook;
        match self.webhook {
            Some(_) => VecDeque::new(),
            None => std::mem::take(&mut self.waiting),
        }
    }

    /// Takes an alert.
    pub(super) fn raise(&mut self, now: Instant, name: &str, subject: &str, event: &str) -> Raised {
        if self.webhook.is_none() || self.ends.is_some() {
            return Raised::Nobody;
        }
        self.told.retain(|_, told| {
            let age = now.saturating_duration_since(told.at);
            age < SAME || (told.repeated > 0 && age < REMEMBERED)
        });
        let key = (name.to_owned(), subject.to_owned());
        let last = self.told.get_mut(&key);
        if let Some(told) = last
            && now.saturating_duration_since(told.at) < SAME
        {
            told.repeated += 1;
            return Raised::Repeated;
        }
        if self.waiting.len() == WAITING {
            return Raised::Full;
        }
        let fresh = Told {
            at: now,
            repeated: 0,
        };
        let repeated = self.told.insert(key, fresh).map_or(0, |told| told.repeated);
        self.last_id += 1;
        self.waiting.push_back(Alert {
            id: self.last_id,
            name: name.to_owned(),
            event: with_repeated(event, repeated),
            deaths: 0,
        });
        Raised::Waits
    }

    /// The alert whose turn it is.
    pub(super) fn first(&self) -> Option<&Alert> {
        self.waiting.front()
    }

    /// Removes an alert that was delivered or given up, if it is the first.
    pub(super) fn done(&mut self, id: u64) -> Option<Alert> {
        self.waiting.pop_front_if(|first| first.id == id)
    }

    /// Counts that an alerter died of this alert, if it is the first; removes and
    /// returns it once it has had all its retries.
    pub(super) fn died(&mut self, id: u64) -> Option<Alert> {
        self.waiting.pop_front_if(|first| {
            if first.id != id {
                return false;
            }
            first.deaths += 1;
            first.deaths > RETRIES
        })
    }

    /// Takes no more alerts, and ends at `by` at the latest.
    pub(super) const fn end(&mut self, by: Instant) {
        self.ends = Some(by);
    }

    /// When it ends at the latest.
    pub(super) const fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// Whether it ends and no alert waits, or the time is up.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.ends
            .is_some_and(|by| self.waiting.is_empty() || now >= by)
    }

    /// Takes all alerts that still wait; for the end.
    pub(super) fn rest(&mut self) -> VecDeque<Alert> {
        std::mem::take(&mut self.waiting)
    }
}

/// Adds the number of repetitions, unless it is 0.
fn with_repeated(event: &str, repeated: u64) -> String {
    match event.trim_end().strip_suffix('}') {
        Some(open) if repeated > 0 => format!("{open},\"repeated\":{repeated}}}"),
        _ => event.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "{\"name\":\"pool.tripped\"}";

    fn outbox() -> Outbox {
        Outbox::new(Some("http://127.0.0.1:9000/hook".into()))
    }

    #[test]
    fn the_same_within_a_minute_is_one_alert_and_is_counted() {
        let mut outbox = outbox();
        let start = Instant::now();
        let mut raise = |seconds, subject| {
            let now = start + Duration::from_secs(seconds);
            outbox.raise(now, "pool.tripped", subject, EVENT)
        };
        assert_eq!(raise(0, "a"), Raised::Waits);
        assert_eq!(raise(1, "b"), Raised::Waits);
        assert_eq!(raise(30, "a"), Raised::Repeated);
        assert_eq!(raise(59, "a"), Raised::Repeated);
        assert_eq!(raise(60, "a"), Raised::Waits);
        assert_eq!(raise(61, "b"), Raised::Waits);
        let events: Vec<String> = outbox.rest().into_iter().map(|a| a.event).collect();
        let repeated = "{\"name\":\"pool.tripped\",\"repeated\":2}";
        assert_eq!(events, [EVENT, EVENT, repeated, EVENT]);
        serde_json::from_str::<serde_json::Value>(repeated).unwrap();

        let later = start + Duration::from_secs(5000);
        outbox.raise(later, "app.rolled_back", "c", EVENT);
        assert_eq!(outbox.told.len(), 1, "what is old is forgotten");
    }

    #[test]
    fn too_many_are_refused_and_leave_no_trace() {
        let mut outbox = outbox();
        let now = Instant::now();
        let mut raise =
            |subject: usize| outbox.raise(now, "app.rolled_back", &subject.to_string(), EVENT);
        assert!((0..WAITING).all(|subject| raise(subject) == Raised::Waits));
        assert_eq!(raise(WAITING), Raised::Full);
        assert_eq!(outbox.done(2), None, "it is not its turn");
        assert_eq!(outbox.done(1).unwrap().id, 1);
        let again = outbox.raise(now, "app.rolled_back", &WAITING.to_string(), EVENT);
        assert_eq!(again, Raised::Waits);
    }

    #[test]
    fn what_kills_alerters_is_given_up_and_the_next_has_its_turn() {
        let mut outbox = outbox();
        let now = Instant::now();
        outbox.raise(now, "pool.tripped", "a", EVENT);
        outbox.raise(now, "pool.tripped", "b", EVENT);
        for _ in 0..RETRIES {
            assert_eq!(outbox.died(1), None);
        }
        assert_eq!(outbox.died(2), None, "it is not its turn");
        assert_eq!(outbox.died(1).unwrap().id, 1);
        assert_eq!(outbox.first().unwrap().id, 2);
        assert_eq!(outbox.died(2), None);
    }

    #[test]
    fn without_a_webhook_or_at_the_end_nobody_is_told() {
        let mut outbox = outbox();
        let now = Instant::now();
        outbox.raise(now, "pool.tripped", "a", EVENT);
        assert!(outbox.reconfigure(Some("https://b/".into())).is_empty());
        assert_eq!(outbox.first().unwrap().id, 1);
        assert_eq!(outbox.reconfigure(None).len(), 1);
        let raised = outbox.raise(now, "pool.tripped", "b", EVENT);
        assert_eq!(raised, Raised::Nobody);

        outbox.reconfigure(Some("https://b/".into()));
        outbox.raise(now, "pool.tripped", "c", EVENT);
        let by = now + Duration::from_secs(1);
        outbox.end(by);
        assert_eq!(
            outbox.raise(now, "pool.tripped", "d", EVENT),
            Raised::Nobody
        );
        assert!(!outbox.is_over(now));
        assert!(outbox.is_over(by));
        outbox.rest();
        assert!(outbox.is_over(now));
    }
}
