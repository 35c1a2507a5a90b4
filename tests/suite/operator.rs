//! What an operator meets at the command line: the primary is found, tables fit, what
//! goes on is said, and what was mistyped is named.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use skep_tests::build::{binary, root};
use skep_tests::command::{self, Said, run};
use skep_tests::options::{Options, directory};
use skep_tests::{Skep, guest, process, variant, wait_for};
use skep_wire::BreakerStatus;

use crate::deploys::{deploy, done, operate};
use crate::{app, pool};

/// How long what takes a second may take here.
const SOON: Duration = Duration::from_secs(20);

fn hello() -> String {
    pool(1) + &app("a", "revision", "rollout = { observe = \"0s\" }")
}

/// What is in a folder, at any depth, each with its size.
fn content(dir: &Path) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    let mut next = vec![dir.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            let size = entry.metadata().unwrap().len();
            found.insert((entry.path().to_string_lossy().into_owned(), size));
            if kind.is_dir() {
                next.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_primary_is_found_by_its_configuration_from_anywhere() {
    let skep = Skep::config(&hello());
    let file = skep.dir().path().join("skep.toml");
    let file = file.to_string_lossy();
    let elsewhere = directory();
    for args in [
        &["status", "-c", &file][..],
        &["history", "a", "--config", &file],
        &["pause", "-c", &file, "a"],
        &["resume", "a", "-c", &file],
        &["reload", "-c", &file],
    ] {
        let said = run(elsewhere.path(), args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:#?}");
    }
    let missing = run(elsewhere.path(), ["status", "-c", "missing.toml"]);
    assert_eq!(missing.code, Some(3), "{missing:#?}");
    assert!(missing.stderr.contains("missing.toml"), "{missing:#?}");
}

#[test]
fn a_changed_state_dir_or_a_broken_file_cuts_nobody_off() {
    let skep = Skep::config(&hello());
    let file = skep.dir().path().join("skep.toml");
    let changed = format!("[server]\nstate_dir = \"elsewhere\"\n{}", hello());
    fs::write(&file, &changed).unwrap();
    done(&operate(&skep, &["status"]));
    let said = operate(&skep, &["reload"]);
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.stderr.contains("change it back"), "{said:#?}");
    // And nothing can be read of it.
    fs::write(&file, changed.replace("[app.a]", "[app.a")).unwrap();
    done(&operate(&skep, &["status"]));
    fs::write(&file, "]").unwrap();
    done(&operate(&skep, &["status", "-c", "skep.toml"]));
    assert!(!skep.dir().path().join("elsewhere").exists());
    // Another configuration is not this primary's.
    let other = directory();
    fs::write(other.path().join("skep.toml"), hello()).unwrap();
    assert_eq!(run(other.path(), ["status"]).code, Some(4));
}

#[test]
fn a_socket_that_was_named_at_the_start_is_found_by_the_configuration() {
    let skep = Options::config(&hello())
        .arg("--control")
        .arg("named.sock")
        .spawn();
    skep.wait_for_log("skep: serving ");
    done(&operate(&skep, &["status"]));
    done(&operate(&skep, &["status", "-c", "skep.toml"]));
    done(&operate(&skep, &["stop", "--now"]));
}

#[test]
fn a_removed_control_socket_comes_back() {
    let skep = Skep::config(&hello());
    let socket = skep.state_dir().join("control.sock");
    fs::remove_file(&socket).unwrap();
    wait_for(
        SOON,
        "the socket to be there again",
        || operate(&skep, &["status"]).code,
        |code| *code == Some(0),
    );
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    skep.assert_logged("control.rebound", 1);
    done(&operate(&skep, &["stop", "--now"]));
    assert!(!socket.exists());
}

#[test]
fn check_writes_nothing_into_the_state_directory() {
    let dir = directory();
    fs::copy(guest("hello"), dir.path().join("hello.wasm")).unwrap();
    let text = "[app.hello]\ncomponent = \"hello.wasm\"\n";
    fs::write(dir.path().join("skep.toml"), text).unwrap();
    for args in [&["check"][..], &["check", "hello.wasm"]] {
        let before = content(dir.path());
        let said = run(dir.path(), args);
        assert_eq!(said.code, Some(0), "{said:#?}");
        assert_eq!(content(dir.path()), before, "{args:?}");
    }
    // Nor into one that is there, whatever it has.
    fs::create_dir_all(dir.path().join(".skep/artifacts")).unwrap();
    let before = content(dir.path());
    assert_eq!(run(dir.path(), ["check"]).code, Some(0));
    assert_eq!(content(dir.path()), before);
}

fn mentions(said: &Said, words: &[&str]) {
    for word in words {
        assert!(said.stderr.contains(word), "{word}: {said:#?}");
    }
}

#[test]
fn what_was_mistyped_is_named() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    fs::copy(guest("hello"), at("hello.wasm")).unwrap();
    let check = |text: &str| {
        fs::write(at("skep.toml"), text).unwrap();
        let said = run(dir.path(), ["check"]);
        assert_eq!(said.code, Some(3), "{said:#?}");
        said
    };
    let app = "[app.hello]\ncomponent = \"hello.wasm\"\n";
    mentions(
        &check("[app.hello]\ncomponent = \"helo.wasm\"\n"),
        &["did you mean \"hello.wasm\"?"],
    );
    let deep = "d".repeat(120);
    mentions(
        &check(&format!("[server]\nstate_dir = \"{deep}\"\n{app}")),
        &["control socket", "107", "state_dir"],
    );
    fs::write(at("skep.toml"), app).unwrap();
    let said = run(dir.path(), ["serve", "skep.toml"]);
    assert_eq!(said.code, Some(3), "{said:#?}");
    mentions(&said, &["skep serve -c skep.toml"]);
    for (path, what) in [(".", "a directory"), ("hello.wasm", "a file")] {
        let said = run(dir.path(), ["status", "--control", path]);
        assert_eq!(said.code, Some(4), "{said:#?}");
        mentions(&said, &[what, "not a control socket"]);
    }
}

#[test]
fn a_deploy_says_what_it_does_and_names_its_source() {
    let skep = Skep::config(&hello());
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let said = deploy(&skep, &other, &[]);
    done(&said);
    mentions(
        &said,
        &[
            "deploying `",
            "KiB)",
            "compiling ",
            "validating ",
            "rolling out, ",
        ],
    );
    assert!(
        said.stderr.lines().all(|line| line.starts_with("skep: ")),
        "{said:#?}"
    );
    fs::write(skep.dir().path().join("bad.wasm"), "no component").unwrap();
    let said = operate(&skep, &["deploy", "a", "bad.wasm"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    mentions(&said, &["error: deploy of `bad.wasm`: "]);
    // What can be read only once.
    let pipe = skep.dir().path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let said = operate(&skep, &["deploy", "a", "pipe"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    mentions(&said, &["`pipe` is not a regular file", "to a file first"]);
}

#[test]
fn what_cannot_be_done_has_failed_and_what_an_operator_asked_for_is_no_error() {
    let skep = Skep::config(&hello());
    for args in [&["rollback", "a"][..], &["promote", "a"]] {
        let said = operate(&skep, args);
        assert_eq!(said.code, Some(1), "{args:?}: {said:#?}");
    }
    let other = variant(&guest("revision"), 2, skep.dir().path());
    done(&deploy(&skep, &other, &["--canary", "50%"]));
    done(&operate(&skep, &["rollback", "a"]));
    let events = operate(&skep, &["events"]).stdout;
    let line = events.lines().find(|line| line.contains("app.rolled_back"));
    let event: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
    assert_eq!(event["level"], "info", "{event}");
}

#[test]
fn nobody_is_told_that_a_tripped_pool_serves() {
    let settings = "max_crashes = 2\ncrash_window = \"1m\"\nprobe_interval = \"1h\"\n\
                    backoff = \"10ms\"\nbackoff_max = \"50ms\"\nmin_uptime = \"100ms\"\n";
    let text = pool(1) + settings + &app("a", "revision", "rollout = { observe = \"0s\" }");
    let skep = Skep::config(&text);
    wait_for(
        SOON,
        "the breaker to trip",
        || {
            for worker in skep.workers() {
                process::signal(worker.pid, "KILL");
            }
            skep.pool("default").breaker
        },
        |breaker| *breaker == BreakerStatus::Tripped,
    );
    let status = operate(&skep, &["status"]);
    assert!(
        status.stdout.contains("`skep reset default`"),
        "{status:#?}"
    );
    let said = operate(&skep, &["scale", "default", "3"]);
    assert_eq!(said.code, Some(5), "{said:#?}");
    mentions(&said, &["has tripped", "`skep reset default`"]);
    assert_eq!(skep.pool("default").workers, 1);
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let said = deploy(&skep, &other, &[]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    mentions(&said, &["pool default has tripped", "`skep reset default`"]);
    assert!(!said.stderr.contains("live"), "{said:#?}");
    done(&operate(&skep, &["reset", "default"]));
    wait_for(
        SOON,
        "the pool to serve",
        || skep.pool("default").serving,
        |serving| *serving == 1,
    );
    let response = skep.client().get("/").unwrap();
    assert_eq!(response.head.header("x-revision"), Some("2"));
}

#[test]
fn tables_fit_the_columns_that_there_are() {
    let name = "an-app-with-a-name-that-is-rather-long-for-a-table";
    let routes = "routes = [\"/a/*\", \"/b/*\", \"/c/*\", \"www.some-company.example/*\"]";
    let skep = Skep::config(&(pool(2) + &app(name, "hello", routes)));
    let shown = |args: &[&str], columns: Option<&str>| {
        let mut command = Command::new(binary());
        command.args(args).current_dir(skep.dir().path());
        command.env_remove("SKEP_CONTROL").env_remove("COLUMNS");
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let worker = skep.workers()[0].id.to_string();
    for args in [
        &["status"][..],
        &["describe", name],
        &["describe", "default"],
        &["describe", &worker],
        &["history", name],
    ] {
        for (columns, room) in [(None, 80), (Some("100"), 100), (Some("60"), 60)] {
            let text = shown(args, columns);
            for line in text.lines() {
                assert!(line.chars().count() <= room, "{args:?}: {line}");
            }
        }
    }
    assert!(!shown(&["status"], None).contains("GEN"));
    assert!(shown(&["status"], Some("250")).contains("GEN"));
}

#[test]
fn dev_finds_a_taken_port_before_it_builds() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = run(root(), ["dev", "guests/hello", "--listen", &address]);
    assert_eq!(said.code, Some(69), "{said:#?}");
    mentions(&said, &["in use"]);
    assert!(!said.stderr.contains("building"), "{said:#?}");
}

#[test]
fn dev_serves_as_the_projects_configuration_says_and_builds_once() {
    let dir = directory();
    done(&run(dir.path(), ["new", "shop"]));
    let project = dir.path().join("shop");
    // The versions that are here already: a registry may be out of reach.
    let _ = fs::copy(root().join("guests/Cargo.lock"), project.join("Cargo.lock"));
    let file = project.join("skep.toml");
    let text = fs::read_to_string(&file).unwrap();
    let with = |route: &str| format!("{text}\nroutes = [\"{route}\"]\n");
    fs::write(&file, with("/one/*")).unwrap();
    let dev = command::start(&project, ["dev", "--listen", "unix:dev.sock"]);
    let address = skep_tests::http::Address::Unix(project.join("dev.sock"));
    let status = |path: &str| {
        let response =
            skep_tests::Client::connect(&address).and_then(|mut client| client.get(path));
        response.map(|response| response.status()).ok()
    };
    let serves = |path: &str| {
        wait_for(
            Duration::from_secs(120),
            "dev to serve",
            || status(path),
            |status| *status == Some(200),
        );
    };
    serves("/one/x");
    assert_eq!(status("/"), Some(404));
    fs::write(&file, with("/two/*")).unwrap();
    serves("/two/x");
    // Its workers follow one after the other.
    wait_for(
        SOON,
        "all to know",
        || status("/one/x"),
        |status| *status == Some(404),
    );
    process::signal(dev.pid(), "INT");
    let said = dev.wait();
    // At the start, and for the change of the configuration.
    assert_eq!(
        said.stderr.matches("skep: building ").count(),
        2,
        "{said:#?}"
    );
    assert_eq!(
        said.stderr.matches("reloading skep.toml").count(),
        1,
        "{said:#?}"
    );
}
