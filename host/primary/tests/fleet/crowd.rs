//! Many pools of one worker: what they cost the primary.
//!
//! `SKEP_CROWD` says how many, and `SKEP_CRASHES` how many workers are killed, for a
//! measurement.

use std::fs;
use std::time::{Duration, Instant};

use skep_core::{AppName, FleetSpec, ListenerName, PoolName};

use crate::primary::specification;
use crate::run::{Primary, client, kill};

/// Few enough for every run of the tests, and enough for what grows with them
/// to show.
const POOLS: usize = 150;

/// Pools of one listener.
const BESIDE: usize = 20;

/// How long an idle fleet is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// Workers that are killed, one after the other.
const CRASHES: usize = 20;

/// Shares of a core of an idle primary, and milliseconds of a crash, without
/// optimisation. Where each event was a look at all pools it was 25 % and 80 ms.
const IDLE: f64 = 0.05;
const CRASH: f64 = 20.0;

pub(crate) fn many_pools_cost_an_idle_primary_little() {
    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (pools, crashes) = (number("SKEP_CROWD", POOLS), number("SKEP_CRASHES", CRASHES));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), "a").unwrap();
    let listen = ["127.0.0.1:0".to_owned()];
    let model = specification(dir.path(), "quiet", 5, &listen, &["a.wasm".to_owned()]);
    let spec = crowd(pools, &model);
    let file = dir.path().join("spec.json");
    fs::write(&file, serde_json::to_string(&spec).unwrap()).unwrap();

    let begun = Instant::now();
    let mut primary = Primary::start_file(dir.path());
    for _ in 0..pools.div_ceil(BESIDE) {
        primary.wait_for("skep: serving");
    }
    let pid = primary.process.id();
    let (took, start) = (begun.elapsed(), cpu(pid));

    // Workers are stable, and what was written down is.
    let mut watched = client(&dir);
    assert_eq!(watched.status().unwrap().workers.len(), pools);
    primary.listen(Duration::from_secs(2));
    let (from, before) = (Instant::now(), cpu(pid));
    primary.listen(WATCHED);
    let share = (cpu(pid) - before).as_secs_f64() / from.elapsed().as_secs_f64();

    let workers = watched.status().unwrap().workers;
    let (from, before) = (Instant::now(), cpu(pid));
    for crash in 0..crashes {
        let victim = &workers[crash * workers.len() / crashes];
        kill("KILL", victim.pid);
        primary.wait_for("worker.exited");
        primary.wait_for("worker.ready");
    }
    let all = (cpu(pid) - before).as_secs_f64() - share * from.elapsed().as_secs_f64();
    let crash = all * 1000.0 / f64::from(u32::try_from(crashes).unwrap());
    println!(
        "{pools} pools: started in {took:.1?} with {start:.1?} of CPU; idle {:.2} % of a core; a crash {crash:.2} ms of CPU",
        share * 100.0
    );
    assert!(share < IDLE, "an idle primary takes {share} of a core");
    assert!(crash < CRASH, "a crash takes {crash} ms");
    watched.stop(true, |_| ()).unwrap();
    let (code, log) = primary.ended();
    assert_eq!(code, Some(0), "{log}");
}

/// A specification of so many pools of one worker and one app each.
fn crowd(pools: usize, model: &FleetSpec) -> FleetSpec {
    let app = model.apps.values().next().unwrap();
    let pool = model.pools.values().next().unwrap();
    let listener = model.listeners.values().next().unwrap();
    let mut spec = model.clone();
    spec.apps.clear();
    spec.pools.clear();
    spec.listeners.clear();
    for index in 0..pools {
        let name = PoolName::new(&format!("p{index}")).unwrap();
        let mut pool = pool.clone();
        pool.workers = 1;
        spec.pools.insert(name.clone(), pool);
        let mut app = app.clone();
        app.pool = name.clone();
        app.routes = vec![format!("h{index}.example/*").parse().unwrap()];
        let app_name = AppName::new(&format!("a{index}")).unwrap();
        spec.apps.insert(app_name, app);
        let listener_name = ListenerName::new(&format!("l{}", index / BESIDE)).unwrap();
        let listener = spec.listeners.entry(listener_name).or_insert_with(|| {
            let mut listener = listener.clone();
            listener.pools.clear();
            listener
        });
        listener.pools.push(name);
    }
    spec
}

/// The CPU time of a process and of all its threads.
fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
