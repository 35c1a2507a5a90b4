//! What a message says: to guests, to clients, and to servers that guests ask.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Request;
use skep_tests::frames::{End, Frames};
use skep_tests::{Skep, h2, wait_for};

use crate::calls::outcomes_are;
use crate::{app, pool, unruly};

/// A request that is answered without content, and with this status.
const BARE: &[(&str, &str, u16)] = &[
    ("HEAD", "/hello", 200),
    ("HEAD", "/echo/download?bytes=1000", 200),
    ("HEAD", "/echo/trailers", 200),
    ("GET", "/echo/status/204", 204),
    ("GET", "/echo/status/304", 304),
    ("HEAD", "/2/streams", 200),
    ("HEAD", "/2/announces", 200),
    ("HEAD", "/2/announces?write=5", 200),
    ("GET", "/2/announces", 304),
    ("GET", "/2/announces?write=5", 304),
    ("GET", "/2/content?status=204", 204),
    ("GET", "/2/content?status=304", 304),
    ("HEAD", "/3/announces", 200),
    ("GET", "/3/announces", 304),
    ("HEAD", "/3/content?status=200", 200),
    ("GET", "/3/content?status=204", 204),
    ("GET", "/3/content?status=304", 304),
    // Skep's own pages.
    ("HEAD", "/nowhere", 404),
    ("HEAD", "/trap", 500),
];

fn bare() -> Skep {
    let at = |path: &str| format!("routes = [\"{path}*\"]\nstrip_prefix = true");
    Skep::config(&format!(
        "{}{}{}{}{}{}",
        pool(1),
        app("hello", "hello", "routes = [\"/hello\"]"),
        app("echo", "echo", &at("/echo/")),
        app("two", "hostile-unruly", &at("/2/")),
        app("three", "hostile-unruly-p3", &at("/3/")),
        app("trap", "hostile-trap", "routes = [\"/trap\"]"),
    ))
}

fn bare_outcomes(skep: &Skep, more: u64) {
    let ok = u64::try_from(BARE.len()).unwrap() - 2 + more;
    outcomes_are(skep, &[("no-route", 1), ("ok", ok), ("trap", 1)]);
}

