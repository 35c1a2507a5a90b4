//! The tests, one after the other, and what they need.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use skep_core::ExitReason;
use skep_primary::{Client, ClientError};
use skep_sys::process;
use skep_wire::BreakerStatus;
use tempfile::TempDir;

use crate::{companions, crowd};

/// Far more than anything takes here, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(30);

const TESTS: &[(&str, fn())] = &[
    (
        "a_fleet_serves_until_it_is_stopped",
        a_fleet_serves_until_it_is_stopped,
    ),
    (
        "killed_workers_are_replaced_and_nothing_leaks",
        killed_workers_are_replaced_and_nothing_leaks,
    ),
    (
        "signals_escalate_and_one_primary_runs",
        signals_escalate_and_one_primary_runs,
    ),
    ("a_mute_worker_is_killed", a_mute_worker_is_killed),
    (
        "an_unfit_fleet_trips_and_says_why",
        an_unfit_fleet_trips_and_says_why,
    ),
    (
        "every_bad_component_is_named_and_nothing_starts",
        every_bad_component_is_named_and_nothing_starts,
    ),
    (
        "connections_are_handed_out_by_a_dispatcher",
        companions::connections_are_handed_out_by_a_dispatcher,
    ),
    (
        "a_dispatcher_that_dies_is_followed_by_one_that_knows_all",
        companions::a_dispatcher_that_dies_is_followed_by_one_that_knows_all,
    ),
    (
        "pools_come_and_go_on_a_listener",
        companions::pools_come_and_go_on_a_listener,
    ),
    (
        "a_host_that_moves_is_served_by_both_until_it_has_moved",
        companions::a_host_that_moves_is_served_by_both_until_it_has_moved,
    ),
    (
        "the_connector_is_there_for_those_who_have_grants",
        companions::the_connector_is_there_for_those_who_have_grants,
    ),
    (
        "pools_are_users_of_their_own",
        companions::pools_are_users_of_their_own,
    ),
    (
        "the_kernel_limits_a_worker_and_its_group_goes_with_it",
        companions::the_kernel_limits_a_worker_and_its_group_goes_with_it,
    ),
    (
        "many_pools_cost_an_idle_primary_little",
        crowd::many_pools_cost_an_idle_primary_little,
    ),
    (
        "every_address_in_use_is_named",
        every_address_in_use_is_named,
    ),
];

pub(crate) fn all() -> ExitCode {
    let filter = std::env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for (name, test) in TESTS {
        if filter
            .as_ref()
            .is_some_and(|filter| !name.contains(filter.as_str()))
        {
            continue;
        }
        let result = catch_unwind(test);
        failed += u8::from(result.is_err());
        println!(
            "test {name} ... {}",
            if result.is_ok() { "ok" } else { "FAILED" }
        );
    }
    ExitCode::from(failed.min(1))
}

/// A primary that runs, and the lines that it wrote.
pub(crate) struct Primary {
    pub(crate) process: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Primary {
    fn start(
        dir: &Path,
        mode: &str,
        max_crashes: u32,
        listen: &[&str],
        components: &[&str],
    ) -> Self {
        Self::play(
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "primary",
                    dir.to_str().unwrap(),
                    mode,
                    &max_crashes.to_string(),
                ])
                .args(listen)
                .arg("--")
                .args(components),
        )
    }

    /// Of the specification in `DIR/spec.json`.
    pub(crate) fn start_file(dir: &Path) -> Self {
        let dir = dir.to_str().unwrap();
        Self::play(Command::new(std::env::current_exe().unwrap()).args(["primary-of", dir]))
    }

    fn play(command: &mut Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Self {
            process,
            lines,
            seen: Vec::new(),
        }
    }

    fn serving(dir: &Path, mode: &str) -> Self {
        fs::write(dir.join("a.wasm"), "a").unwrap();
        let mut primary = Self::start(dir, mode, 1000, &["127.0.0.1:0"], &["a.wasm"]);
        primary.wait_for("skep: serving");
        primary
    }

    /// The next line that contains a text.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let by = Instant::now() + PATIENCE;
        loop {
            let left = by.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no '{text}' in:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for a line unless it was there already.
    pub(crate) fn saw(&mut self, text: &str) {
        if !self.seen.iter().any(|line| line.contains(text)) {
            self.wait_for(text);
        }
    }

    /// Hears it for so long.
    pub(crate) fn listen(&mut self, length: Duration) {
        let by = Instant::now() + length;
        while let Ok(line) = self
            .lines
            .recv_timeout(by.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line);
        }
    }

    fn signal(&self, name: &str) {
        kill(name, self.process.id());
    }

    /// The exit code, and everything that was written.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        // The stream ends with the primary and all of its children.
        let by = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .lines
            .recv_timeout(by.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line);
        }
        assert!(
            Instant::now() < by,
            "it did not end:\n{}",
            self.seen.join("\n")
        );
        (self.process.wait().unwrap().code(), self.seen.join("\n"))
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn kill(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

pub(crate) fn client(dir: &TempDir) -> Client {
    Client::connect(&dir.path().join("control.sock")).unwrap()
}

/// Waits for what happens beside the log.
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come true");
        std::thread::yield_now();
    }
}

