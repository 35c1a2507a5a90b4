//! What operators do to a running fleet besides deploying, under traffic that
//! must not notice.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use skep_tests::command::{self, Running, Said};
use skep_tests::http::Address;
use skep_tests::options::{Options, directory};
use skep_tests::traffic::{Class, Mix, Traffic};
use skep_tests::variant::variant;
use skep_tests::{Client, Failed, Skep, Stop, guest, process, wait_for};
use skep_wire::AppStatus;

use crate::deploys::{deploy, done, operate, tcp};
use crate::{app, pool};

/// Rules under which a revision is done with as soon as it is live.
pub(crate) const UNWATCHED: &str = "rollout = { observe = \"0s\" }";

/// Where the primary is, whatever the configuration says by now.
const CONTROL: &str = ".skep/control.sock";

/// How long a fleet may take to come to rest, on a machine that is busy.
const REST: Duration = Duration::from_secs(30);

/// 8 kept-alive and 2 new-connection clients over both protocols, so that a
/// debug build has time for more.
pub(crate) fn light() -> Mix {
    Mix {
        kept_alive_h1: 4,
        kept_alive_h2: 4,
        new_h1: 1,
        new_h2: 1,
        pause: Some(Duration::from_millis(2)),
        ..Mix::default()
    }
}

pub(crate) fn start(skep: &Skep, args: &[&str]) -> Running {
    command::start(skep.dir().path(), args)
}

/// Writes another configuration; nothing is read before it is asked for.
fn write(skep: &Skep, text: &str) {
    fs::write(skep.dir().path().join("skep.toml"), text).unwrap();
}

fn reload(skep: &Skep, text: &str) -> Said {
    write(skep, text);
    // Whatever the new one says of it.
    operate(skep, &["--control", CONTROL, "reload"])
}

/// The events so far, oldest first.
pub(crate) fn events(skep: &Skep) -> Vec<Value> {
    let said = operate(skep, &["--control", CONTROL, "events", "--json"]);
    done(&said);
    let lines = said.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn name_of(event: &Value) -> &str {
    event["name"].as_str().unwrap()
}

pub(crate) fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| name_of(event) == name)
        .collect()
}

/// The processes of a pool's serving workers.
fn pids(skep: &Skep, pool: &str) -> BTreeSet<u32> {
    let workers = skep.workers();
    workers
        .iter()
        .filter(|worker| worker.pool.as_str() == pool)
        .map(|worker| worker.pid)
        .collect()
}

fn status_of(skep: &Skep, path: &str) -> u16 {
    skep.client().get(path).unwrap().status()
}

fn app_status(skep: &Skep, name: &str) -> AppStatus {
    let apps = skep.status().apps;
    let found = apps.into_iter().find(|app| app.name.as_str() == name);
    found.unwrap()
}

fn socket(skep: &Skep, listener: &str) -> std::net::SocketAddr {
    match skep.address_of(listener) {
        Address::Tcp(address) => address,
        Address::Unix(path) => panic!("{}", path.display()),
    }
}

/// Waits until the traffic has gone on for some requests.
pub(crate) fn more(traffic: &Traffic, requests: u64) {
    let enough = traffic.ended() + requests;
    wait_for(
        REST,
        "more requests",
        || traffic.ended(),
        |ended| *ended >= enough,
    );
}

/// Waits until so many events of a name were logged.
fn wait_for_count(skep: &Skep, text: &str, count: usize) {
    wait_for(REST, text, || skep.logged(text), |seen| *seen >= count);
}

/// A deploy that hangs in its canary worker until `start_timeout`.
fn hang(skep: &Skep) -> Running {
    let component = guest("hostile-validate-hangs");
    let running = start(skep, &["deploy", "a", &component.to_string_lossy()]);
    skep.wait_for_status("the deploy to hang", |status| {
        let mut apps = status.apps.iter();
        apps.any(|app| app.rollout.as_deref() == Some("validating"))
    });
    running
}

#[test]
fn reload_switches_routes_and_limits_in_place() {
    let config = |routes: &str, timeout: &str| {
        let lines = format!(
            "{UNWATCHED}\nroutes = [\"/\", \"/sleep/*\", {routes}]\ntimeout = \"{timeout}\""
        );
        pool(2) + &app("a", "revision", &lines)
    };
    let skep = Skep::config(&config("\"/old\"", "10s"));
    let before = pids(&skep, "default");
    assert_eq!(
        (status_of(&skep, "/old"), status_of(&skep, "/new")),
        (200, 404)
    );
    assert_eq!(status_of(&skep, "/sleep/2500"), 200);
    let mut kept = skep.client();
    assert_eq!(kept.get("/").unwrap().status(), 200);
    let traffic = Traffic::start(tcp(&skep), light());
    traffic.revisions().begin(1);

    // Routes only: the handlers stay as they are.
    let said = reload(&skep, &config("\"/new\"", "10s"));
    done(&said);
    assert!(said.stderr.contains("generation 2"), "{said:#?}");
    assert_eq!(
        (status_of(&skep, "/old"), status_of(&skep, "/new")),
        (404, 200)
    );
    // A limit: another handler of the same revision.
    done(&reload(&skep, &config("\"/new\"", "300ms")));
    assert_eq!(status_of(&skep, "/sleep/2500"), 504);
    // Nothing at all is no error.
    done(&operate(&skep, &["reload"]));

    // An old connection has all of it, too.
    assert_eq!(kept.get("/old").unwrap().status(), 404);
    assert_eq!(kept.get("/new").unwrap().status(), 200);
    traffic.finish().assert_clean();
    assert_eq!(pids(&skep, "default"), before);
    assert_eq!(app_status(&skep, "a").revision.0, 1);
    let reloaded = events(&skep);
    let generations: Vec<_> = named(&reloaded, "config.reloaded")
        .iter()
        .map(|event| event["generation"].as_u64().unwrap())
        .collect();
    assert_eq!(generations[..2], [2, 3], "{generations:?}");
}

