//! Workers die, hang and fail to start; the primary is ended in every way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skep_core::ExitReason;
use skep_tests::load::{Load, Style};
use skep_tests::options::Options;
use skep_tests::{Client, Failed, Skep, Stop, process, wait_for};
use skep_wire::{BreakerStatus, WorkerStatus};

use crate::{app, pool};

/// Settings under which a worker is stable soon, and the listener of `web`.
fn soon_stable(workers: u16, lines: &str) -> String {
    format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n\
         [pool.default]\nworkers = {workers}\nmin_uptime = \"100ms\"\n{lines}\n"
    )
}

fn stable(skep: &Skep) -> WorkerStatus {
    let status = skep.wait_for_status("a stable worker", |status| {
        status
            .workers
            .iter()
            .any(|worker| worker.state == "serving" && worker.uptime_seconds > 0.5)
    });
    status
        .workers
        .into_iter()
        .find(|worker| worker.state == "serving")
        .unwrap()
}

#[test]
fn a_killed_worker_is_replaced_and_its_end_recorded() {
    let skep = Skep::config(&(soon_stable(1, "") + &app("a", "echo", "")));
    let mut took = Vec::new();
    for _ in 0..3 {
        let old = stable(&skep);
        let began = Instant::now();
        process::signal(old.pid, "KILL");
        let status = skep.wait_for_status("the successor", |status| {
            status
                .workers
                .iter()
                .any(|worker| worker.state == "serving" && worker.pid != old.pid)
        });
        took.push(began.elapsed());
        let new = status
            .workers
            .iter()
            .find(|worker| worker.state == "serving")
            .unwrap();
        assert_eq!(new.slot, old.slot);
        assert!(new.id > old.id);
        let last = status.pools[0].last_exit.clone().unwrap();
        assert_eq!(
            (last.worker, last.pid, last.voluntary),
            (old.id, old.pid, false)
        );
        assert_eq!(last.reason, ExitReason::Signal { signal: 9 });
        assert!(!process::is_alive(old.pid));
        assert_eq!(skep.client().get("/counter").unwrap().status(), 200);
    }
    println!("from kill -9 to the successor's readiness, as status shows it: {took:.1?}");
    assert!(
        took.iter().all(|took| *took < Duration::from_secs(2)),
        "{took:?}"
    );
    let pool = skep.pool("default");
    assert_eq!((pool.spawns, pool.restarts), (4, 3));
    skep.assert_logged("worker.exited", 3);
}

#[test]
fn connections_wait_while_no_worker_is_there() {
    let skep = Skep::config(&(soon_stable(1, "") + &app("a", "hello", "")));
    let old = stable(&skep);
    // Stopped, it accepts nothing: what connects waits in the socket's queue.
    process::signal(old.pid, "STOP");
    let mut clients: Vec<_> = (0..20).map(|_| skep.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    process::signal(old.pid, "KILL");
    for mut client in clients {
        assert_eq!(client.response().unwrap().status(), 200);
    }
}

#[test]
fn a_hung_worker_is_killed_and_replaced() {
    let skep = Skep::config(&(soon_stable(2, "hang_timeout = \"1s\"") + &app("a", "hello", "")));
    let hung = stable(&skep);
    process::signal(hung.pid, "STOP");
    let status = skep.wait_for_status("the hung worker's successor", |status| {
        let serving = status
            .workers
            .iter()
            .filter(|worker| worker.state == "serving")
            .count();
        serving == 2 && status.workers.iter().all(|worker| worker.pid != hung.pid)
    });
    let last = status.pools[0].last_exit.clone().unwrap();
    assert_eq!(
        (last.worker, last.reason, last.voluntary),
        (hung.id, ExitReason::Hung, false)
    );
    assert!(!process::is_alive(hung.pid));
}

/// Kills every worker of the pool `bad` of a primary at its start, until it is
/// dropped.
struct Sickness {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sickness {
    fn of(primary: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let kill = || {
                for child in process::children(primary) {
                    if process::title(child.pid).contains("worker bad/") {
                        process::signal(child.pid, "KILL");
                    }
                }
                seen.load(Ordering::Relaxed)
            };
            wait_for(Duration::from_secs(300), "the end of it", kill, |over| {
                *over
            });
        });
        let thread = Some(thread);
        Self { over, thread }
    }
}

impl Drop for Sickness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A fleet whose pool `bad` has workers that all die at start, beside `good`.
fn sick(bad: &str) -> (Skep, Sickness) {
    let text = format!(
        "[listener.good]\naddress = \"127.0.0.1:0\"\npool = \"good\"\n\
         [listener.bad]\naddress = \"127.0.0.1:0\"\npool = \"bad\"\n\
         [pool.good]\nworkers = 1\n[pool.bad]\nworkers = 2\n{bad}\n{}{}",
        app("good", "hello", "pool = \"good\""),
        app(
            "bad",
            "echo",
            // So that none is ready before it is seen.
            "pool = \"bad\"\nvalidate = { path = \"/slow?ms=60000\", timeout = \"60s\" }",
        ),
    );
    let skep = Options::config(&text).spawn();
    let sickness = Sickness::of(skep.pid());
    wait_for(
        Duration::from_secs(20),
        "the good pool to serve",
        || skep.try_status().ok(),
        |status| {
            status.as_ref().is_some_and(|status| {
                let mut pools = status.pools.iter();
                pools.any(|pool| pool.name.as_str() == "good" && pool.serving == 1)
            })
        },
    );
    (skep, sickness)
}

