//! Connections: how they end, what they cost while nothing happens, and what
//! becomes of clients that are slow, half gone, early or many.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use skep_tests::http::Address;
use skep_tests::options::Options;
use skep_tests::{Client, Failed, Skep, guest, pause, process, turn, wait_for};

use crate::app;

/// Echo at `/`, events at `/s/`, and who answers at once at `/hello`.
pub(crate) fn several(listener: &str, echo: &str) -> Skep {
    Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n{listener}\n[pool.default]\nworkers = 1\n{}{}{}",
        app(
            "echo",
            "echo",
            &format!("routes = [\"/e/*\"]\nstrip_prefix = true\n{echo}")
        ),
        app(
            "stream",
            "stream",
            "routes = [\"/s/*\"]\nstrip_prefix = true"
        ),
        app("hello", "hello", "routes = [\"/hello\"]"),
    ))
}

/// What comes back to a client that sends so many requests and then says that
/// it sends no more: whole answers, and then the end.
fn half_closed(address: &Address, requests: &str, answers: usize) -> Result<Vec<String>, Failed> {
    let mut client = Client::connect(address)?;
    client.patience(Duration::from_secs(5))?;
    client.send(requests)?;
    client.finish_sending()?;
    let texts = (0..answers)
        .map(|_| {
            let response = client.response()?;
            Ok(format!("{} {}", response.status(), response.text()))
        })
        .collect();
    if !client.is_closed()? {
        return Err(Failed::Other("it stays open".to_owned()));
    }
    texts
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let skep = several("", "");
    let address = skep.address();
    let mut wrong = String::new();
    for (requests, answers) in [
        (
            "GET /e/status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
            &["200 200\n"][..],
        ),
        (
            "GET /e/slow?ms=400 HTTP/1.1\r\nhost: a\r\n\r\n",
            &["200 waited 400 ms\n"],
        ),
        (
            "GET /e/slow?ms=400 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            &["200 waited 400 ms\n"],
        ),
        (
            "GET /e/slow?ms=400 HTTP/1.0\r\n\r\n",
            &["200 waited 400 ms\n"],
        ),
        (
            "POST /e/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            &["200 hello"],
        ),
        (
            "POST /e/upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
            &["200 {\"bytes\":5,\"trailers\":{}}\n"],
        ),
        (
            "GET /s/?n=2&every=300 HTTP/1.1\r\nhost: a\r\n\r\n",
            &["200 id: 0\ndata: event 0\n\nid: 1\ndata: event 1\n\n"],
        ),
        (
            "GET /e/slow?ms=200 HTTP/1.1\r\nhost: a\r\n\r\n\
             GET /e/status/201 HTTP/1.1\r\nhost: a\r\n\r\n",
            &["200 waited 200 ms\n", "201 201\n"],
        ),
    ] {
        let said = half_closed(&address, requests, answers.len());
        if !said.as_ref().is_ok_and(|said| said == answers) {
            let _ = writeln!(wrong, "{requests:?}: {said:?}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    skep.wait_for_status("all to be counted as ok", |status| {
        let worker = &status.workers[0];
        worker.connections == 0 && worker.requests == 9 && worker.outcomes.get("ok") == Some(&9)
    });
    // Half a request is none, however politely it ends.
    let half = "POST /e/upload HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\nhello";
    if let Ok(said) = half_closed(&address, half, 1) {
        assert!(!said[0].starts_with("200 "), "{said:?}");
    }
}

#[test]
fn every_request_that_ends_with_its_connection_is_answered_and_counted() {
    const TIMES: u64 = 30;
    let skep = several("", "");
    let address = skep.address();
    let answered = (0..TIMES)
        .filter_map(|_| half_closed(&address, "GET /e/status/200 HTTP/1.0\r\n\r\n", 1).ok())
        .filter(|said| said[0] == "200 200\n")
        .count();
    assert_eq!(answered, usize::try_from(TIMES).unwrap());
    skep.wait_for_status("all to be counted", |status| {
        let worker = &status.workers[0];
        worker.requests == TIMES && worker.outcomes.get("ok") == Some(&TIMES)
    });
}

#[test]
fn an_idle_connection_wakes_nobody() {
    const SECONDS: u32 = 3;
    turn::alone();
    let skep = Skep::component(&guest("hello"), 2);
    let pids: Vec<_> = skep.workers().iter().map(|worker| worker.pid).collect();
    let mut kept: Vec<Client> = Vec::new();
    for connections in [0, 1, 50] {
        while kept.len() < connections {
            let mut client = skep.client();
            assert_eq!(client.get("/").unwrap().status(), 200);
            kept.push(client);
        }
        let woken = || -> Vec<u64> {
            let before: Vec<_> = pids.iter().map(|pid| process::wakeups(*pid)).collect();
            pause(Duration::from_secs(SECONDS.into()));
            let woken = pids.iter().zip(before);
            woken
                .map(|(pid, before)| process::wakeups(*pid) - before)
                .collect()
        };
        // What the last request stirred up is no wake-up of an idle worker, and takes
        // longer where a busy machine lets the worker run seldom.
        let is_few = |woken: &Vec<u64>| woken.iter().all(|woken| *woken <= u64::from(3 * SECONDS));
        let what = format!("few wake-ups in {SECONDS} s with {connections} connections");
        wait_for(Duration::from_secs(30), &what, woken, is_few);
    }
}

#[test]
fn without_descriptors_there_is_room_for_new_clients_and_no_flood_of_records() {
    let wrong: Vec<_> = thread::scope(|scope| {
        let tries = [40, 64, 128].map(|most| scope.spawn(move || (most, few_descriptors(most))));
        tries
            .map(|one| one.join().unwrap())
            .into_iter()
            .filter(|(_, wrong)| !wrong.is_empty())
            .map(|(most, wrong)| format!("with {most} descriptors:\n{wrong}"))
            .collect()
    });
    assert!(wrong.is_empty(), "\n{}", wrong.concat());
}

/// What went wrong with so many descriptors.
fn few_descriptors(most: u32) -> String {
    const SECONDS: u32 = 3;
    let skep = Options::component(&guest("hello"))
        .arg("--workers")
        .arg("2")
        .descriptors(most)
        .start();
    let start = skep.log_mark();
    let address = skep.address();
    let mut idle = Vec::new();
    for _ in 0..2 * most + 60 {
        match Client::connect(&address) {
            Ok(client) => idle.push(client),
            // The queue of the kernel is full.
            Err(_) => break,
        }
    }
    let mut pids = vec![skep.pid()];
    pids.extend(process::children(skep.pid()).iter().map(|child| child.pid));
    let used = || pids.iter().map(|pid| process::cpu(*pid)).sum::<Duration>();
    pause(Duration::from_millis(300));
    let (before, mark) = (used(), skep.log_mark());
    pause(Duration::from_secs(SECONDS.into()));
    let (used, log) = (used() - before, skep.log());
    let records = log[mark..].lines().count();

    let mut client = Client::connect(&address).unwrap();
    client.patience(Duration::from_secs(5)).unwrap();
    let served = client.get("/").map(|response| response.status());
    drop(idle);
    wait_for(
        Duration::from_secs(5),
        "clients to be served when the others have gone",
        || {
            skep.client()
                .get("/")
                .ok()
                .map(|response| response.status())
        },
        |status| *status == Some(200),
    );
    assert_eq!(skep.pool("default").restarts, 0);
    let mut wrong = String::new();
    if served != Ok(200) {
        let _ = writeln!(wrong, "a client beside idle ones: {served:?}");
    }
    // One a second of each worker, and one for the beginning.
    if records > 2 * (usize::try_from(SECONDS).unwrap() + 1) {
        let _ = writeln!(wrong, "{records} records in {SECONDS} s");
    }
    if used >= Duration::from_secs(SECONDS.into()) / 10 {
        let _ = writeln!(wrong, "{used:?} of CPU in {SECONDS} s");
    }
    let warns = |line: &str| line.contains(" warn ") && line.contains("max_connections");
    if !log[..mark].lines().any(warns) {
        let _ = writeln!(wrong, "no warning at start: {}", &log[..start]);
    }
    wrong
}

/// How much each of so many connections costs a worker.
fn cost(worker: u32, connections: u32, open: impl FnOnce()) -> u64 {
    let before = process::anonymous(worker);
    open();
    process::anonymous(worker).saturating_sub(before) / u64::from(connections)
}

#[test]
fn an_idle_connection_costs_little_memory() {
    const CONNECTIONS: u32 = 1000;
    const MOST: u64 = 12 << 10;
    let skep = Skep::component(&guest("hello"), 1);
    let worker = skep.worker().pid;
    let address = skep.address();
    assert_eq!(skep.client().get("/").unwrap().status(), 200);
    let mut kept = Vec::new();
    let each = cost(worker, CONNECTIONS, || {
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(&address).unwrap();
            assert_eq!(client.get("/").unwrap().status(), 200);
            kept.push(client);
        }
    });
    assert_eq!(skep.worker().connections, CONNECTIONS);
    assert!(each <= MOST, "{each} bytes each");
}