#[test]
fn reload_gives_a_handler_another_environment_in_place() {
    let config = |mode: &str| {
        let lines = format!("{UNWATCHED}\nenv = {{ MODE = \"{mode}\" }}");
        pool(2) + &app("a", "echo", &lines)
    };
    let skep = Skep::config(&config("one"));
    let before = pids(&skep, "default");
    let mode = |client: &mut Client| client.get("/info").unwrap().json()["env"]["MODE"].clone();
    let mut kept: Vec<_> = (0..4).map(|_| skep.client()).collect();
    assert!(kept.iter_mut().all(|client| mode(client) == "one"));
    let traffic = Traffic::start(tcp(&skep), light());
    done(&reload(&skep, &config("two")));
    assert!(kept.iter_mut().all(|client| mode(client) == "two"));
    assert_eq!(mode(&mut skep.client()), "two");
    traffic.finish().assert_clean();
    assert_eq!(pids(&skep, "default"), before);
}

/// Two pools with a listener and an app each.
fn two_pools(lines: &str, others: &str) -> String {
    format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n\
         [listener.other]\naddress = \"127.0.0.1:0\"\npool = \"other\"\n\
         [pool.default]\n{lines}\n[pool.other]\n{others}\n"
    ) + &app("a", "revision", UNWATCHED)
        + &app("b", "hello", "pool = \"other\"")
}

#[test]
fn reload_restarts_only_the_pool_whose_settings_changed() {
    let skep = Skep::config(&two_pools("workers = 2", "workers = 1"));
    let (before, others) = (pids(&skep, "default"), pids(&skep, "other"));
    let mut kept = Client::connect(&skep.address_of("other")).unwrap();
    assert_eq!(kept.get("/").unwrap().status(), 200);
    let traffic = Traffic::start(socket(&skep, "web"), light());
    let beside = Traffic::start(socket(&skep, "other"), light());
    done(&reload(
        &skep,
        &two_pools("workers = 2\nhang_timeout = \"20s\"", "workers = 1"),
    ));
    let after = pids(&skep, "default");
    assert!(after.is_disjoint(&before), "{after:?} of {before:?}");
    assert_eq!(after.len(), 2);
    assert_eq!(pids(&skep, "other"), others);
    assert_eq!(kept.get("/").unwrap().status(), 200);
    traffic.finish().assert_clean();
    let beside = beside.finish();
    beside.assert_clean();
    assert_eq!(
        (beside.reconnects, beside.polite_closes),
        (0, 0),
        "{beside}"
    );
}

#[test]
fn reload_scales_a_pool_in_place() {
    let skep = Skep::config(&two_pools("workers = 1", "workers = 1"));
    let (first, others) = (pids(&skep, "default"), pids(&skep, "other"));
    let traffic = Traffic::start(socket(&skep, "web"), light());
    done(&reload(&skep, &two_pools("workers = 3", "workers = 1")));
    let more = pids(&skep, "default");
    assert!(more.is_superset(&first) && more.len() == 3, "{more:?}");
    done(&reload(&skep, &two_pools("workers = 1", "workers = 1")));
    let fewer = pids(&skep, "default");
    assert!(fewer.is_subset(&more) && fewer.len() == 1, "{fewer:?}");
    traffic.finish().assert_clean();
    assert_eq!(pids(&skep, "other"), others);
    assert_eq!(skep.pool("default").spawns, 3);
}

