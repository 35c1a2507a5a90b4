//! Handlers that cannot be loaded or validated, and what serves beside them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use skep_tests::options::Options;
use skep_tests::{Skep, Stop, guest, process, wait_for};

use crate::deploys::{done, operate, tcp};
use crate::{app, pool};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Apps that fail in three ways, and how the reason of each begins.
const BAD: [(&str, &str, &str); 3] = [
    ("fails", "hostile-validate-fails", "its validation failed"),
    ("traps", "hostile-starts-trap", "it trapped"),
    ("hangs", "hostile-validate-hangs", "its validation"),
];

const GOOD: usize = 17;

/// A pool of 20 apps of which three cannot be validated.
fn twenty(workers: u16, lines: &str) -> String {
    // Beyond half of it a worker waits for nobody.
    let mut text = pool(workers) + "start_timeout = \"4s\"\n";
    for number in 0..GOOD {
        let routes = format!("routes = [\"/good/{number}\"]\n{lines}");
        text += &app(&format!("good-{number}"), "hello", &routes);
    }
    for (name, guest, _) in BAD {
        text += &app(name, guest, &format!("routes = [\"/{name}\"]"));
    }
    text
}

/// Holds all that serve to that, and those that do not to their 503.
fn assert_17_serve(skep: &Skep, when: &str) {
    for number in 0..GOOD {
        let path = format!("/good/{number}");
        let status = skep.client().get(&path).expect("it answers").status();
        assert_eq!(status, 200, "{path} {when}");
    }
    for (name, ..) in BAD {
        let answer = skep.client().get(&format!("/{name}")).expect("it answers");
        assert_eq!(answer.status(), 503, "{name} {when}");
        assert_eq!(
            answer.head.header("retry-after"),
            Some("5"),
            "{name} {when}"
        );
    }
}

fn pids(skep: &Skep) -> Vec<u32> {
    let mut pids: Vec<_> = skep.workers().iter().map(|worker| worker.pid).collect();
    pids.sort_unstable();
    pids
}

fn wait_for_others(skep: &Skep, before: &[u32]) {
    skep.wait_for_status("other workers that serve", |status| {
        let new = |worker: &&skep_wire::WorkerStatus| {
            worker.state == "serving" && !before.contains(&worker.pid)
        };
        status.workers.iter().filter(new).count() == before.len()
    });
}

#[test]
fn three_bad_apps_of_twenty_keep_nobody_from_serving() {
    let skep = Skep::config(&twenty(2, ""));
    assert_17_serve(&skep, "at the start");
    for (name, _, reason) in BAD {
        let record = skep.wait_for_log(&format!("app={name}"));
        assert!(record.contains(reason), "{name}: {record}");
        assert_eq!(
            skep.logged(&format!("app.quarantined pool=default app={name}")),
            1
        );
    }
    assert!(skep.outcomes("quarantined") >= 3);

    let before = pids(&skep);
    let began = Instant::now();
    for pid in &before {
        process::signal(*pid, "KILL");
    }
    wait_for_others(&skep, &before);
    println!("killed, and back after {:.1?}", began.elapsed());
    // What is known to be bad is not waited for.
    assert!(
        began.elapsed() < Duration::from_millis(1900),
        "{:?}",
        began.elapsed()
    );
    assert_17_serve(&skep, "after kill -9 of every worker");

    let before = pids(&skep);
    done(&operate(&skep, &["restart"]));
    assert!(pids(&skep).iter().all(|pid| !before.contains(pid)));
    assert_17_serve(&skep, "after a restart");

    // Every good app gets another handler, and then every bad one as well.
    let port = tcp(&skep).port();
    let fixed = |text: String| text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let file = skep.dir().path().join("skep.toml");
    let anew = fixed(twenty(2, "env = { A = \"b\" }"));
    fs::write(&file, &anew).expect("it is ours");
    done(&operate(&skep, &["reload"]));
    assert_17_serve(&skep, "after a reload");
    let all = anew.replace("routes = [\"/", "timeout = \"9s\"\nroutes = [\"/");
    fs::write(&file, &all).expect("it is ours");
    done(&operate(&skep, &["reload"]));
    assert_17_serve(&skep, "after a reload of all");

    // What is good and would not be any more is refused.
    let worse = all.replacen("/hello.wasm", "/hostile_validate_fails.wasm", 1);
    fs::write(&file, &worse).expect("it is ours");
    let said = operate(&skep, &["reload"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("app good-0"), "{said:#?}");
    assert!(!said.stderr.contains("app fails"), "{said:#?}");
    assert_17_serve(&skep, "after a reload that was rejected");

    // A deploy is the way out.
    let hello = skep_tests::guest("hello");
    done(&operate(
        &skep,
        &["deploy", "fails", &hello.display().to_string()],
    ));
    assert_eq!(
        skep.client().get("/fails").expect("it answers").status(),
        200
    );
    skep.wait_for_log("app.released pool=default app=fails");
}

#[test]
fn an_app_whose_database_comes_back_serves_by_itself() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = gone.local_addr().expect("it is bound").port();
    drop(gone);
    let needs = format!(
        "routes = [\"/needs\"]\noutbound = [\"http://127.0.0.1:{port}\"]\n\
         validate = {{ path = \"/?url=http://127.0.0.1:{port}/\", timeout = \"1s\" }}"
    );
    let text = pool(2) + &app("needs", "fetch", &needs) + &app("other", "hello", "");
    let skep = Skep::config(&text);
    let status = |path: &str| skep.client().get(path).expect("it answers").status();
    assert_eq!((status("/needs"), status("/")), (503, 200));
    let record = skep.wait_for_log("app.quarantined");
    assert!(
        record.contains("was answered with 502 instead of 200"),
        "{record}"
    );

    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free again");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("it accepts");
            let _ = stream.read(&mut [0; 4096]);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
            let _ = stream.write_all(answer);
        }
    });
    skep.wait_for_log("app.released pool=default app=needs");
    wait_for(
        PATIENCE,
        "both workers to serve it",
        || {
            (0..20)
                .map(|_| status(&format!("/needs?url=http://127.0.0.1:{port}/")))
                .collect::<Vec<_>>()
        },
        |all| all.iter().all(|status| *status == 200),
    );
    // Nothing was restarted for it.
    assert_eq!(skep.logged("worker.exited"), 0);
    skep.assert_logged("worker.spawned", 2);
}

