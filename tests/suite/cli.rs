//! The command line from outside: exit codes, what goes where, and the main
//! job itself.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::build::{binary, root, target_dir};
use skep_tests::command::run;
use skep_tests::http::Address;
use skep_tests::options::directory;
use skep_tests::{Client, Skep, guest, process, turn};
use skep_wire::FleetStatus;

#[test]
fn exit_codes_tell_what_happened() {
    let dir = directory();
    let code = |args: &[&str]| {
        let said = run(dir.path(), args);
        (said.code, said)
    };
    for (args, expected) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["serve", "--help"], 0),
        (&[], 2),
        (&["serv"], 2),
        (&["serve", "--workers", "none"], 2),
        (&["serve", "--listen", "nowhere"], 2),
        (&["status", "--nonsense"], 2),
        (&["serve"], 3),
        (&["check", "-c", "missing.toml"], 3),
        (&["status"], 4),
        (&["status", "--json"], 4),
        (&["stop"], 4),
        (&["reset", "default"], 4),
        (&["deploy", "a", "b"], 4),
        (&["logs", "a"], 5),
        (&["build"], 1),
    ] {
        let (code, said) = code(args);
        assert_eq!(code, Some(expected), "{args:?}: {said:?}");
        assert!(!said.stderr.contains("panicked"), "{args:?}: {said:?}");
        if expected != 0 {
            assert_eq!(said.stdout, "", "{args:?}: only data goes to stdout");
            assert!(!said.stderr.is_empty(), "{args:?} says why");
        }
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was left behind"
    );
}

#[test]
fn mistyped_words_are_guessed() {
    let dir = directory();
    let said = run(dir.path(), ["statsu"]);
    assert!(said.stderr.contains("status"), "{}", said.stderr);
    std::fs::write(dir.path().join("hello.wasm"), "").unwrap();
    let said = run(dir.path(), ["serve", "helo.wasm"]);
    assert!(
        said.stderr.contains("did you mean `hello.wasm`?"),
        "{}",
        said.stderr
    );
    std::fs::write(
        dir.path().join("skep.toml"),
        "[app.a]\ncomponnt = \"hello.wasm\"\n",
    )
    .unwrap();
    let said = run(dir.path(), ["check"]);
    assert!(said.stderr.contains("component"), "{}", said.stderr);
}

#[test]
fn status_is_for_people_and_programs() {
    let skep = Skep::component(&guest("hello"), 2);
    skep.client().get("/").unwrap();
    let text = run(skep.dir().path(), ["status"]);
    assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""));
    for word in ["default", "hello", "serving", "127.0.0.1"] {
        assert!(text.stdout.contains(word), "{word} in {}", text.stdout);
    }
    let json = run(skep.dir().path(), ["status", "--json"]);
    let status: FleetStatus = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(status.pid, skep.pid());
    assert_eq!(status.workers.len(), 2);
    assert_eq!(
        status
            .workers
            .iter()
            .map(|worker| worker.requests)
            .sum::<u64>(),
        1
    );
    assert!(status.workers.iter().all(|worker| worker.rss_bytes > 0));
    // From elsewhere, by the socket's path.
    let elsewhere = directory();
    let socket = skep.state_dir().join("control.sock");
    let said = run(
        elsewhere.path(),
        ["--control".as_ref(), socket.as_os_str(), "status".as_ref()],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn doctor_looks_at_the_machine() {
    let dir = directory();
    let said = run(dir.path(), ["doctor"]);
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    assert!(!said.stdout.is_empty());
    let json = run(dir.path(), ["doctor", "--json"]);
    let _: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
}

#[test]
fn a_new_project_builds_and_serves_as_it_is() {
    let dir = directory();
    let said = run(dir.path(), ["new", "fresh-start"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let project = dir.path().join("fresh-start");
    // The versions that are here already: a registry may be out of reach.
    let _ = std::fs::copy(root().join("guests/Cargo.lock"), project.join("Cargo.lock"));
    let said = run(dir.path(), ["build", "fresh-start"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let component = dir.path().join(said.stdout.trim());
    assert!(component.is_file(), "{said:?}");
    let skep = Skep::component(&component, 1);
    assert_eq!(skep.client().get("/").unwrap().status(), 200);
    let check = run(&project, ["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
}

#[test]
fn dev_builds_serves_and_ends_with_an_interrupt() {
    turn::shared();
    // Built before by the harness: what is measured is not the compiler.
    let _ = guest("hello");
    let mut dev = Command::new(binary())
        .args(["dev", "guests/hello", "--listen", "127.0.0.1:0"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target_dir().join("guests"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dev.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let address = loop {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("it ended: {said:#?}"))
            .unwrap();
        if let Some(at) = line.find("http://127.0.0.1:") {
            let address: String = line[at..]
                .split([' ', ',', '/'])
                .take(3)
                .collect::<Vec<_>>()
                .join("/");
            said.push(line);
            break address;
        }
        said.push(line);
    };
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    let address: Address = address.parse().unwrap();
    let response = skep_tests::wait_for(
        Duration::from_secs(20),
        "dev to answer",
        || Client::connect(&address).and_then(|mut client| client.get("/")),
        Result::is_ok,
    );
    assert_eq!(response.unwrap().text(), "Hello, world!\n");

    let children: Vec<_> = descendants(dev.id());
    process::signal(dev.id(), "INT");
    let began = Instant::now();
    let status = skep_tests::wait_for(
        Duration::from_secs(15),
        "dev to end",
        || dev.try_wait().unwrap(),
        Option::is_some,
    );
    println!(
        "dev ended {:.1?} after its interrupt: {status:?}",
        began.elapsed()
    );
    skep_tests::wait_for(
        Duration::from_secs(10),
        "its processes to be gone",
        || {
            children
                .iter()
                .filter(|child| process::is_alive(**child))
                .count()
        },
        |left| *left == 0,
    );
    drop(reader.join().unwrap());
    assert!(Client::connect(&address).is_err());
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for child in process::children(pid) {
        found.push(child.pid);
        found.extend(descendants(child.pid));
    }
    found
}

#[test]
fn examples_of_the_configuration_pass_their_check() {
    // Parsed as they are; their components are not here.
    for entry in std::fs::read_dir(root().join("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        let dir = directory();
        let text = std::fs::read_to_string(&path).unwrap();
        for name in ["hello.wasm", "other.wasm", "third.wasm"] {
            std::fs::copy(guest("hello"), dir.path().join(name)).unwrap();
        }
        let text = text.replace("/var/lib/skep", ".skep").replace(
            "DATABASE_URL = { from_env = \"DATABASE_URL\" }",
            "DATABASE_URL = \"x\"",
        );
        std::fs::write(dir.path().join("skep.toml"), text).unwrap();
        let said = run(Path::new(dir.path()), ["check"]);
        assert_eq!(said.code, Some(0), "{}: {said:?}", path.display());
    }
}
