//! Dispatchers and the connector, as the primary runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use skep_core::{
    Dispatch, FleetSpec, ListenerName, PoolName, TenantLimits, TenantName, TenantSpec,
};
use skep_primary::ClientError;
use skep_sys::cgroup::Cgroups;
use skep_sys::process;
use tempfile::TempDir;

use crate::primary::specification;
use crate::run::{Primary, client, kill};

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

/// One listener `l0`, and an app for each of (pool, route).
fn spec(dir: &Path, pools: &[&str], apps: &[(&str, &str)]) -> FleetSpec {
    fs::write(dir.join("a.wasm"), "a").unwrap();
    let components = vec!["a.wasm".to_owned(); apps.len()];
    let listeners = ["127.0.0.1:0".to_owned()];
    let mut spec = specification(dir, "serve", 1000, &listeners, &components);
    let (_, mut settings) = spec.pools.pop_first().unwrap();
    settings.workers = 1;
    for name in pools {
        spec.pools.insert(pool(name), settings.clone());
    }
    let listener = spec.listeners.values_mut().next().unwrap();
    listener.pools = pools.iter().map(|name| pool(name)).collect();
    for (app, (of, route)) in spec.apps.values_mut().zip(apps) {
        app.pool = pool(of);
        app.routes = vec![route.parse().unwrap()];
    }
    spec
}

fn write(dir: &TempDir, spec: &FleetSpec) {
    let text = serde_json::to_string(spec).unwrap();
    fs::write(dir.path().join("spec.json"), text).unwrap();
}

fn start(dir: &TempDir, spec: &FleetSpec) -> Primary {
    write(dir, spec);
    Primary::start_file(dir.path())
}

/// Where the first line is that contains a text.
fn place(primary: &Primary, text: &str) -> usize {
    let found = primary.seen.iter().position(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("no '{text}' in:\n{}", primary.seen.join("\n")))
}

/// When a pretended process wrote the first line that contains a text. Lines of
/// several come in whatever order their pipes are read in.
fn moment(primary: &mut Primary, text: &str) -> u64 {
    primary.saw(text);
    let line = &primary.seen[place(primary, text)];
    let (_, at) = line.rsplit_once(" at=").unwrap();
    at.trim_end_matches('"').parse().unwrap()
}

pub(crate) fn connections_are_handed_out_by_a_dispatcher() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(
        dir.path(),
        &["a", "b"],
        &[("a", "a.example/*"), ("b", "/*")],
    );
    let tenant = TenantName::new("default").unwrap();
    let limits = TenantLimits {
        concurrency: 17,
        ..TenantLimits::default()
    };
    spec.tenants.insert(
        tenant,
        TenantSpec {
            limits,
            ..TenantSpec::default()
        },
    );
    let mut primary = start(&dir, &spec);
    let line = primary.wait_for("skep: serving http://127.0.0.1:");
    assert!(line.ends_with("(2 workers, 2 apps)"), "{line}");
    for text in [
        "dispatcher.spawned listener=l0 pid=",
        "pretend dispatcher of l0 has pool a Balanced",
        "pretend dispatcher of l0 has hosts [/*=b a.example/*=a] else a",
        "pretend dispatcher of l0 has worker 1 of a",
        "pretend worker 1 of a met the dispatcher of l0 before its first plan",
        "pretend worker 2 of b met the dispatcher of l0 before its first plan",
        "pretend worker 1 of a serves [a.example/*] of [default:17]",
    ] {
        primary.saw(text);
    }
    assert!(
        !primary
            .seen
            .iter()
            .any(|line| line.contains("accepts from")),
        "{}",
        primary.seen.join("\n")
    );
    // A worker that dies is gone for the dispatcher, and its successor is there.
    let status = client(&dir).status().unwrap();
    kill("KILL", status.workers[0].pid);
    primary.wait_for("pretend dispatcher of l0 has worker 3 of a");
    primary.saw("pretend dispatcher of l0 has not worker 1");

    // Tenants' limits come with plans.
    let tenant = spec.tenants.values_mut().next().unwrap();
    tenant.limits.concurrency = 18;
    write(&dir, &spec);
    client(&dir).reload(|_| ()).unwrap();
    primary.saw("pretend worker 3 of a serves [a.example/*] of [default:18]");

    client(&dir).stop(false, |_| ()).unwrap();
    let (code, log) = primary.ended();
    assert_eq!(code, Some(0), "{log}");
    let drained = log.find("dispatcher.exited").unwrap();
    assert!(drained < log.find("worker.draining").unwrap(), "{log}");
    let line = &log[drained..];
    assert!(
        line.lines()
            .next()
            .unwrap()
            .contains("voluntary=true reason=requested"),
        "{log}"
    );
}

