//! The state directory: nothing stays in it that nothing needs, nothing that is
//! said makes it unreadable, and nothing in it holds up a start.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use skep_tests::command::{self, Said};
use skep_tests::options::{Options, directory};
use skep_tests::variant::variant;
use skep_tests::{Skep, guest, process, wait_for};

use crate::deploys::{Mounted, deploy, done, operate};
use crate::{app, pool};

const UNWATCHED: &str = "rollout = { observe = \"0s\" }";

/// How long what follows an answer may take.
const AFTER: Duration = Duration::from_secs(20);

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    entries.map(name).collect()
}

/// What is kept of components, compiled or not.
fn kept(skep: &Skep) -> BTreeSet<String> {
    let of = |folder| names(&skep.state_dir().join(folder));
    let compiled = of("artifacts").into_iter();
    compiled
        .filter(|name| name.ends_with(".cwasm"))
        .map(|name| name[..64].to_owned())
        .chain(
            of("components")
                .into_iter()
                .map(|name| name[..64].to_owned()),
        )
        .collect()
}

fn history(skep: &Skep) -> Value {
    let said = operate(skep, &["history", "a", "--json"]);
    serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:#?}"))
}

fn waits_for(skep: &Skep, digests: usize) {
    wait_for(
        AFTER,
        "the sweep",
        || kept(skep),
        |kept| kept.len() == digests,
    );
}

#[test]
fn dry_runs_and_what_was_rejected_leave_nothing_and_are_listed() {
    let skep = Skep::config(&(pool(1) + &app("a", "revision", UNWATCHED)));
    waits_for(&skep, 1);
    let good = variant(&guest("revision"), 9, skep.dir().path());
    done(&deploy(&skep, &good, &["--dry-run"]));
    waits_for(&skep, 1);
    let bad = guest("hostile-validate-fails");
    assert_eq!(deploy(&skep, &bad, &[]).code, Some(1));
    waits_for(&skep, 1);
    let broken = skep.dir().path().join("broken.wasm");
    fs::write(&broken, "no component").unwrap();
    assert_eq!(deploy(&skep, &broken, &[]).code, Some(1));
    done(&deploy(&skep, &good, &[]));

    let told = history(&skep);
    let revisions = told["revisions"].as_array().unwrap();
    let of = |at: usize| (&revisions[at]["revision"], &revisions[at]["outcome"]);
    assert_eq!(of(0), (&4.into(), &"live".into()), "{told:#}");
    assert_eq!(of(1), (&3.into(), &"rejected".into()), "{told:#}");
    assert_eq!(of(2), (&2.into(), &"rejected".into()), "{told:#}");
    assert!(revisions[1]["digest"].is_null(), "{told:#}");
    assert!(
        revisions[1]["reason"]
            .as_str()
            .unwrap()
            .starts_with("build: ")
    );
    assert!(
        revisions[1]["source"]
            .as_str()
            .unwrap()
            .ends_with("broken.wasm")
    );
    assert!(
        revisions[2]["reason"]
            .as_str()
            .unwrap()
            .starts_with("validate: ")
    );
    assert!(
        revisions[2]["digest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
    let back = operate(&skep, &["rollback", "a", "2"]);
    assert_eq!(back.code, Some(5), "{back:#?}");
    assert!(back.stderr.contains("deploy it again"), "{back:#?}");
    done(&operate(&skep, &["rollback", "a"]));
    waits_for(&skep, 2);
}

#[test]
fn a_number_is_not_given_twice_whatever_is_killed() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).in_dir(&dir).start();
    let worker = skep.worker().id.0;
    let bad = guest("hostile-validate-hangs");
    let source = bad.to_string_lossy().into_owned();
    let mut hangs = command::start(dir.path(), ["deploy", "a", &source]);
    skep.wait_for_log("app.deploying");
    let written = || fs::read_to_string(dir.path().join(".skep/revisions/a.json")).unwrap();
    wait_for(AFTER, "the attempt", written, |text| {
        text.contains("deploying")
    });
    assert!(hangs.is_alive());
    drop(skep);
    let skep = Options::config(&config).in_dir(&dir).start();
    let told = history(&skep);
    assert_eq!(told["revisions"][0]["revision"], 2, "{told:#}");
    assert_eq!(told["revisions"][0]["outcome"], "rejected", "{told:#}");
    let good = variant(&guest("revision"), 3, dir.path());
    done(&deploy(&skep, &good, &[]));
    assert_eq!(history(&skep)["revisions"][0]["revision"], 3);
    assert!(
        skep.worker().id.0 > worker,
        "a worker's number means one worker"
    );
}

