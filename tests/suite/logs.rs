//! Whose record a line of the log is, and that everybody's are there: each
//! process writes to a pipe of its own, and the primary passes on what it reads.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_tests::options::Options;
use skep_tests::{Client, Skep, attacker, process, wait_for};

use crate::{app, pool};

/// How long an attack may take to be made, and seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool of one worker with one app, whose worker makes this attack with this
/// text. It ends for good with its first crash.
fn attacking(name: &str, attack: &str, text: &str) -> String {
    format!(
        "[pool.{name}]\nworkers = 1\nmax_crashes = 1\nhang_timeout = \"2s\"\n\
         [listener.{name}]\naddress = \"unix:{name}.sock\"\npool = \"{name}\"\n"
    ) + &app(
        name,
        "hello",
        &format!("pool = \"{name}\"\nconfig = {{ attack = \"{attack}\", attack-text = {text} }}"),
    )
}

fn start(config: &str) -> Skep {
    // Not waited for: some of its workers do not live long.
    Options::config(config).binary(attacker()).spawn()
}

/// The first line that holds all of these.
fn line(skep: &Skep, all: &[&str]) -> String {
    let found = wait_for(
        PATIENCE,
        &format!("a line with {all:?}"),
        || {
            let log = skep.log();
            let mut lines = log.lines();
            let found = lines.find(|line| all.iter().all(|part| line.contains(part)));
            found.map(str::to_owned)
        },
        Option::is_some,
    );
    found.unwrap()
}

#[test]
fn whoever_forges_records_is_named() {
    let time = "2026-01-01T00:00:00.000Z";
    let forged = [
        (
            "other",
            format!("'{time} info  app.log worker=1 pid=1 app=victim text=forged\\n'"),
        ),
        (
            "primary",
            format!("'{time} error pool.tripped pool=victim kind=runtime text=forged\\n'"),
        ),
        ("plain", "'skep: serving http://forged\\n'".to_owned()),
        (
            "control",
            "\"\\u001B[2J\\u001B[H\\rskep: forged\\\\n\"".to_owned(),
        ),
        (
            "two",
            format!("'x\\n{time} error pool.tripped pool=victim text=forged\\n'"),
        ),
        ("open", "'forged, and no end'".to_owned()),
    ];
    let mut config = String::new();
    for (name, text) in &forged {
        config += &attacking(name, "write", text);
    }
    let skep = start(&config);
    for (name, _) in &forged {
        // What follows an open line is a record no more, and told likewise.
        line(
            &skep,
            &[" worker.stderr ", &format!("pool={name} "), "forged"],
        );
    }
    let log = skep.log();
    for line in log.lines().filter(|line| line.contains("forged")) {
        assert!(line.contains(" error worker.stderr pool="), "{line}");
    }
    assert!(!log.contains('\u{1b}') && !log.contains('\r'));
}

#[test]
fn the_last_words_of_a_worker_come_before_the_record_of_its_end() {
    let skep = start(
        &(attacking("half", "write-and-exit", "'half a record'")
            + &attacking("panics", "panic", "'for a reason'")),
    );
    line(&skep, &[" worker.exited ", "pool=half "]);
    let log = skep.log();
    let place = |of: &str| {
        let found = log
            .lines()
            .position(|line| line.contains(of) && line.contains("pool=half "));
        found.unwrap_or_else(|| panic!("no {of} in\n{log}"))
    };
    assert!(place(" worker.stderr ") < place(" worker.exited "));
    line(&skep, &[" worker.stderr ", "half a record", "pool=half "]);
    // A panic is told by std, in several lines.
    line(&skep, &[" worker.stderr ", "panicked at", "pool=panics "]);
    line(&skep, &[" worker.stderr ", "for a reason", "pool=panics "]);
}

