//! What a worker that was taken over says to the primary: it changes nothing of
//! other pools', keeps nobody waiting, and fills nothing.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use skep_tests::options::Options;
use skep_tests::variant::variant;
use skep_tests::{Client, Skep, attacker, guest, process, wait_for};

use crate::deploys::{deploy, done};
use crate::operations::{events, named};
use crate::{app, pool};

/// Longer than an attack of words goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most that the primary may grow by, however much it is told: what it keeps
/// of records and events, of which each has a bounded size.
const GROWTH: u64 = 48 << 20;

/// One app `a` in the default pool, and a pool for each of these words whose only
/// worker says them over and over.
fn start(words: &[(&str, &str)], lines: &str) -> Skep {
    let mut config = pool(1) + &app("a", "hello", lines);
    for (name, words) in words {
        let _ = write!(
            config,
            "[pool.{name}]\nworkers = 1\nmax_crashes = 1\nhang_timeout = \"60s\"\n\
             [listener.{name}]\naddress = \"unix:{name}.sock\"\npool = \"{name}\"\n"
        );
        let attack = format!("config = {{ attack = \"tell\", attack-text = '''{words}''' }}");
        config += &app(name, "hello", &format!("pool = \"{name}\"\n{attack}"));
    }
    Options::config(&config).binary(attacker()).start()
}

fn web(skep: &Skep) -> Client {
    Client::connect(&skep.address_of("web")).expect("the listener is there")
}

/// How many attacks are over: the worker says so, or is gone.
fn over(skep: &Skep) -> usize {
    let log = skep.log();
    let ended = log.lines().filter(|line| {
        line.contains("attack.result")
            || (line.contains("worker.exited") && !line.contains("role=canary"))
    });
    ended.count()
}

fn tallies(handlers: u64) -> String {
    let one = |handler| {
        format!(
            "{{\"handler\":{handler},\"total\":{{\"requests\":900,\"errors\":900,\"latency\":[]}},\
             \"recent\":{{\"requests\":900,\"errors\":900,\"latency\":[]}},\"outcomes\":[]}}"
        )
    };
    let all: Vec<_> = (1..=handlers).map(one).collect();
    format!("{{\"tallies\":[{}]}}", all.join(","))
}

#[test]
fn what_a_worker_says_of_other_pools_is_of_no_effect() {
    // Of any handler that there may be.
    let refusals: Vec<_> = (1..=20)
        .map(|handler| format!("{{\"refused\":{{\"handler\":{handler},\"message\":\"a lie\"}}}}"))
        .collect();
    let (refusals, tallies) = (refusals.join("\n"), tallies(20));
    let late = format!(
        "{{\"ready\":{{\"late\":{:?}}}}}",
        (1..=20).collect::<Vec<_>>()
    );
    let words = [
        ("refuses", &*refusals),
        ("counts", &*tallies),
        ("accuses", "{\"unfit\":{\"message\":\"a lie\"}}"),
        ("postpones", &*late),
    ];
    let skep = start(&words, "rollout = { observe = \"2s\" }");
    // It was heard, and all speak at the same time.
    skep.wait_for_log("pool.tripped pool=accuses");
    let good = variant(&guest("hello"), 2, skep.dir().path());
    let said = deploy(&skep, &good, &[]);
    done(&said);
    let status = skep.status();
    let ours = status.apps.iter().find(|app| app.name.as_str() == "a");
    let ours = ours.expect("the app is there");
    assert_eq!(ours.revision.to_string(), "2", "{ours:#?}");
    assert_eq!(skep.logged("app.rejected"), 0);
    assert_eq!(skep.logged("app.rolled_back"), 0);
    assert_eq!(skep.logged("app.quarantined"), 0);
    assert_eq!(web(&skep).get("/").expect("it answers").status(), 200);
}

#[test]
fn a_worker_that_never_falls_silent_keeps_nobody_waiting() {
    let words = [
        ("ready", "{\"ready\":{\"late\":[1,2,3]}}"),
        ("lacks", "{\"confined\":{\"missing\":[MANY]}}"),
        ("unfit", "{\"unfit\":{\"message\":\"LONG\"}}"),
        (
            "refuses",
            "{\"refused\":{\"handler\":1,\"message\":\"LONG\"}}",
        ),
        (
            "retires",
            "{\"retired\":{\"handler\":1,\"app\":\"retires\",\"cut\":1}}",
        ),
        ("nonsense", "\"LONG\""),
    ];
    let skep = start(&words, "");
    let before = process::rss(skep.pid());
    let mut slowest = Duration::ZERO;
    let mut most = before;
    wait_for(
        PATIENCE,
        "every worker to have said its words",
        || {
            let asked = Instant::now();
            let _ = skep.status();
            slowest = slowest.max(asked.elapsed());
            let answer = web(&skep).get("/").expect("the neighbour answers");
            assert_eq!(answer.status(), 200);
            most = most.max(process::rss(skep.pid()));
            over(&skep)
        },
        |over| *over >= words.len(),
    );
    assert!(slowest < Duration::from_secs(1), "status took {slowest:?}");
    assert!(most - before < GROWTH, "{} bytes more", most - before);
    // What is told of them is short, however long they spoke.
    let longest = skep.log().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 8 << 10, "a line of {longest} bytes");
    let events = events(&skep);
    let lacks = named(&events, "sandbox.incomplete").len();
    assert!(lacks <= 16, "{lacks} lacks of the kernel");
}
