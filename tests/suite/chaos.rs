//! Whatever is killed at whatever step of a deploy: soon after, all workers
//! serve one and the same revision, which is the one that is written down.
//!
//! What is killed and when is drawn from a fixed seed, so that a failure comes
//! again; what the machine makes of it is not ours to fix.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_tests::command::Said;
use skep_tests::options::{Options, directory};
use skep_tests::traffic::{Class, Mix, Report, Traffic};
use skep_tests::variant::variant;
use skep_tests::{Client, Skep, guest, process, wait_for};
use tempfile::TempDir;

use crate::deploys::{done, operate, tcp};
use crate::operations::{light, more, start};
use crate::{app, pool};

/// What a worker has to be ready, and so all of them to be at one.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// And what a stopped one has before it counts as hung.
const HANG_TIMEOUT: Duration = Duration::from_secs(1);

/// Clients of [`light`]: what one worker's death can cost, one request each.
const CLIENTS: u64 = 10;

/// Connections after which a worker that has not answered will not.
const CONNECTIONS: usize = 60;

/// Crashes are replaced at once and trip nothing: there are many here. Loading
/// takes a while, so that every step can be seen.
const SETTINGS: &str = "min_uptime = \"20ms\"\nmax_crashes = 1000\ncrash_window = \"1s\"\n\
     backoff = \"10ms\"\nbackoff_max = \"50ms\"\nstart_timeout = \"5s\"\nhang_timeout = \"1s\"\n\
     drain_timeout = \"2s\"\nkill_timeout = \"500ms\"\n";
const LINES: &str = "validate = { path = \"/sleep/150\" }\n\
     rollout = { observe = \"0s\", keep = 100 }";

fn config() -> String {
    pool(2) + SETTINGS + &app("a", "revision", LINES)
}

/// Where a deploy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Deploying,
    Canary,
    Validated,
    RollingOut,
    Live,
}

const POINTS: [Point; 5] = [
    Point::Deploying,
    Point::Canary,
    Point::Validated,
    Point::RollingOut,
    Point::Live,
];

impl Point {
    /// Waits until a deploy that was begun after the mark has come here;
    /// returns the event, where there is one.
    fn wait(self, skep: &Skep, mark: usize) -> String {
        let text = match self {
            Self::Deploying => " app.deploying ",
            Self::Canary => " role=canary",
            Self::Validated => " app.validated ",
            Self::Live => " app.live ",
            Self::RollingOut => {
                skep.wait_for_status("the roll-out", |status| {
                    status.apps[0].rollout.as_deref() == Some("rolling-out")
                });
                return String::new();
            }
        };
        skep.wait_for_log_since(mark, text)
    }
}

/// Who has the accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// Any child of the primary is killed.
    AnyChild,
    /// A worker that serves is killed.
    Worker,
    /// The canary worker is killed.
    Canary,
    /// The builder is killed.
    Builder,
    /// A worker that serves is stopped.
    Stopped,
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for index in (1..all.len()).rev() {
            all.swap(index, self.below(index + 1));
        }
    }
}

/// A fleet under traffic, with what is to be deployed into it.
struct Fleet {
    skep: Skep,
    traffic: Traffic,
    dice: Dice,
    /// Components that are deployed in turn, and are in the cache soon.
    turns: [PathBuf; 2],
    /// How many components were made that nobody has seen before.
    fresh: u64,
    active: u64,
    /// Workers that were killed, or stopped until they were.
    dead: u64,
    longest: Duration,
}

impl Fleet {
    fn start(seed: u64) -> Self {
        let skep = Skep::config(&config());
        let turns = [2, 3].map(|n| variant(&guest("revision"), n, skep.dir().path()));
        let traffic = Traffic::start(tcp(&skep), light());
        traffic.revisions().begin(1);
        let fleet = Self {
            skep,
            traffic,
            dice: Dice(seed),
            turns,
            fresh: 100,
            active: 1,
            dead: 0,
            longest: Duration::ZERO,
        };
        more(&fleet.traffic, 100);
        fleet
    }

