//! Reloads of what operators change most: addresses, and files under a name that
//! stays.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use skep_tests::command::Said;
use skep_tests::http::Address;
use skep_tests::options::Options;
use skep_tests::options::directory;
use skep_tests::{Client, Skep, guest, wait_for};

use crate::deploys::{done, operate};
use crate::{app, pool};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sets this when it is dropped, also by a test that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reloads one configuration after the other, while a client asks on one new
/// connection after the other and is answered each time, also after the last reload.
fn reload_under_load(skep: &Skep, address: SocketAddr, configs: impl IntoIterator<Item = String>) {
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut client = Client::connect(&Address::Tcp(address)).expect("it listens");
                assert_eq!(client.get("/").expect("it answers").status(), 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _over = Over(&over);
        for config in configs {
            fs::write(skep.dir().path().join("skep.toml"), config).expect("it is ours");
            done(&operate(skep, &["reload"]));
            let before = answered.load(Ordering::Relaxed);
            wait_for(
                PATIENCE,
                "the client to be answered further",
                || answered.load(Ordering::Relaxed),
                |answered| *answered > before + 20,
            );
        }
    });
}

#[test]
fn a_listener_goes_from_one_address_of_its_port_to_all_and_back() {
    let skep = Skep::config(&(pool(1) + &app("a", "hello", "")));
    let Address::Tcp(address) = skep.address() else {
        panic!("it listens on TCP");
    };
    let port = address.port();
    let config = |ip: &str| {
        let listener = format!("[listener.web]\naddress = \"{ip}:{port}\"\n");
        listener + "[pool.default]\nworkers = 1\n" + &app("a", "hello", "")
    };
    let ips = ["127.0.0.1", "0.0.0.0", "127.0.0.1", "0.0.0.0"];
    reload_under_load(&skep, address, ips.map(config));
    let status = skep.status();
    assert!(
        status.listeners[0].address.contains("0.0.0.0"),
        "{status:#?}"
    );
}

#[test]
fn a_file_that_is_put_back_after_a_deploy_from_it_is_served_again() {
    let skep = Skep::config(&(pool(1) + &app("a", "hello", "")));
    let file = skep.dir().path().join("app.wasm");
    let put = |name: &str| {
        let component = fs::read(guest(name)).expect("it was built");
        fs::write(&file, component).expect("the directory is ours");
    };
    let text = || skep.client().get("/").expect("it answers").text();
    put("hello");
    let config = "[app.a]\ncomponent = \"app.wasm\"\nrollout = { observe = \"0s\" }\n";
    let port = match skep.address() {
        Address::Tcp(address) => address.port(),
        Address::Unix(path) => panic!("{}", path.display()),
    };
    let listener = format!("[listener.web]\naddress = \"127.0.0.1:{port}\"\n");
    let text_of_file = listener + "[pool.default]\nworkers = 1\n" + config;
    fs::write(skep.dir().path().join("skep.toml"), text_of_file).expect("it is ours");
    done(&operate(&skep, &["reload"]));
    assert_eq!(text(), "Hello, world!\n");
    put("revision");
    done(&operate(&skep, &["deploy", "a", "app.wasm"]));
    assert_ne!(text(), "Hello, world!\n");
    put("hello");
    done(&operate(&skep, &["reload"]));
    assert_eq!(text(), "Hello, world!\n");
    // What an operator returned to stays, whatever else is reloaded.
    put("revision");
    done(&operate(&skep, &["deploy", "a", "app.wasm"]));
    done(&operate(&skep, &["rollback", "a"]));
    done(&operate(&skep, &["reload"]));
    assert_eq!(text(), "Hello, world!\n");
}

