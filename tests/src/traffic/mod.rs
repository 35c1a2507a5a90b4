//! Traffic that counts every request and classifies every failure, for tests
//! that claim that not one was lost.
//!
//! Some clients keep their connection and some make a new one for every
//! request; some speak HTTP/1.1 and some HTTP/2. Each asks one thing at a time
//! and puts every request that it began into exactly one [`Class`]. They run
//! on threads of their own, so that the test's thread is free.
//!
//! ```text
//! let traffic = Traffic::start(address, Mix::default());
//! traffic.revisions().begin(1);
//! …                                         // deploy, restart, scale
//! traffic.finish().assert_clean();
//! ```
//!
//! | module | |
//! |---|---|
//! | `class` | how requests end, and why a closed idle connection is no failure |
//! | `client`, `link`, `seen` | a client, its connection, and what its socket saw |
//! | `revisions` | which revisions may answer when |
//! | `latencies`, `report` | what came of it |

mod class;
mod client;
mod latencies;
mod link;
mod report;
mod revisions;
mod seen;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use class::{Class, Kind};
pub use latencies::{Latencies, Spread};
pub use report::{Failure, Report};
pub use revisions::Revisions;

use client::Client;
use link::Question;
use report::Tally;

/// Threads that the clients share. One can ask more than two workers of skep
/// can answer; two see to it that a burst of one protocol does not show as
/// latency of the other.
const THREADS: usize = 2;

/// How long a request may take, its connection included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which clients, and what they ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Clients that speak HTTP/1.1 and keep their connection.
    pub kept_alive_h1: usize,
    /// Clients that speak HTTP/2 and keep their connection.
    pub kept_alive_h2: usize,
    /// Clients that speak HTTP/1.1 and make a connection for every request.
    pub new_h1: usize,
    /// Clients that speak HTTP/2 and make a connection for every request.
    pub new_h2: usize,
    /// The path, and the query if there is one.
    pub path: String,
    /// How long each client waits between the end of a request and the next,
    /// for a steady load; none for as much load as they can make.
    pub pause: Option<Duration>,
    /// How long a request may take before it is a [`Class::Timeout`].
    pub patience: Duration,
}

impl Default for Mix {
    /// 32 kept-alive and 8 new-connection clients, half of each in HTTP/2, as
    /// fast as they can.
    fn default() -> Self {
        Self {
            kept_alive_h1: 16,
            kept_alive_h2: 16,
            new_h1: 4,
            new_h2: 4,
            path: "/".to_owned(),
            pause: None,
            patience: PATIENCE,
        }
    }
}

/// Clients at work. Dropped, they end after the requests under way.
#[derive(Debug)]
pub struct Traffic {
    started: Instant,
    /// Nothing is sent; that it is gone is the signal.
    stop: watch::Sender<()>,
    threads: Vec<JoinHandle<()>>,
    tallies: Vec<(Kind, Arc<Mutex<Tally>>)>,
    revisions: Revisions,
}

impl Traffic {
    /// Starts the clients.
    ///
    /// # Panics
    ///
    /// If the path cannot be asked for, or there are no threads to be had.
    #[must_use]
    pub fn start(address: SocketAddr, mix: Mix) -> Self {
        let started = Instant::now();
        let (stop, stopped) = watch::channel(());
        let revisions = Revisions::default();
        let kinds = mix.kinds();
        let Mix {
            path,
            pause,
            patience,
            ..
        } = mix;
        let question = Question::new(address, path);
        let mut tallies = Vec::new();
        let mut shares: [Vec<Client>; THREADS] = Default::default();
        for (number, kind) in kinds.iter().copied().enumerate() {
            let tally = Arc::new(Mutex::new(Tally::new(started)));
            tallies.push((kind, Arc::clone(&tally)));
            shares[number % THREADS].push(Client {
                number,
                kind,
                question: question.clone(),
                patience,
                pause,
                delay: pause.map_or(Duration::ZERO, |pause| share(pause, number, kinds.len())),
                revisions: revisions.clone(),
                tally,
                stop: stopped.clone(),
            });
        }
        let threads = shares
            .into_iter()
            .map(|clients| thread::spawn(move || drive(clients)))
            .collect();
        Self {
            started,
            stop,
            threads,
            tallies,
            revisions,
        }
    }

    /// Which revisions may answer, from now on. Whoever wants answers checked
    /// begins with the revision that is live at the start.
    #[must_use]
    pub fn revisions(&self) -> &Revisions {
        &self.revisions
    }

    /// Requests that have ended so far.
    #[must_use]
    pub fn ended(&self) -> u64 {
        let tallies = self.tallies.iter();
        tallies.map(|(_, tally)| look(tally, Tally::ended)).sum()
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn report_now(&self) -> Report {
        report(self.started, &self.tallies)
    }

    /// Ends it, and says what became of all requests.
    ///
    /// # Panics
    ///
    /// If a client panicked.
    #[must_use]
    pub fn finish(self) -> Report {
        let Self {
            started,
            stop,
            threads,
            tallies,
            ..
        } = self;
        drop(stop);
        // Every request ends within the client's patience, so these do.
        for thread in threads {
            thread.join().expect("clients do not panic");
        }
        report(started, &tallies)
    }
}

impl Mix {
    /// The clients. Threads take them in turn, so each has some of each kind.
    fn kinds(&self) -> Vec<Kind> {
        let counts = [
            (Kind::KeptH1, self.kept_alive_h1),
            (Kind::KeptH2, self.kept_alive_h2),
            (Kind::NewH1, self.new_h1),
            (Kind::NewH2, self.new_h2),
        ];
        let kinds = counts.map(|(kind, count)| vec![kind; count]);
        kinds.concat()
    }
}

/// When the client of this number begins: a steady load is not a burst every
/// pause.
fn share(pause: Duration, number: usize, clients: usize) -> Duration {
    let part = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    pause * part(number) / part(clients)
}

/// The clients of one thread, to their end.
///
/// One thread, because a connection and its client must not run at once: what
/// hyper finds closed before it writes would not stay so until it does.
fn drive(clients: Vec<Client>) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("there are descriptors for a runtime");
    runtime.block_on(async {
        let mut running: JoinSet<()> = clients.into_iter().map(Client::run).collect();
        while let Some(ended) = running.join_next().await {
            ended.expect("clients do not panic");
        }
    });
}

fn look<T>(tally: &Mutex<Tally>, look: impl FnOnce(&Tally) -> T) -> T {
    look(&tally.lock().unwrap_or_else(PoisonError::into_inner))
}

fn report(started: Instant, tallies: &[(Kind, Arc<Mutex<Tally>>)]) -> Report {
    let mut report = Report::new(started);
    for (kind, tally) in tallies {
        look(tally, |tally| report.add(*kind, tally));
    }
    report
}
