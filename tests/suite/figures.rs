//! What `status` and `describe` show of apps and tenants: counts of all workers,
//! which never become less, whoever dies, and are those of the clients.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep_tests::options::Options;
use skep_tests::variant::variant;
use skep_tests::{Client, Skep, attacker, guest, process, wait_for};
use skep_wire::{AppState, AppStatus, FiguresStatus, TenantStatus};

use crate::deploys::{done, operate};
use crate::{app, pool};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn app_of(skep: &Skep, name: &str) -> AppStatus {
    let status = skep.status();
    let found = status
        .apps
        .into_iter()
        .find(|app| app.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no app {name}"))
}

fn tenant_of(skep: &Skep, name: &str) -> TenantStatus {
    let status = skep.status();
    let mut tenants = status.tenants.into_iter();
    let found = tenants.find(|tenant| tenant.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no tenant {name}"))
}

/// Waits until so many of its requests have ended.
fn ended(skep: &Skep, name: &str, requests: u64) -> AppStatus {
    wait_for(
        PATIENCE,
        "requests to be counted",
        || app_of(skep, name),
        |app| app.figures.requests == requests && app.figures.in_flight == 0,
    )
}

fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
    of.map(|(name, count)| (name.to_owned(), count)).into()
}

fn ask(skep: &Skep, path: &str, times: usize) -> u16 {
    let mut last = 0;
    for _ in 0..times {
        // Each on a connection of its own: they come to both workers.
        last = skep.client().get(path).unwrap().status();
    }
    last
}

/// Whether nothing that only grows is less than it was.
fn assert_grown(before: &FiguresStatus, after: &FiguresStatus) {
    assert!(after.requests >= before.requests, "{before:?} {after:?}");
    assert!(after.guest_cpu_seconds >= before.guest_cpu_seconds);
    for (before, after) in [
        (&before.outcomes, &after.outcomes),
        (&before.status, &after.status),
    ] {
        for (name, count) in before {
            let now = after.get(name).copied().unwrap_or(0);
            assert!(now >= *count, "{name}: {count}, then {now}");
        }
    }
}

/// Whether every request is in one outcome or in flight.
fn assert_whole(figures: &FiguresStatus) {
    let outcomes: u64 = figures.outcomes.values().sum();
    assert_eq!(
        figures.requests,
        outcomes + figures.in_flight,
        "{figures:?}"
    );
}

fn two_apps() -> String {
    pool(2)
        + "[tenant.shop]\nconcurrency = 50\nrate = \"10000/s\"\n[tenant.other]\n"
        + &app(
            "a",
            "echo",
            "tenant = \"shop\"\nroutes = [\"/a/*\"]\nstrip_prefix = true\ntimeout = \"500ms\"\n\
             env = { KEY = \"hush\" }\nconfig = { greeting = \"hei\" }\n\
             outbound = [\"https://api.example.com\"]\nrate = \"1000/min\"",
        )
        + &app(
            "b",
            "hostile-trap",
            "tenant = \"other\"\nroutes = [\"/b/*\"]",
        )
}

#[test]
fn every_request_is_counted_for_its_app_and_its_tenant_by_outcome_and_status() {
    let skep = Skep::config(&two_apps());
    assert_eq!(app_of(&skep, "a").figures.requests, 0);
    assert_eq!(ask(&skep, "/a/status/200", 20), 200);
    assert_eq!(ask(&skep, "/a/status/404", 5), 404);
    assert_eq!(ask(&skep, "/a/status/503", 2), 503);
    assert_eq!(ask(&skep, "/a/slow?ms=20000", 3), 504);
    assert_eq!(ask(&skep, "/b/", 4), 500);
    // Nobody's.
    assert_eq!(ask(&skep, "/c", 6), 404);

    let a = ended(&skep, "a", 30);
    assert_eq!(a.figures.outcomes, counts([("deadline", 3), ("ok", 27)]));
    let status = counts([("2xx", 20), ("4xx", 5), ("5xx", 5)]);
    assert_eq!(a.figures.status, status);
    assert_eq!((a.state, &a.reason), (AppState::Serving, &None));
    let latency = a.figures.latency.unwrap();
    assert!(
        latency.p50_ms < 400.0 && latency.p99_ms >= 500.0,
        "{latency:?}"
    );
    assert!(a.figures.guest_cpu_seconds > 0.0);
    let b = ended(&skep, "b", 4);
    assert_eq!(b.figures.outcomes, counts([("trap", 4)]));
    assert_eq!(b.figures.status, counts([("5xx", 4)]));

    // What is refused is counted, and does not look like an answer of a guest.
    done(&operate(&skep, &["pause", "b"]));
    assert_eq!(ask(&skep, "/b/", 3), 503);
    let b = ended(&skep, "b", 7);
    assert_eq!(b.figures.outcomes, counts([("trap", 4), ("tripped", 3)]));
    assert_eq!(b.state, AppState::Paused);

    let shop = tenant_of(&skep, "shop");
    assert_eq!((shop.figures.requests, shop.apps), (30, 1));
    assert_eq!(shop.figures.outcomes, counts([("deadline", 3), ("ok", 27)]));
    assert_eq!(shop.limits.concurrency, Some(50));
    assert_eq!(shop.limits.rate.as_deref(), Some("10000/s"));
    assert_eq!(tenant_of(&skep, "other").figures.requests, 7);

    // As documents and as texts.
    let json = operate(&skep, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    for field in [
        "version",
        "pid",
        "uptime_seconds",
        "generation",
        "stopping",
        "operations",
        "listeners",
        "pools",
        "workers",
        "apps",
        "tenants",
        "dispatchers",
        "connector",
    ] {
        assert!(json.get(field).is_some(), "{field}");
    }
    for field in [
        "name",
        "tenant",
        "pool",
        "state",
        "revision",
        "canary",
        "paused",
        "digest",
        "source",
        "wasi",
        "routes",
        "requests",
        "outcomes",
        "status",
        "latency",
        "in_flight",
        "queued",
        "instances",
        "guest_memory_bytes",
        "guest_cpu_seconds",
        "limits",
        "reason",
    ] {
        assert!(json["apps"][0].get(field).is_some(), "{field}");
    }
    assert_eq!(json["apps"][0]["status"]["2xx"], 20);
    let text = operate(&skep, &["describe", "a"]).stdout;
    for part in [
        "30, 0 in flight, 0 queued",
        "deadline 3, ok 27",
        "2xx 20, 4xx 5, 5xx 5",
        "1000/min",
        "https://api.example.com",
        "KEY",
        "greeting",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hush") && !text.contains("hei\n"), "{text}");
    let text = operate(&skep, &["describe", "shop"]).stdout;
    for part in ["tenant shop", "shared", "30, 0 in flight", "10000/s"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let table = operate(&skep, &["status"]).stdout;
    assert!(table.contains("16.7%"), "{table}");
}

#[test]
fn the_record_of_a_failed_request_says_what_was_asked_for_and_of_whom() {
    let skep = Skep::config(&two_apps());
    assert_eq!(ask(&skep, "/b/x/y?token=secret", 1), 500);
    let line = skep.wait_for_log("request.failed");
    for part in [
        " app=b ",
        " tenant=other ",
        " method=GET ",
        " path=/b/x/y ",
        " outcome=trap ",
        " status=500 ",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn a_request_whose_worker_dies_is_counted_as_that_and_nothing_that_was_counted_is_lost() {
    let one = pool(1) + &app("a", "echo", "timeout = \"30s\"");
    let skep = Skep::config(&one);
    assert_eq!(ask(&skep, "/status/200", 10), 200);
    let before = ended(&skep, "a", 10).figures;
    let mut slow = skep.client();
    slow.send("GET /slow?ms=25000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    wait_for(
        PATIENCE,
        "the request to be in flight",
        || app_of(&skep, "a").figures,
        |figures| {
            figures.in_flight == 1 && figures.instances == 1 && figures.guest_memory_bytes > 0
        },
    );
    process::signal(skep.worker().pid, "KILL");
    let after = ended(&skep, "a", 11).figures;
    assert_eq!(after.outcomes, counts([("ok", 10), ("worker-died", 1)]));
    assert_eq!((after.instances, after.guest_memory_bytes), (0, 0));
    assert_grown(&before, &after);
    // Its successor goes on from there.
    skep.wait_for_status("another worker", |status| status.pools[0].serving == 1);
    assert_eq!(ask(&skep, "/status/200", 5), 200);
    let last = ended(&skep, "a", 16).figures;
    assert_eq!(last.outcomes, counts([("ok", 15), ("worker-died", 1)]));
}

#[test]
fn figures_never_go_backwards_and_are_the_clients_own_while_workers_are_killed() {
    let skep = Skep::config(&format!(
        "{}max_crashes = 1000\nbackoff = \"100ms\"\nbackoff_max = \"100ms\"\n{}",
        pool(2),
        app("a", "echo", "")
    ));
    let address = skep.address();
    let over = AtomicBool::new(false);
    let client = || {
        let (mut good, mut all) = (0_u64, 0_u64);
        while !over.load(Ordering::Relaxed) {
            let Ok(mut client) = Client::connect(&address) else {
                continue;
            };
            for _ in 0..20 {
                all += 1;
                match client.get("/status/200") {
                    Ok(response) if response.status() == 200 => good += 1,
                    _ => break,
                }
            }
        }
        (good, all)
    };
    let (good, all, last) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        let mut last = FiguresStatus::default();
        for _ in 0..4 {
            let wanted = last.requests + 200;
            last = wait_for(
                PATIENCE,
                "more requests",
                || {
                    let now = app_of(&skep, "a").figures;
                    assert_grown(&last, &now);
                    assert_whole(&now);
                    now
                },
                |now| now.requests >= wanted,
            );
            process::signal(skep.workers()[0].pid, "KILL");
        }
        over.store(true, Ordering::Relaxed);
        let counted = clients.into_iter().map(|client| client.join().unwrap());
        let (good, all) = counted.fold((0, 0), |(good, all), (g, a)| (good + g, all + a));
        (good, all, last)
    });
    let figures = wait_for(
        PATIENCE,
        "all to end",
        || app_of(&skep, "a").figures,
        |figures| figures.in_flight == 0,
    );
    assert_grown(&last, &figures);
    assert_whole(&figures);
    let of = |name: &str| figures.outcomes.get(name).copied().unwrap_or(0);
    // What a client got was counted, or its worker died before it could; what was
    // counted a client got, or its worker died before the client had it.
    assert!(
        good <= of("ok") + of("worker-died"),
        "{good} of {figures:?}"
    );
    assert!(of("ok") <= all, "{all} of {figures:?}");
    assert!(
        of("ok") - of("ok").min(good) <= all - good,
        "{good}, {all}, {figures:?}"
    );
    // At most those that four clients had in flight at four deaths.
    assert!(of("worker-died") <= 16, "{figures:?}");
    // All others: so many as the clients have.
    assert!(good.abs_diff(of("ok")) <= 16, "{good} of {figures:?}");
}

#[test]
fn an_app_that_a_reload_adds_is_counted_by_the_workers_that_run_and_one_that_goes_is_not_forgotten()
{
    let two = |second: &str| {
        let first = app("a", "echo", "routes = [\"/a/*\"]\nstrip_prefix = true");
        pool(2) + &first + second
    };
    let second = app("b", "echo", "routes = [\"/b/*\"]\nstrip_prefix = true");
    let skep = Skep::config(&two(""));
    let reload = |text: &str| {
        std::fs::write(skep.dir().path().join("skep.toml"), text).unwrap();
        done(&operate(&skep, &["reload"]));
    };
    let pids = || -> Vec<u32> { skep.workers().iter().map(|worker| worker.pid).collect() };
    let before = pids();
    ask(&skep, "/a/status/200", 3);
    reload(&two(&second));
    assert_eq!(ask(&skep, "/b/status/404", 8), 404);
    let b = ended(&skep, "b", 8);
    assert_eq!(b.figures.status, counts([("4xx", 8)]));
    assert_eq!(ended(&skep, "a", 3).figures.requests, 3);
    assert_eq!(tenant_of(&skep, "default").figures.requests, 11);
    // The tenant's sum stays, and the app's own goes on when it comes back.
    reload(&two(""));
    assert_eq!(tenant_of(&skep, "default").figures.requests, 11);
    process::signal(before[0], "KILL");
    skep.wait_for_status("another worker", |status| {
        let pid = status.workers.iter().any(|worker| worker.pid == before[0]);
        status.pools[0].serving == 2 && !pid
    });
    assert_eq!(tenant_of(&skep, "default").figures.requests, 11);
    reload(&two(&second));
    assert_eq!(ask(&skep, "/b/status/404", 2), 404);
    assert_eq!(ended(&skep, "b", 10).figures.status, counts([("4xx", 10)]));
    assert_eq!(tenant_of(&skep, "default").figures.requests, 13);
}

#[test]
fn all_revisions_of_an_app_are_counted_together() {
    let lines = "rollout = { observe = \"0s\" }";
    let skep = Skep::config(&(pool(2) + &app("a", "revision", lines)));
    ask(&skep, "/", 5);
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let other = other.to_string_lossy();
    let said = operate(&skep, &["deploy", "a", &other, "--canary", "50%"]);
    done(&said);
    assert!(app_of(&skep, "a").canary.is_some());
    ask(&skep, "/", 10);
    done(&operate(&skep, &["promote", "a"]));
    ask(&skep, "/", 5);
    let a = ended(&skep, "a", 20);
    assert_eq!(a.figures.outcomes, counts([("ok", 20)]));
    assert_eq!(a.revision.0, 2);
}

#[test]
fn requests_that_wait_are_shown_as_queued() {
    let lines = "concurrency = 1\nqueue = 10\ntimeout = \"30s\"";
    let skep = Skep::config(&(pool(1) + &app("a", "echo", lines)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = skep.client();
            client
                .send("GET /slow?ms=25000 HTTP/1.1\r\nhost: a\r\n\r\n")
                .unwrap();
            client
        })
        .collect();
    wait_for(
        PATIENCE,
        "three to wait",
        || app_of(&skep, "a").figures,
        |figures| figures.in_flight == 4 && figures.queued == 3,
    );
    drop(clients);
    let a = ended(&skep, "a", 4);
    assert_eq!(a.figures.queued, 0);
    assert_eq!(a.figures.outcomes, counts([("client-gone", 4)]));
}

#[test]
fn an_app_without_workers_is_unserved() {
    let lines = "config = { attack = \"panic\", attack-text = \"over\" }";
    let config = pool(1) + "max_crashes = 1\n" + &app("a", "hello", lines);
    let skep = Options::config(&config).binary(attacker()).start();
    skep.wait_for_log("pool.tripped");
    let app = wait_for(
        PATIENCE,
        "nobody to serve it",
        || app_of(&skep, "a"),
        |app| app.state == AppState::Unserved,
    );
    assert_eq!(app.reason, None);
}

#[test]
fn what_a_worker_forges_is_of_no_effect_on_others_and_bounded_on_its_own() {
    let attack = "pool = \"liar\"\ntenant = \"evil\"\nconfig = { attack = \"forge-figures\" }";
    let config = pool(1)
        + "[tenant.evil]\n[pool.liar]\nworkers = 1\nhang_timeout = \"60s\"\n\
           [listener.liar]\naddress = \"unix:liar.sock\"\npool = \"liar\"\n"
        + &app("a", "hello", "")
        + &app("liar", "hello", attack);
    let skep = Options::config(&config).binary(attacker()).start();
    let mut web = Client::connect(&skep.address_of("web")).unwrap();
    let mut asked = 0;
    let mut last = FiguresStatus::default();
    let mut largest = 0;
    wait_for(
        PATIENCE,
        "the attack to be over",
        || {
            assert_eq!(web.get("/").unwrap().status(), 200);
            asked += 1;
            let liar = app_of(&skep, "liar").figures;
            assert_grown(&last, &liar);
            assert_whole(&liar);
            largest = largest.max(liar.requests);
            last = liar;
            skep.logged("attack.result")
        },
        |over| *over > 0,
    );
    assert!(skep.log().contains("result=succeeded"), "{}", skep.log());
    // It was believed as far as anybody can count in a minute, and no further.
    assert!(largest > 0, "it wrote what is read");
    assert!(largest < 60 * 1_000_000 * 20, "{largest}");
    assert!(last.guest_cpu_seconds < 60.0, "{last:?}");
    let a = ended(&skep, "a", asked);
    assert_eq!(a.figures.outcomes, counts([("ok", asked)]));
    assert_eq!(tenant_of(&skep, "default").figures.requests, asked);
    // It dies with its lies, and neither is believed less nor more.
    let pid = skep
        .workers()
        .iter()
        .find(|it| it.pool.as_str() == "liar")
        .unwrap()
        .pid;
    process::signal(pid, "KILL");
    wait_for(
        PATIENCE,
        "another worker",
        || skep.workers(),
        |workers| workers.len() == 2 && workers.iter().all(|worker| worker.pid != pid),
    );
    assert_grown(&last, &app_of(&skep, "liar").figures);
    assert_eq!(tenant_of(&skep, "default").figures.requests, asked);
}
