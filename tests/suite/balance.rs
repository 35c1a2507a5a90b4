//! Connections spread over workers.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_tests::load::{Load, Style};
use skep_tests::{Client, Skep, guest, turn};

/// The largest share of connections that a worker of four may get.
const MOST: f64 = 0.35;

#[expect(clippy::cast_precision_loss, reason = "a share of some thousands")]
fn shares(before: &BTreeMap<u32, u64>, skep: &Skep) -> Vec<f64> {
    let accepted: Vec<u64> = skep
        .workers()
        .iter()
        .map(|worker| worker.accepted - before.get(&worker.pid).copied().unwrap_or(0))
        .collect();
    let all: u64 = accepted.iter().sum();
    accepted
        .iter()
        .map(|one| *one as f64 / all as f64)
        .collect()
}

fn accepted(skep: &Skep) -> BTreeMap<u32, u64> {
    skep.workers()
        .iter()
        .map(|worker| (worker.pid, worker.accepted))
        .collect()
}

#[test]
fn serial_connections_spread() {
    turn::alone();
    let skep = Skep::component(&guest("hello"), 4);
    let address = skep.address();
    let before = accepted(&skep);
    for _ in 0..1000 {
        let mut client = Client::connect(&address).unwrap();
        assert_eq!(client.get("/").unwrap().status(), 200);
    }
    let shares = shares(&before, &skep);
    println!("1000 connections one after the other over 4 workers: {shares:.2?}");
    assert!(shares.iter().all(|share| *share <= MOST), "{shares:?}");
}

#[test]
fn busy_connections_spread() {
    turn::alone();
    let skep = Skep::component(&guest("hello"), 4);
    let before = accepted(&skep);
    let load = Load::start(&skep.address(), "/", 32, Style::Fresh);
    skep.wait_for_status("thousands of connections", |status| {
        status
            .workers
            .iter()
            .map(|worker| worker.accepted)
            .sum::<u64>()
            >= 6000
    });
    let tally = load.stop();
    let fresh = shares(&before, &skep);
    println!(
        "{} connections, 32 at a time, over 4 workers: {fresh:.2?}",
        tally.total()
    );
    assert_eq!(tally.failures(), 0, "{tally:?}");
    assert!(fresh.iter().all(|share| *share <= MOST), "{fresh:?}");

    let load = Load::paced(
        &skep.address(),
        "/",
        32,
        Style::KeptAlive,
        Duration::from_millis(1),
    );
    let status = skep.wait_for_status("32 connections", |status| {
        status
            .workers
            .iter()
            .map(|worker| worker.connections)
            .sum::<u32>()
            == 32
    });
    let held: Vec<u32> = status
        .workers
        .iter()
        .map(|worker| worker.connections)
        .collect();
    println!("32 kept-alive connections over 4 workers: {held:?}");
    assert!(held.iter().all(|held| *held <= 11), "{held:?}");
    assert_eq!(load.stop().failures(), 0);
}