    /// Something that was never compiled, or the other one of two.
    fn component(&mut self, fresh: bool) -> PathBuf {
        if fresh {
            self.fresh += 1;
            return variant(&guest("revision"), self.fresh, self.skep.dir().path());
        }
        self.turns.swap(0, 1);
        self.turns[0].clone()
    }

    /// One deploy with one accident.
    #[expect(clippy::print_stdout, reason = "figures for whoever asks")]
    fn round(&mut self, strategy: &str, point: Point, victim: Victim) {
        let fresh = matches!(point, Point::Deploying) || victim == Victim::Builder;
        let component = self.component(fresh);
        let next = newest(&self.skep) + 1;
        self.traffic.revisions().begin(next);
        let mark = self.skep.log_mark();
        let component = component.to_string_lossy();
        let args = ["deploy", "a", &component, "--strategy", strategy];
        let cli = start(&self.skep, &args);
        let event = point.wait(&self.skep, mark);
        let requests = self.dice.below(40) as u64;
        more(&self.traffic, requests);
        let whom = self.strike(victim, &event);
        let said = cli.wait();
        let mut budget = START_TIMEOUT;
        if victim == Victim::Stopped {
            budget += HANG_TIMEOUT;
        }
        let (active, took) = self.settle(budget);
        println!(
            "{strategy}, {point:?}, {requests} requests later {whom}: exit code {:?}, \
             revision {active}, at one after {took:.1?}",
            said.code
        );
        self.judge(&said, next, active);
    }

    /// Waits until all workers are at one; returns at what, and after how long.
    fn settle(&mut self, budget: Duration) -> (u64, Duration) {
        let began = Instant::now();
        let active = settle(&self.skep, budget);
        let took = began.elapsed();
        self.longest = self.longest.max(took);
        (active, took)
    }

    /// Does it, and says to whom.
    fn strike(&mut self, victim: Victim, event: &str) -> String {
        let (pid, signal) = match victim {
            Victim::AnyChild => {
                let children = children(&self.skep);
                (children[self.dice.below(children.len())], "KILL")
            }
            Victim::Worker | Victim::Stopped => {
                let workers = self.skep.workers();
                let worker = &workers[self.dice.below(workers.len())];
                let signal = if victim == Victim::Worker {
                    "KILL"
                } else {
                    "STOP"
                };
                (worker.pid, signal)
            }
            Victim::Canary => {
                let pid = event.split("pid=").nth(1).unwrap();
                (pid.split(' ').next().unwrap().parse().unwrap(), "KILL")
            }
            Victim::Builder => {
                let found = wait_for(
                    Duration::from_secs(20),
                    "a builder",
                    || {
                        let mut all = children(&self.skep).into_iter();
                        all.find(|pid| process::title(*pid) == "skep: builder")
                    },
                    Option::is_some,
                );
                (found.unwrap(), "KILL")
            }
        };
        let title = process::title(pid);
        // One that has just gone by itself has no title, and is no loss.
        if title.starts_with("skep: worker") {
            self.dead += 1;
        }
        process::signal(pid, signal);
        format!("{signal} for `{title}`")
    }

    /// What the operator was told must be what is.
    fn judge(&mut self, said: &Said, next: u64, active: u64) {
        match said.code {
            Some(0) => assert_eq!(active, next, "{said:#?}"),
            Some(1) => assert_eq!(active, self.active, "{said:#?}"),
            _ => panic!("{said:#?}"),
        }
        self.active = active;
        for other in self.traffic.revisions().live() {
            if other != active {
                self.traffic.revisions().end(other);
            }
        }
        self.count(&self.traffic.report_now());
    }

    /// Only requests on connections of those that died may have failed.
    fn count(&self, report: &Report) {
        let on_dead = [Class::Reset, Class::Lost, Class::Cut].map(|class| report.count(class));
        assert_eq!(report.failed(), on_dead.iter().sum::<u64>(), "{report}");
        assert!(
            report.failed() <= self.dead * CLIENTS,
            "{} workers died: {report}",
            self.dead
        );
    }