#[test]
fn workers_that_die_at_start_cost_a_bounded_number_of_forks() {
    let (skep, sickness) = sick("");
    let began = Instant::now();
    let load = Load::paced(
        &skep.address_of("good"),
        "/",
        4,
        Style::Fresh,
        Duration::from_millis(10),
    );
    let mut most_children = 0;
    let spawns = wait_for(
        Duration::from_secs(120),
        "a minute to pass",
        || {
            let children = process::children(skep.pid());
            most_children = most_children.max(children.len());
            (began.elapsed(), skep.pool("bad").spawns)
        },
        |(passed, spawns)| {
            assert!(
                *spawns <= 7,
                "{spawns} forks after {passed:?}\n{}",
                skep.log()
            );
            *passed >= Duration::from_secs(60)
        },
    )
    .1;
    let pool = skep.pool("bad");
    println!(
        "2 workers that die at start: {spawns} processes in 60 s, breaker {:?}, last exit {:?}",
        pool.breaker, pool.last_exit
    );
    assert!(spawns >= 3, "it was tried: {spawns}");
    assert_ne!(pool.breaker, BreakerStatus::Admitting);
    assert_eq!(pool.serving, 0);
    skep.assert_logged("pool.tripped", 1);
    let reason = pool.last_exit.unwrap().reason;
    assert!(
        matches!(reason, ExitReason::Signal { signal: 9 }),
        "{reason:?}"
    );
    drop(sickness);
    let tally = load.stop();
    println!(
        "the other pool meanwhile: {} requests, {} failed",
        tally.total(),
        tally.failures()
    );
    assert_eq!(tally.failures(), 0, "{tally:?}");
    assert!(tally.ok > 1000);
    assert!(most_children <= 4, "{most_children} processes at once");
    assert!(
        process::children(skep.pid())
            .iter()
            .all(|child| !child.is_zombie())
    );
    // The listener of the good pool is announced although the other is sick.
    skep.assert_logged("skep: serving ", 1);
    skep.stop(Stop::Drain);
}

#[test]
fn a_tripped_pool_recovers_when_its_fault_is_gone() {
    // Runtime crashes this time: workers that start well and are killed.
    let skep = Skep::config(
        &(soon_stable(
            2,
            "max_crashes = 3\ncrash_window = \"1m\"\nprobe_interval = \"500ms\"\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"",
        ) + &app("a", "hello", "")),
    );
    wait_for(
        Duration::from_secs(20),
        "the breaker to trip",
        || {
            for worker in skep.workers() {
                process::signal(worker.pid, "KILL");
            }
            skep.logged("pool.tripped")
        },
        |tripped| *tripped > 0,
    );
    skep.wait_for_status("the pool to recover by itself", |status| {
        let pool = &status.pools[0];
        pool.serving == 2 && pool.breaker == BreakerStatus::Admitting
    });
    assert_eq!(skep.client().get("/").unwrap().status(), 200);
}