#[test]
fn reload_adds_and_removes_listeners_without_touching_others() {
    let config = |more: &str| {
        let listener = format!("[listener.{more}]\naddress = \"127.0.0.1:0\"\n");
        pool(2) + &listener + &app("a", "revision", UNWATCHED)
    };
    let skep = Skep::config(&config("old"));
    let before = pids(&skep, "default");
    let old = skep.address_of("old");
    let mut on_old = Client::connect(&old).unwrap();
    assert_eq!(on_old.get("/").unwrap().status(), 200);
    let web = skep.address_of("web");
    let mut kept: Vec<_> = (0..8).map(|_| Client::connect(&web).unwrap()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/").unwrap().status(), 200);
    }
    let traffic = Traffic::start(socket(&skep, "web"), light());

    done(&reload(&skep, &config("new")));
    let mut on_new = Client::connect(&skep.address_of("new")).unwrap();
    assert_eq!(on_new.get("/").unwrap().status(), 200);
    wait_for(
        Duration::from_secs(5),
        "the address to be closed",
        || Client::connect(&old).err(),
        |error| *error == Some(Failed::Refused),
    );
    assert_eq!(skep.address_of("web"), web);
    for client in &mut kept {
        let response = client.get("/").unwrap();
        assert!(response.status() == 200 && !response.head.closes());
    }
    let report = traffic.finish();
    report.assert_clean();
    assert_eq!(
        (report.reconnects, report.polite_closes),
        (0, 0),
        "{report}"
    );
    assert_eq!(pids(&skep, "default"), before);
}

#[test]
fn reload_takes_a_component_that_was_replaced_for_the_next_revision() {
    let dir = directory();
    let file = dir.path().join("app.wasm");
    fs::copy(guest("revision"), &file).unwrap();
    let config = pool(2) + &format!("[app.a]\ncomponent = \"app.wasm\"\n{UNWATCHED}\n");
    let skep = Options::config(&config).in_dir(&dir).start();
    let before = pids(&skep, "default");
    let traffic = Traffic::start(tcp(&skep), light());
    traffic.revisions().begin(1);
    // Whatever is in the file until then is the first.
    let record = skep.state_dir().join("revisions/a.json");
    wait_for(REST, "the first record", || record.exists(), |is| *is);
    let other = variant(&guest("revision"), 2, dir.path());
    fs::rename(other, &file).unwrap();
    traffic.revisions().begin(2);
    let said = operate(&skep, &["reload"]);
    traffic.revisions().end(1);
    done(&said);
    assert!(said.stderr.contains("a is at revision 2"), "{said:#?}");
    more(&traffic, 50);
    traffic.finish().assert_clean();
    assert_eq!(pids(&skep, "default"), before);
    assert_eq!(app_status(&skep, "a").revision.0, 2);
    assert_eq!(history(&skep)["active"], 2);
    // It is one like any other: one can go back.
    done(&operate(&skep, &["rollback", "a"]));
    assert_eq!(app_status(&skep, "a").revision.0, 1);
}