/// Whether a process has something open below a folder of this name.
fn has_open(pid: u32, folder: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut paths = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.any(|path| path.components().any(|part| part.as_os_str() == folder))
}

fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn a_fleet_serves_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), "a").unwrap();
    fs::write(dir.path().join("b.wasm"), "b").unwrap();
    let unix = format!("unix:{}", dir.path().join("web.sock").display());
    let listen = ["127.0.0.1:0", &unix];
    let mut primary = Primary::start(
        dir.path(),
        "serve",
        5,
        &listen,
        &["a.wasm", "b.wasm", "a.wasm"],
    );
    let line = primary.wait_for("skep: serving http://127.0.0.1:");
    assert!(
        line.ends_with(" (2 workers, 3 apps)") && !line.contains(":0 "),
        "{line}"
    );
    let line = primary.wait_for("skep: serving unix:");
    assert_eq!(line, format!("skep: serving {unix} (2 workers, 3 apps)"));

    let status = client(&dir).status().unwrap();
    assert_eq!(status.pid, primary.process.id());
    assert_eq!((status.pools[0].serving, status.pools[0].spawns), (2, 2));
    assert_eq!(status.workers.len(), 2);
    assert!(
        status
            .workers
            .iter()
            .all(|worker| worker.state == "serving" && worker.rss_bytes > 0)
    );
    assert_eq!(status.apps[0].digest, status.apps[2].digest);
    assert_eq!(status.apps[1].routes, ["/1/*"]);

    let Err(ClientError::Refused { message, code }) = client(&dir).reset("nope") else {
        panic!("there is no such pool");
    };
    assert_eq!(
        (message.as_str(), code),
        ("there is no pool named 'nope'; there is: default", 2)
    );
    client(&dir).reset("default").unwrap();

    let mut progress = Vec::new();
    client(&dir)
        .stop(false, |line| progress.push(line.to_owned()))
        .unwrap();
    assert_eq!(
        progress
            .iter()
            .filter(|line| line.ends_with("is gone: requested"))
            .count(),
        2
    );
    let (code, log) = primary.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(!dir.path().join("web.sock").exists());
    assert!(!dir.path().join("control.sock").exists());
    assert!(matches!(
        Client::connect(&dir.path().join("control.sock")),
        Err(ClientError::NoPrimary { .. })
    ));
}