    /// A deploy in which nothing happens, at the end.
    #[expect(clippy::print_stdout, reason = "figures for whoever asks")]
    fn finish(mut self) {
        let component = self.component(false);
        let next = newest(&self.skep) + 1;
        self.traffic.revisions().begin(next);
        let failed = self.traffic.report_now().failed();
        done(&operate(
            &self.skep,
            &["deploy", "a", &component.to_string_lossy()],
        ));
        assert_eq!(settle(&self.skep, START_TIMEOUT), next);
        let report = self.traffic.report_now();
        assert_eq!(report.failed(), failed, "{report}");
        assert_eq!(self.skep.logged("pool.tripped"), 0);
        let report = self.traffic.finish();
        println!(
            "{} workers died; {} of {} requests failed; at one after {:.1?} at most",
            self.dead,
            report.failed(),
            report.ended(),
            self.longest
        );
        assert!(report.ok() > 1000, "{report}");
    }
}

/// The primary's children, in the order of their birth.
fn children(skep: &Skep) -> Vec<u32> {
    let children = process::children(skep.pid());
    let mut alive: Vec<_> = children
        .iter()
        .filter(|child| !child.is_zombie())
        .map(|child| child.pid)
        .collect();
    alive.sort_unstable();
    alive
}

fn history(skep: &Skep) -> Value {
    let said = operate(skep, &["history", "a", "--json"]);
    done(&said);
    serde_json::from_str(&said.stdout).unwrap()
}

/// The highest number that was given to a revision.
fn newest(skep: &Skep) -> u64 {
    history(skep)["revisions"][0]["revision"].as_u64().unwrap()
}

/// What everybody says of who answers.
#[derive(Debug)]
struct Sample {
    /// What is written down.
    active: u64,
    /// What `status` says.
    status: u64,
    rollout: Option<String>,
    /// Workers that serve, and how many there should be.
    serving: BTreeSet<String>,
    wanted: usize,
    /// Processes.
    children: usize,
    /// Revisions that each worker answered by.
    answers: BTreeMap<String, BTreeSet<u64>>,
}

impl Sample {
    /// Asks every worker over new connections, which stay until all have
    /// answered: one that holds few of them takes the next.
    fn take(skep: &Skep) -> Self {
        let status = skep.status();
        let serving: BTreeSet<_> = skep
            .workers()
            .iter()
            .map(|worker| worker.id.to_string())
            .collect();
        let mut sample = Self {
            active: history(skep)["active"].as_u64().unwrap_or(0),
            status: u64::from(status.apps[0].revision.0),
            rollout: status.apps[0].rollout.clone(),
            wanted: usize::from(status.pools[0].workers),
            serving,
            children: children(skep).len(),
            answers: BTreeMap::new(),
        };
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut held = Vec::new();
        let enough = |seen: &BTreeMap<String, usize>| {
            let counts = sample.serving.iter().map(|worker| seen.get(worker));
            counts.flatten().filter(|count| **count >= 4).count() == sample.serving.len()
        };
        while held.len() < CONNECTIONS && !enough(&seen) {
            let Some((client, worker, revision)) = ask(skep) else {
                break;
            };
            held.push(client);
            *seen.entry(worker.clone()).or_default() += 1;
            sample.answers.entry(worker).or_default().insert(revision);
        }
        sample
    }

    /// Whether all say the same.
    fn is_one(&self) -> bool {
        let answering: BTreeSet<_> = self.answers.keys().cloned().collect();
        self.rollout.is_none()
            && self.status == self.active
            && self.serving.len() == self.wanted
            && self.children == self.wanted
            && answering == self.serving
            && self
                .answers
                .values()
                .all(|revisions| *revisions == BTreeSet::from([self.active]))
    }
}