#[test]
fn reset_gives_a_tripped_pool_another_chance() {
    let (skep, _sickness) = sick(
        "max_crashes = 2\nbackoff = \"10ms\"\nbackoff_max = \"20ms\"\nprobe_interval = \"1h\"",
    );
    skep.wait_for_log("pool.tripped");
    let before = skep.pool("bad").spawns;
    let said = skep_tests::command::run(skep.dir().path(), ["reset", "bad"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    skep.wait_for_status("it to be tried again", |status| {
        status
            .pools
            .iter()
            .any(|pool| pool.name.as_str() == "bad" && pool.spawns > before)
    });
    let said = skep_tests::command::run(skep.dir().path(), ["reset", "good-bye"]);
    assert_ne!(said.code, Some(0), "{said:?}");
}

#[test]
fn sigterm_lets_requests_finish() {
    for signal in ["TERM", "INT"] {
        let mut skep = Skep::config(&(pool(2) + &app("a", "echo", "")));
        let workers: Vec<_> = skep.workers().iter().map(|worker| worker.pid).collect();
        let address = skep.address();
        let mut slow = skep.client();
        slow.send("GET /slow?ms=1200 HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut idle = skep.client();
        assert_eq!(idle.get("/counter").unwrap().status(), 200);
        skep.wait_for_status("it to be in flight", |status| {
            status.workers.iter().any(|worker| worker.in_flight == 1)
        });
        skep.signal(signal);
        // Idle connections are closed, new ones refused, while one works on.
        assert!(idle.is_closed().unwrap());
        wait_for(
            Duration::from_secs(5),
            "the address to be closed",
            || Client::connect(&address).err(),
            |error| *error == Some(Failed::Refused),
        );
        let response = slow.response().unwrap();
        assert_eq!(response.text(), "waited 1200 ms\n");
        let status = skep.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{}", skep.log());
        assert!(workers.iter().all(|worker| !process::is_alive(*worker)));
        assert!(!skep.state_dir().join("control.sock").exists());
    }
}

#[test]
fn the_second_signal_and_sigquit_do_not_wait() {
    for signals in [&["INT", "INT"][..], &["QUIT"], &["TERM", "INT"]] {
        let mut skep = Skep::config(&(pool(1) + &app("a", "echo", "timeout = \"10m\"")));
        let worker = skep.worker().pid;
        let mut slow = skep.client();
        slow.send("GET /slow?ms=60000 HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        skep.wait_for_status("it to be in flight", |status| {
            status.workers[0].in_flight == 1
        });
        let began = Instant::now();
        for (index, signal) in signals.iter().enumerate() {
            if index > 0 {
                skep.wait_for_log("worker.draining");
            }
            skep.signal(signal);
        }
        skep.wait(Duration::from_secs(10));
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{signals:?}: {:?}",
            began.elapsed()
        );
        assert!(slow.response().is_err());
        assert!(!process::is_alive(worker));
    }
}

#[test]
fn a_drain_has_a_deadline() {
    let mut skep = Skep::config(
        &(soon_stable(1, "drain_timeout = \"500ms\"\nkill_timeout = \"500ms\"")
            + &app("a", "echo", "timeout = \"10m\"")),
    );
    let mut slow = skep.client();
    slow.send("GET /slow?ms=60000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    skep.wait_for_status("it to be in flight", |status| {
        status.workers[0].in_flight == 1
    });
    skep.signal("TERM");
    assert!(skep.wait(Duration::from_secs(10)).success());
    assert!(skep.log().contains("drain-timeout"), "{}", skep.log());
}

#[test]
fn a_worker_that_ignores_everything_is_killed_in_the_end() {
    let mut skep = Skep::config(
        &(soon_stable(1, "drain_timeout = \"300ms\"\nkill_timeout = \"300ms\"")
            + &app("a", "echo", "")),
    );
    let worker = skep.worker().pid;
    process::signal(worker, "STOP");
    skep.signal("TERM");
    assert!(skep.wait(Duration::from_secs(10)).success());
    assert!(!process::is_alive(worker));
}

#[test]
fn workers_that_lose_their_primary_finish_and_go() {
    let mut skep = Skep::config(&(pool(2) + &app("a", "echo", "")));
    let workers: Vec<_> = skep.workers().iter().map(|worker| worker.pid).collect();
    let address = skep.address();
    let mut slow = skep.client();
    slow.send("GET /slow?ms=1000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    skep.wait_for_status("it to be in flight", |status| {
        status.workers.iter().any(|worker| worker.in_flight == 1)
    });
    skep.signal("KILL");
    skep.wait(Duration::from_secs(5));
    wait_for(
        Duration::from_secs(5),
        "the address to be closed",
        || Client::connect(&address).err(),
        |error| *error == Some(Failed::Refused),
    );
    assert_eq!(slow.response().unwrap().text(), "waited 1000 ms\n");
    wait_for(
        Duration::from_secs(10),
        "no orphan to be left",
        || {
            workers
                .iter()
                .filter(|worker| process::is_alive(**worker))
                .count()
        },
        |left| *left == 0,
    );
    // And the state directory is free for the next.
    let again = Options::config(&(pool(1) + &app("a", "echo", "")))
        .in_dir(skep.dir())
        .start();
    assert_eq!(again.client().get("/counter").unwrap().status(), 200);
}

#[test]
fn a_primary_that_is_killed_as_it_starts_leaves_nothing() {
    for line in ["artifact.compiling", "worker.spawned"] {
        let mut skep = Options::config(&(pool(2) + &app("a", "hello", "")))
            .cold()
            .spawn();
        skep.wait_for_log(line);
        let children: Vec<_> = process::children(skep.pid())
            .iter()
            .map(|child| child.pid)
            .collect();
        skep.signal("KILL");
        skep.wait(Duration::from_secs(5));
        wait_for(
            Duration::from_secs(10),
            "no orphan to be left",
            || {
                children
                    .iter()
                    .filter(|child| process::is_alive(**child))
                    .count()
            },
            |left| *left == 0,
        );
    }
}

#[test]
fn stop_waits_until_all_is_gone() {
    let mut skep = Skep::config(&(pool(2) + &app("a", "hello", "")));
    let workers: Vec<_> = skep.workers().iter().map(|worker| worker.pid).collect();
    let said = skep_tests::command::run(skep.dir().path(), ["stop"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(workers.iter().all(|worker| !process::is_alive(*worker)));
    assert_eq!(skep.wait(Duration::from_secs(5)).code(), Some(0));
}