fn history(skep: &Skep) -> Value {
    let said = operate(skep, &["history", "a", "--json"]);
    done(&said);
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn a_reload_that_is_rejected_changes_nothing() {
    let dir = directory();
    let file = dir.path().join("app.wasm");
    fs::copy(guest("revision"), &file).unwrap();
    let config = |lines: &str, app_lines: &str| {
        pool(2) + lines + &format!("[app.a]\ncomponent = \"app.wasm\"\n{UNWATCHED}\n{app_lines}\n")
    };
    let good = config("", "");
    let skep = Options::config(&good).in_dir(&dir).start();
    let before = pids(&skep, "default");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!(
        "[listener.more]\naddress = \"{}\"\n",
        taken.local_addr().unwrap()
    );
    let traffic = Traffic::start(tcp(&skep), light());
    traffic.revisions().begin(1);

    // What is read, what is asked for beside it, the exit code, the reason.
    let fails = guest("hostile-validate-fails");
    let import = guest("hostile-unknown-import");
    let revision = guest("revision");
    let cases: [(&str, String, Option<&Path>, i32, &str); 7] = [
        ("no TOML", "[app.a\n".to_owned(), None, 3, "skep.toml:1"),
        (
            "a typing error",
            config("workerz = 3\n", ""),
            None,
            3,
            "did you mean `workers`",
        ),
        (
            "another state directory",
            format!("[server]\nstate_dir = \"elsewhere\"\n{good}"),
            None,
            3,
            "state_dir",
        ),
        ("a missing import", good.clone(), Some(&import), 3, "import"),
        (
            "a validation that fails",
            config("workers = 3\n", "routes = [\"/new\"]").replacen("workers = 2\n", "", 1),
            Some(&fails),
            1,
            "validate",
        ),
        (
            "a variable that is required",
            config("", "env = { KEY = \"\" }\nrequire = [\"KEY\"]"),
            None,
            3,
            "KEY",
        ),
        (
            "an address in use",
            config("", "").replace("[pool.default]", &format!("{taken}[pool.default]")),
            None,
            69,
            "in use",
        ),
    ];
    for (index, (what, text, component, code, reason)) in cases.into_iter().enumerate() {
        fs::copy(component.unwrap_or(&revision), &file).unwrap();
        let mark = skep.log_mark();
        let said = reload(&skep, &text);
        println!("{what}: {}", said.stderr.trim_end());
        assert_eq!(said.code, Some(code), "{what}: {said:#?}");
        assert!(said.stderr.contains(reason), "{what}: {said:#?}");
        skep.wait_for_log_since(mark, "config.rejected");
        let events = events(&skep);
        let rejected = named(&events, "config.rejected");
        assert_eq!(rejected.len(), index + 1, "{what}");
        let told = rejected[index]["reason"].as_str().unwrap();
        assert!(told.contains(reason), "{what}: {told}");
        let status = skep.status();
        assert_eq!(status.generation.0, 1, "{what}");
        assert_eq!((status.listeners.len(), status.apps[0].revision.0), (1, 1));
    }
    fs::copy(&revision, &file).unwrap();
    let broken = dir.path().join("broken");
    fs::write(&broken, "no component").unwrap();
    fs::rename(broken, &file).unwrap();
    let said = reload(&skep, &good);
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(
        said.stderr.contains("not a WebAssembly component"),
        "{said:#?}"
    );

    more(&traffic, 50);
    traffic.finish().assert_clean();
    assert_eq!(pids(&skep, "default"), before);
    assert_eq!(status_of(&skep, "/new"), 200);
    assert_eq!(skep.pool("default").spawns, 2);
    fs::copy(&revision, &file).unwrap();
    done(&reload(&skep, &good));
}

#[test]
fn sighup_reloads() {
    let config = |routes: &str| {
        pool(2)
            + &app(
                "a",
                "revision",
                &format!("{UNWATCHED}\nroutes = [{routes}]"),
            )
    };
    let skep = Skep::config(&config("\"/\""));
    assert_eq!(status_of(&skep, "/new"), 404);
    let traffic = Traffic::start(tcp(&skep), light());
    write(&skep, &config("\"/\", \"/new\""));
    skep.signal("HUP");
    skep.wait_for_log("config.reloaded");
    assert_eq!(status_of(&skep, "/new"), 200);
    write(&skep, "workers = everybody");
    skep.signal("HUP");
    skep.wait_for_log("config.rejected");
    assert_eq!(status_of(&skep, "/new"), 200);
    traffic.finish().assert_clean();
}

#[test]
fn sighup_waits_for_what_is_under_way() {
    let config = |routes: &str| {
        pool(1)
            + "start_timeout = \"2s\"\n"
            + &app(
                "a",
                "revision",
                &format!("{UNWATCHED}\nroutes = [{routes}]"),
            )
    };
    let skep = Skep::config(&config("\"/\""));
    let hanging = hang(&skep);
    write(&skep, &config("\"/\", \"/new\""));
    skep.signal("HUP");
    skep.wait_for_log("config.reloaded");
    assert_eq!(hanging.wait().code, Some(1));
    assert_eq!(status_of(&skep, "/new"), 200);
}

#[test]
fn reload_adds_and_removes_apps_and_pools() {
    let on = |name: &str, route: &str| {
        app(
            name,
            "revision",
            &format!("{UNWATCHED}\nroutes = [\"{route}\"]"),
        )
    };
    let base = pool(2) + &on("a", "/");
    let skep = Skep::config(&(base.clone() + &on("old", "/old")));
    let before = pids(&skep, "default");
    assert_eq!(
        (status_of(&skep, "/old"), status_of(&skep, "/new")),
        (200, 404)
    );
    let traffic = Traffic::start(tcp(&skep), light());
    done(&reload(&skep, &(base.clone() + &on("new", "/new"))));
    assert_eq!(
        (status_of(&skep, "/old"), status_of(&skep, "/new")),
        (404, 200)
    );

    let another = "[listener.other]\naddress = \"127.0.0.1:0\"\npool = \"other\"\n\
                   [pool.other]\nworkers = 1\n"
        .to_owned()
        + &app("b", "hello", "pool = \"other\"");
    done(&reload(&skep, &(base.clone() + &another)));
    let other = skep.address_of("other");
    let mut client = Client::connect(&other).unwrap();
    assert_eq!(client.get("/").unwrap().status(), 200);
    let worker = *pids(&skep, "other").first().unwrap();
    done(&reload(&skep, &base));
    wait_for(
        REST,
        "the removed pool to be gone",
        || (process::is_alive(worker), skep.status().pools.len()),
        |(alive, pools)| !alive && *pools == 1,
    );
    assert_eq!(Client::connect(&other).err(), Some(Failed::Refused));
    traffic.finish().assert_clean();
    assert_eq!(pids(&skep, "default"), before);
}

#[test]
fn restart_rotate_and_scale_lose_nothing() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let traffic = Traffic::start(tcp(&skep), light());
    traffic.revisions().begin(1);

    let before = pids(&skep, "default");
    done(&operate(&skep, &["restart"]));
    let restarted = pids(&skep, "default");
    assert!(restarted.is_disjoint(&before) && restarted.len() == 2);

    let chosen = skep.workers()[0].clone();
    done(&operate(&skep, &["rotate", &chosen.id.to_string()]));
    let rotated = pids(&skep, "default");
    let gone: Vec<_> = restarted.difference(&rotated).copied().collect();
    assert_eq!((gone, rotated.len()), (vec![chosen.pid], 2));
    let successor = skep
        .workers()
        .into_iter()
        .find(|worker| !restarted.contains(&worker.pid));
    assert_eq!(successor.unwrap().slot, chosen.slot);

    for workers in [4, 1] {
        done(&operate(&skep, &["scale", "default", &workers.to_string()]));
        let pool = skep.pool("default");
        assert_eq!((pool.workers, pool.serving), (workers, workers));
        more(&traffic, 100);
    }
    // What an operator made of the size, a reload leaves alone.
    done(&operate(&skep, &["reload"]));
    assert_eq!(skep.pool("default").serving, 1);
    traffic.finish().assert_clean();
    let events = events(&skep);
    wait_for_count(&skep, "worker.exited", 6);
    for exited in named(&events, "worker.exited") {
        assert_eq!(exited["reason"], "requested", "{exited}");
        assert_eq!(exited["cut"], 0, "{exited}");
    }
}