#[test]
fn a_slow_reader_of_a_large_answer_costs_little_memory() {
    const READERS: u8 = 100;
    /// The guest's memory included.
    const MOST: u64 = 512 << 10;
    let skep = several("", "cpu = \"20s\"\nconcurrency = 200");
    let worker = skep.worker().pid;
    let address = skep.address();
    assert_eq!(skep.client().get("/hello").unwrap().status(), 200);
    let mut slow = Vec::new();
    let each = cost(worker, READERS.into(), || {
        for number in 0..READERS {
            // A share of an app is each client's; these are many.
            let from = Ipv4Addr::new(127, 0, 1, number);
            let mut client = Client::connect_from(&address, from).unwrap();
            client
                .send("GET /e/download?bytes=100000000 HTTP/1.1\r\nhost: a\r\n\r\n")
                .unwrap();
            assert_eq!(client.head().unwrap().status, 200);
            slow.push(client);
        }
        // Until the kernel takes no more.
        pause(Duration::from_secs(2));
    });
    assert!(each <= MOST, "{each} bytes each");
}

#[test]
fn connections_that_began_together_do_not_end_together() {
    const AT_ONCE: Duration = Duration::from_millis(50);
    let skep = several("max_connection_age = \"2s\"", "");
    let address = skep.address();
    // Each asks until it is told that this was the last answer.
    let age = |address: &Address| {
        let began = Instant::now();
        let mut client = Client::connect(address).unwrap();
        while !client.get("/hello").unwrap().head.closes() {
            pause(Duration::from_millis(10));
        }
        began.elapsed()
    };
    let ages: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|_| scope.spawn(|| age(&address))).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let (first, last) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    assert!(
        *last - *first > AT_ONCE,
        "all lived from {first:?} to {last:?}"
    );
    assert!(*last < Duration::from_secs(3), "{last:?}");
}

#[test]
fn an_answer_of_unknown_length_over_http_1_0_ends_with_its_connection_and_says_so() {
    let skep = several("", "");
    let mut client = skep.client();
    client
        .send("GET /s/?n=2&every=1 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
        .unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.status, 200);
    let connection = head.header("connection").unwrap_or_default();
    assert!(!connection.contains("keep-alive"), "{head:?}");
    assert_eq!(head.header("transfer-encoding"), None);
    let body = client.rest().unwrap();
    assert!(body.ends_with(b"data: event 1\n\n"), "{body:?}");
    // Of a known length it may be kept.
    let mut client = skep.client();
    for _ in 0..2 {
        client
            .send("GET /hello HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            .unwrap();
        let response = client.response();
        assert!(
            !matches!(response, Err(Failed::Malformed(_))),
            "{response:?}"
        );
        if response.unwrap().head.header("connection") != Some("keep-alive") {
            break;
        }
    }
}