#[test]
fn a_component_that_is_gone_keeps_nobody_else_from_starting() {
    let dir = skep_tests::options::directory();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("ours");
    let hello = fs::read(guest("hello")).expect("it was built");
    let revision = fs::read(guest("revision")).expect("it was built");
    let text = pool(1)
        + &app("good", "hello", "routes = [\"/good\"]")
        + "[app.kept]\ncomponent = \"kept.wasm\"\nroutes = [\"/kept\"]\n"
        + "[app.gone]\ncomponent = \"gone.wasm\"\nroutes = [\"/gone\"]\n";
    put("kept.wasm", &hello);
    put("gone.wasm", &revision);
    let skep = Options::config(&text).in_dir(&dir).start();
    let histories =
        ["kept", "gone"].map(|app| dir.path().join(format!(".skep/revisions/{app}.json")));
    let written = || histories.iter().all(|path| path.exists());
    wait_for(PATIENCE, "the records", written, |is| *is);
    skep.stop(Stop::Drain);
    // One is nonsense now, of the other nothing is left at all.
    put("kept.wasm", b"nonsense");
    fs::remove_file(dir.path().join("gone.wasm")).expect("ours");
    let digest = skep_tests::options::sha256(&revision);
    fs::remove_file(dir.path().join(format!(".skep/components/{digest}.wasm"))).expect("ours");

    let skep = Options::config(&text).in_dir(&dir).start();
    let status = |path: &str| skep.client().get(path).expect("it answers").status();
    assert_eq!(
        (status("/good"), status("/kept"), status("/gone")),
        (200, 200, 503)
    );
    assert!(skep.wait_for_log("app.rejected").contains("step=build"));
    assert!(skep.wait_for_log("app.quarantined").contains("app=gone"));
    let shown = skep.status();
    let gone = shown.apps.iter().find(|app| app.name.as_str() == "gone");
    let gone = gone.expect("it is shown");
    assert_eq!(gone.state.name(), "quarantined");
    assert!(
        gone.reason
            .as_ref()
            .is_some_and(|why| why.contains("does not exist")),
        "{gone:?}"
    );
    let said = operate(
        &skep,
        &["deploy", "gone", &guest("hello").display().to_string()],
    );
    assert!(said.stderr.contains("in quarantine"), "{said:#?}");
    // Others are reloaded all the same.
    put("kept.wasm", &hello);
    done(&operate(&skep, &["reload"]));
    assert_eq!(
        (status("/good"), status("/kept"), status("/gone")),
        (200, 200, 503)
    );
    // It comes by itself.
    put("gone.wasm", &revision);
    wait_for(
        PATIENCE,
        "it to serve",
        || status("/gone"),
        |status| *status == 200,
    );
    skep.wait_for_log("app.released pool=default app=gone");
    assert_eq!(status("/good"), 200);
    done(&operate(&skep, &["reload"]));
    assert_eq!(status("/gone"), 200);
}

#[test]
fn apps_that_hang_keep_no_other_from_its_turn() {
    let mut text = pool(1) + "start_timeout = \"20s\"\n";
    for number in 0..40 {
        let (name, guest) = match number % 2 {
            0 => ("hangs", "hostile-validate-hangs"),
            _ => ("good", "hello"),
        };
        let routes = format!("routes = [\"/{name}/{number}\"]");
        text += &app(&format!("{name}-{number}"), guest, &routes);
    }
    let skep = Skep::config(&text);
    let all_good = |when: &str| {
        for number in (1..40).step_by(2) {
            let path = format!("/good/{number}");
            let status = skep.client().get(&path).expect("it answers").status();
            assert_eq!(status, 200, "{path} {when}");
        }
        skep.assert_logged("app.quarantined", 20);
    };
    all_good("at the start");
    done(&operate(&skep, &["restart"]));
    all_good("after a restart");
    // What is mended by a reload is not tried in its old form any more.
    let port = tcp(&skep).port();
    let mended = text
        .replace("hostile_validate_hangs.wasm", "revision.wasm")
        .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    fs::write(skep.dir().path().join("skep.toml"), mended).expect("it is ours");
    done(&operate(&skep, &["reload"]));
    // A reload does not wait for what did not work before.
    skep.wait_for_status("all to be released", |status| {
        status.apps.iter().all(|app| app.reason.is_none())
    });
    let history = operate(&skep, &["history", "hangs-0"]);
    assert!(!history.stdout.contains("deploying"), "{history:#?}");
    assert!(history.stdout.contains("rejected"), "{history:#?}");
}