#[test]
fn what_does_not_exist_is_refused_with_what_there_is() {
    let skep = Skep::config(&(pool(1) + &app("a", "revision", UNWATCHED)));
    let before = pids(&skep, "default");
    let component = guest("revision");
    let component = component.to_string_lossy();
    let cases: [(&[&str], &str); 13] = [
        (&["restart", "defalt"], "default"),
        (&["scale", "defalt", "2"], "default"),
        (&["scale", "default", "0"], "1"),
        (&["scale", "default", "257"], "256"),
        (&["scale", "default", "many"], "many"),
        (&["rotate", "999"], "skep status"),
        (&["rotate", "default"], "default"),
        (&["reset", "b"], "default"),
        (&["pause", "b"], "a"),
        (&["promote", "b"], "a"),
        (&["rollback", "a", "7"], "skep history a"),
        (&["describe", "defalt"], "did you mean `default`"),
        (&["deploy", "b", &component], "a"),
    ];
    for (args, word) in cases {
        let said = operate(&skep, args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:#?}");
        assert!(said.stderr.contains(word), "{args:?}: {said:#?}");
        assert_eq!(said.stdout, "", "{args:?}");
    }
    assert_eq!(pids(&skep, "default"), before);
    assert_eq!(skep.pool("default").spawns, 1);
}

#[test]
fn a_pause_that_cannot_be_written_down_has_not_happened() {
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Skep::config(&config);
    let revisions = skep.state_dir().join("revisions");
    let away = skep.state_dir().join("away");
    // Nobody can write where there is no directory.
    let breaks = || {
        fs::rename(&revisions, &away).unwrap();
        fs::write(&revisions, "").unwrap();
    };
    let mends = || {
        fs::remove_file(&revisions).unwrap();
        fs::rename(&away, &revisions).unwrap();
    };
    for (word, paused, status) in [("pause", false, 200), ("resume", true, 503)] {
        breaks();
        let said = operate(&skep, &[word, "a"]);
        assert_ne!(said.code, Some(0), "{said:#?}");
        assert!(said.stderr.contains("written down"), "{said:#?}");
        assert_eq!(app_status(&skep, "a").paused, paused);
        wait_for(
            REST,
            "the app to be as it was",
            || status_of(&skep, "/"),
            |now| *now == status,
        );
        mends();
        done(&operate(&skep, &[word, "a"]));
        assert_eq!(app_status(&skep, "a").paused, !paused);
        wait_for(
            REST,
            "the app to change",
            || status_of(&skep, "/"),
            |now| *now != status,
        );
    }
}

#[test]
fn a_paused_app_answers_503_until_it_is_resumed_whatever_happens() {
    let config = pool(2)
        + &app("a", "revision", &format!("{UNWATCHED}\nroutes = [\"/a\"]"))
        + &app("b", "revision", &format!("{UNWATCHED}\nroutes = [\"/\"]"));
    let skep = Skep::config(&config);
    let before = pids(&skep, "default");
    let traffic = Traffic::start(tcp(&skep), light());
    let refused = |skep: &Skep| {
        let mut clients: Vec<_> = (0..8).map(|_| skep.client()).collect();
        for client in &mut clients {
            let response = client.get("/a").unwrap();
            assert_eq!(response.status(), 503);
            let wait = response.head.header("retry-after").unwrap();
            assert!(wait.parse::<u32>().is_ok(), "{wait}");
        }
    };
    done(&operate(&skep, &["pause", "a"]));
    wait_for(
        REST,
        "all workers to know",
        || (0..8).all(|_| status_of(&skep, "/a") == 503),
        |all| *all,
    );
    refused(&skep);
    assert!(app_status(&skep, "a").paused && !app_status(&skep, "b").paused);
    done(&operate(&skep, &["pause", "a"]));
    // Neither other workers nor another revision resume it.
    done(&operate(&skep, &["restart"]));
    refused(&skep);
    let other = variant(&guest("revision"), 2, skep.dir().path());
    done(&deploy(&skep, &other, &[]));
    refused(&skep);
    assert!(pids(&skep, "default").is_disjoint(&before));
    traffic.finish().assert_clean();

    let dir = std::sync::Arc::clone(skep.dir());
    skep.stop(Stop::Drain);
    let skep = Options::config(&config).in_dir(&dir).start();
    refused(&skep);
    assert_eq!(status_of(&skep, "/"), 200);
    done(&operate(&skep, &["resume", "a"]));
    wait_for(
        REST,
        "all workers to know",
        || (0..8).all(|_| status_of(&skep, "/a") == 200),
        |all| *all,
    );
    assert!(!app_status(&skep, "a").paused);
    let events = events(&skep);
    assert_eq!(named(&events, "app.resumed")[0]["app"], "a");
}

#[test]
fn a_second_operator_is_told_what_is_under_way() {
    let config = pool(2) + "start_timeout = \"2s\"\n" + &app("a", "revision", UNWATCHED);
    let skep = Skep::config(&config);
    let before = pids(&skep, "default");
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let other = other.to_string_lossy();
    let worker = skep.workers()[0].id.to_string();
    let mut hanging = hang(&skep);
    let status = skep.status();
    let operation = &status.operations[0];
    assert!(operation.contains("deploy of a"), "{operation}");
    let seconds: [&[&str]; 5] = [
        &["restart"],
        &["deploy", "a", &other],
        &["scale", "default", "3"],
        &["rotate", &worker],
        &["promote", "a"],
    ];
    for args in seconds {
        let said = operate(&skep, args);
        assert_eq!(said.code, Some(5), "{args:?}: {said:#?}");
        assert!(said.stderr.contains("validating"), "{args:?}: {said:#?}");
        assert!(said.stderr.contains('a'), "{args:?}: {said:#?}");
    }
    // Of what it has nothing to do with others are not kept.
    done(&operate(&skep, &["reload"]));
    assert!(hanging.is_alive(), "the first goes on");
    let first = hanging.wait();
    assert_eq!(first.code, Some(1), "{first:#?}");
    assert!(first.stderr.contains("validation"), "{first:#?}");
    assert_eq!(pids(&skep, "default"), before);
    assert!(skep.status().operations.is_empty());
    done(&operate(&skep, &["restart"]));

    // One can be called off, by anybody.
    let hanging = hang(&skep);
    done(&operate(&skep, &["rollback", "a"]));
    let first = hanging.wait();
    assert_eq!(first.code, Some(1), "{first:#?}");
    assert!(first.stderr.contains("called it off"), "{first:#?}");
    done(&deploy(&skep, Path::new(other.as_ref()), &[]));
}

/// Insists that workers were replaced for this cause, one at a time, and that
/// none was cut.
fn assert_recycled(events: &[Value], cause: &str) -> usize {
    let mut replacing = false;
    let mut recycled = 0;
    for event in events {
        match name_of(event) {
            "worker.recycling" => {
                assert!(!replacing, "two at a time: {event}");
                assert_eq!(event["reason"], cause, "{event}");
                replacing = true;
                recycled += 1;
            }
            "worker.ready" => replacing = false,
            "worker.draining" => assert!(!replacing, "before its successor is ready: {event}"),
            "worker.exited" => {
                assert_eq!(event["reason"], "requested", "{event}");
                assert_eq!(event["voluntary"], true, "{event}");
                assert_eq!(event["cut"], 0, "{event}");
            }
            _ => {}
        }
    }
    recycled
}

#[test]
fn workers_are_recycled_one_at_a_time() {
    for (setting, cause) in [
        ("max_requests = 200", "requests"),
        ("max_age = \"1s\"", "age"),
    ] {
        let lines = format!("min_uptime = \"10ms\"\n{setting}\n");
        let skep = Skep::config(&(pool(2) + &lines + &app("a", "revision", UNWATCHED)));
        let traffic = Traffic::start(tcp(&skep), light());
        traffic.revisions().begin(1);
        wait_for_count(&skep, " worker.recycling ", 6);
        traffic.finish().assert_clean();
        let recycled = assert_recycled(&events(&skep), cause);
        println!("{setting}: {recycled} recycled");
        let pool = skep.pool("default");
        assert_eq!(pool.crashes_in_window, 0);
        assert_eq!(pool.workers, 2);
    }
}

#[test]
fn events_tell_a_deploy_in_order() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let mut following = start(&skep, &["events", "-f", "--json"]);
    following.wait_for_line("primary.started");
    let other = variant(&guest("revision"), 2, skep.dir().path());
    done(&deploy(&skep, &other, &[]));
    following.wait_for_line("\"app.live\"");
    let said = deploy(&skep, &guest("hostile-validate-fails"), &[]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    following.wait_for_line("\"app.rejected\"");
    assert!(following.is_alive());

    let events = events(&skep);
    let of = |revision: u64| -> Vec<&Value> {
        let of = events
            .iter()
            .filter(|event| event["app"] == "a" && event["revision"] == revision);
        of.collect()
    };
    let names = |events: &[&Value]| -> Vec<String> {
        events
            .iter()
            .map(|event| name_of(event).to_owned())
            .collect()
    };
    let good = of(2);
    assert_eq!(
        names(&good),
        ["app.deploying", "app.validated", "app.live"],
        "{events:#?}"
    );
    for event in &good {
        assert_eq!(
            (&event["pool"], &event["generation"]),
            (&"default".into(), &1.into())
        );
        let time = event["time"].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
    let bad = of(3);
    assert_eq!(
        names(&bad),
        ["app.deploying", "app.rejected"],
        "{events:#?}"
    );
    assert_eq!(bad[1]["step"], "validate");
    assert!(!bad[1]["reason"].as_str().unwrap().is_empty());
    // The workers of the fleet, and the canary workers between.
    let first = |name: &str, role: &str| {
        let mut all = events.iter();
        all.position(|event| name_of(event) == name && event["role"].as_str().unwrap_or("") == role)
            .unwrap_or_else(|| panic!("no {name} {role}: {events:#?}"))
    };
    assert_eq!(first("primary.started", ""), 0);
    assert!(first("worker.spawned", "") < first("worker.ready", ""));
    assert!(first("app.deploying", "") < first("worker.spawned", "canary"));
    assert!(first("worker.spawned", "canary") < first("app.validated", ""));
    for event in events
        .iter()
        .filter(|event| name_of(event) == "worker.ready")
    {
        for key in ["pool", "worker", "pid", "slot", "generation"] {
            assert!(!event[key].is_null(), "{key} of {event}");
        }
    }

    skep.stop(Stop::Drain);
    let said = following.wait();
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.stderr.contains("the primary has ended"), "{said:#?}");
    let told: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        told[..events.len()],
        events[..],
        "what was told later is the same"
    );
    assert_eq!(named(&told, "primary.stopping").len(), 1);
}

