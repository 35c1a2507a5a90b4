//! A client that goes takes its guest with it.

use std::time::Duration;

use bytes::Bytes;
use skep_tests::{Skep, guest, process};

use crate::{app, pool};

fn quiet(skep: &Skep, gone: u64) {
    ended(skep, "client-gone", gone);
}

fn ended(skep: &Skep, outcome: &str, times: u64) {
    skep.wait_for_status("the guest to be cancelled", |status| {
        let worker = &status.workers[0];
        worker.in_flight == 0
            && worker.connections == 0
            && worker.outcomes.get(outcome) == Some(&times)
    });
}

fn limits() -> &'static str {
    "timeout = \"10m\"\ncpu = \"10m\"\nconcurrency = 4\nqueue = 0"
}

#[test]
fn while_the_guest_waits() {
    for (name, target) in [("echo", "/slow?ms=600000"), ("echo-p3", "/slow?ms=600000")] {
        let skep = Skep::config(&format!("{}{}", pool(1), app("a", name, limits())));
        for round in 1..=8 {
            let mut client = skep.client();
            client
                .send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"))
                .unwrap();
            skep.wait_for_status("it to be in flight", |status| {
                status.workers[0].in_flight == 1
            });
            drop(client);
            quiet(&skep, round);
        }
        // Four permits, and eight that were given back.
        assert_eq!(
            skep.client().get("/counter").unwrap().text(),
            "1\n",
            "{name}"
        );
    }
}

#[test]
fn while_the_response_streams() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "stream", limits())));
    for round in 1..=8 {
        let mut client = skep.client();
        client
            .send("GET /forever?every=5 HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        assert_eq!(client.head().unwrap().status, 200);
        assert!(!client.piece().unwrap().is_empty());
        drop(client);
        quiet(&skep, round);
    }
}

#[test]
fn while_the_request_streams() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "echo", limits())));
    for (round, path) in [(1, "/upload"), (2, "/x")] {
        let mut client = skep.client();
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nsome"
            ))
            .unwrap();
        skep.wait_for_status("it to be in flight", |status| {
            status.workers[0].in_flight == 1
        });
        drop(client);
        quiet(&skep, round);
    }
}

#[test]
fn while_the_guest_computes() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "hostile-spin", limits())
    ));
    let mut client = skep.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    skep.wait_for_status("it to be in flight", |status| {
        status.workers[0].in_flight == 1
    });
    drop(client);
    quiet(&skep, 1);
}

#[test]
fn while_it_refuses_to_read() {
    let skep = Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nwrite_timeout = \"300ms\"\n\
         [pool.default]\nworkers = 1\n{}",
        app("a", "echo", limits())
    ));
    let worker = skep.worker().pid;
    let before = process::rss(worker);
    let mut client = skep.client();
    client
        .send("GET /download?bytes=1000000000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    ended(&skep, "too-slow", 1);
    assert!(process::rss(worker) < before + (32 << 20));
}

#[test]
fn over_http_2_when_the_connection_ends() {
    let skep = Skep::component(&guest("echo"), 1);
    let address = skep.address();
    let gone = std::thread::spawn(move || {
        let request = hyper::Request::get("http://a/slow?ms=600000")
            .body(Bytes::new())
            .unwrap();
        skep_tests::h2::abandon(&address, request, Duration::from_millis(200))
    });
    gone.join().unwrap().unwrap();
    quiet(&skep, 1);
}
