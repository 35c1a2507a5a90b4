//! The control socket and what an operator names: nobody keeps others out, and
//! nothing that never answers is waited for for ever.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::{Client, Skep, binary, guest, process, wait_for};

use crate::deploys::{done, operate};
use crate::{app, pool};

/// How long `status` may take, whoever else is connected. It takes milliseconds;
/// this is far below the time-outs that it might wait for.
const SOON: Duration = Duration::from_secs(3);

fn connect(skep: &Skep) -> UnixStream {
    UnixStream::connect(skep.state_dir().join("control.sock")).expect("the primary listens")
}

fn status_is_quick(skep: &Skep) {
    let asked = Instant::now();
    assert_eq!(skep.status().pools.len(), 1);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

#[test]
fn nobody_keeps_an_operator_out() {
    let skep = Skep::config(&(pool(1) + &app("a", "hello", "")));
    let before = process::fds(skep.pid());
    // Followers that are killed; no event comes that would tell.
    for _ in 0..200 {
        let mut follower = connect(&skep);
        let asked = follower.write_all(b"{\"command\":\"events\",\"follow\":true}\n");
        asked.expect("it is read");
    }
    status_is_quick(&skep);
    wait_for(
        SOON,
        "followers that are gone to be noticed",
        || process::fds(skep.pid()),
        // What is open while it is looked is not left behind.
        |open| *open <= before + 2,
    );
    // Some that live, some that do not read, some that say nothing, and some that
    // say half of something.
    let words: [&[u8]; 4] = [
        b"{\"command\":\"events\",\"follow\":true}\n",
        b"{\"command\":\"status\"}\n{\"command\":\"status\"}\n",
        b"",
        b"{\"command\":",
    ];
    let mut others = Vec::new();
    for number in 0..400 {
        let mut other = connect(&skep);
        // It may have been let go already.
        let _ = other.write_all(words[number % words.len()]);
        others.push(other);
        if number % 40 == 0 {
            status_is_quick(&skep);
        }
    }
    status_is_quick(&skep);
    done(&operate(&skep, &["status"]));
}

#[test]
fn who_follows_events_ends_with_its_reader() {
    let skep = Skep::config(&(pool(1) + &app("a", "hello", "")));
    let mut events = Command::new(binary())
        .args(["events", "-f"])
        .current_dir(skep.dir().path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("skep starts");
    let mut reader = BufReader::new(events.stdout.take().expect("it is piped"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("there are events");
    // And no other comes.
    drop(reader);
    let ended = wait_for(
        SOON,
        "it to end",
        || events.try_wait().expect("it is our child"),
        Option::is_some,
    );
    assert!(ended.is_some_and(|status| status.success()));
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.is_ok_and(|status| status.success()));
}

#[test]
fn a_pipe_in_the_place_of_a_file_ends_no_deploys() {
    let config = |lines: &str| {
        pool(1)
            + &app(
                "a",
                "hello",
                &format!("rollout = {{ observe = \"0s\" }}\n{lines}"),
            )
    };
    let skep = Skep::config(&config(""));
    let dir = skep.dir().path().to_owned();
    make_pipe(&dir.join("pipe"));
    let piped = config("env = { KEY = { from_file = \"pipe\" } }");
    fs::write(dir.join("skep.toml"), piped).expect("the directory is ours");
    for _ in 0..6 {
        let said = operate(&skep, &["reload"]);
        assert_eq!(said.code, Some(3), "{said:#?}");
        assert!(said.stderr.contains("not a regular file"), "{said:#?}");
    }
    let said = operate(&skep, &["deploy", "a", "pipe"]);
    assert_ne!(said.code, Some(0), "{said:#?}");
    fs::write(dir.join("skep.toml"), config("")).expect("the directory is ours");
    done(&operate(&skep, &["reload"]));
    let component = guest("hello");
    done(&operate(
        &skep,
        &["deploy", "a", &component.to_string_lossy()],
    ));
}

#[test]
fn a_hundred_listeners_are_served() {
    let mut config = String::from("[pool.default]\nworkers = 2\n");
    for number in 0..100 {
        let _ = write!(
            config,
            "[listener.l{number}]\naddress = \"unix:l{number}.sock\"\n"
        );
    }
    let skep = Skep::config(&(config + &app("a", "hello", "")));
    for number in [0, 61, 62, 99] {
        let address = skep.address_of(&format!("l{number}"));
        let mut client = Client::connect(&address).expect("it listens");
        assert_eq!(client.get("/").expect("it answers").status(), 200);
    }
}
