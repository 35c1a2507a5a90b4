//! A call ends on time, once, and with the outcome that it had, whatever its
//! client and its guest do or leave undone.

use std::fs;
use std::time::{Duration, Instant};

use skep_tests::frames::{End, Frames, INITIAL_WINDOW};
use skep_tests::load::{Load, Style};
use skep_tests::{Failed, Skep, wait_for};

use crate::deploys::{done, operate};
use crate::{app, pool, unruly};

/// A client that allows no byte of any answer's body.
const UNREAD: &[(u16, u32)] = &[(INITIAL_WINDOW, 0)];

/// How long after a call's deadline its place may stay taken.
const GRACE: Duration = Duration::from_secs(3);

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
pub(crate) fn outcomes_are(skep: &Skep, outcomes: &[(&str, u64)]) {
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

#[test]
fn a_guest_that_drops_its_outparam_gave_no_response() {
    let skep = unruly("");
    let response = skep.client().get("/2/drops-outparam");
    assert_eq!(response.map(|response| response.status()), Ok(500));
    outcomes_are(&skep, &[("no-response", 1)]);
    // Its record comes through a pipe, after the count.
    skep.wait_for_log("outcome=no-response");
    skep.assert_logged("outcome=no-response", 1);
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
    skep.assert_logged("outcome=trap", 20);
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
    // Within the limits of the call.
    let skep = unruly("timeout = \"500ms\"\ninstance = { reuse = 100, concurrent = 8 }");
    let response = skep.client().get("/3/after?ms=2000").unwrap();
    assert_eq!(response.status(), 200);
    outcomes_are(&skep, &[("deadline", 1)]);
    assert_eq!(skep.logged("text=finished"), 0);
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

#[test]
fn bodies_on_a_shared_instance_of_wasi_0_3_are_whole_however_many_there_are() {
    let lines = "instance = { reuse = 128, concurrent = 16 }";
    let skep = Skep::config(&(pool(1) + &app("echo", "echo-p3", lines)));
    std::thread::scope(|scope| {
        for client in 0..16 {
            let skep = &skep;
            scope.spawn(move || {
                let mut asks = skep.client();
                // Of one frame, and of several.
                let length = if client % 4 == 0 { 100_000 } else { 1000 };
                let body = "x".repeat(length);
                let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:";
                for _ in 0..50 {
                    asks.send(format!("{head} {length}\r\n\r\n{body}")).unwrap();
                    let response = asks.response().expect("a whole answer");
                    assert_eq!(response.status(), 200);
                    assert_eq!(response.body.len(), length);
                }
            });
        }
    });
    assert_eq!(skep.outcomes("ok"), 16 * 50);
}