#[test]
fn a_start_sweeps_what_a_killed_primary_has_left() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).in_dir(&dir).start();
    waits_for(&skep, 1);
    let state = skep.state_dir();
    drop(skep);
    let stranger = "f".repeat(64);
    let left = [
        format!("components/{stranger}.wasm"),
        format!("artifacts/{stranger}-0a.cwasm"),
        format!("artifacts/{stranger}-0a.json"),
        format!("artifacts/{stranger}-0a.lock"),
        "artifacts/.tmpAbCdEf".to_owned(),
        "components/.tmpAbCdEf.tmp".to_owned(),
    ];
    for name in &left {
        fs::write(state.join(name), "left").unwrap();
    }
    fs::write(state.join("components/mine.wasm"), "not skep's").unwrap();
    let skep = Options::config(&config).in_dir(&dir).start();
    for name in &left {
        assert!(!state.join(name).exists(), "{name}: {}", skep.log());
    }
    assert!(state.join("components/mine.wasm").exists());
    skep.assert_logged("state.swept", 1);
    assert_eq!(
        skep.client().get("/").unwrap().head.header("x-revision"),
        Some("1")
    );
}

fn gc(dir: &Path, more: &[&str]) -> Said {
    let mut args = vec!["gc"];
    args.extend(more);
    command::run(dir, args)
}

#[test]
fn gc_says_what_goes_and_deletes_it_with_a_primary_and_without() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let mut skep = Options::config(&config).in_dir(&dir).start();
    waits_for(&skep, 1);
    let path = skep
        .state_dir()
        .join(format!("components/{}.wasm", "e".repeat(64)));
    let put = || fs::write(&path, [7; 2048]).unwrap();
    put();
    let told = gc(dir.path(), &["--dry-run"]);
    done(&told);
    assert!(
        told.stdout.contains("component of no revision"),
        "{told:#?}"
    );
    assert!(told.stdout.contains("would go"), "{told:#?}");
    assert!(path.exists());
    let told = gc(
        Path::new("/"),
        &[
            "-c",
            &dir.path().join("skep.toml").to_string_lossy(),
            "--json",
        ],
    );
    done(&told);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(
        (&told["bytes"], &told["dry_run"]),
        (&2048.into(), &false.into()),
        "{told:#}"
    );
    assert!(!path.exists());

    skep.signal("TERM");
    skep.wait(AFTER);
    put();
    done(&gc(dir.path(), &["--dry-run"]));
    assert!(path.exists());
    let told = gc(dir.path(), &[]);
    done(&told);
    assert!(!path.exists(), "{told:#?}");
    assert_eq!(gc(dir.path(), &["--control", "none.sock"]).code, Some(4));
    let empty = directory();
    done(&gc(empty.path(), &[]));
    assert!(names(empty.path()).is_empty(), "it makes nothing");
    drop(skep);
    let skep = Options::config(&config).in_dir(&dir).start();
    assert_eq!(
        skep.logged("artifact.compil"),
        0,
        "what is needed stays: {}",
        skep.log()
    );
}