fn killed_workers_are_replaced_and_nothing_leaks() {
    let dir = tempfile::tempdir().unwrap();
    let mut primary = Primary::serving(dir.path(), "serve");
    let pid = primary.process.id();
    // One connection for all, so that it counts the same before and after.
    let mut client = client(&dir);
    client.status().unwrap();
    // The first revision is being written down when the fleet begins to serve.
    let written = dir.path().join("state/revisions/app-0.json");
    wait_until(|| written.exists() && !has_open(pid, "revisions"));
    let before = fds(pid);
    let mut times = Vec::new();
    for round in 0..100 {
        let status = client.status().unwrap();
        let victim = &status.workers[round % status.workers.len()];
        let begun = Instant::now();
        kill("KILL", victim.pid);
        primary.wait_for("worker.exited");
        primary.wait_for("worker.ready");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!(
        "kill to ready, `kill` itself included: median {:?}, worst {:?}",
        times[50], times[99]
    );

    let status = client.status().unwrap();
    // The numbers of workers to come may just be written down.
    wait_until(|| !has_open(pid, "last-worker") && fds(pid) == before);
    assert_eq!(process::children(pid).len(), 2);
    let pool = &status.pools[0];
    assert_eq!((pool.serving, pool.restarts, pool.spawns), (2, 100, 102));
    let exit = pool.last_exit.as_ref().unwrap();
    assert_eq!(exit.reason, ExitReason::Signal { signal: 9 });
    assert!(!exit.voluntary && exit.pid > 0);
    assert_eq!(pool.breaker, BreakerStatus::Admitting);
}

fn signals_escalate_and_one_primary_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Primary::serving(dir.path(), "serve");
    let second = Primary::start(dir.path(), "serve", 5, &["127.0.0.1:0"], &["a.wasm"]);
    let (code, log) = second.ended();
    assert_eq!(code, Some(69));
    let expected = format!(
        "error: another primary is running (pid {})",
        first.process.id()
    );
    assert_eq!(log, expected);

    first.signal("HUP");
    first.wait_for("config.reloaded generation=2");
    first.signal("TERM");
    let (code, log) = first.ended();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("worker.draining").count(), 2, "{log}");
    assert!(!log.contains("voluntary=false"), "{log}");

    let again = Primary::serving(dir.path(), "serve");
    again.signal("QUIT");
    let (code, log) = again.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("primary.stopping strength=stop"), "{log}");
}

fn a_mute_worker_is_killed() {
    for (mode, why) in [
        ("hang-up", "it closed its channel and did not exit"),
        ("garbage", "not a skep message"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.wasm"), "a").unwrap();
        let mut primary = Primary::start(dir.path(), mode, 5, &["127.0.0.1:0"], &["a.wasm"]);
        let line = primary.wait_for("worker.mute");
        assert!(line.contains(why), "{line}");
        let line = primary.wait_for("worker.exited");
        assert!(line.contains("reason=signal signal=9"), "{line}");
    }
}

fn an_unfit_fleet_trips_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), "a").unwrap();
    let mut primary = Primary::start(dir.path(), "unfit", 5, &["127.0.0.1:0"], &["a.wasm"]);
    let line = primary.wait_for("pool.tripped");
    assert!(line.contains("kind=startup crashes=5"), "{line}");
    let status = client(&dir).status().unwrap();
    assert_eq!(status.pools[0].breaker, BreakerStatus::Tripped);
    assert_eq!(
        status.pools[0].last_exit.as_ref().unwrap().reason,
        ExitReason::ValidationFailed {
            message: "it will not do".to_owned()
        }
    );
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
}

fn every_bad_component_is_named_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("a.wasm", "a"), ("b.wasm", "bad"), ("c.wasm", "abort")] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let components = ["a.wasm", "b.wasm", "c.wasm", "d.wasm", "."];
    let primary = Primary::start(dir.path(), "serve", 5, &["127.0.0.1:0"], &components);
    let (code, log) = primary.ended();
    assert_eq!(code, Some(69));
    for expected in [
        "app-1: it is bad",
        "app-2: the compiler gave up, most likely at its memory limit",
        "d.wasm does not exist",
        "is a directory, not a file",
    ] {
        assert!(log.contains(expected), "{log}");
    }
    assert!(!log.contains("app-0") && !log.contains("worker."), "{log}");
}

fn every_address_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), "a").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = dir.path().join("taken.sock");
    let _unix = UnixListener::bind(&path).unwrap();
    let addresses = [
        tcp.local_addr().unwrap().to_string(),
        format!("unix:{}", path.display()),
        format!("unix:{}", dir.path().join("free.sock").display()),
    ];
    let listen: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (code, log) = Primary::start(dir.path(), "serve", 5, &listen, &["a.wasm"]).ended();
    assert_eq!(code, Some(69));
    for address in &addresses[..2] {
        let expected = format!("cannot listen on {address}: address in use");
        assert!(log.contains(&expected), "{log}");
    }
    assert!(!log.contains("worker."), "{log}");
    assert!(path.exists() && !dir.path().join("free.sock").exists());
}
