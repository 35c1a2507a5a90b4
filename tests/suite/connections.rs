//! Connections: how they end, what they cost while nothing happens, and what
//! becomes of clients that are slow, half gone, early or many.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use skep_tests::http::Address;
use skep_tests::options::Options;
use skep_tests::{Client, Failed, Skep, guest, pause, process, turn, wait_for};

use crate::deploys::tcp;
use crate::{app, pool};

/// Echo at `/`, events at `/s/`, and who answers at once at `/hello`.
fn several(listener: &str, echo: &str) -> Skep {
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
    let mut wrong = String::new();
    for connections in [0, 1, 50] {
        while kept.len() < connections {
            let mut client = skep.client();
            assert_eq!(client.get("/").unwrap().status(), 200);
            kept.push(client);
        }
        // What the last request stirred up is no wake-up of an idle worker.
        pause(Duration::from_millis(500));
        let before: Vec<_> = pids.iter().map(|pid| process::wakeups(*pid)).collect();
        pause(Duration::from_secs(SECONDS.into()));
        for (pid, before) in pids.iter().zip(before) {
            let woken = process::wakeups(*pid) - before;
            if woken > u64::from(3 * SECONDS) {
                let _ = writeln!(
                    wrong,
                    "with {connections} connections: {woken} wake-ups in {SECONDS} s"
                );
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
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
    let told = skep.log();
    let warned = |line: &str| line.contains(" warn ") && line.contains("max_connections");
    let warned = told.lines().any(warned);
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
    if records > usize::try_from(SECONDS).unwrap() + 1 {
        let _ = writeln!(wrong, "{records} records in {SECONDS} s");
    }
    if used >= Duration::from_secs(SECONDS.into()) / 10 {
        let _ = writeln!(wrong, "{used:?} of CPU in {SECONDS} s");
    }
    if !warned {
        let _ = writeln!(wrong, "no warning at start: {told}");
    }
    wrong
}

fn expecting(version: &str, target: &str, length: usize) -> String {
    format!(
        "POST {target} HTTP/{version}\r\nhost: a\r\ncontent-length: {length}\r\n\
         expect: 100-continue\r\n\r\n"
    )
}

#[test]
fn who_expects_to_be_asked_for_the_body_is_asked_when_somebody_wants_it() {
    let skep = several("", "max_body = 100");
    // A guest that reads first, and one that answers first.
    for target in ["/e/upload", "/e/x"] {
        let mut client = skep.client();
        client.patience(Duration::from_secs(2)).unwrap();
        client.send(expecting("1.1", target, 5)).unwrap();
        let began = Instant::now();
        let head = client.head().map(|head| head.status);
        assert_eq!(head, Ok(100), "{target}");
        assert!(began.elapsed() < Duration::from_millis(800), "{target}");
        client.send("hello").unwrap();
        let response = client.response().unwrap();
        assert_eq!(response.status(), 200, "{target}");
        assert!(response.text().contains(['5', 'h']), "{}", response.text());
    }
    // Without a body, and in HTTP/1.0, nobody is asked.
    let mut client = skep.client();
    client
        .send("GET /e/status/200 HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut client = skep.client();
    client
        .send(expecting("1.0", "/e/upload", 3) + "foo")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
}

#[test]
fn who_expects_to_be_asked_for_the_body_hears_at_once_that_nobody_wants_it() {
    let skep = several("", "max_body = 100");
    for (target, length, status) in [
        ("/e/upload", 5000, 413),
        ("/nowhere", 5, 404),
        ("/hello", 500_000, 200),
        ("/hello", 5, 200),
    ] {
        let mut client = skep.client();
        client.patience(Duration::from_secs(2)).unwrap();
        client.send(expecting("1.1", target, length)).unwrap();
        let head = client.head().unwrap();
        assert_eq!(head.status, status, "{target}");
        while !client.piece().unwrap().is_empty() {}
        // The body may still come, or the next request: who cannot tell says
        // that it closes.
        if head.closes() {
            continue;
        }
        let _ = client.send(vec![b'x'; length]);
        let next = client.get("/hello").map(|response| response.status());
        assert_eq!(next, Ok(200), "after {target}, {length} bytes");
    }
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

/// Sends so many POSTs on kept-alive connections, each body a while after its
/// head, and returns what went wrong.
fn pausing(address: &Address, target: &str, status: u16, gap: Duration, times: u32) -> String {
    let body = "x".repeat(100);
    let mut kept: Option<Client> = None;
    let mut wrong = String::new();
    for number in 0..times {
        let again = kept.is_some();
        let mut client = kept
            .take()
            .unwrap_or_else(|| Client::connect(address).unwrap());
        client.patience(Duration::from_secs(3)).unwrap();
        let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n");
        let response = client
            .send(head)
            .and_then(|()| {
                pause(gap);
                client.send(&body)
            })
            .and_then(|()| client.response());
        match response {
            Ok(response) if response.status() == status => {
                kept = (!response.head.closes()).then_some(client);
            }
            other => {
                let kept = if again { "a kept" } else { "a new" };
                let _ = writeln!(
                    wrong,
                    "{target}, {gap:?}, {number} on {kept} one: {other:?}"
                );
            }
        }
    }
    wrong
}

/// Answers that do not wait for a body.
const EARLY: [(&str, u16); 4] = [
    ("/hello", 200),
    ("/nowhere", 404),
    ("/e/x", 413),
    ("/limited", 429),
];

fn early() -> Skep {
    let skep = Skep::config(&format!(
        "{}{}{}{}",
        pool(1),
        app("echo", "echo", "routes = [\"/e/*\"]\nmax_body = 50"),
        app("hello", "hello", "routes = [\"/hello\"]"),
        app(
            "limited",
            "hello",
            "routes = [\"/limited\"]\nrate = \"1/h\""
        ),
    ));
    assert_eq!(skep.client().get("/limited").unwrap().status(), 200);
    skep
}

#[test]
fn a_client_that_pauses_before_its_body_loses_neither_answer_nor_next_request() {
    let skep = early();
    let address = skep.address();
    let wrong: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = EARLY
            .iter()
            .flat_map(|of| [2, 20].map(|gap| (of, Duration::from_millis(gap))))
            .map(|((target, status), gap)| {
                let address = &address;
                scope.spawn(move || pausing(address, target, *status, gap, 60))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let wrong = wrong.concat();
    assert!(
        wrong.is_empty(),
        "{} were lost:\n{wrong}",
        wrong.lines().count()
    );
}

#[test]
fn a_large_upload_that_is_answered_early_always_gets_its_answer() {
    let skep = early();
    let address = skep.address();
    let body = vec![b'x'; 3_000_000];
    let mut wrong = String::new();
    for (target, status) in EARLY {
        for _ in 0..15 {
            // Everything first, as most libraries do.
            let mut client = Client::connect(&address).unwrap();
            let answer = client.post(target, &body).map(|response| response.status());
            if answer != Ok(status) {
                let _ = writeln!(wrong, "{target}, read at last: {answer:?}");
            }
            // And who looks meanwhile, as curl does.
            let mut client = Client::connect(&address).unwrap();
            let head = "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n";
            client.send(head.replace("{}", target)).unwrap();
            let mut sender = client.sender().unwrap();
            let body = &body;
            let answer = thread::scope(|scope| {
                // It need not take all of it.
                scope.spawn(move || std::io::Write::write_all(&mut sender, body));
                client.response().map(|response| response.status())
            });
            if answer != Ok(status) {
                let _ = writeln!(wrong, "{target}, read meanwhile: {answer:?}");
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} were lost:\n{wrong}",
        wrong.lines().count()
    );
}

/// nginx in front of skep, in a directory of its own.
struct Nginx {
    child: Child,
    address: Address,
}

impl Nginx {
    /// Starts it; `None` where there is none, which in CI is a failure.
    #[expect(clippy::print_stdout, reason = "skipping must not go unseen")]
    fn before(skep: &Skep, dir: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (here, there) = (dir.display(), tcp(skep));
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/errors;\n\
             events {{}}\nhttp {{\naccess_log off; client_max_body_size 10m;\n\
             client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
             fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
             upstream skep {{ server {there}; keepalive 8; }}\n\
             server {{ listen 127.0.0.1:{port};\nlocation / {{ proxy_pass http://skep;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-e")
            .arg(dir.join("errors"))
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            assert!(
                std::env::var_os("CI").is_none_or(|value| value.is_empty() || value == "false"),
                "CI has nginx"
            );
            println!("there is no nginx: skipped");
            return None;
        };
        let address = Address::Tcp(([127, 0, 0, 1], port).into());
        let nginx = Self { child, address };
        wait_for(
            Duration::from_secs(10),
            "nginx to listen",
            || Client::connect(&nginx.address).err(),
            Option::is_none,
        );
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn behind_nginx_no_upload_that_is_answered_early_is_a_bad_gateway() {
    let skep = early();
    let dir = skep_tests::options::directory();
    let Some(nginx) = Nginx::before(&skep, dir.path()) else {
        return;
    };
    let body = vec![b'x'; 900_000];
    let post = |(target, status): (&str, u16)| {
        let answer = Client::connect(&nginx.address)
            .and_then(|mut client| client.post(target, &body))
            .map(|response| response.status());
        (answer != Ok(status)).then(|| format!("{target}: {answer:?}\n"))
    };
    let lost: Vec<_> = EARLY
        .iter()
        .cycle()
        .take(120)
        .filter_map(|of| post(*of))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of 120 were lost:\n{}",
        lost.len(),
        lost.concat()
    );
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
