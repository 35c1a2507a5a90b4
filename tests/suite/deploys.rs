//! Deploys: good ones are live without a lost request, bad ones never reach
//! traffic, and those that turn bad are taken back.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use skep_tests::command::{self, Said};
use skep_tests::http::Address;
use skep_tests::options::Options;
use skep_tests::traffic::{Class, Mix, Traffic};
use skep_tests::variant::variant;
use skep_tests::{Skep, guest, process};
use skep_wire::AppStatus;

use crate::{app, pool};

/// Rules under which a revision is watched for as long as a test can wait.
const WATCHED: &str = "rollout = { observe = \"3s\" }";
/// And under which it is not.
const UNWATCHED: &str = "rollout = { observe = \"0s\" }";

pub(crate) fn operate(skep: &Skep, args: &[&str]) -> Said {
    command::run(skep.dir().path(), args)
}

pub(crate) fn deploy(skep: &Skep, component: &Path, more: &[&str]) -> Said {
    let component = component.to_string_lossy();
    let mut args = vec!["deploy", "a", component.as_ref()];
    args.extend(more);
    operate(skep, &args)
}

pub(crate) fn done(said: &Said) {
    assert_eq!(said.code, Some(0), "{said:#?}");
}

/// A light load over both protocols, so that a debug build has time for more.
fn light() -> Mix {
    Mix {
        kept_alive_h1: 4,
        kept_alive_h2: 4,
        new_h1: 1,
        new_h2: 1,
        pause: Some(Duration::from_millis(2)),
        ..Mix::default()
    }
}

pub(crate) fn tcp(skep: &Skep) -> std::net::SocketAddr {
    match skep.address() {
        Address::Tcp(address) => address,
        Address::Unix(path) => panic!("{}", path.display()),
    }
}

fn app_status(skep: &Skep) -> AppStatus {
    let status = skep.status();
    status
        .apps
        .into_iter()
        .find(|app| app.name.as_str() == "a")
        .unwrap()
}

fn revision_of(skep: &Skep) -> String {
    let response = skep.client().get("/").unwrap();
    response
        .head
        .header("x-revision")
        .unwrap_or("none")
        .to_owned()
}

fn pids(skep: &Skep) -> Vec<u32> {
    let mut pids: Vec<_> = skep.workers().iter().map(|worker| worker.pid).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn a_swap_is_live_in_place_and_is_remembered() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let before = pids(&skep);
    assert_eq!(revision_of(&skep), "1");
    let traffic = Traffic::start(tcp(&skep), light());
    traffic.revisions().begin(1);
    traffic.revisions().begin(2);
    let said = deploy(&skep, &other, &[]);
    traffic.revisions().end(1);
    done(&said);
    assert_eq!(revision_of(&skep), "2");
    traffic.revisions().begin(1);
    let again = operate(&skep, &["rollback", "a"]);
    traffic.revisions().end(2);
    done(&again);
    assert_eq!(revision_of(&skep), "1");
    assert_eq!(pids(&skep), before, "no process was restarted");
    traffic.finish().assert_clean();
    let history = operate(&skep, &["history", "a", "--json"]);
    let history: serde_json::Value = serde_json::from_str(&history.stdout).unwrap();
    assert_eq!(history["active"], 1);
    assert_eq!(history["revisions"][0]["outcome"], "rolled-back");
    assert_eq!(history["revisions"][1]["outcome"], "live");
    // What was deployed outlives the primary, whatever ends it.
    done(&deploy(&skep, &other, &[]));
    assert_eq!(app_status(&skep).revision.0, 3);
    let dir = std::sync::Arc::clone(skep.dir());
    drop(skep);
    let text = fs::read_to_string(dir.path().join("skep.toml")).unwrap();
    let skep = Options::config(&text).in_dir(&dir).start();
    assert_eq!(revision_of(&skep), "3");
}

#[test]
fn a_component_that_was_replaced_by_a_bad_one_before_a_start_is_not_served() {
    let dir = skep_tests::options::directory();
    let component = dir.path().join("app.wasm");
    fs::copy(guest("revision"), &component).unwrap();
    let config = pool(2) + &format!("[app.a]\ncomponent = \"app.wasm\"\n{UNWATCHED}\n");
    let skep = Options::config(&config).in_dir(&dir).start();
    assert_eq!(revision_of(&skep), "1");
    let written = dir.path().join(".skep/revisions/a.json");
    skep_tests::wait_for(
        Duration::from_secs(10),
        "the record",
        || written.exists(),
        |is| *is,
    );
    drop(skep);
    fs::copy(guest("hostile-validate-fails"), &component).unwrap();
    let began = Instant::now();
    let skep = Options::config(&config).in_dir(&dir).spawn();
    let rejected = skep.wait_for_log("app.rejected");
    println!("said after {:.1?}: {rejected}", began.elapsed());
    skep.wait_for_log("skep: serving");
    // Until it is there the app is in quarantine.
    skep_tests::wait_for(
        Duration::from_secs(10),
        "the revision before",
        || revision_of(&skep),
        |revision| revision == "1",
    );
    let history = operate(&skep, &["history", "a"]);
    assert!(history.stdout.contains("rejected"), "{history:#?}");
}

