//! A call ends on time, once, and with the outcome that it had, whatever its
//! client and its guest do or leave undone.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Request;
use skep_tests::frames::{End, Frames, INITIAL_WINDOW};
use skep_tests::load::{Load, Style};
use skep_tests::{Failed, Skep, h2, wait_for};

use crate::deploys::{done, operate};
use crate::{app, pool};

/// A client that allows no byte of any answer's body.
const UNREAD: &[(u16, u32)] = &[(INITIAL_WINDOW, 0)];

/// How long after a call's deadline its place may stay taken.
const GRACE: Duration = Duration::from_secs(3);

fn unruly(lines: &str) -> Skep {
    Skep::config(&format!(
        "{}{}{}",
        pool(1),
        app(
            "two",
            "hostile-unruly",
            &format!("routes = [\"/2/*\"]\nstrip_prefix = true\n{lines}")
        ),
        app(
            "three",
            "hostile-unruly-p3",
            &format!("routes = [\"/3/*\"]\nstrip_prefix = true\n{lines}")
        ),
    ))
}

/// Asks for a path until the answer is 200.
fn served_within(skep: &Skep, patience: Duration, path: &str) {
    wait_for(
        patience,
        "others to be served",
        || {
            skep.client()
                .get(path)
                .ok()
                .map(|response| response.status())
        },
        |status| *status == Some(200),
    );
}

/// Waits until all calls have ended, and these outcomes are all there are.
fn outcomes_are(skep: &Skep, outcomes: &[(&str, u64)]) {
    let wanted: Vec<_> = outcomes.to_vec();
    let seen = || {
        let worker = skep.worker();
        let outcomes: Vec<_> = worker.outcomes.into_iter().collect();
        (worker.in_flight, outcomes)
    };
    wait_for(
        Duration::from_secs(5),
        &format!("the outcomes {wanted:?}"),
        seen,
        |(in_flight, seen)| {
            let mut seen: Vec<_> = seen.iter().map(|(name, n)| (&**name, *n)).collect();
            seen.retain(|(_, n)| *n > 0);
            *in_flight == 0 && seen == wanted
        },
    );
}

#[test]
fn unread_streams_hold_an_app_no_longer_than_its_timeout() {
    for (streams, limits) in [(2, "concurrency = 2\nqueue = 0"), (128, "")] {
        let skep = Skep::config(&format!(
            "{}{}",
            pool(1),
            app("a", "stream", &format!("timeout = \"1s\"\n{limits}"))
        ));
        let mut greedy = Frames::open(&skep.address(), UNREAD).unwrap();
        for stream in 0..streams {
            greedy.get(1 + 2 * stream, "/forever?every=1").unwrap();
        }
        // Its answer comes after all requests were taken in.
        assert!(greedy.is_alive(GRACE));
        served_within(&skep, Duration::from_secs(1) + GRACE, "/?n=1");
        skep.wait_for_status("all of them to end", |status| {
            status.workers[0].in_flight == 0
        });
    }
}

#[test]
fn unread_connections_hold_an_app_no_longer_than_its_timeout() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app(
            "a",
            "echo",
            "timeout = \"1s\"\nconcurrency = 2\nqueue = 0\ncpu = \"10s\""
        )
    ));
    let greedy: Vec<_> = (0..2)
        .map(|_| {
            let mut client = skep.client();
            client
                .send("GET /download?bytes=100000000 HTTP/1.1\r\nhost: a\r\n\r\n")
                .unwrap();
            assert!(client.head().is_ok());
            client
        })
        .collect();
    served_within(&skep, Duration::from_secs(1) + GRACE, "/status/200");
    drop(greedy);
}

#[test]
fn a_reused_instance_ends_at_its_first_outcome_that_is_not_ok() {
    for (prefix, paths) in [
        (
            "/2",
            &["/silent", "/unfinished", "/drops-outparam", "/leaks"][..],
        ),
        ("/3", &["/silent", "/short"]),
    ] {
        let skep = unruly("instance = { reuse = 100, idle = \"10s\" }");
        let calls = || skep.client().get(&format!("{prefix}/calls"));
        for path in paths {
            assert_eq!(calls().unwrap().text(), "1\n", "before {path}");
            // How it fails is another test's.
            let _ = skep.client().get(&format!("{prefix}{path}"));
            assert_eq!(calls().unwrap().text(), "1\n", "after {path}");
            let failed = skep.client().get(&format!("{prefix}/silent"));
            assert_eq!(failed.unwrap().status(), 500);
        }
    }
}

