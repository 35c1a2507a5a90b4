//! Many clients at once, every request of theirs classified: nothing that
//! fails can hide in an average.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Address, Client, Failed, Response};

/// How clients use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One connection for as long as it holds.
    KeptAlive,
    /// A new connection for every request.
    Fresh,
}

/// How all requests ended.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answered with 200 and a whole body.
    pub ok: u64,
    /// Answered with 503.
    pub refused_busy: u64,
    /// Answered with another status; the status and the body of each.
    pub other_status: Vec<(u16, String)>,
    /// Nobody listened.
    pub refused: u64,
    /// Reset or closed before the first byte of a response, on a connection
    /// that had answered before.
    pub lost_kept: u64,
    /// The same, on a connection that had not answered yet.
    pub lost_fresh: u64,
    /// Cut off within the response.
    pub short: u64,
    /// No answer within the client's patience.
    pub timed_out: u64,
    /// Anything else.
    pub strange: Vec<String>,
    /// Time from request to whole response of those that were answered with
    /// 200, in microseconds.
    micros: Vec<u64>,
}

impl Tally {
    /// All requests that were not answered as they should be.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.refused_busy
            + self.other_status.len() as u64
            + self.refused
            + self.lost_kept
            + self.lost_fresh
            + self.short
            + self.timed_out
            + self.strange.len() as u64
    }

    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ok + self.failures()
    }

    /// The time that this share (0 to 1) of the good requests stayed within.
    ///
    /// # Panics
    ///
    /// If there was none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let mut micros = self.micros.clone();
        micros.sort_unstable();
        assert!(!micros.is_empty(), "no request was answered: {self:?}");
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a rank among some thousands of requests"
        )]
        let rank = ((micros.len() as f64 * share).ceil() as usize).clamp(1, micros.len());
        Duration::from_micros(micros[rank - 1])
    }

    fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.refused_busy += other.refused_busy;
        self.other_status.extend(other.other_status);
        self.refused += other.refused;
        self.lost_kept += other.lost_kept;
        self.lost_fresh += other.lost_fresh;
        self.short += other.short;
        self.timed_out += other.timed_out;
        self.strange.extend(other.strange);
        self.micros.extend(other.micros);
    }

    fn count(&mut self, result: Result<Response, Failed>, answered_before: bool, took: Duration) {
        match result {
            Ok(response) if response.status() == 200 => {
                self.ok += 1;
                self.micros
                    .push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            Ok(response) if response.status() == 503 => self.refused_busy += 1,
            Ok(response) => self.other_status.push((response.status(), response.text())),
            Err(Failed::Refused) => self.refused += 1,
            Err(Failed::Reset | Failed::Closed) if answered_before => self.lost_kept += 1,
            Err(Failed::Reset | Failed::Closed) => self.lost_fresh += 1,
            Err(Failed::Short(_)) => self.short += 1,
            Err(Failed::TimedOut) => self.timed_out += 1,
            Err(other) => self.strange.push(other.to_string()),
        }
    }
}

/// Clients that send the same request over and over until they are told to
/// stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    tally: Arc<Mutex<Tally>>,
}

impl Load {
    /// Starts `clients` of them.
    #[must_use]
    pub fn start(address: &Address, target: &str, clients: usize, style: Style) -> Self {
        Self::paced(address, target, clients, style, Duration::ZERO)
    }

    /// Starts `clients` of them, each with at most one request per `every`.
    #[must_use]
    pub fn paced(
        address: &Address,
        target: &str,
        clients: usize,
        style: Style,
        every: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let clients = (0..clients)
            .map(|_| {
                let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
                let (address, target) = (address.clone(), target.to_owned());
                std::thread::spawn(move || {
                    let mine = drive(&address, &target, style, every, &stop);
                    tally
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .merge(mine);
                })
            })
            .collect();
        Self {
            stop,
            clients,
            tally,
        }
    }

    /// Ends it after the requests under way.
    ///
    /// # Panics
    ///
    /// If a client panicked.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            client.join().expect("clients do not panic");
        }
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.clone()
    }
}

fn drive(
    address: &Address,
    target: &str,
    style: Style,
    every: Duration,
    stop: &AtomicBool,
) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Client> = None;
    while !stop.load(Relaxed) {
        let began = Instant::now();
        let (client, answered_before) = match kept.take() {
            Some(client) => (Ok(client), true),
            None => (Client::connect(address), false),
        };
        let result = client.and_then(|mut client| {
            let response = client.get(target)?;
            if style == Style::KeptAlive && !response.head.closes() {
                kept = Some(client);
            }
            Ok(response)
        });
        let refused = matches!(result, Err(Failed::Refused));
        tally.count(result, answered_before, began.elapsed());
        let pace = if refused {
            every.max(Duration::from_millis(10))
        } else {
            every
        };
        if let Some(rest) = pace.checked_sub(began.elapsed()) {
            // The rate is what is asked for; nothing is synchronised by it.
            std::thread::sleep(rest);
        }
    }
    tally
}