pub(crate) fn a_dispatcher_that_dies_is_followed_by_one_that_knows_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), &["a"], &[("a", "/*")]);
    spec.pools.values_mut().next().unwrap().dispatch = Dispatch::RoundRobin;
    let mut primary = start(&dir, &spec);
    primary.wait_for("skep: serving");
    let line = &primary.seen[place(&primary, "dispatcher.spawned")];
    let pid = line.split("pid=").nth(1).unwrap();
    kill("KILL", pid.parse().unwrap());
    let line = primary.wait_for("dispatcher.exited");
    assert!(
        line.contains("listener=l0") && line.contains("voluntary=false reason=signal signal=9"),
        "{line}"
    );
    for text in [
        "has pool a RoundRobin",
        "has worker 1 of a",
        "has hosts [/*=a] else a",
    ] {
        primary.wait_for(text);
    }
    primary.saw("pretend worker 1 of a met the dispatcher of l0 later");
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
}

pub(crate) fn pools_come_and_go_on_a_listener() {
    let dir = tempfile::tempdir().unwrap();
    let one = spec(dir.path(), &["a"], &[("a", "/*")]);
    let two = spec(
        dir.path(),
        &["a", "b"],
        &[("a", "/*"), ("b", "b.example/*")],
    );
    let mut primary = start(&dir, &one);
    primary.wait_for("skep: serving");
    primary.saw("pretend worker 1 of a accepts from l0");

    write(&dir, &two);
    client(&dir).reload(|_| ()).unwrap();
    primary.wait_for("config.reloaded");
    // It hands out what the one pool has, until both are ready.
    primary.saw("pretend worker 1 of a accepts no more from l0");
    let before = "pretend dispatcher of l0 has hosts [/*=a] else a";
    primary.saw(before);
    let first = place(&primary, before);
    let both = "pretend dispatcher of l0 has hosts [/*=a b.example/*=b] else a";
    primary.saw(both);
    let ready = place(&primary, "worker.ready pool=b");
    assert!(first < place(&primary, both) && ready < place(&primary, both));

    write(&dir, &one);
    client(&dir).reload(|_| ()).unwrap();
    let line = primary.wait_for("dispatcher.exited");
    assert!(line.contains("reason=requested"), "{line}");
    primary.saw("pretend dispatcher of l0 drains");
    let again = |line: &&String| line.contains("pretend worker 1 of a accepts from l0");
    while primary.seen.iter().filter(again).count() < 2 {
        primary.wait_for("pretend worker 1 of a accepts from l0");
    }
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
}

pub(crate) fn a_host_that_moves_is_served_by_both_until_it_has_moved() {
    let dir = tempfile::tempdir().unwrap();
    let before = spec(
        dir.path(),
        &["a", "b"],
        &[("a", "a.example/*"), ("a", "m.example/*"), ("b", "/*")],
    );
    let mut after = before.clone();
    after.apps.values_mut().nth(1).unwrap().pool = pool("b");
    let mut primary = start(&dir, &before);
    primary.wait_for("skep: serving");
    write(&dir, &after);
    client(&dir).reload(|_| ()).unwrap();
    let forgotten = moment(
        &mut primary,
        "pretend worker 1 of a serves [a.example/*] of",
    );
    let taken = moment(
        &mut primary,
        "pretend worker 2 of b serves [m.example/* /*]",
    );
    let switched = moment(&mut primary, "[/*=b a.example/*=a m.example/*=b] else a");
    assert!(
        taken < switched && switched < forgotten,
        "{}",
        primary.seen.join("\n")
    );
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
}

