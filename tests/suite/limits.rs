//! Budgets of requests: time, concurrency, and what the client is told.

use std::time::{Duration, Instant};

use skep_tests::{Failed, Skep};

use crate::{app, pool};

#[test]
fn who_finds_no_room_is_told_at_once_when_to_come_back() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "echo", "concurrency = 1\nqueue = 1")
    ));
    let slow = "GET /slow?ms=1500 HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut first = skep.client();
    first.send(slow).unwrap();
    skep.wait_for_status("the first to run", |status| {
        status.workers[0].in_flight == 1
    });
    let mut second = skep.client();
    second.send(slow).unwrap();
    skep.wait_for_status("the second to wait", |status| {
        status.workers[0].in_flight == 2
    });

    let mut third = skep.client();
    let began = Instant::now();
    let response = third.get("/counter").unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(response.status(), 503);
    assert_eq!(response.head.header("retry-after"), Some("1"));
    assert!(!response.head.closes(), "the connection may come back");
    assert_eq!(first.response().unwrap().status(), 200);
    assert_eq!(second.response().unwrap().status(), 200);
    assert_eq!(third.get("/counter").unwrap().status(), 200);
    assert_eq!(skep.outcomes("queue-full"), 1);
}

#[test]
fn a_request_that_waits_in_vain_is_turned_away() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app(
            "a",
            "echo",
            "concurrency = 1\nqueue = 10\ntimeout = \"600ms\""
        )
    ));
    let mut clients: Vec<_> = (0..4).map(|_| skep.client()).collect();
    for client in &mut clients {
        client
            .send("GET /slow?ms=500 HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
    }
    let mut statuses: Vec<_> = clients
        .iter_mut()
        .map(|client| client.response().unwrap().status())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses[0], 200);
    assert!(
        statuses.contains(&503) || statuses.contains(&504),
        "{statuses:?}"
    );
}

#[test]
fn wall_time_ends_a_request() {
    for name in ["echo", "echo-p3"] {
        let skep = Skep::config(&format!(
            "{}{}",
            pool(1),
            app("a", name, "timeout = \"300ms\"")
        ));
        let began = Instant::now();
        let mut client = skep.client();
        let response = client.get("/slow?ms=60000").unwrap();
        assert_eq!(response.status(), 504, "{name}");
        assert!(response.head.closes());
        assert!(client.is_closed().unwrap());
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_secs(3),
            "{took:?}"
        );
        assert_eq!(skep.outcomes("deadline"), 1);
        assert_eq!(skep.client().get("/counter").unwrap().status(), 200);
    }
}

#[test]
fn what_is_cut_after_its_head_does_not_look_whole() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "stream", "timeout = \"500ms\"")
    ));
    let mut client = skep.client();
    // Chunked: the last chunk must be missing.
    assert!(matches!(
        client.get("/?n=100&every=100"),
        Err(Failed::Short(_))
    ));
    // Of a known length: bytes must be missing.
    let mut client = skep.client();
    assert!(matches!(
        client.get("/drip?bytes=100&every=100"),
        Err(Failed::Short(_))
    ));
    skep.wait_for_status("both to be counted", |status| {
        status.workers[0].outcomes.get("deadline") == Some(&2)
    });
}

#[test]
fn every_request_has_exactly_one_outcome() {
    let skep = Skep::config(&format!(
        "{}{}{}",
        pool(1),
        app("a", "echo", "routes = [\"/*\"]\nmax_body = \"10\""),
        app("t", "hostile-trap", "routes = [\"/trap\"]"),
    ));
    let mut sent = 0;
    for target in ["/counter", "/trap", "/status/404", "/counter", "/trap"] {
        skep.client().get(target).unwrap();
        sent += 1;
    }
    skep.client().post("/x", &[0; 11]).unwrap();
    sent += 1;
    let status = skep.wait_for_status("all to have ended", |status| {
        status.workers[0].in_flight == 0
    });
    let worker = &status.workers[0];
    assert_eq!(worker.requests, sent);
    assert_eq!(
        worker.outcomes.values().sum::<u64>(),
        sent,
        "{:?}",
        worker.outcomes
    );
    assert_eq!(worker.outcomes["ok"], 3);
    assert_eq!(worker.outcomes["trap"], 2);
    assert_eq!(worker.outcomes["body-too-large"], 1);
}