#[test]
fn describe_shows_apps_pools_and_workers() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    done(&deploy(&skep, &other, &[]));
    let worker = skep.workers()[1].clone();
    let id = worker.id.to_string();
    let describe = |what: &str| -> Value {
        let said = operate(&skep, &["describe", what, "--json"]);
        done(&said);
        serde_json::from_str(&said.stdout).unwrap()
    };
    let app = &describe("a")["app"];
    assert_eq!(
        (&app["revision"], &app["pool"]),
        (&2.into(), &"default".into())
    );
    assert_eq!(app["history"]["revisions"][1]["outcome"], "superseded");
    let pool = &describe("default")["pool"];
    assert_eq!(pool["members"].as_array().unwrap().len(), 2);
    assert_eq!(pool["apps"][0]["name"], "a");
    assert_eq!(pool["listeners"][0]["name"], "web");
    assert_eq!(describe(&id)["worker"]["pid"], worker.pid);
    assert_eq!(describe("web")["listener"]["pools"][0], "default");
    for (what, words) in [
        ("a", ["a", "superseded"]),
        ("default", ["admitting", "127.0.0.1"]),
        (&id, ["serving", "default"]),
        ("web", ["127.0.0.1", "default"]),
    ] {
        let said = operate(&skep, &["describe", what]);
        done(&said);
        for word in words {
            assert!(said.stdout.contains(word), "{word} of {what}: {said:#?}");
        }
    }
}

