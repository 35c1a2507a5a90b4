//! What native code in a worker can do after confinement: nothing that
//! SECURITY.md says is stopped. A build of skep whose workers attack makes one
//! attack in each of many pools at once, as root and as an ordinary user.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use skep_tests::options::Options;
use skep_tests::{attacker, guest, process, wait_for};

use crate::{app, pool};

/// The attacks of `skep_sys::attack` that are to fail, with the process that is their aim where
/// they have one.
const ATTACKS: &[(&str, Aim)] = &[
    ("exec", Aim::Nobody),
    ("exec-memory", Aim::Nobody),
    ("fork", Aim::Nobody),
    ("thread", Aim::Nobody),
    ("read-passwd", Aim::Nobody),
    ("read-path", Aim::Nobody),
    ("list-root", Aim::Nobody),
    ("write-file", Aim::Nobody),
    ("read-own-environment", Aim::Nobody),
    ("reopen-scoreboard-shrink", Aim::Nobody),
    ("read-memory-file", Aim::Process),
    ("read-environment", Aim::Process),
    ("read-memory", Aim::Process),
    ("ptrace", Aim::Process),
    ("kill", Aim::Process),
    ("tgkill", Aim::Process),
    ("sigqueue", Aim::Process),
    ("pidfd-signal", Aim::Process),
    ("steal-descriptor", Aim::Process),
    ("priority", Aim::Process),
    ("scheduler", Aim::Nobody),
    ("socket", Aim::Nobody),
    ("socket-udp", Aim::Nobody),
    ("socket-raw", Aim::Nobody),
    ("socket-netlink", Aim::Nobody),
    ("connect", Aim::Nobody),
    ("connect-unix", Aim::Nobody),
    ("listen", Aim::Nobody),
    ("reconnect-channel", Aim::Nobody),
    ("setuid", Aim::Nobody),
    ("setgid", Aim::Nobody),
    ("unshare-user", Aim::Nobody),
    ("unshare-mount", Aim::Nobody),
    ("chroot", Aim::Nobody),
    ("mount", Aim::Nobody),
    ("dumpable", Aim::Nobody),
    ("raise-limit", Aim::Nobody),
    ("personality", Aim::Nobody),
    ("keyctl", Aim::Nobody),
    ("bpf", Aim::Nobody),
    ("io-uring", Aim::Nobody),
    ("userfaultfd", Aim::Nobody),
    ("perf", Aim::Nobody),
    ("module", Aim::Nobody),
    ("terminal", Aim::Nobody),
    ("block", Aim::Nobody),
    ("block-ioctl", Aim::Nobody),
    ("linger", Aim::Nobody),
    ("seek-output", Aim::Nobody),
    ("seal-scoreboard", Aim::Nobody),
    ("truncate-output", Aim::Nobody),
    ("read-output", Aim::Nobody),
    ("exhaust-descriptors", Aim::Nobody),
    ("exhaust-processes", Aim::Nobody),
    ("descriptors", Aim::Nobody),
];

/// Who is attacked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Nobody,
    /// Once a worker of somebody else, and once the primary.
    Process,
}

/// What became of one attack.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// The kernel ended the worker for it.
    Killed,
    /// It got an error.
    Refused(String),
    Succeeded(String),
}

/// How long all attacks may take together: they begin half a second after
/// their worker serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// An ordinary user and group without a name.
const ORDINARY: u32 = 60_123;

#[test]
fn an_attacker_in_a_worker_of_root_s_skep_succeeds_at_nothing() {
    if !process::is_root() {
        // As an ordinary user there is only the other half of this.
        return;
    }
    attack(None);
}

#[test]
fn an_attacker_in_a_worker_of_an_ordinary_user_s_skep_succeeds_at_nothing() {
    attack(process::is_root().then_some(ORDINARY));
}

