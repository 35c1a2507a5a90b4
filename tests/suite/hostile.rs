//! Each hostile guest ends as documented, and hello beside it on the same
//! worker does not notice.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use skep_tests::load::{Load, Style, Tally};
use skep_tests::{Client, Failed, Skep, process, turn};

use crate::{app, pool};

/// The bound that was promised for hello beside any hostile guest.
///
/// Without optimisation the host's own work takes several times as long, and
/// the test only looks for a worker that is held up.
const PROMISED_P99: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 20 });

/// What a client of a hostile guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// This status, whole.
    Status(u16),
    /// A 200 that is cut off before its end; a 500 or a closed connection if
    /// nothing of it had been sent. In no case what looks whole.
    Cut,
    /// A status of these, or nothing: never two lengths, never a lie.
    ErrorOrClosed,
    /// Exactly this much of a body, and then the end.
    Body(&'static str),
}

struct Attack {
    guest: &'static str,
    target: &'static str,
    sees: Sees,
    /// The outcome that is counted, where it is documented.
    outcome: Option<&'static str>,
}

const fn attack(
    guest: &'static str,
    target: &'static str,
    sees: Sees,
    outcome: Option<&'static str>,
) -> Attack {
    Attack {
        guest,
        target,
        sees,
        outcome,
    }
}