/// A new connection, and who answers on it by which revision; `None` if nobody
/// does for a while.
fn ask(skep: &Skep) -> Option<(Client, String, u64)> {
    let mut client = Client::connect(&skep.address()).ok()?;
    client.patience(Duration::from_millis(500)).ok()?;
    let response = client.get("/").ok()?;
    let revision = response.head.header("x-revision")?.parse().ok()?;
    let worker = response.head.header("x-worker")?.to_owned();
    Some((client, worker, revision))
}

/// Waits until every worker serves the revision that is written down, and sees
/// to it that this stays so; returns which.
fn settle(skep: &Skep, budget: Duration) -> u64 {
    let first = wait_for(
        budget,
        "all workers to be at one",
        || Sample::take(skep),
        Sample::is_one,
    );
    for _ in 0..3 {
        let again = Sample::take(skep);
        assert!(again.is_one() && again.active == first.active, "{again:#?}");
    }
    first.active
}

#[test]
fn children_that_are_killed_leave_one_revision() {
    let mut fleet = Fleet::start(0x5eed);
    for strategy in ["swap", "restart"] {
        for point in POINTS {
            fleet.round(strategy, point, Victim::AnyChild);
        }
        fleet.round(strategy, Point::RollingOut, Victim::Worker);
        fleet.round(strategy, Point::Validated, Victim::Worker);
        fleet.round(strategy, Point::Canary, Victim::Canary);
        fleet.round(strategy, Point::Deploying, Victim::Builder);
    }
    fleet.finish();
}

#[test]
fn a_worker_that_is_stopped_in_a_deploy_leaves_one_revision() {
    let mut fleet = Fleet::start(0xbee5);
    for (strategy, point) in [
        ("swap", Point::Validated),
        ("swap", Point::RollingOut),
        ("swap", Point::Live),
        ("restart", Point::RollingOut),
    ] {
        fleet.round(strategy, point, Victim::Stopped);
    }
    fleet.finish();
}

#[test]
fn a_killed_command_leaves_the_deploy_to_the_primary() {
    let mut fleet = Fleet::start(0xc11);
    for strategy in ["swap", "restart"] {
        for point in POINTS {
            let component = fleet.component(false);
            let next = newest(&fleet.skep) + 1;
            fleet.traffic.revisions().begin(next);
            let mark = fleet.skep.log_mark();
            let component = component.to_string_lossy();
            let args = ["deploy", "a", &component, "--strategy", strategy];
            let cli = start(&fleet.skep, &args);
            point.wait(&fleet.skep, mark);
            let said = cli.kill();
            fleet.skep.wait_for_log_since(mark, " app.live ");
            let (active, _) = fleet.settle(START_TIMEOUT);
            println!(
                "{strategy}, {point:?}: exit code {:?}, revision {active}",
                said.code
            );
            assert_eq!(active, next, "{said:#?}");
            let said = Said {
                code: Some(0),
                ..said
            };
            fleet.judge(&said, next, active);
        }
    }
    // Nobody died, so nothing was lost.
    fleet.traffic.report_now().assert_clean();
    fleet.finish();
}

/// Kills the primary and waits until nothing is left of it.
fn kill_primary(mut skep: Skep) -> Arc<TempDir> {
    let children = children(&skep);
    skep.signal("KILL");
    skep.wait(Duration::from_secs(5));
    wait_for(
        Duration::from_secs(20),
        "no orphan to be left",
        || {
            let alive = children.iter().filter(|pid| process::is_alive(**pid));
            alive.count()
        },
        |left| *left == 0,
    );
    Arc::clone(skep.dir())
}