#[expect(
    clippy::print_stdout,
    reason = "what became of each attack is worth reading"
)]
fn attack(user: Option<u32>) {
    let hello = guest("hello");
    let victim = as_user(
        Options::config(&format!("{}{}", pool(1), app("hello", "hello", ""))),
        user,
    )
    .start();
    let status = victim.status();
    let sibling = status.workers[0].pid;
    let port = port_of(&victim.status().listeners[0].address);
    let secret = fs::read_dir(victim.state_dir().join("artifacts"))
        .expect("the victim has artifacts")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        })
        .expect("an artifact lies there");
    let socket = victim.state_dir().join("control.sock");

    let mut config = String::new();
    let mut pools = Vec::new();
    for (name, aim) in ATTACKS {
        let aims: &[_] = match aim {
            Aim::Nobody => &[("", 0)],
            Aim::Process => &[("-sibling", sibling), ("-primary", 0)],
        };
        for (suffix, pid) in aims {
            let pool = format!("{name}{suffix}");
            let path = match *name {
                "connect-unix" | "reconnect-channel" => &socket,
                _ => &secret,
            };
            let _ = write!(
                config,
                "[pool.{pool}]\nworkers = 1\nmax_crashes = 1\n\
                 [listener.{pool}]\naddress = \"unix:{pool}.sock\"\npool = \"{pool}\"\n\
                 [app.{pool}]\ncomponent = {hello:?}\npool = \"{pool}\"\n\
                 config = {{ attack = \"{name}\", attack-pid = \"{pid}\", attack-port = \"{port}\", \
                 attack-path = {path:?} }}\n"
            );
            pools.push(pool);
        }
    }
    // Not waited for: many of its workers do not live long.
    let skep = as_user(Options::config(&config).binary(attacker()), user).spawn();
    let fates = wait_for(
        PATIENCE,
        "every attack to have an end",
        || {
            let log = skep.log();
            pools
                .iter()
                .map(|pool| fate(&log, pool))
                .collect::<Vec<_>>()
        },
        |fates| fates.iter().all(Option::is_some),
    );
    let mut report = String::new();
    let mut succeeded = Vec::new();
    for (pool, fate) in pools.iter().zip(fates.into_iter().flatten()) {
        let _ = writeln!(report, "{pool:32} {fate:?}");
        match fate {
            Fate::Succeeded(what) if pool == "descriptors" => expect_no_stranger(&what),
            Fate::Succeeded(_) => succeeded.push(pool.clone()),
            Fate::Killed | Fate::Refused(_) => {}
        }
    }
    assert!(succeeded.is_empty(), "{succeeded:?} succeeded:\n{report}");
    println!("{report}");

    // The victim has noticed nothing.
    let after = victim.status();
    assert_eq!(after.workers[0].pid, sibling);
    assert!(after.pools.iter().all(|pool| pool.restarts == 0));
}

/// What the log says of the attack that the worker of a pool made.
fn fate(log: &str, pool: &str) -> Option<Fate> {
    let mut ours = None;
    for line in log.lines() {
        if line.contains("worker.spawned") && field(line, "pool") == Some(pool) {
            ours.get_or_insert(field(line, "worker")?);
        }
        if field(line, "worker") != ours || ours.is_none() {
            continue;
        }
        if line.contains("attack.result") {
            let detail = line.split("detail=").nth(1).unwrap_or_default().to_owned();
            return Some(match field(line, "result") {
                Some("refused") => Fate::Refused(detail),
                Some("succeeded") => Fate::Succeeded(detail),
                _ => panic!("no such attack: {line}"),
            });
        }
        if line.contains("worker.exited") {
            // SIGSYS: the kernel's answer to a forbidden system call.
            assert_eq!(field(line, "signal"), Some("31"), "{line}");
            return Some(Fate::Killed);
        }
    }
    None
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn port_of(address: &str) -> u16 {
    let (_, port) = address.rsplit_once(':').expect("it listens on TCP");
    port.parse().expect("a port is a number")
}

/// A worker of one app has standard streams, its channel, its scoreboard, its
/// folder, its listener, its event loop with what that needs, and its page map.
fn expect_no_stranger(list: &str) {
    let open: Vec<_> = list
        .split([';', ' ', '"'])
        .filter(|word| word.contains(':'))
        .collect();
    assert!(open.len() <= 24, "{} descriptors: {list}", open.len());
    let folders = open.iter().filter(|word| word.ends_with(":folder")).count();
    assert!(folders <= 1, "{list}");
}

fn as_user(options: Options, user: Option<u32>) -> Options {
    match user {
        Some(user) => options.user(user),
        None => options,
    }
}