#[test]
fn what_is_too_old_is_forgotten_with_its_files() {
    let rollout = "rollout = { observe = \"0s\", keep = 2 }";
    let skep = Skep::config(&(pool(1) + &app("a", "revision", rollout)));
    for number in 2..=5 {
        let other = variant(&guest("revision"), number, skep.dir().path());
        done(&deploy(&skep, &other, &[]));
    }
    let files = |dir: &str, end: &str| {
        let names = fs::read_dir(skep.state_dir().join(dir)).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(end))
            .collect::<BTreeSet<_>>()
    };
    let history = history(&skep);
    let revisions = history["revisions"].as_array().unwrap();
    let numbers: Vec<_> = revisions
        .iter()
        .map(|revision| revision["revision"].as_u64().unwrap())
        .collect();
    assert_eq!((numbers, &history["active"]), (vec![5, 4], &5.into()));
    // Files go after the history that does not name them is written. What the
    // configuration names stays: the next reload reads it again.
    let kept = wait_for(
        REST,
        "the files of others to go",
        || (files("components", ""), files("artifacts", ".cwasm")),
        |(components, artifacts)| components.len() == 3 && artifacts.len() == 3,
    );
    for revision in revisions {
        let digest = revision["digest"].as_str().unwrap();
        let digest = digest.trim_start_matches("sha256:");
        for names in [&kept.0, &kept.1] {
            assert!(names.iter().any(|name| name.contains(digest)), "{kept:#?}");
        }
    }
    done(&operate(&skep, &["rollback", "a"]));
    assert_eq!(app_status(&skep, "a").revision.0, 4);
}