#[test]
fn answers_without_content_have_none_over_http_1() {
    let skep = bare();
    let mut wrong = String::new();
    let mut followed = 0;
    for (method, path, status) in BARE {
        let mut client = skep.client();
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n\
                 GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ))
            .unwrap();
        let said = client.rest().unwrap();
        let said = String::from_utf8_lossy(&said);
        let (head, rest) = said.split_once("\r\n\r\n").unwrap_or_default();
        let good = head.starts_with(&format!("HTTP/1.1 {status} "))
            && (rest.starts_with("HTTP/1.1 200 ") || (rest.is_empty() && *status >= 400));
        followed += u64::from(!rest.is_empty());
        if !good {
            let _ = writeln!(wrong, "{method} {path}: {said:?}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    bare_outcomes(&skep, followed);
}

#[test]
fn answers_without_content_have_none_over_http_2() {
    let skep = bare();
    let mut wrong = String::new();
    for (method, path, status) in BARE {
        let mut frames = Frames::open(&skep.address(), &[]).unwrap();
        let head = [*method, "localhost", *path];
        frames.request(1, head, &[], true).unwrap();
        let answer = frames.answer(1);
        if answer.status != *status || !answer.body.is_empty() || answer.end != End::Whole {
            let _ = writeln!(wrong, "{method} {path}: {answer:?}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    bare_outcomes(&skep, 0);
}

#[test]
fn guests_find_the_host_they_were_asked_for() {
    let skep = unruly("");
    for version in ["/2", "/3"] {
        let mut seen = Vec::new();
        for target in ["", "http://a.test:81"] {
            let mut client = skep.client();
            client
                .send(format!(
                    "GET {target}{version}/request HTTP/1.1\r\nhost: a.test:81\r\n\r\n"
                ))
                .unwrap();
            seen.push(client.response().unwrap().text());
        }
        let mut frames = Frames::open(&skep.address(), &[]).unwrap();
        let path = format!("{version}/request");
        frames
            .request(1, ["GET", "a.test:81", &path], &[], true)
            .unwrap();
        seen.push(frames.answer(1).text());
        for text in seen {
            let hosts: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("host:"))
                .collect();
            assert_eq!(hosts, ["host: a.test:81"], "{version}: {text}");
            assert!(text.contains("authority=Some(\"a.test:81\")"), "{text}");
        }
    }
}

#[test]
fn trailers_go_out_over_http_1_to_who_takes_them() {
    for (path, wanted) in [("/2/trailers", "x-sum"), ("/3/trailers", "x-sum")] {
        let skep = unruly("");
        let ask = |fields: &str| {
            let mut client = skep.client();
            client
                .send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
                .unwrap();
            client.response().unwrap()
        };
        let taken = ask("te: trailers\r\n");
        assert_eq!(taken.text(), "a body\n");
        assert_eq!(
            taken.trailers,
            [(wanted.to_owned(), "1".to_owned())],
            "{path}"
        );
        assert_eq!(skep.logged("trailer"), 0, "{}", skep.log());

        let dropped = ask("");
        assert_eq!(
            (dropped.status(), dropped.text().as_str()),
            (200, "a body\n")
        );
        assert_eq!(dropped.trailers, []);
        // Not silently: its author would look for them in vain.
        wait_for(
            Duration::from_secs(2),
            "the log to say that they were dropped",
            || skep.logged("trailer"),
            |lines| *lines > 0,
        );
        let request = Request::get(format!("http://a{path}")).body(Bytes::new());
        let answers = h2::exchange(&skep.address(), vec![request.unwrap()]).unwrap();
        assert_eq!(answers[0].trailers[wanted], "1");
    }
}

#[test]
fn what_is_written_before_the_response_is_kept_or_refused_with_a_reason() {
    let skep = unruly("timeout = \"10s\"");
    let response = skep.client().get("/2/writes-first?bytes=500000").unwrap();
    assert_eq!((response.status(), response.body.len()), (200, 500_000));
    // More than anybody keeps.
    let began = Instant::now();
    let response = skep
        .client()
        .get("/2/writes-first?bytes=100000000")
        .unwrap();
    assert_eq!(response.status(), 500);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "not at its deadline"
    );
    let line = skep.wait_for_log("request.failed");
    assert!(line.contains("reason=\""), "{line}");
    assert!(!line.contains("outcome=deadline"), "{line}");
}

#[test]
fn an_outbound_get_takes_its_body_along() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        while !said.ends_with(b"0\r\n\r\n") {
            match stream.read(&mut piece) {
                Ok(read) if read > 0 => said.extend(&piece[..read]),
                _ => break,
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        String::from_utf8_lossy(&said).to_ascii_lowercase()
    });
    let skep = unruly(&format!("outbound = [\"http://127.0.0.1:{port}\"]"));
    let response = skep.client().get(&format!("/2/asks?port={port}")).unwrap();
    let said = server.join().unwrap();
    assert!(
        said.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{said}"
    );
    assert!(said.ends_with("5\r\nquery\r\n0\r\n\r\n"), "{said}");
    assert_eq!(response.status(), 200);
}

/// The guest makes a good end of a body that broke off; its client must not
/// believe it.
#[test]
fn what_is_forwarded_of_a_request_that_broke_off_does_not_look_whole() {
    let skep = unruly("max_body = \"16KiB\"");
    let begin =
        "POST /2/forwards HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let large = format!("5000\r\n{}\r\n", "x".repeat(0x5000));
    for (rest, outcome) in [("zz\r\n", "bad-request"), (&large, "body-too-large")] {
        let before = skep.outcomes(outcome);
        let mut client = skep.client();
        client.send(begin).unwrap();
        let head = client.head_only().unwrap();
        assert_eq!(head.status, 200);
        client.send(rest).unwrap();
        let said = client.rest().unwrap();
        assert!(!said.ends_with(b"0\r\n\r\n"), "{outcome}");
        wait_for(
            Duration::from_secs(5),
            outcome,
            || skep.outcomes(outcome),
            |now| *now == before + 1,
        );
    }
    let mut frames = Frames::open(&skep.address(), &[]).unwrap();
    frames
        .request(1, ["POST", "a", "/2/forwards"], &[], false)
        .unwrap();
    frames.data(1, b"hello", false).unwrap();
    frames.data(1, &[b'x'; 16_000], false).unwrap();
    frames.data(1, &[b'x'; 16_000], true).unwrap();
    let answer = frames.answer(1);
    assert!(matches!(answer.end, End::Reset(_)), "{answer:?}");
}

#[test]
fn an_answer_that_ends_with_nothing_is_whole() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "echo-p3", "")));
    let mut client = skep.client();
    for _ in 0..50 {
        assert_eq!(client.post("/x", &[b'x'; 300]).unwrap().body.len(), 300);
    }
    wait_for(
        Duration::from_secs(5),
        "all to be counted as good",
        || skep.outcomes("ok"),
        |ok| *ok == 50,
    );
    assert_eq!(skep.outcomes("client-gone"), 0);
}