#[test]
fn what_stands_in_the_place_of_a_file_does_not_hold_up_a_start() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).in_dir(&dir).start();
    let state = skep.state_dir();
    wait_for(
        AFTER,
        "the record",
        || state.join("revisions/a.json").exists(),
        |is| *is,
    );
    waits_for(&skep, 1);
    drop(skep);
    let in_place = |folder: &str| -> Vec<PathBuf> {
        let dir = state.join(folder);
        names(&dir).iter().map(|name| dir.join(name)).collect()
    };
    let files: Vec<PathBuf> = ["revisions", "components", "artifacts"]
        .into_iter()
        .flat_map(in_place)
        .chain([state.join("primary.lock")])
        .collect();
    assert!(files.len() >= 5, "{files:?}");
    for make in ["mkfifo", "mkdir"] {
        for file in &files {
            let _ = fs::remove_file(file);
            let _ = fs::remove_dir(file);
            let made = std::process::Command::new(make).arg(file).status().unwrap();
            assert!(made.success());
        }
        let skep = Options::config(&config).cold().in_dir(&dir).start();
        assert_eq!(skep.client().get("/").unwrap().head.status, 200);
        skep.assert_logged("app.history_lost", 1);
        skep.assert_logged("state.corrected", 1);
        wait_for(
            AFTER,
            "the record",
            || state.join("revisions/a.json").is_file(),
            |is| *is,
        );
        done(&operate(&skep, &["status"]));
    }
}

#[test]
fn a_history_that_cannot_be_read_keeps_its_essence() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).in_dir(&dir).start();
    let good = variant(&guest("revision"), 2, dir.path());
    done(&deploy(&skep, &good, &[]));
    done(&operate(&skep, &["pause", "a"]));
    let path = skep.state_dir().join("revisions/a.json");
    drop(skep);
    // As one that was written without bounds: a reason of 5 MiB.
    let mut text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    text["revisions"][0]["reason"] = "x".repeat(5 << 20).into();
    fs::write(&path, text.to_string()).unwrap();
    let skep = Options::config(&config).in_dir(&dir).start();
    let lost = skep.wait_for_log("app.history_lost");
    assert!(
        lost.contains("2 active") && lost.contains("paused"),
        "{lost}"
    );
    assert_eq!(skep.client().get("/").unwrap().head.status, 503);
    done(&operate(&skep, &["resume", "a"]));
    assert_eq!(
        skep.client().get("/").unwrap().head.header("x-revision"),
        Some("2")
    );
    assert!(fs::metadata(&path).unwrap().len() < 64 << 10);
}

#[test]
fn reasons_of_any_length_leave_a_history_that_can_be_read() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).in_dir(&dir).start();
    // A source of 60,000 bytes, which the reason quotes as well.
    let source = format!("/{}", "\u{1}".repeat(60_000));
    for _ in 0..30 {
        let said = operate(&skep, &["deploy", "a", &source]);
        assert_ne!(said.code, Some(0));
    }
    let size = fs::metadata(skep.state_dir().join("revisions/a.json"))
        .unwrap()
        .len();
    println!("{size} bytes after 30 deploys of nothing");
    assert!(size < 4 << 20);
    history(&skep);
    drop(skep);
    let skep = Options::config(&config).in_dir(&dir).start();
    assert_eq!(skep.logged("app.history_lost"), 0, "{}", skep.log());
}

#[test]
fn a_state_directory_is_closed_to_others_or_refused() {
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let state = dir.path().join(".skep");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let skep = Options::config(&config).in_dir(&dir).start();
    let said = skep.wait_for_log("state.corrected");
    assert!(said.contains("0777") && said.contains("0755"), "{said}");
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o755);
    drop(skep);
    if !process::is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    // Entries that another user made are taken, a directory of another's is not.
    let artifacts = state.join("artifacts");
    for name in names(&artifacts) {
        chown(artifacts.join(name), Some(4711), Some(4711)).unwrap();
    }
    let skep = Options::config(&config).in_dir(&dir).start();
    skep.wait_for_log("root's now");
    assert_eq!(skep.logged("artifact.compil"), 0, "{}", skep.log());
    drop(skep);
    chown(&state, Some(4711), Some(4711)).unwrap();
    let said = command::run(dir.path(), ["serve"]);
    assert_eq!(said.code, Some(69), "{said:#?}");
    assert!(said.stderr.contains("chown root"), "{said:#?}");
}

#[test]
fn check_writes_nothing_into_the_state_directory() {
    let dir = directory();
    fs::write(
        dir.path().join("skep.toml"),
        pool(1) + &app("a", "revision", ""),
    )
    .unwrap();
    done(&command::run(dir.path(), ["check"]));
    assert_eq!(names(dir.path()), BTreeSet::from(["skep.toml".to_owned()]));
}