#[test]
fn a_restart_replaces_the_workers_and_loses_nothing() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let before = pids(&skep);
    let traffic = Traffic::start(tcp(&skep), light());
    done(&deploy(&skep, &other, &["--strategy", "restart"]));
    done(&operate(&skep, &["restart"]));
    done(&operate(&skep, &["restart", "default"]));
    assert_eq!(revision_of(&skep), "2");
    assert!(pids(&skep).iter().all(|pid| !before.contains(pid)));
    traffic.finish().assert_clean();
}

#[test]
fn a_canary_gets_its_share_until_it_is_promoted_or_rolled_back() {
    let skep =
        Skep::config(&(pool(2) + &app("a", "revision", "rollout = { observe = \"100ms\" }")));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    for (share, low, high) in [("10%", 900, 1100), ("33%", 3200, 3400)] {
        let said = deploy(&skep, &other, &["--canary", share]);
        done(&said);
        let canary = app_status(&skep).canary.unwrap().0.to_string();
        let mut clients: Vec<_> = (0..4).map(|_| skep.client()).collect();
        let mut seen = 0;
        for request in 0..10_000 {
            let response = clients[request % 4].get("/").unwrap();
            seen += usize::from(response.head.header("x-revision") == Some(canary.as_str()));
        }
        println!("{share} of 10,000: {seen}");
        assert!((low..=high).contains(&seen), "{share}: {seen}");
        done(&operate(&skep, &["rollback", "a"]));
        assert_eq!(revision_of(&skep), "1");
    }
    done(&deploy(&skep, &other, &["--canary", "50%"]));
    let second = operate(&skep, &["deploy", "a", &other.to_string_lossy()]);
    assert_eq!(second.code, Some(5), "{second:#?}");
    done(&operate(&skep, &["promote", "a"]));
    assert_eq!(revision_of(&skep), "4");
    let none = operate(&skep, &["promote", "a"]);
    assert_eq!(none.code, Some(1), "{none:#?}");
}

/// The twelve bad deploys but the two that turn bad later, each with what its
/// rejection must name.
#[test]
fn bad_deploys_are_rejected_and_traffic_sees_nothing() {
    let lines = format!("{UNWATCHED}\nmemory = \"32MiB\"\nenv = {{ DATABASE_URL = \"\" }}");
    let config = pool(2) + "start_timeout = \"2s\"\n" + &app("a", "revision", &lines);
    let skep = Skep::config(&config);
    let before = pids(&skep);
    let traffic = Traffic::start(tcp(&skep), light());
    traffic.revisions().begin(1);
    let wrong = skep.dir().path().join("wrong.wasm");
    fs::write(&wrong, "this is no component").unwrap();
    let absent = skep.dir().path().join("absent.wasm");
    let project = skep.dir().path().join("broken");
    fs::create_dir_all(project.join("src")).unwrap();
    fs::write(
        project.join("Cargo.toml"),
        "[package]\nname = \"broken\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n",
    )
    .unwrap();
    fs::write(
        project.join("src/lib.rs"),
        "fn main() { let x: u32 = \"no\"; }\n",
    )
    .unwrap();
    let cases: [(&Path, &[&str]); 11] = [
        (&project, &["build", "mismatched types"]),
        (&wrong, &["build", "component"]),
        (&absent, &["absent.wasm"]),
        (&guest("hostile-unknown-import"), &["build", "import"]),
        (&guest("hostile-starts-trap"), &["validate", "trap"]),
        (&guest("hostile-validate-traps"), &["validate", "trap"]),
        (&guest("hostile-validate-fails"), &["validate"]),
        (
            &guest("hostile-validate-hangs"),
            &["validate", "validation"],
        ),
        (&guest("hostile-validate-exits"), &["validate", "exit"]),
        (
            &guest("hostile-validate-needs-variable"),
            &["validate", "DATABASE_URL"],
        ),
        (&guest("hostile-validate-hogs"), &["validate", "memory"]),
    ];
    for (component, words) in cases {
        let began = Instant::now();
        let said = deploy(&skep, component, &[]);
        println!(
            "{} in {:.1?}: {}",
            component.display(),
            began.elapsed(),
            said.stderr.trim_end()
        );
        assert_eq!(said.code, Some(1), "{}: {said:#?}", component.display());
        for word in words {
            assert!(said.stderr.contains(word), "{word} in {said:#?}");
        }
    }
    let dry = deploy(&skep, &guest("hostile-validate-fails"), &["--dry-run"]);
    assert_eq!(dry.code, Some(1), "{dry:#?}");
    let good = variant(&guest("revision"), 9, skep.dir().path());
    done(&deploy(&skep, &good, &["--dry-run"]));
    let report = traffic.finish();
    report.assert_clean();
    assert!(report.ok() > 100, "{report}");
    assert_eq!((revision_of(&skep).as_str(), pids(&skep)), ("1", before));
    let pool = skep.pool("default");
    assert_eq!((pool.spawns, pool.restarts), (2, 0));
}

