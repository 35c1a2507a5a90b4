//! Signals at any moment, whatever the parent blocked or ignored, and as the
//! first process of a namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use skep_tests::options::{Options, directory};
use skep_tests::{Skep, binary, process, wait_for};

use crate::{app, pool};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that becomes skep after what `how` says.
fn by_way_of(dir: &Path, how: &str) -> std::path::PathBuf {
    let script = dir.join("skep-by-way-of");
    let text = format!("#!/bin/sh\nexec {how} {:?} \"$@\"\n", binary());
    fs::write(&script, text).expect("the directory is ours");
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&script, all).expect("the file is ours");
    script
}

fn config() -> String {
    pool(1) + &app("a", "hello", "")
}

fn spawn_by_way_of(how: &str) -> Skep {
    let dir = directory();
    let script = by_way_of(dir.path(), how);
    Options::config(&config())
        .in_dir(&dir)
        .binary(&script)
        .spawn()
}

#[test]
fn a_hangup_while_it_starts_is_a_reload_afterwards() {
    let skep = Options::config(&config()).cold().spawn();
    // It compiles, which takes longer than this.
    skep.wait_for_log("artifact.compiling");
    skep.signal("HUP");
    skep.wait_for_log("skep: serving");
    skep.wait_for_log("config.");
    assert_eq!(skep.client().get("/").expect("it answers").status(), 200);
}

#[test]
fn signals_that_mean_nothing_to_it_end_nothing() {
    let skep = Skep::config(&config());
    for name in ["USR1", "USR2", "XFSZ"] {
        skep.signal(name);
        assert_eq!(skep.client().get("/").expect("it answers").status(), 200);
    }
    assert!(process::is_alive(skep.pid()));
}

#[test]
fn what_its_parent_blocked_or_ignored_makes_no_difference() {
    let how = "env --block-signal=TERM,HUP,INT,QUIT,CHLD --ignore-signal=CHLD,HUP,TERM,USR1";
    let mut skep = spawn_by_way_of(how);
    skep.wait_for_log("skep: serving");
    // How a child ended is known.
    let worker = skep.worker();
    process::signal(worker.pid, "KILL");
    let exited = skep.wait_for_log("worker.exited");
    assert!(exited.contains("reason=signal signal=9"), "{exited}");
    skep.signal("HUP");
    skep.wait_for_log("config.");
    skep.signal("TERM");
    assert!(skep.wait(PATIENCE).success());
}

#[test]
fn as_the_first_process_it_reaps_what_others_leave() {
    if !process::is_root() {
        return;
    }
    let how = "unshare --pid --fork --mount-proc --kill-child";
    let skep = spawn_by_way_of(how);
    skep.wait_for_log("skep: serving");
    let first = process::children(skep.pid())[0].pid;
    // Orphans, some that end well and some that do not.
    let orphans = "(sleep 0.1 &) ; (sh -c 'exit 3' &) ; (sh -c 'kill -9 $$' &) ; exit 0";
    for _ in 0..5 {
        let entered = Command::new("nsenter")
            .args(["-t", &first.to_string(), "-p", "-m", "sh", "-c", orphans])
            .status();
        assert!(entered.is_ok_and(|status| status.success()));
    }
    wait_for(
        PATIENCE,
        "no zombie to be left",
        || process::children(first),
        // Itself makes one worker.
        |children| children.len() == 1 && !children[0].is_zombie(),
    );
    assert_eq!(skep.logged("worker.exited"), 0);
    // And knows how its own children end.
    let worker = process::children(first)[0].pid;
    process::signal(worker, "KILL");
    let exited = skep.wait_for_log("worker.exited");
    assert!(exited.contains("reason=signal signal=9"), "{exited}");
    process::signal(first, "TERM");
    wait_for(
        PATIENCE,
        "it to end",
        || process::is_alive(first),
        |alive| !alive,
    );
}