#[test]
fn promote_and_rollback_end_an_observation() {
    let rollout = "rollout = { observe = \"10m\" }";
    let skep = Skep::config(&(pool(2) + &app("a", "revision", rollout)));
    let before = pids(&skep, "default");
    let traffic = Traffic::start(tcp(&skep), light());
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let other = other.to_string_lossy();
    let begin = || {
        let running = start(&skep, &["deploy", "a", &other]);
        skep.wait_for_status("it to be observed", |status| {
            status.apps[0].rollout.as_deref() == Some("observing")
        });
        running
    };
    let first = begin();
    let second = operate(&skep, &["deploy", "a", &other]);
    assert_eq!(second.code, Some(5), "{second:#?}");
    assert!(second.stderr.contains("observing"), "{second:#?}");
    // It keeps nobody else waiting.
    done(&operate(&skep, &["scale", "default", "3"]));
    done(&operate(&skep, &["scale", "default", "2"]));
    done(&operate(&skep, &["promote", "a"]));
    done(&first.wait());
    assert_eq!(app_status(&skep, "a").revision.0, 2);
    assert!(app_status(&skep, "a").rollout.is_none());

    let third = begin();
    done(&operate(&skep, &["rollback", "a"]));
    let said = third.wait();
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("called it off"), "{said:#?}");
    assert_eq!(app_status(&skep, "a").revision.0, 2);
    assert_eq!(history(&skep)["revisions"][0]["outcome"], "rolled-back");
    traffic.finish().assert_clean();
    // Scaling down may have chosen either of them.
    assert!(!pids(&skep, "default").is_disjoint(&before));
}

#[test]
fn a_detached_deploy_does_not_wait() {
    let config = pool(2) + "start_timeout = \"5s\"\n" + &app("a", "revision", UNWATCHED);
    let skep = Skep::config(&config);
    let traffic = Traffic::start(tcp(&skep), light());
    let said = deploy(&skep, &guest("hostile-validate-hangs"), &["--detach"]);
    done(&said);
    assert!(said.stderr.contains("revision 2"), "{said:#?}");
    assert!(
        !skep.status().operations.is_empty(),
        "it is under way still"
    );
    // Called off while it is still built. It never had a record, so its number
    // goes to the next, which must be no other's for that.
    done(&operate(&skep, &["rollback", "a"]));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    done(&deploy(&skep, &other, &["--detach"]));
    skep.wait_for_status("the new revision", |status| {
        status.apps[0].revision.0 > 1 && status.apps[0].rollout.is_none()
    });
    assert_eq!(app_status(&skep, "a").source, other.to_string_lossy());
    traffic.finish().assert_clean();
}

/// A client that has the head of a slow stream, and nothing more.
fn slow_stream(skep: &Skep, ms: u64) -> Client {
    let mut client = skep.client();
    client
        .send(format!("GET /stream/{ms} HTTP/1.1\r\nhost: a\r\n\r\n"))
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    client
}

#[test]
fn a_drain_lets_a_stream_end_and_has_a_deadline() {
    let config = pool(2)
        + "drain_timeout = \"10s\"\n"
        + &app("a", "revision", &format!("{UNWATCHED}\ntimeout = \"1m\""));
    let skep = Skep::config(&config);
    let before = pids(&skep, "default");
    let traffic = Traffic::start(tcp(&skep), light());
    let mut slow = slow_stream(&skep, 2_000);
    done(&operate(&skep, &["restart"]));
    assert!(pids(&skep, "default").is_disjoint(&before));
    let mut body = Vec::new();
    loop {
        let piece = slow.piece().unwrap();
        if piece.is_empty() {
            break;
        }
        body.extend(piece);
    }
    assert_eq!(String::from_utf8(body).unwrap(), "revision 1\n");
    assert!(slow.is_closed().unwrap(), "its worker leaves");
    wait_for_count(&skep, " worker.exited ", 2);
    for exited in named(&events(&skep), "worker.exited") {
        assert_eq!(
            (&exited["reason"], &exited["cut"]),
            (&"requested".into(), &0.into())
        );
    }
    traffic.finish().assert_clean();
}

#[test]
fn past_its_deadline_a_drain_cuts_and_says_so() {
    let config = pool(2)
        + "drain_timeout = \"500ms\"\nkill_timeout = \"5s\"\n"
        + &app("a", "revision", &format!("{UNWATCHED}\ntimeout = \"1m\""));
    let skep = Skep::config(&config);
    let traffic = Traffic::start(tcp(&skep), light());
    let mut slow = slow_stream(&skep, 50_000);
    done(&operate(&skep, &["restart"]));
    let cut = loop {
        match slow.piece() {
            Ok(piece) => assert!(!piece.is_empty(), "it does not look finished"),
            Err(failed) => break failed,
        }
    };
    assert!(
        matches!(cut, Failed::Reset | Failed::Short(_) | Failed::Closed),
        "{cut}"
    );
    wait_for_count(&skep, " worker.exited ", 2);
    let events = events(&skep);
    let cuts: Vec<_> = named(&events, "worker.exited")
        .iter()
        .map(|event| event["cut"].as_u64().unwrap())
        .filter(|cut| *cut > 0)
        .collect();
    assert_eq!(cuts, [1], "{events:#?}");
    let report = traffic.finish();
    assert_eq!(report.count(Class::Ok), report.ended(), "{report}");
}