#[test]
fn a_full_disk_rejects_a_deploy_and_harms_nothing() {
    let dir = skep_tests::options::directory();
    let state = dir.path().join(".skep");
    fs::create_dir_all(&state).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&state, "24m") else {
        println!("skipped: no tmpfs can be mounted here");
        return;
    };
    let config = pool(1) + &app("a", "revision", UNWATCHED);
    let skep = Options::config(&config).cold().in_dir(&dir).start();
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let filler = state.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    // Until nothing fits any more.
    let _ = std::io::copy(&mut std::io::repeat(7), &mut file);
    let said = deploy(&skep, &other, &[]);
    println!("{}", said.stderr);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("No space left"), "{said:#?}");
    assert_eq!(revision_of(&skep), "1");
    drop(file);
    fs::remove_file(filler).unwrap();
    done(&deploy(&skep, &other, &[]));
    assert_eq!(revision_of(&skep), "2");
}

/// A file system that is gone when this is.
pub(crate) struct Mounted(std::path::PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .status();
        status
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Mounted {
    /// A directory as it is, and nobody can write to it.
    pub(crate) fn read_only(at: &Path) -> Option<Self> {
        let mount = |options: &[&str]| {
            let mut command = std::process::Command::new("mount");
            let status = command.args(options).arg(at).status();
            status.is_ok_and(|status| status.success())
        };
        let path = at.to_str()?;
        let mounted = mount(&["--bind", path]).then(|| Self(at.to_owned()))?;
        mount(&["-o", "remount,bind,ro"]).then_some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn one_that_fails_some_requests_is_rolled_back_and_refused_until_forced() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", WATCHED)));
    let traffic = Traffic::start(tcp(&skep), light());
    let said = deploy(&skep, &guest("hostile-fails-5-percent"), &[]);
    println!("{}", said.stderr);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("observe"), "{said:#?}");
    assert!(said.stderr.contains("max_error_rate"), "{said:#?}");
    assert_eq!(revision_of(&skep), "1");
    let report = traffic.finish();
    let failed = report.count(Class::Status(500));
    println!("{failed} of {} failed meanwhile", report.ended());
    assert_eq!(report.failed(), failed, "{report}");
    skep.wait_for_log("app.rolled_back");
    let again = deploy(&skep, &guest("hostile-fails-5-percent"), &[]);
    assert_eq!(again.code, Some(1), "{again:#?}");
    assert!(again.stderr.contains("--force"), "{again:#?}");
}

#[test]
fn one_that_is_twice_as_slow_is_rolled_back() {
    let skep = Skep::config(&(pool(2) + &app("a", "hostile-late-20ms", WATCHED)));
    let traffic = Traffic::start(tcp(&skep), light());
    // Late by so much that a busy machine does not make them alike.
    // The old revision's latency must be known before it can be compared.
    skep_tests::wait_for(
        Duration::from_secs(20),
        "some requests",
        || traffic.ended(),
        |ended| *ended > 200,
    );
    let said = deploy(&skep, &guest("hostile-late-40ms"), &[]);
    println!("{}", said.stderr);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(
        said.stderr.contains("side by side the median latency"),
        "{said:#?}"
    );
    skep.assert_logged("app.comparing", 1);
    assert_eq!(revision_of(&skep), "1");
    traffic.finish().assert_clean();
}

#[test]
fn a_crash_loop_after_a_deploy_takes_the_revision_back_and_does_not_ban_it() {
    let settings =
        "max_crashes = 2\ncrash_window = \"1m\"\nbackoff = \"10ms\"\nbackoff_max = \"20ms\"\n";
    let watched = "rollout = { observe = \"60s\" }";
    let skep = Skep::config(&(pool(1) + settings + &app("a", "revision", watched)));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let args = ["deploy", "a", &other.to_string_lossy()];
    let deploy = skep_tests::command::start(skep.dir().path(), args);
    skep.wait_for_log("app.live pool=default generation=1 app=a revision=2");
    skep_tests::wait_for(
        Duration::from_secs(20),
        "the breaker to trip",
        || {
            for worker in skep.workers() {
                skep_tests::process::signal(worker.pid, "KILL");
            }
            skep.logged("pool.tripped")
        },
        |tripped| *tripped > 0,
    );
    let said = deploy.wait();
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("rolled back"), "{said:#?}");
    done(&operate(&skep, &["reset", "default"]));
    skep.wait_for_status("the pool to serve", |status| status.pools[0].serving == 1);
    let again = operate(
        &skep,
        &["deploy", "a", &other.to_string_lossy(), "--dry-run"],
    );
    assert_eq!(again.code, Some(0), "{again:#?}");
}

