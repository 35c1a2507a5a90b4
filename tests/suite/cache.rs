//! The artifact cache: compiled once, and nothing but what was compiled is
//! ever loaded.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_tests::options::{Options, directory};
use skep_tests::{Client, Skep, command, guest, process, wait_for};
use tempfile::TempDir;

fn options(dir: &Arc<TempDir>) -> Options {
    Options::component(&guest("hello"))
        .arg("--workers")
        .arg("1")
        .cold()
        .in_dir(dir)
}

fn entry(skep_dir: &Path, extension: &str) -> PathBuf {
    let mut found = fs::read_dir(skep_dir.join(".skep/artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|is| is == extension));
    let only = found.next().unwrap();
    assert!(found.next().is_none());
    only
}

fn serves(skep: &Skep) {
    assert_eq!(skep.client().get("/").unwrap().text(), "Hello, world!\n");
}

#[test]
fn a_component_is_compiled_once() {
    let dir = directory();
    let first = options(&dir).start();
    serves(&first);
    first.assert_logged("artifact.compiled", 1);
    drop(first);
    let second = options(&dir).start();
    serves(&second);
    assert_eq!(second.logged("artifact.compil"), 0, "{}", second.log());
}

#[test]
fn entries_that_are_not_what_was_stored_are_rebuilt() {
    let dir = directory();
    drop(options(&dir).start());
    let (artifact, sidecar) = (entry(dir.path(), "cwasm"), entry(dir.path(), "json"));
    let good = fs::read(&artifact).unwrap();
    let good_sidecar = fs::read(&sidecar).unwrap();
    let put = |path: &Path, bytes: &[u8]| {
        let _ = fs::remove_file(path);
        fs::write(path, bytes).unwrap();
    };
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let damages: [Damage<'_>; 8] = [
        ("torn", Box::new(|| put(&artifact, &good[..good.len() / 2]))),
        ("empty", Box::new(|| put(&artifact, b""))),
        ("tampered", Box::new(|| put(&artifact, &flipped))),
        ("foreign", Box::new(|| put(&artifact, b"\x7fELF nonsense"))),
        ("gone", Box::new(|| fs::remove_file(&artifact).unwrap())),
        (
            "sidecar torn",
            Box::new(|| put(&sidecar, &good_sidecar[..20])),
        ),
        (
            "sidecar gone",
            Box::new(|| fs::remove_file(&sidecar).unwrap()),
        ),
        (
            "sidecar of another",
            Box::new(|| {
                let text = String::from_utf8(good_sidecar.clone()).unwrap();
                put(
                    &sidecar,
                    text.replace("\"component\":\"", "\"component\":\"0")
                        .as_bytes(),
                );
            }),
        ),
    ];
    for (name, damage) in damages {
        damage();
        let skep = options(&dir).start();
        serves(&skep);
        assert_eq!(
            skep.logged("artifact.rebuilding"),
            1,
            "{name}: {}",
            skep.log()
        );
        drop(skep);
        assert_eq!(fs::read(&artifact).unwrap().len(), good.len(), "{name}");
    }
}

#[test]
fn left_overs_of_a_killed_build_are_in_nobodys_way() {
    let dir = directory();
    drop(options(&dir).start());
    let (artifact, sidecar) = (entry(dir.path(), "cwasm"), entry(dir.path(), "json"));
    fs::remove_file(&sidecar).unwrap();
    fs::rename(&artifact, artifact.with_extension("tmp")).unwrap();
    fs::write(sidecar.with_extension("json.tmp"), "{").unwrap();
    let skep = options(&dir).start();
    serves(&skep);
    skep.assert_logged("artifact.compiled", 1);
}

#[test]
fn nobody_else_may_look_into_it() {
    let dir = directory();
    let skep = options(&dir).start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&skep.state_dir().join("artifacts")), 0o700);
    assert_eq!(
        mode(&entry(dir.path(), "cwasm")) & 0o222,
        0,
        "artifacts are read-only"
    );
}

