//! Bodies that are large, slow, or have something after them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use skep_tests::{Skep, guest, pause, process};

use crate::{app, pool};

const MIB: u64 = 1 << 20;

/// Large enough that a body held in memory would show.
const LARGE: u64 = 200 * MIB;

/// What a worker may grow by while it passes a large body through.
const GROWTH: u64 = 48 * MIB;

fn echo() -> Skep {
    Skep::config(&format!(
        "{}{}",
        pool(1),
        app(
            "a",
            "echo",
            "max_body = \"1GiB\"\ntimeout = \"5m\"\ncpu = \"5m\""
        )
    ))
}

#[test]
fn a_large_upload_takes_constant_memory() {
    let skep = echo();
    let worker = skep.worker().pid;
    let before = process::rss(worker);
    let mut client = skep.client();
    client
        .send(format!(
            "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: {LARGE}\r\n\r\n"
        ))
        .unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut most = before;
    for _ in 0..LARGE / MIB {
        client.send(&piece).unwrap();
        most = most.max(process::rss(worker));
    }
    assert_eq!(client.response().unwrap().json()["bytes"], LARGE);
    assert!(most < before + GROWTH, "grew from {before} to {most}");
}

/// Has somebody send `crumb` again and again for a while, to a worker that needs
/// longer for it than the sender; says by how much that one grows.
fn hoarded(begin: &str, crumb: &[u8]) -> u64 {
    let skep = echo();
    let worker = skep.worker().pid;
    let before = process::anonymous(worker);
    let mut client = skep.client();
    let mut sender = client.sender().unwrap();
    let crumbs = crumb.repeat((64 << 10) / crumb.len());
    let begin = begin.to_owned();
    let sent = std::thread::spawn(move || {
        let mut sent = 0;
        sender.write_all(begin.as_bytes()).unwrap();
        while sent < 64 * MIB && sender.write_all(&crumbs).is_ok() {
            sent += crumbs.len() as u64;
        }
    });
    let read = std::thread::spawn(move || client.rest().map(drop));
    let mut most = before;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until && !sent.is_finished() {
        pause(Duration::from_millis(10));
        most = most.max(process::anonymous(worker));
    }
    drop(skep);
    sent.join().unwrap();
    // It ends somehow.
    let _ = read.join().unwrap();
    most - before
}

#[test]
fn what_comes_in_crumbs_is_not_hoarded() {
    let chunks = "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let request = b"GET /status/204 HTTP/1.1\r\nhost: a\r\n\r\n";
    for (begin, crumb) in [(chunks, &b"1\r\nx\r\n"[..]), ("", request)] {
        let grown = hoarded(begin, crumb);
        assert!(
            grown < 8 * MIB,
            "it grew by {} KiB for {crumb:?}",
            grown >> 10
        );
    }
}

