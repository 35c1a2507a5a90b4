//! The rules of recycling, one by one.

use std::time::Duration;

use skep_core::supervise::{Event, Notice, Patience, RecycleCause};
use skep_core::{ExitReason, Moment, SupervisionSettings, WorkerId};

use crate::sim::{Fate, Sim, densest, name, secs};

fn settings() -> SupervisionSettings {
    SupervisionSettings {
        max_requests: 3000,
        ..SupervisionSettings::default()
    }
}

/// Pool "p", whose workers read 100 requests in a second and grow by 10 bytes.
fn sim(seed: u64, workers: u16, settings: SupervisionSettings) -> Sim {
    let mut sim = Sim::new(seed, |_| Fate::healthy());
    sim.usage = |age| (100 * age.as_secs(), 100 + 10 * age.as_secs());
    sim.checked.set_fair(true);
    sim.add("p", workers, settings, 1);
    sim
}

fn recycled(sim: &Sim) -> Vec<(Moment, WorkerId, RecycleCause)> {
    let notices = sim.checked.notices();
    notices
        .filter_map(|(at, notice)| match notice {
            Notice::Recycling { worker, cause, .. } => Some((at, *worker, *cause)),
            _ => None,
        })
        .collect()
}

#[test]
fn every_limit_recycles_a_worker_and_says_so() {
    let default = SupervisionSettings::default;
    for (settings, cause) in [
        (settings(), RecycleCause::Requests),
        (
            SupervisionSettings {
                max_age: secs(30.0),
                ..default()
            },
            RecycleCause::Age,
        ),
        (
            SupervisionSettings {
                memory: 500,
                ..default()
            },
            RecycleCause::Memory,
        ),
        (
            SupervisionSettings {
                memory: 5000,
                memory_soft: 400,
                ..default()
            },
            RecycleCause::Memory,
        ),
    ] {
        let mut sim = sim(1, 1, settings);
        sim.run(secs(26.0));
        assert_eq!(recycled(&sim), []);
        sim.run(secs(6.0));
        let [(_, worker, why)] = recycled(&sim)[..] else {
            panic!("{cause:?}: {:?}", recycled(&sim));
        };
        assert_eq!((worker, why), (WorkerId(1), cause));
        assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::Requested)]);
        assert_eq!(sim.serving(), [WorkerId(2)]);
        assert!(sim.checked.pool("p").last_exit.unwrap().voluntary);
    }
}

#[test]
fn nothing_is_recycled_without_a_limit_or_for_unknown_memory() {
    let mut sim = Sim::new(1, |_| Fate::healthy());
    sim.add("p", 1, SupervisionSettings::default(), 1);
    let tiny = SupervisionSettings {
        memory: 1,
        ..SupervisionSettings::default()
    };
    sim.add("q", 1, tiny, 1);
    sim.run(secs(100.0));
    assert_eq!(recycled(&sim), []);
}

#[test]
fn age_has_a_jitter_of_a_tenth() {
    let max_age = secs(100.0);
    let ages: Vec<Duration> = (0..200)
        .map(|seed| {
            let age = SupervisionSettings {
                max_age,
                hang_timeout: secs(1e6),
                ..SupervisionSettings::default()
            };
            let mut sim = Sim::new(seed, |_| Fate::healthy());
            sim.add("p", 1, age, 1);
            sim.run(secs(101.0));
            recycled(&sim)[0].0.since(sim.spawns()[0]) - secs(0.01)
        })
        .collect();
    assert!(ages.iter().all(|age| *age <= max_age));
    assert!(ages.iter().all(|age| *age > secs(90.0)));
    assert!(ages.iter().any(|age| *age < secs(91.0)));
    assert!(ages.iter().any(|age| *age > secs(99.0)));
}

#[test]
fn one_is_recycled_at_a_time() {
    let mut sim = sim(1, 4, settings());
    sim.run(secs(32.0));
    assert_eq!(recycled(&sim).len(), 4);
    assert_eq!(sim.serving().len(), 4);
    for pair in recycled(&sim).windows(2) {
        assert!(pair[1].0.since(pair[0].0) >= secs(0.01));
    }
}

#[test]
fn a_limit_that_is_reached_at_once_does_not_make_a_fork_bomb() {
    let every = SupervisionSettings {
        max_requests: 1,
        max_age: Duration::from_millis(1),
        memory_soft: 1,
        ..SupervisionSettings::default()
    };
    let mut sim = sim(1, 2, every);
    sim.run(secs(300.0));
    // Each slot once in `min_uptime`.
    assert!(densest(&sim.spawns(), secs(10.0)) <= 2);
    assert_eq!(sim.serving().len(), 2);
}

#[test]
fn a_recycling_that_fails_keeps_the_old_worker_and_waits() {
    for fate in [
        Fate::Unborn,
        Fate::Stuck,
        Fate::Stillborn { after: secs(1.0) },
    ] {
        let mut first = true;
        let mut sim = Sim::new(1, move |_| {
            if std::mem::take(&mut first) {
                Fate::healthy()
            } else {
                fate.clone()
            }
        });
        sim.usage = |age| (100 * age.as_secs(), 0);
        sim.checked.set_fair(true);
        sim.add("p", 1, settings(), 1);
        sim.run(secs(600.0));
        assert_eq!(sim.serving(), [WorkerId(1)]);
        let tries = recycled(&sim);
        assert!(tries.len() > 5);
        for pair in tries.windows(2) {
            assert!(pair[1].0.since(pair[0].0) >= secs(30.0));
        }
        assert!(sim.tripped().is_empty());
    }
}

#[test]
fn recyclings_wait_for_rolls() {
    let mut sim = sim(1, 2, settings());
    sim.run(secs(20.0));
    let _ = sim.send(Event::Beat {
        worker: WorkerId(2),
        at: sim.now(),
        served: true,
        requests: 3000,
        memory: 0,
    });
    assert_eq!(recycled(&sim).len(), 1);
    // The roll calls the recycling off, and replaces that worker itself.
    let _ = sim.roll(&[], Patience::OneTry);
    sim.run(secs(5.0));
    assert_eq!(recycled(&sim).len(), 1);
    assert_eq!(
        sim.rolls(),
        [Notice::Rolled {
            pool: name("p"),
            replaced: 2
        }]
    );
}

#[test]
fn recyclings_wait_for_a_breaker() {
    let few = SupervisionSettings {
        max_crashes: 1,
        ..settings()
    };
    let mut sim = sim(1, 2, few);
    sim.run(secs(20.0));
    let _ = sim.kill(WorkerId(1));
    assert_eq!(sim.tripped().len(), 1);
    sim.run(secs(29.0));
    assert_eq!(recycled(&sim), []);
    // The probe is stable at 60 s.
    sim.run(secs(20.0));
    assert_eq!(recycled(&sim).len(), 1);
    assert_eq!(sim.serving().len(), 2);
}