#[test]
fn a_worker_that_floods_its_log_delays_and_hides_nobody() {
    let honest = "[pool.honest]\nworkers = 1\n\
         [listener.honest]\naddress = \"127.0.0.1:0\"\npool = \"honest\"\n";
    let config = (0..3).fold(honest.to_owned(), |mut config, number| {
        let _ = write!(
            config,
            "{}",
            attacking(&format!("flood{number}"), "flood", "''")
        );
        config
    }) + &app("honest", "hostile-trap", "pool = \"honest\"");
    let skep = Options::config(&config).binary(attacker()).start();
    let mut client = Client::connect(&skep.address_of("honest")).unwrap();
    let began = Instant::now();
    // Until well after the floods: what the honest one says is there at once.
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(4) {
        let response = client.get("/").unwrap();
        assert_eq!(response.status(), 500);
        let id = response.head.header("x-request-id").unwrap().to_owned();
        let asked = Instant::now();
        line(&skep, &[" request.failed ", &id]);
        slowest = slowest.max(asked.elapsed());
        assert!(skep.try_status().is_ok());
        client = Client::connect(&skep.address_of("honest")).unwrap();
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for number in 0..3 {
        let pool = format!("pool=flood{number} ");
        line(&skep, &[" log.dropped ", &pool, "records="]);
    }
    let log = skep.log();
    assert!(log.len() < 4 << 20, "{} bytes", log.len());
    assert!(process::rss(skep.pid()) < 64 << 20);
    assert!(!log.contains('\u{1b}'));
}

#[test]
fn descriptors_that_nobody_asked_for_cost_their_sender_its_life() {
    let skep = start(
        &(attacking("sends", "send-descriptors", "''")
            + &pool(1)
            + &app("a", "hello", "pool = \"default\"")),
    );
    line(
        &skep,
        &[" worker.exited ", "pool=sends ", "reason=signal signal=9"],
    );
    skep.assert_logged(" worker.mute ", 1);
    let mut client = Client::connect(&skep.address_of("web")).unwrap();
    assert_eq!(client.get("/").unwrap().status(), 200);
    assert_eq!(skep.pool("default").restarts, 0);
}

/// Guests write lines of up to 8 KiB, of which each byte may be quoted: records
/// that no pipe takes at once.
#[test]
fn long_records_of_many_workers_are_whole() {
    let config = "[server]\nlog = { format = \"json\" }\n".to_owned()
        + &pool(3)
        + &app(
            "flood",
            "hostile-flood-logging",
            "timeout = \"30s\"\ncpu = \"30s\"\nlog_rate = \"64MiB\"",
        );
    let skep = Skep::config(&config);
    let mut clients: Vec<_> = (0..6).map(|_| skep.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    // All of them write at the same time. How it ends is not what counts.
    wait_for(
        PATIENCE,
        "much to be logged",
        || skep.log_mark(),
        |length| *length > 2 << 20,
    );
    let log = skep.log();
    let mut longest = 0;
    // The last one may not have come whole.
    let whole = &log[..=log.rfind('\n').unwrap()];
    for line in whole.lines() {
        if line.starts_with("skep: ") {
            continue;
        }
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            let start = &line[..line.floor_char_boundary(200)];
            panic!("{error}: {start}")
        });
        assert!(record["name"] != "worker.stderr", "{line}");
        longest = longest.max(line.len());
    }
    assert!(longest > 8 << 10, "{longest}");
}

#[test]
fn a_stopped_terminal_holds_up_nothing() {
    let config = pool(2)
        + &app(
            "flood",
            "hostile-flood-log",
            "routes = [\"/flood\"]\ntimeout = \"30s\"\ncpu = \"30s\"",
        )
        + &app("hello", "hello", "");
    let skep = Skep::config(&config);
    skep.stall_log(true);
    let mut floods: Vec<_> = (0..4).map(|_| skep.client()).collect();
    for flood in &mut floods {
        flood
            .send("GET /flood HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
    }
    skep.wait_for_status("the floods to begin", |status| {
        status.workers.iter().any(|worker| worker.in_flight > 0)
    });
    let old = skep.workers()[0].pid;
    process::signal(old, "KILL");
    skep.wait_for_status("another worker", |status| {
        let serving = |worker: &&skep_wire::WorkerStatus| worker.state == "serving";
        let workers: Vec<_> = status.workers.iter().filter(serving).collect();
        workers.len() == 2 && workers.iter().all(|worker| worker.pid != old)
    });
    assert_eq!(skep.client().get("/").unwrap().text(), "Hello, world!\n");
    let mark = skep.log_mark();
    skep.stall_log(false);
    // What was lost meanwhile is counted.
    skep.wait_for_log_since(mark, " log.dropped ");
    skep.wait_for_log_since(mark, " worker.exited ");
}

#[test]
fn a_worker_whose_primary_was_killed_goes_on_without_a_log() {
    let config = pool(1)
        + &app(
            "flood",
            "hostile-flood-log",
            "timeout = \"30s\"\ncpu = \"30s\"\nlog_rate = \"64MiB\"",
        );
    let mut skep = Skep::config(&config);
    let worker = skep.worker().pid;
    let mut client = skep.client();
    client.patience(Duration::from_secs(60)).unwrap();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    skep.wait_for_log(" app.log ");
    skep.signal("KILL");
    skep.wait(Duration::from_secs(5));
    assert_eq!(client.response().unwrap().text(), "logged a lot\n");
    wait_for(
        PATIENCE,
        "the worker to go",
        || process::is_alive(worker),
        |alive| !alive,
    );
}

/// A log that skep appends to is a file of the operator's: nobody but the
/// primary has it open.
#[test]
fn only_the_primary_has_its_own_stderr_open() {
    let config = pool(2) + &app("hello", "hello", "");
    let skep = Skep::config(&config);
    let output = |pid: u32| fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
    let own = output(skep.pid());
    let mut outputs: Vec<_> = process::children(skep.pid())
        .iter()
        .map(|child| {
            let (one, two) = (
                output(child.pid),
                fs::read_link(format!("/proc/{}/fd/1", child.pid)),
            );
            assert_eq!(one, two.unwrap());
            one
        })
        .collect();
    assert!(outputs.len() >= 2);
    outputs.push(own);
    let all = outputs.len();
    outputs.sort();
    outputs.dedup();
    assert_eq!(outputs.len(), all, "each has its own: {outputs:?}");
}
