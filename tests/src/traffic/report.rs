//! What became of all requests.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use super::class::{Class, Kind};
use super::latencies::{Latencies, Spread};

/// How many failures a report tells in full.
const FAILURES: usize = 50;

/// The bounds of the histogram that is shown, in milliseconds.
const BOUNDS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000];

/// One client's counts.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) begun: u64,
    pub(super) connections: u64,
    pub(super) reconnects: u64,
    pub(super) polite_closes: u64,
    classes: BTreeMap<Class, u64>,
    revisions: BTreeMap<u64, u64>,
    failures: Vec<Failure>,
    latencies: Latencies,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began.
    pub began: Instant,
    /// How long it took to fail.
    pub took: Duration,
    /// Whose it was: clients are numbered from 0.
    pub client: usize,
    /// What that client speaks.
    pub kind: Kind,
    /// How it ended.
    pub class: Class,
    /// The revision that answered, if one did and said so.
    pub revision: Option<u64>,
    /// What was seen.
    pub text: String,
}

/// What became of all requests. [`fmt::Display`] is a table of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// When the clients were started.
    pub started: Instant,
    /// How long they have been at it.
    pub took: Duration,
    /// Requests that were begun. What is neither in `classes` is under way.
    pub begun: u64,
    /// How they ended, by what their clients speak.
    pub classes: BTreeMap<(Class, Kind), u64>,
    /// Whole responses by the revision that they named, the wrong ones among
    /// them.
    pub revisions: BTreeMap<u64, u64>,
    /// Connections that were made.
    pub connections: u64,
    /// Kept-alive connections that were found closed, unannounced, before a
    /// request was written to them. Not failures; see [`Class`].
    pub reconnects: u64,
    /// Kept-alive connections whose end was announced: by `Connection: close`
    /// in a response, or by GOAWAY.
    pub polite_closes: u64,
    /// The first 50 failures, in the order in which they began.
    pub failures: Vec<Failure>,
    /// Times of the requests that ended well.
    pub latencies: Latencies,
}

impl Tally {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            begun: 0,
            connections: 0,
            reconnects: 0,
            polite_closes: 0,
            classes: BTreeMap::new(),
            revisions: BTreeMap::new(),
            failures: Vec::new(),
            latencies: Latencies::new(epoch),
        }
    }

    pub(super) fn end(
        &mut self,
        class: Class,
        revision: Option<u64>,
        began: Instant,
        took: Duration,
    ) {
        *self.classes.entry(class).or_default() += 1;
        if let Some(revision) = revision {
            *self.revisions.entry(revision).or_default() += 1;
        }
        if class == Class::Ok {
            self.latencies.add(began, took);
        }
    }

    /// Keeps a failure, if there is room: every client's first are enough for
    /// the first of all.
    pub(super) fn note(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES {
            self.failures.push(failure);
        }
    }

    /// Requests that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.classes.values().sum()
    }
}

impl Report {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            took: started.elapsed(),
            begun: 0,
            classes: BTreeMap::new(),
            revisions: BTreeMap::new(),
            connections: 0,
            reconnects: 0,
            polite_closes: 0,
            failures: Vec::new(),
            latencies: Latencies::new(started),
        }
    }

    pub(super) fn add(&mut self, kind: Kind, tally: &Tally) {
        self.begun += tally.begun;
        self.connections += tally.connections;
        self.reconnects += tally.reconnects;
        self.polite_closes += tally.polite_closes;
        for (class, count) in &tally.classes {
            *self.classes.entry((*class, kind)).or_default() += count;
        }
        for (revision, count) in &tally.revisions {
            *self.revisions.entry(*revision).or_default() += count;
        }
        self.failures.extend_from_slice(&tally.failures);
        self.failures.sort_by_key(|failure| failure.began);
        self.failures.truncate(FAILURES);
        self.latencies.append(&tally.latencies);
    }

    /// Requests that ended in this class.
    #[must_use]
    pub fn count(&self, class: Class) -> u64 {
        self.sum(|found, _| found == class)
    }

    /// Requests of such clients that ended in this class.
    #[must_use]
    pub fn count_of(&self, class: Class, kind: Kind) -> u64 {
        self.classes.get(&(class, kind)).copied().unwrap_or(0)
    }

    /// Requests that ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.sum(|_, _| true)
    }

    /// Requests that ended well.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.count(Class::Ok)
    }

    /// Requests that did not.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.sum(|class, _| class.is_failure())
    }

    /// Insists that there were requests and that none failed.
    ///
    /// # Panics
    ///
    /// With the report, if one did or there were none.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.ok() > 0 && self.failed() == 0, "{self}");
    }

    fn sum(&self, wanted: impl Fn(Class, Kind) -> bool) -> u64 {
        let counts = self.classes.iter();
        counts
            .filter(|((class, kind), _)| wanted(*class, *kind))
            .map(|(_, count)| count)
            .sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests in {:.1?}: {} ok, {} failed, {} under way",
            self.begun,
            self.took,
            self.ok(),
            self.failed(),
            self.begun.saturating_sub(self.ended()),
        )?;
        self.write_classes(f)?;
        writeln!(
            f,
            "connections: {} made, {} closed politely, {} found closed while idle",
            self.connections, self.polite_closes, self.reconnects
        )?;
        if !self.revisions.is_empty() {
            let counts = self.revisions.iter();
            let counts: Vec<_> = counts.map(|(no, count)| format!("{no}: {count}")).collect();
            writeln!(f, "responses by revision: {}", counts.join(", "))?;
        }
        write_spread(f, &self.latencies.all())?;
        for failure in &self.failures {
            let Failure {
                took,
                client,
                kind,
                class,
                revision,
                text,
                ..
            } = failure;
            let at = failure.began.saturating_duration_since(self.started);
            write!(f, "failed at {at:.3?}: client {client} ({kind}), {class}")?;
            if let Some(revision) = revision {
                write!(f, " by revision {revision}")?;
            }
            let colon = if text.is_empty() { "" } else { ": " };
            writeln!(f, " after {took:.1?}{colon}{text}")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_classes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16}", "")?;
        for kind in Kind::ALL {
            write!(f, "{kind:>12}")?;
        }
        writeln!(f, "{:>12}", "all")?;
        let mut classes: Vec<Class> = self.classes.keys().map(|(class, _)| *class).collect();
        classes.dedup();
        for class in classes {
            write!(f, "{class:<16}")?;
            for kind in Kind::ALL {
                write!(f, "{:>12}", self.count_of(class, kind))?;
            }
            writeln!(f, "{:>12}", self.count(class))?;
        }
        Ok(())
    }
}

fn write_spread(f: &mut fmt::Formatter<'_>, spread: &Spread) -> fmt::Result {
    if spread.count() == 0 {
        return Ok(());
    }
    writeln!(
        f,
        "latency: p50 {:.2?}, p99 {:.2?}, longest {:.2?}",
        spread.p50(),
        spread.p99(),
        spread.max()
    )?;
    let mut text = String::new();
    let mut before = 0;
    for bound in BOUNDS {
        let below = spread.below(Duration::from_millis(bound));
        if below > before {
            write!(text, "  < {bound} ms: {}", below - before)?;
        }
        before = below;
    }
    if spread.count() > before {
        write!(text, "  more: {}", spread.count() - before)?;
    }
    writeln!(f, "{text}")
}
