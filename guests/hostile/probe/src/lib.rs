//! The attack: tries whatever might be open: files and folders, TCP and UDP
//! (`?port=N` of this machine, where something may listen), names, standard
//! input, terminals; and looks at the environment, the arguments and the
//! clocks.
//!
//! The outcome: `ok`, 200, and what it found as JSON. `opened` must be empty,
//! `environment` the app's and skep's own names, the rest nothing. Clocks
//! cannot be nothing: `monotonic` counts from when the instance was made and
//! not from when the machine was started.

mod sockets;

use std::fs::{self, File};

use serde_json::{Value, json};
use skep_guest::wasip2::cli::{
    environment, stdin, terminal_stderr, terminal_stdin, terminal_stdout,
};
use skep_guest::wasip2::clocks::{monotonic_clock, wall_clock};
use skep_guest::wasip2::filesystem::preopens;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// Files that would tell something, or be worth something.
const FILES: [&str; 9] = [
    "/etc/passwd",
    "/proc/self/environ",
    "/proc/self/maps",
    "/proc/self/fd/3",
    "/dev/fd/3",
    "/sys/fs/cgroup/memory.max",
    "skep.toml",
    ".skep/control.sock",
    "../skep.toml",
];

fn handle(request: Request) -> Response {
    let port = request
        .query_value("port")
        .and_then(|port| port.parse().ok())
        .unwrap_or(80);
    let mut opened = Vec::new();
    for name in FILES {
        if File::open(name).is_ok() {
            opened.push(format!("read {name}"));
        }
    }
    for folder in ["/", ".", "..", "/tmp"] {
        if fs::read_dir(folder).is_ok() {
            opened.push(format!("list {folder}"));
        }
        if fs::write(format!("{folder}/probe"), "was here").is_ok() {
            opened.push(format!("write {folder}"));
        }
    }
    let sockets = sockets::probe(port, &mut opened);
    let folders: Vec<_> = preopens::get_directories()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    let terminals = [
        terminal_stdin::get_terminal_stdin().is_some(),
        terminal_stdout::get_terminal_stdout().is_some(),
        terminal_stderr::get_terminal_stderr().is_some(),
    ];
    let input = stdin::get_stdin().blocking_read(1024).unwrap_or_default();
    let names: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
    let found = json!({
        "opened": opened,
        "preopens": folders,
        "sockets": sockets,
        "stdin": String::from_utf8_lossy(&input),
        "terminals": terminals.contains(&true),
        "environment": names,
        "arguments": environment::get_arguments(),
        "directory": environment::initial_cwd(),
        "clocks": clocks(),
    });
    Response::text(found.to_string())
}

/// How finely time can be told, which is what attacks by timing need.
fn clocks() -> Value {
    let now = monotonic_clock::now();
    let mut finest = u64::MAX;
    let mut before = now;
    for _ in 0..1000 {
        let after = monotonic_clock::now();
        if after > before {
            finest = finest.min(after - before);
        }
        before = after;
    }
    json!({
        "monotonic": now,
        "monotonic_resolution": monotonic_clock::resolution(),
        "finest_step": finest,
        "wall_seconds": wall_clock::now().seconds,
        "wall_resolution": wall_clock::resolution().nanoseconds,
    })
}