#[test]
fn a_killed_primary_comes_back_with_the_revision_that_it_wrote_down() {
    let dir = directory();
    let mut skep = Options::config(&config()).in_dir(&dir).start();
    let mut turns = [2, 3].map(|n| variant(&guest("revision"), n, dir.path()));
    // What is not written down was never promised.
    let record = dir.path().join(".skep/revisions/a.json");
    let written = || fs::read_to_string(&record).unwrap_or_default();
    wait_for(START_TIMEOUT, "the record", written, |text| {
        !text.is_empty()
    });
    let mut active = settle(&skep, START_TIMEOUT);
    for strategy in ["swap", "restart"] {
        for point in POINTS {
            turns.swap(0, 1);
            let next = newest(&skep) + 1;
            let mark = skep.log_mark();
            let component = turns[0].to_string_lossy();
            let args = ["deploy", "a", &component, "--strategy", strategy];
            let cli = start(&skep, &args);
            point.wait(&skep, mark);
            let dir = kill_primary(skep);
            let said = cli.wait();
            skep = Options::config(&config()).in_dir(&dir).start();
            let now = settle(&skep, START_TIMEOUT);
            println!(
                "{strategy}, {point:?}: exit code {:?}, revision {now}",
                said.code
            );
            match point {
                Point::Live => assert_eq!(now, next, "{said:#?}"),
                Point::Deploying | Point::Canary => assert_eq!(now, active, "{said:#?}"),
                Point::Validated | Point::RollingOut => {
                    assert!(now == active || now == next, "{now}: {said:#?}");
                }
            }
            if said.code == Some(0) {
                assert_eq!(now, next, "it was told so");
            }
            active = now;
            let history = history(&skep);
            let outcomes = history["revisions"].as_array().unwrap().iter();
            let live: Vec<_> = outcomes
                .filter(|revision| {
                    revision["outcome"] == "live" || revision["outcome"] == "deploying"
                })
                .map(|revision| revision["revision"].as_u64().unwrap())
                .collect();
            assert_eq!(live, [active], "{history:#}");
        }
    }
    let other = variant(&guest("revision"), 4, skep.dir().path());
    done(&operate(&skep, &["deploy", "a", &other.to_string_lossy()]));
    assert_eq!(settle(&skep, START_TIMEOUT), newest(&skep));
}

/// What an operator does in the churn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Swap,
    Restart,
    Reload,
    Scale,
}

/// The acceptance run of `cargo xtask churn`, at the size of a debug build.
#[test]
fn a_small_churn_loses_nothing() {
    let config = |number: usize| {
        let lines = format!("routes = [\"/\", \"/{number}\"]\nrollout = {{ observe = \"0s\" }}");
        pool(2) + &app("a", "revision", &lines)
    };
    let skep = Skep::config(&config(0));
    let mut turns = [2, 3].map(|n| variant(&guest("revision"), n, skep.dir().path()));
    let mut operations = [
        vec![Kind::Swap; 10],
        vec![Kind::Restart; 3],
        vec![Kind::Reload; 3],
        vec![Kind::Scale; 3],
    ]
    .concat();
    Dice(0xc0ffee).shuffle(&mut operations);
    let mix = Mix {
        pause: None,
        ..light()
    };
    let traffic = Traffic::start(tcp(&skep), mix);
    let revisions = traffic.revisions();
    revisions.begin(1);
    let mut active = 1;
    let mut sizes = [4, 1, 3].iter();
    let began = Instant::now();
    for (number, kind) in operations.into_iter().enumerate() {
        let args: Vec<String> = match kind {
            Kind::Swap => {
                turns.swap(0, 1);
                revisions.begin(active + 1);
                ["deploy", "a", &turns[0].to_string_lossy()]
                    .map(str::to_owned)
                    .into()
            }
            Kind::Restart => vec!["restart".to_owned()],
            Kind::Reload => {
                fs::write(skep.dir().path().join("skep.toml"), config(number)).unwrap();
                vec!["reload".to_owned()]
            }
            Kind::Scale => {
                let size = sizes.next().unwrap().to_string();
                vec!["scale".to_owned(), "default".to_owned(), size]
            }
        };
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let said = operate(&skep, &args);
        assert_eq!(said.code, Some(0), "{kind:?}: {said:#?}");
        if kind == Kind::Swap {
            revisions.end(active);
            active += 1;
        }
    }
    let took = began.elapsed();
    more(&traffic, 100);
    let report = traffic.finish();
    println!("19 operations in {took:.1?}\n{report}");
    report.assert_clean();
    assert!(report.revisions.len() > 8, "{report}");
    assert_eq!(skep.status().apps[0].revision.0, 11);
}