/// The fork bomb of 400 processes: a revision that cannot start because a
/// variable is empty.
#[test]
fn an_empty_database_url_is_refused_and_forced_it_costs_some_forks_and_one_alert() {
    let webhook = Webhook::start();
    let settings =
        "crash_window = \"20s\"\nmax_crashes = 3\nbackoff = \"50ms\"\nbackoff_max = \"100ms\"\n";
    let config = format!(
        "[server]\nalert = {{ webhook = \"http://{}/hook\" }}\n\
         [listener.web]\naddress = \"127.0.0.1:0\"\n\
         [listener.other]\naddress = \"127.0.0.1:0\"\npool = \"other\"\n\
         [pool.default]\nworkers = 2\n{settings}[pool.other]\nworkers = 1\n",
        webhook.address
    ) + &app(
        "a",
        "revision",
        &format!("{UNWATCHED}\nenv = {{ DATABASE_URL = \"\" }}"),
    ) + &app("b", "hello", "pool = \"other\"");
    let skep = Skep::config(&config);
    let address = |name| match skep.address_of(name) {
        Address::Tcp(address) => address,
        Address::Unix(path) => panic!("{}", path.display()),
    };
    let traffic = Traffic::start(address("web"), light());
    traffic.revisions().begin(1);
    let others = Traffic::start(address("other"), light());
    let bad = guest("hostile-validate-needs-variable");
    let said = deploy(&skep, &bad, &[]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(
        said.stderr.contains("validate") && said.stderr.contains("DATABASE_URL"),
        "{said:#?}"
    );

    let began = Instant::now();
    let said = deploy(&skep, &bad, &["--force"]);
    println!("forced, in {:.1?}: {}", began.elapsed(), said.stderr);
    assert_eq!(said.code, Some(1), "{said:#?}");
    let status = skep.wait_for_status("the old revision back", |status| {
        status.pools.iter().all(|pool| pool.serving == pool.workers)
            && status.apps.iter().all(|app| app.rollout.is_none())
    });
    let spawns = status
        .pools
        .iter()
        .find(|pool| pool.name.as_str() == "default")
        .unwrap()
        .spawns;
    println!("{spawns} forks");
    assert!(spawns <= 2 + 5, "{spawns} forks");
    // No process is to blame.
    assert_eq!(skep.logged(" pool.tripped "), 0);
    traffic.finish().assert_clean();
    others.finish().assert_clean();
    let alerts = webhook.wait_for("app.rolled_back");
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    done(&deploy(
        &skep,
        &variant(&guest("revision"), 2, skep.dir().path()),
        &[],
    ));
}

/// Takes alerts, answers 200.
struct Webhook {
    address: std::net::SocketAddr,
    alerts: std::sync::Arc<std::sync::Mutex<Vec<serde_json::Value>>>,
}

impl Webhook {
    fn start() -> Self {
        use std::io::{BufRead as _, BufReader, Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let alerts = std::sync::Arc::<std::sync::Mutex<Vec<_>>>::default();
        let taken = alerts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                taken
                    .lock()
                    .unwrap()
                    .push(serde_json::from_slice(&body).unwrap());
                let _ = reader.get_mut().write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                );
            }
        });
        Self { address, alerts }
    }

    fn wait_for(&self, name: &str) -> Vec<serde_json::Value> {
        skep_tests::wait_for(
            Duration::from_secs(20),
            name,
            || self.alerts.lock().unwrap().clone(),
            |alerts| alerts.iter().any(|alert| alert["name"] == name),
        )
    }
}

#[test]
fn an_operator_who_is_killed_changes_nothing_about_the_deploy() {
    let skep = Skep::config(&(pool(2) + &app("a", "revision", UNWATCHED)));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let mut cli = std::process::Command::new(skep_tests::binary())
        .args(["deploy", "a"])
        .arg(&other)
        .current_dir(skep.dir().path())
        .env_remove("SKEP_CONTROL")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    skep.wait_for_log("app.deploying");
    process::signal(cli.id(), "KILL");
    cli.wait().unwrap();
    skep.wait_for_status("the new revision", |status| {
        status.apps[0].revision.0 == 2 && status.apps[0].rollout.is_none()
    });
    assert_eq!(revision_of(&skep), "2");
}