const ATTACKS: [Attack; 94] = [
    attack("spin", "/", Sees::Status(504), Some("cpu-budget")),
    attack("spin-p3", "/", Sees::Status(504), Some("cpu-budget")),
    attack("spin-p3", "/late", Sees::Cut, Some("cpu-budget")),
    attack("hog", "/", Sees::Status(500), Some("memory-budget")),
    attack("trap", "/", Sees::Status(500), Some("trap")),
    attack("deep-stack", "/", Sees::Status(500), Some("trap")),
    attack("never-respond", "/", Sees::Status(500), Some("no-response")),
    attack("sleep-forever", "/", Sees::Status(504), Some("deadline")),
    attack("slow-drip", "/", Sees::Cut, Some("deadline")),
    attack("panic-after-headers", "/", Sees::Cut, Some("trap")),
    attack("panic-after-headers", "/length", Sees::Cut, Some("trap")),
    attack("exit", "/", Sees::Status(500), Some("trap")),
    attack("exit", "/1", Sees::Status(500), Some("trap")),
    attack("exit", "/late", Sees::Cut, Some("trap")),
    attack("big-headers", "/", Sees::Status(500), Some("trap")),
    attack("ignore-body", "/", Sees::Status(200), Some("ok")),
    attack("flood-log", "/", Sees::Status(200), Some("ok")),
    attack("bad-response", "/", Sees::Status(200), Some("ok")),
    attack("bad-response", "/split", Sees::Status(500), Some("trap")),
    attack("bad-response", "/name", Sees::Status(500), Some("trap")),
    attack(
        "bad-response",
        "/transfer-encoding",
        Sees::Status(500),
        Some("trap"),
    ),
    attack("bad-response", "/status", Sees::Status(500), Some("trap")),
    attack("bad-response", "/short", Sees::Cut, Some("trap")),
    attack("bad-response", "/long", Sees::Body("lo"), None),
    attack("bad-response", "/two-lengths", Sees::ErrorOrClosed, None),
    attack("bad-response", "/not-a-length", Sees::ErrorOrClosed, None),
    attack("bad-response", "/twice", Sees::Status(500), Some("trap")),
    attack("bad-response", "/unfinished", Sees::Cut, None),
    attack("bad-response", "/newline", Sees::Status(500), Some("trap")),
    attack("bad-response", "/nul", Sees::Status(500), Some("trap")),
    attack(
        "bad-response",
        "/name-split",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response",
        "/hop/connection",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response",
        "/hop/keep-alive",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response",
        "/hop/upgrade",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response",
        "/hop/proxy-connection",
        Sees::Status(500),
        Some("trap"),
    ),
    attack("bad-response", "/host", Sees::Status(200), Some("ok")),
    attack("bad-response", "/space", Sees::Status(200), Some("ok")),
    attack("bad-response", "/trailer-split", Sees::Cut, Some("trap")),
    attack(
        "bad-response",
        "/status/100",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response",
        "/status/101",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response",
        "/status/103",
        Sees::Status(500),
        Some("trap"),
    ),
    attack("bad-response", "/status/204", Sees::Status(204), None),
    attack("bad-response", "/status/999", Sees::Status(999), Some("ok")),
    attack("bad-response-p3", "/", Sees::Status(200), Some("ok")),
    attack("bad-response-p3", "/split", Sees::Status(500), Some("trap")),
    attack(
        "bad-response-p3",
        "/transfer-encoding",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response-p3",
        "/status/99",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "bad-response-p3",
        "/status/101",
        Sees::Status(500),
        Some("trap"),
    ),
    attack("bad-response-p3", "/short", Sees::Cut, None),
    attack("bad-response-p3", "/long", Sees::Cut, None),
    attack("bad-response-p3", "/two-lengths", Sees::ErrorOrClosed, None),
    attack(
        "bad-response-p3",
        "/not-a-length",
        Sees::ErrorOrClosed,
        None,
    ),
    attack("bad-response-p3", "/error", Sees::Cut, None),
    attack(
        "hog-memories",
        "/",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack("hog-tables", "/", Sees::Status(500), Some("trap")),
    attack("hog-handles", "/", Sees::Status(500), Some("trap")),
    attack("hog-fields", "/", Sees::Status(500), Some("memory-budget")),
    attack("hog-bodies", "/", Sees::Status(500), Some("memory-budget")),
    attack(
        "hog-requests",
        "/method",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests",
        "/path",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests",
        "/authority",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests",
        "/fields",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests-p3",
        "/method",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests-p3",
        "/path",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests-p3",
        "/fields",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack(
        "hog-requests-p3",
        "/responses",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack("hog-lines", "/", Sees::Status(500), Some("memory-budget")),
    attack(
        "hog-lines-p3",
        "/",
        Sees::Status(500),
        Some("memory-budget"),
    ),
    attack("write-early", "/", Sees::Status(200), Some("ok")),
    attack("write-early", "/pieces", Sees::Status(200), Some("ok")),
    attack("write-early", "/request", Sees::Status(200), Some("ok")),
    attack("write-early", "/much", Sees::Status(500), Some("trap")),
    attack(
        "hoard-resources",
        "/fields",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "hoard-resources",
        "/pollables",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "hoard-resources",
        "/requests",
        Sees::Status(500),
        Some("trap"),
    ),
    attack(
        "hoard-resources",
        "/streams",
        Sees::Status(500),
        Some("trap"),
    ),
    attack("hoard-p3", "/streams", Sees::Status(500), Some("trap")),
    attack("hoard-p3", "/futures", Sees::Status(500), Some("trap")),
    attack("hoard-p3", "/tasks", Sees::ErrorOrClosed, None),
    attack("hoard-p3", "/fields", Sees::Status(500), Some("trap")),
    attack("hoard-slots", "/", Sees::Status(504), Some("deadline")),
    attack("linger", "/", Sees::Status(200), Some("deadline")),
    attack("linger", "/spin", Sees::Status(200), Some("cpu-budget")),
    attack("trap-p3", "/", Sees::Status(500), Some("trap")),
    attack("trap-p3", "/late", Sees::Cut, Some("trap")),
    attack("trap-p3", "/task", Sees::Cut, Some("trap")),
    attack("trap-p3", "/calm", Sees::Status(200), Some("ok")),
    attack("flood-logging", "/", Sees::Status(200), Some("ok")),
    attack("slow-read", "/", Sees::Status(200), Some("ok")),
    attack("outbound-hoard", "/", Sees::Status(200), Some("ok")),
    attack("outbound-storm", "/", Sees::Status(200), Some("ok")),
    attack("outbound-forbidden", "/", Sees::Status(200), Some("ok")),
    attack("outbound-forbidden-p3", "/", Sees::Status(200), Some("ok")),
    attack("probe", "/", Sees::Status(200), Some("ok")),
];

/// Those that fail in themselves.
const GUESTS: [&str; 14] = [
    "spin",
    "spin-p3",
    "hog",
    "trap",
    "deep-stack",
    "never-respond",
    "sleep-forever",
    "slow-drip",
    "panic-after-headers",
    "exit",
    "big-headers",
    "ignore-body",
    "flood-log",
    "bad-response",
];

/// Those that take what is others', or look for it.
const GREEDY: [&str; 26] = [
    "bad-response-p3",
    "hog-memories",
    "hog-tables",
    "hog-handles",
    "hog-fields",
    "hog-bodies",
    "hog-requests",
    "hog-requests-p3",
    "hog-lines",
    "hog-lines-p3",
    "write-early",
    "hoard-resources",
    "hoard-p3",
    "hoard-slots",
    "linger",
    "trap-p3",
    "trap-random",
    "flood-logging",
    "slow-read",
    "outbound-hoard",
    "outbound-storm",
    "outbound-forbidden",
    "outbound-forbidden-p3",
    "probe",
    "probe-p3",
    "outbound-follow",
];

fn zoo<'a>(guests: impl IntoIterator<Item = &'a str>) -> Skep {
    let mut text = pool(1) + &app("hello", "hello", "routes = [\"/*\"]");
    for name in guests {
        let limits = match name {
            // A log full of what a guest was allowed to say takes CPU to write.
            "flood-log" | "flood-logging" => "timeout = \"30s\"\ncpu = \"30s\"",
            // They end at their CPU budget, which a busy machine makes wait.
            "spin" | "spin-p3" | "linger" | "hog-handles" | "hoard-p3" => {
                "timeout = \"5s\"\ncpu = \"300ms\"\nmemory = \"64MiB\""
            }
            // What counts is what the host holds.
            "hog-fields" | "hog-bodies" | "hog-requests" | "hog-requests-p3" | "hog-lines"
            | "hog-lines-p3" => "timeout = \"5s\"\ncpu = \"1s\"\nmemory = \"8MiB\"",
            // They end at their deadline.
            "sleep-forever" | "slow-drip" | "hoard-slots" => {
                "timeout = \"1s\"\ncpu = \"300ms\"\nmemory = \"64MiB\""
            }
            // A busy machine must not make a deadline of what they end by.
            _ => "timeout = \"5s\"\ncpu = \"300ms\"\nmemory = \"64MiB\"",
        };
        text += &app(
            name,
            &format!("hostile-{name}"),
            &format!("routes = [\"{name}.test/*\"]\n{limits}"),
        );
    }
    Skep::config(&text)
}

fn send(client: &mut Client, attack: &Attack) -> Result<skep_tests::Response, Failed> {
    client.patience(Duration::from_secs(40))?;
    client.send(format!(
        "GET {} HTTP/1.1\r\nhost: {}.test\r\n\r\n",
        attack.target, attack.guest
    ))?;
    client.response()
}

fn judge(attack: &Attack, got: &Result<skep_tests::Response, Failed>) -> bool {
    match (attack.sees, got) {
        (Sees::Status(status), Ok(response)) => response.status() == status,
        (Sees::Cut, Err(Failed::Short(_) | Failed::Closed | Failed::Reset)) => true,
        (Sees::Cut | Sees::Body(_), Ok(response)) if response.status() == 500 => true,
        (Sees::Body(body), Ok(response)) => response.body == body.as_bytes(),
        (Sees::Body(body), Err(Failed::Short(got))) => body.as_bytes().starts_with(got),
        (Sees::ErrorOrClosed, Ok(response)) => (500..600).contains(&response.status()),
        (Sees::ErrorOrClosed, Err(Failed::Short(_) | Failed::Closed | Failed::Reset)) => true,
        _ => false,
    }
}

#[test]
fn each_attack_ends_as_documented_and_the_worker_lives() {
    let skep = zoo(GUESTS.into_iter().chain(GREEDY));
    let worker = skep.worker();
    let mut wrong = String::new();
    for attack in &ATTACKS {
        let before = attack.outcome.map(|outcome| skep.outcomes(outcome));
        let mut client = skep.client();
        let got = send(&mut client, attack);
        if !judge(attack, &got) {
            let shown = got
                .as_ref()
                .map(|response| (response.status(), response.text()));
            let _ = writeln!(
                wrong,
                "{} {}: {:?}, but {shown:?}",
                attack.guest, attack.target, attack.sees
            );
        }
        if let Ok(response) = &got
            && (500..600).contains(&response.status())
        {
            let id = response.head.header("x-request-id").unwrap_or_default();
            let inside = !response.text().ends_with(&format!("\nrequest {id}\n"));
            if inside || response.body.len() > 100 {
                let _ = writeln!(
                    wrong,
                    "{} {}: says too much: {:?}",
                    attack.guest,
                    attack.target,
                    response.text()
                );
            }
        }
        if let (Some(outcome), Some(before)) = (attack.outcome, before) {
            // Twice what the longest of them may take.
            let counted = skep_tests::wait::settles(
                Duration::from_secs(10),
                || skep.outcomes(outcome),
                |now| *now == before + 1,
            );
            if counted != before + 1 {
                let all = &skep.worker().outcomes;
                let _ = writeln!(
                    wrong,
                    "{} {}: counted {counted} instead of {} × {outcome}; all: {all:?}",
                    attack.guest,
                    attack.target,
                    before + 1
                );
            }
        }
        let hello = skep.client().get("/");
        if !hello
            .as_ref()
            .is_ok_and(|response| response.status() == 200)
        {
            let _ = writeln!(wrong, "after {}: {hello:?}", attack.guest);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let now = skep.worker();
    assert_eq!((now.id, now.pid), (worker.id, worker.pid), "no worker died");
    assert_eq!(skep.pool("default").restarts, 0);
    skep.wait_for_status("nothing to be in flight", |status| {
        status.workers.iter().all(|worker| worker.in_flight == 0)
    });
}

/// Measures hello beside an attack that is repeated for a while.
fn beside(skep: &Skep, attack: &Attack, clients: usize) -> Tally {
    let address = skep.address();
    let hello = Load::paced(&address, "/", 4, Style::KeptAlive, Duration::from_millis(2));
    let attackers: Vec<_> = (0..clients)
        .map(|_| {
            let address = address.clone();
            let attack = Attack { ..*attack };
            std::thread::spawn(move || {
                let end = Instant::now() + Duration::from_millis(2500);
                while Instant::now() < end {
                    if let Ok(mut client) = Client::connect(&address) {
                        let _ = send(&mut client, &attack);
                    }
                }
            })
        })
        .collect();
    for attacker in attackers {
        attacker.join().unwrap();
    }
    hello.stop()
}

/// Measures hello beside each of these, so many clients of each at a time.
#[expect(
    clippy::print_stdout,
    reason = "the figures belong to the test's output"
)]
fn hello_beside(guests: &[&str], attacks: &[(&str, &str, usize)]) {
    turn::alone();
    let skep = zoo(guests.iter().copied());
    let worker = skep.worker();
    let quiet = process::rss(worker.pid);
    let mut wrong = String::new();
    for &(guest, target, clients) in attacks {
        let attack = ATTACKS
            .iter()
            .find(|attack| (attack.guest, attack.target) == (guest, target))
            .expect("only documented attacks are measured");
        let before = process::rss(worker.pid) >> 20;
        let tally = beside(&skep, attack, clients);
        let (p50, p99) = (tally.quantile(0.5), tally.quantile(0.99));
        println!(
            "hello beside {clients} × {guest} {target}: {} requests, p50 {p50:.1?}, p99 {p99:.1?}; \
             rss {before}, then {} MiB",
            tally.total(),
            process::rss(worker.pid) >> 20
        );
        if tally.failures() > 0 || p99 > PROMISED_P99 {
            let _ = writeln!(
                wrong,
                "beside {guest} {target}: p99 {p99:?}, {} of {} failed",
                tally.failures(),
                tally.total()
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let now = skep.worker();
    assert_eq!((now.id, now.pid), (worker.id, worker.pid), "no worker died");
    skep.wait_for_status("nothing to be in flight", |status| {
        status.workers.iter().all(|worker| worker.in_flight == 0)
    });
    let after = process::rss(now.pid);
    println!(
        "rss of the worker: {} MiB before, {} MiB after",
        quiet >> 20,
        after >> 20
    );
    assert!(
        after < quiet + (96 << 20),
        "memory comes back: {quiet} then {after}"
    );
}

#[test]
fn hello_beside_them_keeps_its_latency() {
    hello_beside(
        &GUESTS,
        &[
            ("spin", "/", 4),
            ("spin-p3", "/", 4),
            ("hog", "/", 4),
            ("trap", "/", 4),
            ("deep-stack", "/", 4),
            ("sleep-forever", "/", 16),
            ("slow-drip", "/", 16),
            ("panic-after-headers", "/", 4),
            ("big-headers", "/", 4),
            ("flood-log", "/", 2),
        ],
    );
}

#[test]
fn hello_beside_the_greedy_keeps_its_latency() {
    hello_beside(
        &GREEDY,
        &[
            ("hog-memories", "/", 4),
            ("hog-tables", "/", 4),
            ("hog-handles", "/", 4),
            ("hoard-resources", "/pollables", 4),
            ("hoard-p3", "/streams", 4),
            ("hoard-slots", "/", 16),
            ("linger", "/", 16),
            ("trap-p3", "/late", 4),
            ("flood-logging", "/", 2),
            ("outbound-hoard", "/", 4),
            ("outbound-storm", "/", 4),
        ],
    );
}

/// What SECURITY.md says that one guest may gather in a turn, beyond its limit.
const IN_A_TURN: u64 = 32 << 20;

/// What an instance of those that fill the host's memory may have.
const LIMIT: u64 = 8 << 20;

/// How many clients of one of them there are.
const ATTACKERS: usize = 4;

#[test]
fn what_the_host_holds_for_guests_is_bounded_by_their_memory() {
    turn::alone();
    let attacks = [
        ("hog-fields", "/"),
        ("hog-bodies", "/"),
        ("hog-requests", "/method"),
        ("hog-requests", "/path"),
        ("hog-requests", "/fields"),
        ("hog-requests-p3", "/method"),
        ("hog-requests-p3", "/fields"),
        ("hog-requests-p3", "/responses"),
        ("hog-lines", "/"),
        ("hog-lines-p3", "/"),
    ];
    let skep = zoo(GREEDY);
    let worker = skep.worker();
    let mut wrong = String::new();
    for (guest, target) in attacks {
        let attack = ATTACKS
            .iter()
            .find(|attack| (attack.guest, attack.target) == (guest, target))
            .expect("only documented attacks are measured");
        // What loading and the first call of an app leave is not this test's.
        let _ = send(&mut skep.client(), attack);
        let before = process::reset_peak(worker.pid);
        beside(&skep, attack, ATTACKERS);
        let grown = process::peak(worker.pid).saturating_sub(before);
        println!("{guest} {target}: {} KiB", grown >> 10);
        if grown > LIMIT * ATTACKERS as u64 + IN_A_TURN {
            let _ = writeln!(wrong, "{guest} {target}: {} MiB", grown >> 20);
        }
    }
    assert!(wrong.is_empty(), "a worker grew by\n{wrong}");
    assert_eq!(skep.worker().pid, worker.pid, "no worker died");
}

/// One worker, hello and this guest.
fn pair(guest: &str, lines: &str) -> Skep {
    let hello = app("hello", "hello", "routes = [\"hello.test/*\"]");
    let hostile = app("hostile", guest, &format!("routes = [\"/*\"]\n{lines}"));
    Skep::config(&(pool(1) + &hello + &hostile))
}

fn hello_is_well(skep: &Skep) {
    let mut client = skep.client();
    client
        .send("GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n")
        .unwrap();
    let hello = client.response().unwrap();
    assert_eq!((hello.status(), &*hello.text()), (200, "Hello, world!\n"));
    assert_eq!(skep.pool("default").restarts, 0);
}

/// A place where nobody may arrive.
fn trap_door() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn nobody_came(listener: &TcpListener) {
    let came = listener.accept();
    assert!(
        matches!(&came, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{came:?}"
    );
}

#[test]
fn probes_find_nothing() {
    let (listener, port) = trap_door();
    for guest in ["hostile-probe", "hostile-probe-p3"] {
        let skep = pair(guest, "env = { MODE = \"x\" }");
        let response = skep.client().get(&format!("/?port={port}")).unwrap();
        let found = response.json();
        println!("{guest}: {found}");
        for empty in ["opened", "preopens", "arguments"] {
            assert_eq!(found[empty], json!([]), "{guest}: {empty} of {found}");
        }
        assert_eq!(found["directory"], Value::Null, "{guest}: {found}");
        let mut names: Vec<_> = found["environment"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        names.sort_unstable();
        let own = [
            "MODE",
            "SKEP_APP",
            "SKEP_POOL",
            "SKEP_REVISION",
            "SKEP_WORKER",
            "SKEP_WORKER_SLOT",
        ];
        assert_eq!(names, own, "{guest}");
        // How long the machine has been up is nobody's business.
        let age = found["clocks"]["monotonic"].as_u64().unwrap();
        assert!(age < 10_000_000_000, "{guest}: {age} ns");
        if guest == "hostile-probe" {
            assert_eq!(found["stdin"], "", "{found}");
            assert_eq!(found["terminals"], false, "{found}");
            for socket in ["connect", "listen", "udp"] {
                let got = &found["sockets"][socket];
                assert_eq!(got, "access-denied", "{socket} of {found}");
            }
        }
        nobody_came(&listener);
        hello_is_well(&skep);
    }
}

/// What a host says that has not even tried. Whatever only a network can say
/// (refused, unreachable, timed out) means that somebody went there.
const UNTRIED: [&str; 5] = [
    "http-request-denied",
    "http-protocol-error",
    "destination-ip-prohibited",
    "http-request-uri-invalid",
    "invalid-authority",
];

#[test]
fn forbidden_places_are_denied_under_every_name() {
    let (listener, port) = trap_door();
    let mut names = String::new();
    for host in [
        "localhost",
        "localhost.",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "0",
        "[::ffff:127.0.0.1]",
        "allowed@127.0.0.1",
        "allowed:80@127.0.0.1",
    ] {
        let _ = writeln!(names, "http://{host}:{port}/");
    }
    for guest in [
        "hostile-outbound-forbidden",
        "hostile-outbound-forbidden-p3",
    ] {
        let skep = pair(guest, "");
        let mut client = skep.client();
        for (response, least) in [
            (client.get("/"), 40),
            (client.post("/", names.as_bytes()), 12),
        ] {
            let response = response.unwrap();
            assert_eq!(response.status(), 200, "{guest}: {response:?}");
            let tried = response.json();
            let tried = tried.as_array().unwrap();
            assert!(tried.len() >= least, "{guest}: {tried:?}");
            for one in tried {
                let error = one["error"].as_str();
                assert!(
                    error.is_some_and(|error| UNTRIED.contains(&error)),
                    "{guest}: {one}"
                );
            }
        }
        nobody_came(&listener);
        hello_is_well(&skep);
    }
}

#[test]
fn without_a_grant_nothing_is_followed_hoarded_or_stormed() {
    let (listener, port) = trap_door();
    let url = format!("http://127.0.0.1:{port}/");
    let denied = json!({"http-request-denied": 1000});
    for (guest, query, expected) in [
        (
            "hostile-outbound-follow",
            format!("url={url}&times=2"),
            json!([
                {"url": url, "error": "http-request-denied"},
                {"url": url, "error": "http-request-denied"},
            ]),
        ),
        (
            "hostile-outbound-hoard",
            format!("url={url}"),
            json!({"open": 0, "results": denied}),
        ),
        (
            "hostile-outbound-storm",
            format!("url={url}"),
            json!({"sent": 1000, "results": denied}),
        ),
    ] {
        let skep = pair(guest, "");
        let mut client = skep.client();
        // Often: what is done in one turn must not cost the answer.
        for _ in 0..20 {
            let response = client.get(&format!("/?{query}")).unwrap();
            assert_eq!(response.status(), 200, "{guest}: {response:?}");
            assert_eq!(response.json(), expected, "{guest}");
        }
        nobody_came(&listener);
        hello_is_well(&skep);
    }
}

#[test]
fn a_request_that_is_sipped_ends_at_the_deadline() {
    let skep = pair("hostile-slow-read", "timeout = \"2s\"\nmemory = \"16MiB\"");
    let body = vec![b'x'; 8 << 20];
    let before = process::rss(skep.worker().pid);
    for target in ["/", "/silent"] {
        let mut client = skep.client();
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.send(head).unwrap();
        let mut sender = client.sender().unwrap();
        let sent = body.clone();
        // What nobody has a use for is dropped, so that the answer arrives.
        let writer = std::thread::spawn(move || sender.write_all(&sent).is_ok());
        let got = client.response();
        match target {
            "/" => assert!(
                matches!(&got, Err(Failed::Short(some)) if !some.is_empty() && some.len() < 100),
                "{got:?}"
            ),
            _ => assert!(
                matches!(&got, Ok(response) if response.status() == 504),
                "{got:?}"
            ),
        }
        drop(client);
        let _taken = writer.join().unwrap();
        hello_is_well(&skep);
    }
    skep_tests::wait::wait_for(
        Duration::from_secs(5),
        "both to be counted",
        || skep.outcomes("deadline"),
        |counted| *counted == 2,
    );
    let after = process::rss(skep.worker().pid);
    assert!(after < before + (16 << 20), "{before} then {after}");
}

#[test]
fn what_looks_whole_of_a_guest_that_traps_anywhere_is_whole() {
    const CALLS: u64 = 100;
    let skep = pair("hostile-trap-random", "");
    let (mut whole, mut failed, mut cut) = (0, 0, 0);
    for _ in 0..CALLS {
        match skep.client().get("/") {
            Ok(response) if response.status() == 200 => {
                assert_eq!(response.text(), "piece\n".repeat(4));
                whole += 1;
            }
            Ok(response) => {
                assert_eq!(response.status(), 500);
                failed += 1;
            }
            Err(Failed::Short(_) | Failed::Closed | Failed::Reset) => cut += 1,
            Err(other) => panic!("{other}"),
        }
    }
    println!("{whole} whole, {failed} failed, {cut} cut");
    assert!(whole > 0 && failed + cut > 0, "{whole} {failed} {cut}");
    let counted = || (skep.outcomes("ok"), skep.outcomes("trap"));
    skep_tests::wait::wait_for(
        Duration::from_secs(5),
        "each to be counted",
        counted,
        // The last byte may be out when the guest traps.
        |(ok, trap)| ok + trap == CALLS && *ok <= whole,
    );
    hello_is_well(&skep);
}

#[test]
fn a_guest_that_turns_bad_later_costs_no_worker() {
    let config = |after: u64| {
        let hello = app("hello", "hello", "routes = [\"hello.test/*\"]");
        let lines = format!(
            "routes = [\"/*\"]\nrollout = {{ observe = \"0s\" }}\nenv = {{ TRAP_AFTER = \"{after}\" }}"
        );
        pool(1) + &hello + &app("hostile", "hostile-starts-trap-later", &lines)
    };
    let skep = Skep::config(&config(u64::MAX));
    let worker = skep.worker();
    assert_eq!(skep.client().get("/").unwrap().text(), "not yet\n");
    // Compiled as it is, it is loaded again in no time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let soon = now.as_secs() + 10;
    std::fs::write(skep.dir().path().join("skep.toml"), config(soon)).unwrap();
    let mark = skep.log_mark();
    skep.signal("HUP");
    skep.wait_for_log_since(mark, "config.reloaded");
    let _ = skep_tests::wait::wait_for(
        Duration::from_secs(60),
        "every instance to trap",
        || skep.client().get("/").map(|response| response.status()),
        |status| matches!(status, Ok(500)),
    );
    for _ in 0..50 {
        assert_eq!(skep.client().get("/").unwrap().status(), 500);
    }
    hello_is_well(&skep);
    assert_eq!(skep.worker().pid, worker.pid);
    assert!(skep.outcomes("trap") > 50);
}

#[test]
fn calm_calls_survive_traps_in_other_instances() {
    let skep = pair(
        "hostile-trap-p3",
        "instance = { reuse = 8, concurrent = 1 }",
    );
    let address = skep.address();
    let calm: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::connect(&address).unwrap();
            std::thread::spawn(move || client.get("/calm").map(|response| response.text()))
        })
        .collect();
    for target in ["/", "/task", "/late"].repeat(10) {
        let got = skep.client().get(target);
        assert!(
            !matches!(&got, Ok(response) if response.status() == 200),
            "{got:?}"
        );
    }
    for calm in calm {
        assert_eq!(calm.join().unwrap().as_deref(), Ok("calm\n"));
    }
    hello_is_well(&skep);
}

#[test]
fn what_computes_honestly_gets_its_answer() {
    let lines = "routes = [\"/*\"]\ncpu = \"5s\"";
    let skep = Skep::config(&(pool(1) + &app("compute", "compute", lines)));
    let began = Instant::now();
    let response = skep.client().get("/?ms=200").unwrap();
    assert_eq!(response.status(), 200, "{}", response.text());
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(skep.client().get("/?ms=much").unwrap().status(), 400);
}