pub(crate) fn the_connector_is_there_for_those_who_have_grants() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(
        dir.path(),
        &["a", "b"],
        &[("a", "a.example/*"), ("b", "/*")],
    );
    spec.listeners.values_mut().next().unwrap().pools = vec![pool("a")];
    spec.listeners.insert(
        ListenerName::new("l1").unwrap(),
        spec.listeners.values().next().unwrap().clone(),
    );
    spec.listeners.values_mut().nth(1).unwrap().pools = vec![pool("b")];
    let mut primary = start(&dir, &spec);
    primary.wait_for("skep: serving");
    primary.wait_for("skep: serving");
    assert!(!primary.seen.iter().any(|line| line.contains("connector")));

    // Its canary worker and then its workers can ask.
    let grant = "https://api.example".parse().unwrap();
    spec.apps.values_mut().next().unwrap().outbound = vec![grant];
    write(&dir, &spec);
    client(&dir).reload(|_| ()).unwrap();
    // Within the text of a record, quoted.
    primary.wait_for(r#"pretend connector grants a app-0:[\"https://api.example\"]:100"#);
    primary.saw("pretend connector has worker 3 of a");
    primary.saw("config.reloaded");
    for text in [
        "pretend worker 3 of a met the connector, which calls it 3, before its first plan",
        "pretend worker 1 of a met the connector, which calls it 1, later",
        "pretend connector has not worker 3",
    ] {
        primary.saw(text);
    }
    assert!(!primary.seen.iter().any(|line| line.contains("of b met")));

    spec.apps.values_mut().next().unwrap().outbound = Vec::new();
    write(&dir, &spec);
    client(&dir).reload(|_| ()).unwrap();
    let line = primary.wait_for("connector.exited");
    assert!(line.contains("voluntary=true reason=requested"), "{line}");
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
}

/// The user of a process.
fn user_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

pub(crate) fn pools_are_users_of_their_own() {
    if !process::is_root() {
        println!("skipped: only root can give processes to other users");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(
        dir.path(),
        &["a", "b", "c"],
        &[("a", "a.example/*"), ("b", "b.example/*"), ("c", "/*")],
    );
    spec.pools.get_mut(&pool("c")).unwrap().user = Some("7654:7655".to_owned());
    let mut primary = start(&dir, &spec);
    primary.wait_for("skep: serving");
    let status = client(&dir).status().unwrap();
    let mut users: Vec<_> = status
        .workers
        .iter()
        .map(|worker| user_of(worker.pid))
        .collect();
    assert_eq!(users[2], 7654);
    users.push(user_of(status.dispatchers[0].process.pid.unwrap()));
    assert!(!users.contains(&0), "{users:?}");
    let distinct: BTreeSet<_> = users.iter().collect();
    assert_eq!(distinct.len(), 4, "{users:?}");

    // Nobody that does not exist, at a reload as at a start.
    spec.pools.get_mut(&pool("c")).unwrap().user = Some("no-such-user".to_owned());
    write(&dir, &spec);
    let Err(ClientError::Refused { message, code }) = client(&dir).reload(|_| ()) else {
        panic!("there is no such user");
    };
    assert_eq!(code, 3);
    assert!(
        message.contains("pool c: there is no user `no-such-user`"),
        "{message}"
    );
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
    let (code, log) = start(&dir, &spec).ended();
    assert_eq!(code, Some(69));
    assert!(
        log.contains("pool c: there is no user") && !log.contains("spawned"),
        "{log}"
    );
}

pub(crate) fn the_kernel_limits_a_worker_and_its_group_goes_with_it() {
    if let Err(reason) = Cgroups::look() {
        println!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), &["a"], &[("a", "/*")]);
    // What it hogs is let go of by its end.
    for app in spec.apps.values_mut() {
        app.env = vec![("MODE".to_owned(), "hog".to_owned())];
    }
    let settings = &mut spec.pools.values_mut().next().unwrap().supervision;
    settings.memory = 64 << 20;
    let mut primary = start(&dir, &spec);
    let line = primary.wait_for("worker.exited");
    assert!(line.contains("reason=out-of-memory"), "{line}");
    client(&dir).stop(true, |_| ()).unwrap();
    assert_eq!(primary.ended().0, Some(0));
}