#[test]
fn entries_that_root_made_do_not_break_a_deploy_of_the_service() {
    const SERVICE: u32 = 54_321;
    if !process::is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    let dir = directory();
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).user(SERVICE).in_dir(&dir).start();
    let good = variant(&guest("revision"), 2, dir.path());
    done(&deploy(&skep, &good, &[]));
    done(&operate(&skep, &["rollback", "a"]));
    let artifacts = skep.state_dir().join("artifacts");
    for name in names(&artifacts) {
        chown(artifacts.join(name), Some(0), Some(0)).unwrap();
    }
    done(&operate(&skep, &["rollback", "a", "2"]));
    assert_eq!(
        skep.client().get("/").unwrap().head.header("x-revision"),
        Some("2")
    );
}

#[test]
fn a_pause_that_cannot_be_written_down_fails() {
    let dir = directory();
    let state = dir.path().join(".skep");
    fs::create_dir_all(&state).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&state, "24m") else {
        println!("skipped: no tmpfs can be mounted here");
        return;
    };
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).in_dir(&dir).start();
    wait_for(
        AFTER,
        "the record",
        || state.join("revisions/a.json").exists(),
        |is| *is,
    );
    let filler = state.join("filler");
    let fill = || {
        let mut file = fs::File::create(&filler).unwrap();
        let _ = std::io::copy(&mut std::io::repeat(7), &mut file);
    };
    fill();
    for (command, before) in [("pause", 200), ("resume", 503)] {
        let said = operate(&skep, &[command, "a"]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        assert!(said.stderr.contains("cannot be written down"), "{said:#?}");
        assert!(said.stderr.contains("No space left"), "{said:#?}");
        assert_eq!(skep.client().get("/").unwrap().head.status, before);
        if command == "pause" {
            fs::remove_file(&filler).unwrap();
            done(&operate(&skep, &["pause", "a"]));
            fill();
        }
    }
    fs::remove_file(&filler).unwrap();
    done(&operate(&skep, &["resume", "a"]));
    assert_eq!(skep.client().get("/").unwrap().head.status, 200);
}

/// Kills all workers, and waits until their successors serve.
fn kill_all(skep: &Skep) {
    let before: BTreeSet<_> = skep.status().workers.iter().map(|one| one.pid).collect();
    for pid in &before {
        process::signal(*pid, "KILL");
    }
    skep.wait_for_status("other workers to serve", |status| {
        let others = status.workers.iter().all(|one| !before.contains(&one.pid));
        others && status.pools.iter().all(|pool| pool.serving == pool.workers)
    });
}

#[test]
fn folders_that_somebody_removes_are_there_again() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let answers = || skep.client().get("/").unwrap().head.status;
    for folder in ["pools", "artifacts"] {
        let _ = fs::remove_dir_all(skep.state_dir().join(folder));
    }
    done(&operate(&skep, &["reload"]));
    kill_all(&skep);
    assert_eq!(answers(), 200);
    let good = variant(&guest("revision"), 9, skep.dir().path());
    done(&deploy(&skep, &good, &[]));
    assert_eq!(answers(), 200);
    done(&operate(&skep, &["restart"]));
    kill_all(&skep);
    assert_eq!(answers(), 200);
}

#[test]
fn a_state_directory_that_cannot_be_written_to_keeps_nobody_from_serving() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let Some(mounted) = Mounted::read_only(&skep.state_dir()) else {
        println!("skipped: nothing can be mounted here");
        return;
    };
    let answers = || skep.client().get("/").unwrap().head.status;
    kill_all(&skep);
    done(&operate(&skep, &["reload"]));
    done(&operate(&skep, &["restart"]));
    assert_eq!(answers(), 200);
    kill_all(&skep);
    assert_eq!(answers(), 200);
    let good = variant(&guest("revision"), 9, skep.dir().path());
    let said = deploy(&skep, &good, &[]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("Read-only"), "{said:#?}");
    drop(mounted);
    done(&deploy(&skep, &good, &[]));
}