#[test]
fn a_large_download_takes_constant_memory_and_waits_for_the_client() {
    let skep = echo();
    let worker = skep.worker().pid;
    let before = process::rss(worker);
    let mut client = skep.client();
    client
        .send(format!(
            "GET /download?bytes={LARGE} HTTP/1.1\r\nhost: a\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let (mut received, mut most) = (0_u64, before);
    loop {
        let piece = client.piece().unwrap();
        if piece.is_empty() {
            break;
        }
        let first = u8::try_from(received % 26).unwrap() + b'a';
        assert_eq!(piece[0], first, "at {received}");
        received += piece.len() as u64;
        most = most.max(process::rss(worker));
    }
    assert_eq!(received, LARGE);
    assert!(most < before + GROWTH, "grew from {before} to {most}");
}

#[test]
fn bodies_stream_through_a_guest_both_ways_at_once() {
    for name in ["echo", "echo-p3"] {
        let skep = Skep::config(&format!(
            "{}{}",
            pool(1),
            app(
                "a",
                name,
                "max_body = \"1GiB\"\ntimeout = \"5m\"\ncpu = \"5m\""
            )
        ));
        let worker = skep.worker().pid;
        let before = process::rss(worker);
        let mut client = skep.client();
        let mut sender = client.sender().unwrap();
        let pieces: u64 = 64;
        let upload = std::thread::spawn(move || {
            sender
                .write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
                .unwrap();
            let mut chunk = b"100000\r\n".to_vec();
            chunk.extend(std::iter::repeat_n(b'y', 1 << 20));
            chunk.extend(b"\r\n");
            for _ in 0..pieces {
                sender.write_all(&chunk).unwrap();
            }
            sender.write_all(b"0\r\n\r\n").unwrap();
        });
        assert_eq!(client.head().unwrap().status, 200, "{name}");
        let (mut received, mut most) = (0, before);
        loop {
            let piece = client.piece().unwrap();
            if piece.is_empty() {
                break;
            }
            assert!(piece.iter().all(|byte| *byte == b'y'));
            received += piece.len() as u64;
            most = most.max(process::rss(worker));
        }
        upload.join().unwrap();
        assert_eq!(received, pieces * MIB, "{name}");
        assert!(
            most < before + GROWTH,
            "{name} grew from {before} to {most}"
        );
    }
}

#[test]
fn an_echo_begins_before_the_request_has_ended() {
    for name in ["echo", "echo-p3"] {
        let skep = Skep::config(&format!("{}{}", pool(1), app("a", name, "")));
        let mut client = skep.client();
        client
            .send("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .unwrap();
        assert_eq!(client.head().unwrap().status, 200, "{name}");
        assert_eq!(client.piece().unwrap(), b"first", "{name}");
        client.send("6\r\nsecond\r\n").unwrap();
        assert_eq!(client.piece().unwrap(), b"second", "{name}");
        client.send("0\r\n\r\n").unwrap();
        assert_eq!(client.piece().unwrap(), b"", "{name}");
    }
}

#[test]
fn events_arrive_one_by_one() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "stream", "")));
    let mut client = skep.client();
    let began = Instant::now();
    client
        .send("GET /?n=5&every=150 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut arrivals = Vec::new();
    let mut text = String::new();
    loop {
        let piece = client.piece().unwrap();
        if piece.is_empty() {
            break;
        }
        arrivals.push(began.elapsed());
        text += &String::from_utf8(piece).unwrap();
    }
    assert_eq!(text.matches("data: event ").count(), 5, "{text}");
    assert!(
        arrivals.len() >= 4,
        "one by one, not together: {arrivals:?}"
    );
    let spread = arrivals[arrivals.len() - 1] - arrivals[0];
    assert!(
        spread >= Duration::from_millis(400),
        "as they were made: {arrivals:?}"
    );
}

#[test]
fn trailers_pass_both_ways() {
    let skep = Skep::config(&format!(
        "{}{}{}",
        pool(1),
        app("p2", "echo", "routes = [\"p2/*\"]"),
        app("p3", "echo-p3", "routes = [\"p3/*\"]"),
    ));
    let mut client = skep.client();
    client
        .send("GET /trailers HTTP/1.1\r\nhost: p2\r\nte: trailers\r\n\r\n")
        .unwrap();
    let response = client.response().unwrap();
    assert_eq!(response.text(), "body before trailers\n");
    assert!(
        response
            .trailers
            .contains(&("x-checksum".into(), "c0ffee".into())),
        "{response:?}"
    );
    let upload = |host: &str, path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\
             trailer: x-end\r\nte: trailers\r\n\r\n4\r\nbody\r\n0\r\nx-end: 42\r\n\r\n"
        )
    };
    client.send(upload("p2", "/upload")).unwrap();
    let seen = client.response().unwrap().json();
    assert_eq!(
        (seen["bytes"].as_u64(), seen["trailers"]["x-end"].as_str()),
        (Some(4), Some("42"))
    );
    client.send(upload("p3", "/x")).unwrap();
    let response = client.response().unwrap();
    assert_eq!(response.text(), "body");
}

#[test]
fn a_client_that_expects_to_be_told_is_told() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "echo", "max_body = \"1KiB\"")
    ));
    let mut client = skep.client();
    client
        .send(
            "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    assert_eq!(client.head().unwrap().status, 100);
    client.send("body").unwrap();
    assert_eq!(client.response().unwrap().json()["bytes"], 4);

    // What would be refused is refused before it is sent.
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 413);
}

#[test]
fn an_upload_that_nobody_reads_is_never_the_next_request() {
    let skep = Skep::component(&guest("hostile-ignore-body"), 1);
    let mut client = skep.client();
    let inner = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
    client
        .send(format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{inner}",
            inner.len()
        ))
        .unwrap();
    let response = client.response().unwrap();
    assert_eq!(response.status(), 200);
    if !response.head.closes() {
        // One answer for one more request, or the end.
        if client
            .send("GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .is_ok()
        {
            let rest = String::from_utf8(client.rest().unwrap()).unwrap();
            assert!(rest.matches("HTTP/1.1 ").count() <= 1, "{rest}");
        }
    }
    let requests = skep.worker().requests;
    assert!(requests <= 2, "{requests} requests were seen");
}
