//! Each hostile guest ends as documented, and hello beside it on the same
//! worker does not notice.

use std::fmt::Write as _;
use std::time::Duration;

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

const ATTACKS: [Attack; 28] = [
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
];

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

fn zoo() -> Skep {
    let mut text = pool(1) + &app("hello", "hello", "routes = [\"/*\"]");
    for name in GUESTS {
        // A log full of what a guest was allowed to say takes CPU to write.
        let limits = if name == "flood-log" {
            "timeout = \"30s\"\ncpu = \"30s\""
        } else {
            "timeout = \"1s\"\ncpu = \"300ms\"\nmemory = \"64MiB\""
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
    let skep = zoo();
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
            && response.status() >= 500
        {
            let id = response.head.header("x-request-id").unwrap_or_default();
            let inside = !response.text().ends_with(&format!("\nrequest {id}\n"));
            if inside || response.body.len() > 100 {
                let _ = writeln!(
                    wrong,
                    "{}: says too much: {:?}",
                    attack.guest,
                    response.text()
                );
            }
        }
        if let (Some(outcome), Some(before)) = (attack.outcome, before) {
            let counted = skep_tests::wait::settles(
                Duration::from_secs(5),
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
                let end = std::time::Instant::now() + Duration::from_millis(2500);
                while std::time::Instant::now() < end {
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

#[test]
fn hello_beside_them_keeps_its_latency() {
    turn::alone();
    let skep = zoo();
    let worker = skep.worker();
    let quiet = process::rss(worker.pid);
    let mut wrong = String::new();
    for (index, clients) in [
        (0, 4),
        (1, 4),
        (3, 4),
        (4, 4),
        (5, 4),
        (7, 16),
        (8, 16),
        (9, 4),
        (14, 4),
        (16, 2),
    ] {
        let attack = &ATTACKS[index];
        let tally = beside(&skep, attack, clients);
        let (p50, p99) = (tally.quantile(0.5), tally.quantile(0.99));
        println!(
            "hello beside {clients} × {}: {} requests, p50 {p50:.1?}, p99 {p99:.1?}",
            attack.guest,
            tally.total()
        );
        if tally.failures() > 0 || p99 > PROMISED_P99 {
            let _ = writeln!(
                wrong,
                "beside {}: p99 {p99:?}, {} of {} failed",
                attack.guest,
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
