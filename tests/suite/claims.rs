//! Operations side by side: what one operator does keeps another only from the
//! same.

use std::fs;
use std::time::Duration;

use skep_tests::command::{Running, start};
use skep_tests::load::{Load, Style};
use skep_tests::variant::variant;
use skep_tests::{Skep, guest, wait_for};

use crate::deploys::{done, operate, tcp};
use crate::{app, pool};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

const UNWATCHED: &str = "rollout = { observe = \"0s\" }";

fn routed(name: &str, lines: &str) -> String {
    let lines = format!("routes = [\"/{name}\"]\n{UNWATCHED}\n{lines}");
    app(name, "revision", &lines)
}

fn begin(skep: &Skep, args: &[&str]) -> Running {
    start(skep.dir().path(), args)
}

/// Waits until `a` is validated.
fn validating(skep: &Skep) {
    skep.wait_for_status("the deploy to hang", |status| {
        let mut apps = status.apps.iter();
        apps.any(|app| app.rollout.as_deref() == Some("validating"))
    });
}

fn revision(skep: &Skep, app: &str) -> u32 {
    let status = skep.status();
    let found = status.apps.iter().find(|is| is.name.as_str() == app);
    found.expect("it is there").revision.0
}

#[test]
fn ten_deploys_of_ten_apps_at_once_lose_nothing_and_each_has_its_own_outcome() {
    let apps: Vec<_> = (0..10).map(|number| format!("a{number}")).collect();
    let text: String = apps.iter().map(|name| routed(name, "")).collect();
    let skep = Skep::config(&(pool(2) + &text));
    let loads: Vec<_> = apps
        .iter()
        .map(|name| Load::start(&skep.address(), &format!("/{name}"), 1, Style::KeptAlive))
        .collect();
    let bad = guest("hostile-validate-fails");
    let deploys: Vec<_> = apps
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let component = match number {
                // Two of them will not do.
                3 | 7 => bad.clone(),
                _ => variant(&guest("revision"), 10 + number as u64, skep.dir().path()),
            };
            begin(&skep, &["deploy", name, &component.to_string_lossy()])
        })
        .collect();
    let ended: Vec<_> = deploys.into_iter().map(Running::wait).collect();
    for (number, said) in ended.iter().enumerate() {
        let name = &apps[number];
        let (code, live) = match number {
            3 | 7 => (1, 1),
            _ => (0, 2),
        };
        assert_eq!(said.code, Some(code), "{name}: {said:#?}");
        assert!(said.stderr.contains(&format!(" of {name}")), "{said:#?}");
        assert_eq!(revision(&skep, name), live, "{name}");
    }
    for (name, load) in apps.iter().zip(loads) {
        let tally = load.stop();
        assert_eq!(tally.failures(), 0, "{name}: {tally:?}");
        assert!(tally.ok > 0, "{name}");
    }
}

#[test]
fn a_validation_that_hangs_keeps_no_other_app_from_its_deploy() {
    let text = pool(2) + &routed("a", "") + &routed("b", "");
    let skep = Skep::config(&text);
    let hangs = guest("hostile-validate-hangs");
    let mut hanging = begin(&skep, &["deploy", "a", &hangs.to_string_lossy()]);
    validating(&skep);
    let other = variant(&guest("revision"), 2, skep.dir().path());
    done(&operate(&skep, &["deploy", "b", &other.to_string_lossy()]));
    assert!(hanging.is_alive(), "the first goes on");
    let said = hanging.wait();
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert_eq!((revision(&skep, "a"), revision(&skep, "b")), (1, 2));
}

#[test]
fn a_reload_waits_for_what_it_changes_and_for_nothing_else() {
    let text = |more: &str, other: &str| {
        pool(2) + &routed("a", more) + &routed("b", other) + "\n[pool.second]\nworkers = 1\n"
    };
    let skep = Skep::config(&text("", ""));
    let port = tcp(&skep).port();
    let put = |text: String| {
        let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        fs::write(skep.dir().path().join("skep.toml"), text).expect("it is ours");
    };
    // The listener has another address than in the file.
    put(text("", ""));
    done(&operate(&skep, &["reload"]));

    let hangs = guest("hostile-validate-hangs");
    let mut hanging = begin(&skep, &["deploy", "a", &hangs.to_string_lossy()]);
    validating(&skep);
    put(text("", "env = { B = \"1\" }"));
    done(&operate(&skep, &["reload"]));
    done(&operate(&skep, &["restart", "second"]));
    assert!(hanging.is_alive(), "the deploy goes on");

    // Another environment for `a` has to wait, and keeps others from beginning.
    put(text("env = { A = \"1\" }", "env = { B = \"1\" }"));
    let mut reload = begin(&skep, &["reload"]);
    wait_for(
        PATIENCE,
        "the reload to be under way",
        || skep.status().operations,
        |under_way| under_way.iter().any(|what| what == "a reload"),
    );
    let said = operate(&skep, &["reload"]);
    assert_eq!(said.code, Some(5), "{said:#?}");
    assert!(said.stderr.contains("a reload is under way"), "{said:#?}");
    assert!(reload.is_alive(), "it waits");
    assert_eq!(hanging.wait().code, Some(1));
    done(&reload.wait());
    assert!(skep.status().operations.is_empty());
}