/// What a history says, newest first: numbers and outcomes.
fn revisions(skep: &Skep) -> Vec<(u64, String)> {
    let told = operate(skep, &["history", "a", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("it is JSON");
    let revisions = told["revisions"].as_array().expect("it has revisions");
    let each = revisions.iter();
    each.map(|one| {
        let outcome = one["outcome"].as_str().unwrap_or_default().to_owned();
        (one["revision"].as_u64().unwrap_or_default(), outcome)
    })
    .collect()
}

/// A skep whose app `a` is `app.wasm`, and what writes that file and reloads.
fn one_file(first: &str) -> (Skep, impl Fn(&Skep, &str) -> Said) {
    let dir = directory();
    let put = |dir: &std::path::Path, name: &str| {
        let component = fs::read(guest(name)).expect("it was built");
        fs::write(dir.join("app.wasm"), component).expect("the directory is ours");
    };
    put(dir.path(), first);
    let text = "[app.a]\ncomponent = \"app.wasm\"\nrollout = { observe = \"0s\" }\n";
    let skep = Options::config(&(pool(2) + text)).in_dir(&dir).start();
    let reload = move |skep: &Skep, name: &str| {
        put(skep.dir().path(), name);
        operate(skep, &["reload"])
    };
    (skep, reload)
}

#[test]
fn a_rejected_reload_is_in_the_history_and_its_number_means_nothing_else() {
    let (skep, reload) = one_file("hello");
    assert_eq!(revisions(&skep), [(1, "live".to_owned())]);
    for _ in 0..2 {
        // It is tried again whenever somebody asks.
        let said = reload(&skep, "hostile-validate-fails");
        assert_eq!(said.code, Some(1), "{said:#?}");
    }
    done(&reload(&skep, "revision"));
    let outcomes = [
        (4, "live"),
        (3, "rejected"),
        (2, "rejected"),
        (1, "superseded"),
    ];
    assert_eq!(
        revisions(&skep),
        outcomes.map(|(number, outcome)| (number, outcome.to_owned()))
    );
    let told = operate(&skep, &["history", "a"]);
    assert!(told.stdout.contains("reload: validate: app a"), "{told:#?}");
}

#[test]
fn an_app_that_hangs_is_named_by_the_reload_that_it_fails() {
    let (skep, reload) = one_file("hello");
    let said = reload(&skep, "hostile-validate-hangs");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("app a"), "{said:#?}");
    assert_eq!(skep.client().get("/").expect("it answers").status(), 200);
}

#[test]
fn an_app_that_comes_back_goes_on_with_its_revision() {
    let (skep, reload) = one_file("hello");
    done(&reload(&skep, "revision"));
    let file = skep.dir().path().join("skep.toml");
    let with = fs::read_to_string(&file).expect("it is ours");
    let without = with.replace("[app.a]", "[app.b]");
    fs::write(&file, without).expect("it is ours");
    done(&operate(&skep, &["reload"]));
    fs::write(&file, with).expect("it is ours");
    done(&operate(&skep, &["reload"]));
    assert_eq!(
        revisions(&skep),
        [(2, "live".to_owned()), (1, "superseded".to_owned())]
    );
}

/// What the reload is of, each with what is served then: a listener gets a dispatcher
/// for a second pool, or for another way of dispatching, and loses it.
#[test]
fn a_listener_gets_a_dispatcher_and_loses_it_without_a_lost_request() {
    let site = app("site", "hello", "routes = [\"/*\"]");
    let of = |listener: &str, rest: &str| format!("[listener.web]\n{listener}\n{rest}{site}");
    let skep = Skep::config(&(pool(2) + &site));
    let Address::Tcp(address) = skep.address() else {
        panic!("it listens on TCP");
    };
    let at = format!("address = \"{address}\"");
    let second = app("second", "hello", "pool = \"p1\"\nroutes = [\"p1.test/*\"]");
    let two = format!("[pool.default]\nworkers = 2\n[pool.p1]\nworkers = 1\n{second}");
    let alone = "[pool.default]\nworkers = 2\n".to_owned();
    let round = "[pool.default]\nworkers = 2\ndispatch = \"round-robin\"\n".to_owned();
    let both = format!("{at}\npool = [\"default\", \"p1\"]");
    let configs = [
        of(&both, &two),
        of(&at, &alone),
        of(&at, &round),
        of(&at, &alone),
        of(&both, &two),
        of(&at, &round),
    ];
    reload_under_load(&skep, address, configs);
}
