//! Load at a fixed rate, whatever the server does, and how long its answers take.
//!
//! Each client has a timetable of its own. A request that could not be sent in time,
//! because the answer before it was late, is counted from when it was due: a server
//! that stops for a moment delays all that would have come meanwhile, and not only the
//! one that it works on (coordinated omission). A client that overslept counts from its
//! waking, which is the machine's fault and no server's.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::client::Connection;
use crate::statistics::quantile;

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paced {
    pub(crate) address: SocketAddr,
    /// Requests a second, of all clients together.
    pub(crate) rate: f64,
    pub(crate) clients: u32,
    pub(crate) seconds: u64,
}

/// What came out. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pace {
    /// What was asked for, a second.
    pub(crate) rate: f64,
    pub(crate) requests: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Answers that were not 200.
    pub(crate) errors: u64,
}

/// When one client sends.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    first: Instant,
    interval: Duration,
    requests: u32,
}

impl Timetable {
    fn of(load: &Paced, client: u32, begin: Instant) -> Self {
        let interval = Duration::from_secs_f64(f64::from(load.clients) / load.rate);
        let span = Duration::from_secs(load.seconds).as_secs_f64();
        Self {
            // They take turns.
            first: begin + interval * client / load.clients,
            interval,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few thousand"
            )]
            requests: (span / interval.as_secs_f64()) as u32,
        }
    }

    fn due(&self, number: u32) -> Instant {
        self.first + self.interval * number
    }
}

/// Runs the load to its end.
///
/// # Errors
///
/// The server cannot be reached, closes a connection, or answers without a length.
pub(crate) async fn run(load: Paced) -> Result<Pace> {
    tokio::task::spawn_blocking(move || drive(&load)).await?
}

fn drive(load: &Paced) -> Result<Pace> {
    ensure!(load.rate >= 1.0, "a rate of {} is none", load.rate);
    let begin = Instant::now() + Duration::from_millis(50);
    let clients: Vec<(Vec<f64>, u64)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|client| {
                let timetable = Timetable::of(load, client, begin);
                scope.spawn(move || keep(load.address, timetable))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .collect::<Result<_>>()
    })?;
    let errors = clients.iter().map(|(_, errors)| errors).sum();
    let times: Vec<f64> = clients.into_iter().flat_map(|(times, _)| times).collect();
    let at = |share| quantile(&times, share).context("no request was sent");
    Ok(Pace {
        rate: load.rate,
        requests: times.len(),
        p50_us: at(0.5)?,
        p99_us: at(0.99)?,
        errors,
    })
}

/// Keeps one timetable; gives the times that answers took and how many were no success.
fn keep(address: SocketAddr, timetable: Timetable) -> Result<(Vec<f64>, u64)> {
    let mut connection = Connection::open(address)?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut times = Vec::new();
    let mut errors = 0;
    for number in 0..timetable.requests {
        let due = timetable.due(number);
        let mut since = due;
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
            since = Instant::now();
        }
        let status = connection.exchange(request.as_bytes())?;
        times.push(since.elapsed().as_secs_f64() * 1e6);
        if status != 200 {
            errors += 1;
        }
    }
    Ok((times, errors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn clients_take_turns_and_send_as_many_as_the_rate_says() {
        let load = Paced {
            address: ([127, 0, 0, 1], 1).into(),
            rate: 1000.0,
            clients: 4,
            seconds: 2,
        };
        let begin = Instant::now();
        let tables: Vec<_> = (0..4)
            .map(|client| Timetable::of(&load, client, begin))
            .collect();
        assert_eq!(tables.iter().map(|table| table.requests).sum::<u32>(), 2000);
        let second = tables[1].due(10) - begin;
        assert_eq!(second, Duration::from_millis(41));
    }

    #[test]
    fn a_server_that_stops_once_delays_all_that_were_due() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            for number in 0.. {
                if !matches!(stream.read(&mut buffer), Ok(1..)) {
                    return;
                }
                if number == 5 {
                    thread::park_timeout(Duration::from_millis(500));
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
        });
        let pace = drive(&Paced {
            address,
            rate: 100.0,
            clients: 1,
            seconds: 1,
        });
        let pace = pace.unwrap();
        assert_eq!((pace.requests, pace.errors), (100, 0));
        // Not one of a hundred is late, but the fifty that were due meanwhile.
        assert!(pace.p99_us > 400_000.0, "{pace:?}");
        assert!(pace.p50_us > 500.0, "{pace:?}");
    }
}