#[test]
fn two_primaries_compile_the_same_component_once() {
    let shared = directory();
    let artifacts = shared.path().join("artifacts");
    fs::create_dir(&artifacts).unwrap();
    let dirs = [directory(), directory()];
    let skeps: Vec<_> = dirs
        .iter()
        .map(|dir| {
            // A state directory has one primary; their caches may be one.
            fs::create_dir(dir.path().join(".skep")).unwrap();
            std::os::unix::fs::symlink(&artifacts, dir.path().join(".skep/artifacts")).unwrap();
            Options::component(&guest("stream"))
                .arg("--workers")
                .arg("1")
                .cold()
                .in_dir(dir)
                .spawn()
        })
        .collect();
    let mut compiled = 0;
    for skep in &skeps {
        skep.wait_for_log("skep: serving");
        compiled += skep.logged("artifact.compiling");
    }
    assert_eq!(compiled, 1);
}

/// Cuts or overwrites the only artifact, as a full disk or a careless hand does.
fn damage(skep: &Skep, with: &[u8]) {
    let artifact = entry(skep.dir().path(), "cwasm");
    fs::set_permissions(&artifact, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&artifact, with).unwrap();
}

/// Sends requests until the artifact was built again, and then all are answered.
fn recovers(skep: &Skep, mark: usize) {
    let address = skep.address();
    wait_for(
        Duration::from_secs(60),
        "the artifact to be built again",
        || {
            // Workers die of it.
            let _ = Client::connect(&address).and_then(|mut client| client.get("/"));
            let log = skep.log();
            log[mark..].contains(" artifact.rebuilt ")
        },
        |rebuilt| *rebuilt,
    );
    wait_for(
        Duration::from_secs(60),
        "all workers to serve again",
        || skep.pool("default"),
        |pool| pool.serving == pool.workers,
    );
    for _ in 0..20 {
        serves(skep);
    }
}

#[test]
fn an_artifact_that_is_damaged_under_a_running_fleet_is_built_again() {
    let config = crate::pool(2) + &crate::app("hello", "hello", "");
    let skep = Options::config(&config).cold().start();
    // Whoever touches what is not there any more dies of SIGBUS.
    let mark = skep.log_mark();
    damage(&skep, b"");
    recovers(&skep, mark);
    let log = skep.log();
    assert!(log[mark..].contains("signal=7"), "{}", &log[mark..]);

    // A worker that is killed is followed by one that cannot load it.
    let mark = skep.log_mark();
    damage(&skep, &[0; 64 << 10]);
    process::signal(skep.workers()[0].pid, "KILL");
    recovers(&skep, mark);
}

#[test]
fn operators_have_damaged_artifacts_built_again() {
    let config = crate::pool(1) + &crate::app("hello", "hello", "");
    let skep = Options::config(&config).cold().start();
    for operation in [&["reset", "default"][..], &["reload"]] {
        let mark = skep.log_mark();
        damage(&skep, b"");
        let said = command::run(skep.dir().path(), operation);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        skep.wait_for_log_since(mark, " artifact.rebuilding ");
        skep.wait_for_log_since(mark, " artifact.compiled ");
        // The worker that has the damaged one mapped ends sooner or later; its
        // successor has the new one.
        let old = skep.worker().pid;
        process::signal(old, "KILL");
        wait_for(
            Duration::from_secs(20),
            "another worker",
            || skep.workers(),
            |workers| workers.iter().any(|worker| worker.pid != old),
        );
        serves(&skep);
        assert_eq!(skep.log()[mark..].matches(" worker.exited ").count(), 1);
    }
}

#[test]
fn one_component_of_many_apps_is_compiled_once() {
    let mut text = crate::pool(1);
    for index in 0..20 {
        text += &crate::app(
            &format!("a{index}"),
            "hello",
            &format!("routes = [\"/{index}\"]"),
        );
    }
    let skep = Options::config(&text).cold().start();
    skep.assert_logged("artifact.compiled", 1);
    let mut client = skep.client();
    for index in 0..20 {
        assert_eq!(client.get(&format!("/{index}")).unwrap().status(), 200);
    }
}

#[test]
fn a_second_primary_in_the_same_state_directory_is_refused() {
    let dir = directory();
    let first = options(&dir).start();
    let mut second = options(&dir).spawn();
    let status = second.wait(Duration::from_secs(20));
    assert!(!status.success());
    // It says who has it.
    second.wait_for_log(&first.pid().to_string());
    // The second did not take the control socket of the first.
    serves(&first);
}