#[test]
fn records_of_a_reused_instance_carry_the_id_of_their_own_request() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "echo", "instance = { reuse = 10, idle = \"10s\" }")
    ));
    for id in ["first", "second", "third"] {
        let request =
            format!("GET /log?text={id} HTTP/1.1\r\nhost: a\r\nx-request-id: id-{id}\r\n\r\n");
        let mut client = skep.client();
        client.send(request).unwrap();
        assert_eq!(client.response().unwrap().status(), 200);
        for stream in ["stdout", "stderr"] {
            let line = skep.wait_for_log(&format!("{stream}: {id}"));
            assert!(line.contains(&format!("request=id-{id} ")), "{line}");
        }
    }
}

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
fn a_guest_that_drops_its_outparam_gave_no_response() {
    let skep = unruly("");
    let response = skep.client().get("/2/drops-outparam");
    assert_eq!(response.map(|response| response.status()), Ok(500));
    outcomes_are(&skep, &[("no-response", 1)]);
    assert_eq!(skep.logged("outcome=no-response"), 1);
    assert_eq!(skep.logged("panicked"), 0, "the worker's own code is well");
}

#[test]
fn a_body_of_wasi_0_3_that_is_too_short_is_a_trap_each_time() {
    let skep = unruly("");
    for _ in 0..10 {
        match skep.client().get("/3/short") {
            Ok(response) => assert_eq!(response.status(), 500),
            // What was written may be there; what was announced may not.
            Err(Failed::Short(body)) => assert!(body.len() <= 5, "{body:?}"),
            Err(Failed::Closed | Failed::Reset) => {}
            Err(other) => panic!("neither an error nor cut: {other}"),
        }
        let mut frames = Frames::open(&skep.address(), &[]).unwrap();
        frames.get(1, "/3/short").unwrap();
        let answer = frames.answer(1);
        let cut = matches!(answer.end, End::Reset(_)) && answer.body.len() <= 5;
        assert!(answer.status == 500 || cut, "{answer:?}");
    }
    outcomes_are(&skep, &[("trap", 20)]);
    assert_eq!(skep.logged("outcome=trap"), 20);
}

#[test]
fn a_body_that_is_leaked_or_not_finished_is_cut_at_once() {
    for lines in ["", "instance = { reuse = 100, idle = \"10s\" }"] {
        let skep = unruly(lines);
        for path in ["/2/leaks", "/2/unfinished"] {
            let began = Instant::now();
            match skep.client().get(path) {
                Ok(response) => assert_eq!(response.status(), 500, "{path}: {response:?}"),
                Err(Failed::Short(_) | Failed::Closed | Failed::Reset) => {}
                Err(other) => panic!("{path}: {other}"),
            }
            let took = began.elapsed();
            assert!(took < Duration::from_secs(2), "{path}: {took:?}");
        }
        outcomes_are(&skep, &[("trap", 2)]);
    }
}

#[test]
fn a_hang_up_is_one_client_gone_and_no_failure_of_the_guest() {
    let skep = Skep::config(&format!(
        "{}{}{}",
        pool(1),
        app("two", "echo", "routes = [\"/2/*\"]\nstrip_prefix = true"),
        app(
            "three",
            "hostile-unruly-p3",
            "routes = [\"/3/*\"]\nstrip_prefix = true"
        ),
    ));
    let requests = ["/2/upload", "/2/x", "/3/passes"];
    for (gone, path) in (1..).zip(requests) {
        let mut client = skep.client();
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf"
            ))
            .unwrap();
        skep.wait_for_status("it to be in flight", |status| {
            status.workers[0].in_flight == 1
        });
        drop(client);
        outcomes_are(&skep, &[("client-gone", gone)]);
    }
    for blame in ["outcome=trap", "outcome=no-response"] {
        assert_eq!(skep.logged(blame), 0, "{}", skep.log());
    }
}

#[test]
fn work_after_the_response_goes_on_whatever_idle_and_reuse_say() {
    for instance in [
        "{ reuse = 1, idle = \"100ms\" }",
        "{ reuse = 100, idle = \"100ms\" }",
        "{ reuse = 100, concurrent = 8, idle = \"100ms\" }",
        "{ reuse = 2, concurrent = 2, idle = \"10s\" }",
    ] {
        let skep = unruly(&format!("instance = {instance}"));
        for _ in 0..2 {
            let response = skep.client().get("/3/after?ms=800").unwrap();
            assert_eq!(response.status(), 200);
        }
        wait_for(
            Duration::from_secs(4),
            &format!("the work after the response with {instance}"),
            || skep.logged("text=finished"),
            |finished| *finished == 2,
        );
        outcomes_are(&skep, &[("ok", 2)]);
    }
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

#[test]
fn a_shared_instance_of_wasi_0_3_loses_nothing_to_twelve_reloads() {
    let config = |round: usize| {
        let lines = format!(
            "timeout = \"4s\"\nconcurrency = 200\nenv = {{ ROUND = \"{round}\" }}\n\
             instance = {{ reuse = 100000, concurrent = 16, idle = \"2s\" }}"
        );
        format!("{}{}", pool(1), app("a", "echo-p3", &lines))
    };
    let skep = Skep::config(&config(0));
    // More at a time than the instance takes: there is always a queue.
    let load = Load::start(&skep.address(), "/slow?ms=10", 64, Style::KeptAlive);
    for round in 1..=12 {
        fs::write(skep.dir().path().join("skep.toml"), config(round)).unwrap();
        done(&operate(&skep, &["reload"]));
    }
    let tally = load.stop();
    assert_eq!(tally.failures(), 0, "{tally:?}");
}
