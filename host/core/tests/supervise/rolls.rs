//! The rules of rolls, one by one.

use skep_core::supervise::{
    Action, BreakerState, Event, FailureKind, Notice, Patience, RollFailure, WorkerState,
    fork_budget,
};
use skep_core::{ExitReason, Moment, SlotIndex, SupervisionSettings, WorkerId};

use crate::sim::{Fate, Manners, Sim, densest, name, secs};

fn settings(surge: u16, max_unavailable: u16) -> SupervisionSettings {
    SupervisionSettings {
        surge,
        max_unavailable,
        ..SupervisionSettings::default()
    }
}

/// Pool "p", all of whose first workers are healthy, and the later ones as told.
fn sim(
    workers: u16,
    settings: SupervisionSettings,
    mut later: impl FnMut(u64) -> Fate + 'static,
) -> Sim {
    let mut sim = Sim::new(1, move |action| match action {
        Action::Spawn { worker, .. } if worker.0 > u64::from(workers) => {
            later(worker.0 - u64::from(workers))
        }
        _ => Fate::healthy(),
    });
    sim.checked.set_fair(true);
    sim.add("p", workers, settings, 1);
    sim.run(secs(15.0));
    assert_eq!(sim.serving().len(), usize::from(workers));
    sim
}

fn slow() -> Fate {
    Fate::Serves {
        ready: secs(1.0),
        well: true,
        life: None,
        hangs: None,
    }
}

fn rolled(replaced: u16) -> Notice {
    Notice::Rolled {
        pool: name("p"),
        replaced,
    }
}

fn slots(actions: &[Action]) -> Vec<(u16, u32)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Spawn { slot, attempt, .. } => Some((slot.0, *attempt)),
            _ => None,
        })
        .collect()
}

fn drains(actions: &[Action]) -> Vec<u64> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Drain { worker } => Some(worker.0),
            _ => None,
        })
        .collect()
}

fn kept(sim: &Sim) -> usize {
    let notices = sim.checked.notices();
    notices
        .filter(|(_, notice)| matches!(notice, Notice::Kept { .. }))
        .count()
}

#[test]
fn a_roll_goes_slot_by_slot_and_is_never_short() {
    let mut sim = sim(3, settings(1, 0), |_| slow());
    assert_eq!(slots(&sim.roll(&[], Patience::OneTry)), [(0, 1)]);
    for slot in 1..=3 {
        assert_eq!(sim.checked.pool("p").rolling, Some(4 - slot));
        assert_eq!(sim.serving().len(), 3);
        sim.run(secs(1.05));
    }
    assert_eq!(sim.rolls(), [rolled(3)]);
    assert_eq!(sim.checked.pool("p").rolling, None);
    assert_eq!(sim.serving(), [WorkerId(4), WorkerId(5), WorkerId(6)]);
    sim.run(secs(1.0));
    let exits = sim.exits();
    assert!(
        exits
            .iter()
            .all(|(_, reason)| *reason == ExitReason::Requested)
    );
    assert_eq!(exits.len(), 3);
}

#[test]
fn surge_says_how_many_at_a_time() {
    let mut sim = sim(5, settings(3, 0), |_| slow());
    let begun = sim.roll(&[], Patience::OneTry);
    assert_eq!(slots(&begun), [(0, 1), (1, 1), (2, 1)]);
    sim.run(secs(2.1));
    assert_eq!(sim.rolls(), [rolled(5)]);
}

#[test]
fn without_surge_old_workers_go_first() {
    let mut sim = sim(4, settings(0, 2), |_| slow());
    let begun = sim.roll(&[], Patience::OneTry);
    assert_eq!(drains(&begun), [1, 2]);
    assert_eq!(slots(&begun), [(0, 1), (1, 1)]);
    assert_eq!(sim.serving(), [WorkerId(3), WorkerId(4)]);
    sim.run(secs(2.1));
    assert_eq!(sim.rolls(), [rolled(4)]);
}

#[test]
fn with_both_surge_comes_first() {
    let mut sim = sim(4, settings(1, 1), |_| slow());
    let begun = sim.roll(&[], Patience::OneTry);
    assert_eq!(slots(&begun), [(0, 1), (1, 1)]);
    assert_eq!(drains(&begun), [2]);
    sim.run(secs(2.1));
    assert_eq!(sim.rolls(), [rolled(4)]);
}

#[test]
fn with_neither_one_surges() {
    let mut sim = sim(2, settings(0, 0), |_| slow());
    assert_eq!(slots(&sim.roll(&[], Patience::OneTry)), [(0, 1)]);
    sim.run(secs(2.1));
    assert_eq!(sim.rolls(), [rolled(2)]);
}

#[test]
fn one_try_ends_with_the_first_failure() {
    for fate in [
        Fate::Unborn,
        Fate::Stuck,
        Fate::Stillborn { after: secs(1.0) },
        Fate::Unfit { after: secs(1.0) },
    ] {
        let mut sim = sim(4, settings(2, 0), move |number| match number {
            3 => fate.clone(),
            _ => slow(),
        });
        let _ = sim.roll(&[], Patience::OneTry);
        sim.run(secs(30.0));
        let rolls = sim.rolls();
        let [
            Notice::RollFailed {
                reason: RollFailure::Worker { worker, .. },
                replaced,
                left,
                ..
            },
        ] = &rolls[..]
        else {
            panic!("{rolls:?}");
        };
        assert_eq!(*worker, WorkerId(7));
        assert_eq!(replaced + left, 4);
        assert_eq!(sim.serving().len(), 4);
        assert!(sim.serving().contains(&WorkerId(3)), "the old one stays");
        assert!(kept(&sim) >= 1);
    }
}

#[test]
fn a_failure_calls_off_the_replacements_beside_it() {
    let mut sim = sim(3, settings(3, 0), |number| match number {
        2 => Fate::Stillborn { after: secs(0.1) },
        _ => slow(),
    });
    let _ = sim.roll(&[], Patience::OneTry);
    sim.run(secs(5.0));
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(2), WorkerId(3)]);
    assert_eq!(kept(&sim), 3);
    assert_eq!(sim.checked.workers().len(), 3);
    assert_eq!(sim.spawns().len(), 6);
}

#[test]
fn one_try_without_surge_gives_up_at_most_what_is_allowed() {
    let mut sim = sim(3, settings(0, 1), |number| match number {
        1 => Fate::Stillborn { after: secs(0.1) },
        _ => Fate::healthy(),
    });
    let _ = sim.roll(&[], Patience::OneTry);
    sim.run(secs(0.2));
    assert_eq!(
        sim.rolls(),
        [Notice::RollFailed {
            pool: name("p"),
            reason: RollFailure::Worker {
                worker: WorkerId(4),
                reason: ExitReason::Crash { code: 1 },
            },
            replaced: 0,
            left: 3,
        }]
    );
    assert_eq!(sim.serving(), [WorkerId(2), WorkerId(3)]);
    sim.run(secs(2.0));
    assert_eq!(sim.serving().len(), 3, "the slot is filled like any other");
}

#[test]
fn patience_tries_again_after_a_backoff() {
    let mut sim = sim(2, settings(1, 0), |number| match number {
        1..=3 => Fate::Stillborn { after: secs(0.01) },
        _ => Fate::healthy(),
    });
    let _ = sim.roll(&[], Patience::UntilTripped);
    sim.run(secs(8.0));
    assert_eq!(sim.rolls(), [rolled(2)]);
    let attempts: Vec<(u16, u32)> = slots(
        &sim.checked
            .log
            .iter()
            .map(|(_, action)| action.clone())
            .collect::<Vec<_>>(),
    );
    let tried = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1)];
    assert_eq!(attempts[2..], tried);
    assert!(sim.tripped().is_empty());
}

#[test]
fn patience_ends_with_the_breaker() {
    let mut sim = sim(2, settings(1, 0), |_| Fate::Stillborn { after: secs(0.01) });
    let _ = sim.roll(&[], Patience::UntilTripped);
    sim.run(secs(25.0));
    assert_eq!(sim.tripped(), [FailureKind::Startup]);
    let crash = ExitReason::Crash { code: 1 };
    let failed = Notice::RollFailed {
        pool: name("p"),
        reason: RollFailure::Worker {
            worker: WorkerId(7),
            reason: crash,
        },
        replaced: 0,
        left: 2,
    };
    assert_eq!(sim.rolls(), [failed]);
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(2)]);
    sim.run(secs(300.0));
    assert_eq!(sim.spawns().len(), 7, "that was it");
}

#[test]
fn patience_ends_even_if_failures_are_too_slow_for_the_breaker() {
    let mut sim = sim(2, settings(1, 0), |_| Fate::Stuck);
    let _ = sim.roll(&[], Patience::UntilTripped);
    sim.run(secs(150.0));
    assert!(sim.tripped().is_empty());
    assert!(matches!(
        sim.rolls()[..],
        [Notice::RollFailed {
            replaced: 0,
            left: 2,
            ..
        }]
    ));
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(2)]);
    assert_eq!(sim.spawns().len(), 7);
}

#[test]
fn the_forks_of_a_patient_roll_are_within_the_budget() {
    for seed in 0..40 {
        for (surge, max_unavailable) in [(1, 0), (0, 1), (2, 2)] {
            let settings = settings(surge, max_unavailable);
            let mut spawned = 0;
            let mut sim = Sim::new(seed, move |_| {
                spawned += 1;
                if spawned <= 4 {
                    Fate::healthy()
                } else {
                    Fate::Stillborn { after: secs(0.01) }
                }
            });
            sim.checked.set_fair(true);
            sim.add("p", 4, settings.clone(), 1);
            sim.run(secs(15.0));
            let _ = sim.roll(&[], Patience::UntilTripped);
            sim.run(secs(300.0));
            let budget = fork_budget(&settings, 4);
            // Those of the first fill are stable.
            assert!(densest(&sim.spawns()[4..], secs(60.0)) <= budget);
            assert_eq!(sim.rolls().len(), 1);
        }
    }
}

#[test]
fn a_tripped_pool_does_not_roll() {
    let mut sim = Sim::pool(1, 2, |_| Fate::Stillborn { after: secs(0.01) });
    sim.run(secs(20.0));
    assert_eq!(sim.tripped().len(), 1);
    let refused = Notice::RollFailed {
        pool: name("p"),
        reason: RollFailure::Tripped,
        replaced: 0,
        left: 0,
    };
    assert_eq!(
        sim.roll(&[], Patience::UntilTripped),
        [Action::Notice(refused)]
    );
}

#[test]
fn a_roll_of_nobody_is_complete_at_once() {
    let mut sim = sim(1, settings(1, 0), |_| Fate::healthy());
    assert_eq!(
        sim.roll(&[99], Patience::OneTry),
        [Action::Notice(rolled(0))]
    );
}

#[test]
fn one_worker_is_rotated() {
    let mut sim = sim(3, settings(2, 0), |_| Fate::healthy());
    assert_eq!(slots(&sim.roll(&[2], Patience::OneTry)), [(1, 1)]);
    sim.run(secs(1.0));
    assert_eq!(sim.rolls(), [rolled(1)]);
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(3), WorkerId(4)]);
}

#[test]
fn workers_that_start_are_replaced_when_they_are_ready() {
    let mut sim = Sim::new(1, |_| slow());
    sim.add("p", 2, settings(1, 0), 1);
    sim.run(secs(0.5));
    assert_eq!(sim.roll(&[], Patience::OneTry), []);
    sim.run(secs(4.0));
    assert_eq!(sim.rolls(), [rolled(2)]);
    assert_eq!(sim.serving(), [WorkerId(3), WorkerId(4)]);
}

#[test]
fn who_ends_by_himself_counts_as_replaced() {
    let mut sim = sim(3, settings(1, 0), |_| slow());
    let _ = sim.roll(&[], Patience::OneTry);
    // One of which the successor starts, and one that waits for his turn.
    let _ = sim.kill(WorkerId(1));
    let _ = sim.kill(WorkerId(3));
    sim.run(secs(3.0));
    assert_eq!(sim.rolls(), [rolled(3)]);
    assert_eq!(sim.spawns().len(), 6);
}

#[test]
fn the_successor_of_one_that_ended_by_itself_may_fail_the_roll() {
    let mut sim = sim(3, settings(1, 0), |number| match number {
        2 => Fate::Stillborn { after: secs(0.1) },
        _ => slow(),
    });
    let _ = sim.roll(&[], Patience::OneTry);
    let _ = sim.kill(WorkerId(3));
    sim.run(secs(0.2));
    assert!(matches!(
        sim.rolls()[..],
        [Notice::RollFailed {
            replaced: 0,
            left: 3,
            ..
        }]
    ));
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(2)]);
}

#[test]
fn a_second_roll_adds_its_workers_and_the_lesser_patience_counts() {
    let mut sim = sim(3, settings(1, 0), |number| match number {
        2 => Fate::Stillborn { after: secs(0.1) },
        _ => slow(),
    });
    let _ = sim.roll(&[1], Patience::OneTry);
    assert_eq!(sim.roll(&[2], Patience::UntilTripped), []);
    assert_eq!(sim.checked.pool("p").rolling, Some(2));
    sim.run(secs(3.0));
    let failed = sim.rolls();
    assert!(matches!(
        failed[..],
        [Notice::RollFailed {
            replaced: 1,
            left: 1,
            ..
        }]
    ));
}

#[test]
fn a_cancelled_roll_leaves_things_as_they_are() {
    let cancel = || Event::RollCancelled { pool: name("p") };
    let mut sim = sim(3, settings(1, 0), |_| slow());
    assert_eq!(sim.send(cancel()), []);
    let _ = sim.roll(&[], Patience::OneTry);
    sim.run(secs(1.5));
    let actions = sim.send(cancel());
    assert_eq!(
        actions,
        [
            Action::Stop {
                worker: WorkerId(5)
            },
            Action::Notice(Notice::Kept {
                worker: WorkerId(2),
                pool: name("p"),
                slot: SlotIndex(1),
            }),
        ]
    );
    sim.run(secs(10.0));
    assert_eq!(sim.rolls(), []);
    assert_eq!(sim.serving(), [WorkerId(2), WorkerId(3), WorkerId(4)]);
    let exits = sim.exits();
    assert_eq!(exits[1], (WorkerId(5), ExitReason::Requested));
}

#[test]
fn at_most_three_workers_live_in_a_slot_because_of_rolls() {
    let mut sim = sim(1, settings(1, 0), |_| Fate::healthy());
    sim.manners = Manners::Deaf;
    for _ in 0..3 {
        let _ = sim.roll(&[], Patience::OneTry);
        sim.run(secs(1.0));
    }
    // Two are draining: the third roll waits for one of them.
    assert_eq!(sim.checked.workers().len(), 3);
    assert_eq!(sim.rolls(), [rolled(1), rolled(1)]);
    assert_eq!(sim.checked.pool("p").rolling, Some(1));
    // 30 s of draining and 5 s of stopping, then it is killed.
    sim.run(secs(34.0));
    assert_eq!(sim.rolls(), [rolled(1), rolled(1), rolled(1)]);
}

#[test]
fn a_pool_that_shrinks_does_not_stop_its_roll() {
    let mut sim = sim(3, settings(1, 0), |_| slow());
    let _ = sim.roll(&[], Patience::OneTry);
    let _ = sim.send(Event::Scale {
        pool: name("p"),
        workers: 1,
    });
    assert_eq!(sim.checked.pool("p").rolling, Some(1));
    sim.run(secs(2.0));
    assert_eq!(sim.rolls(), [rolled(1)]);
    assert_eq!(sim.serving(), [WorkerId(4)]);
}

#[test]
fn a_crash_elsewhere_trips_the_breaker_and_ends_the_roll() {
    let mut sim = sim(
        3,
        SupervisionSettings {
            max_crashes: 1,
            ..settings(1, 0)
        },
        |_| slow(),
    );
    let _ = sim.roll(&[], Patience::UntilTripped);
    let _ = sim.kill(WorkerId(3));
    assert_eq!(sim.tripped(), [FailureKind::Runtime]);
    assert!(matches!(
        sim.rolls()[..],
        [Notice::RollFailed {
            reason: RollFailure::Worker {
                worker: WorkerId(3),
                ..
            },
            ..
        }]
    ));
    assert!(matches!(
        sim.checked.pool("p").breaker,
        BreakerState::Tripped { .. }
    ));
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(2)]);
}

#[test]
fn a_removed_pool_drains_and_is_forgotten_with_its_last_worker() {
    let mut sim = sim(2, settings(1, 0), |_| slow());
    let _ = sim.roll(&[], Patience::OneTry);
    let actions = sim.send(Event::PoolRemoved { pool: name("p") });
    // One that starts is asked as gently: it may have become ready just now.
    assert_eq!(drains(&actions), [1, 3, 2]);
    let view = sim.checked.pool("p");
    assert_eq!((view.workers, view.serving, view.rolling), (0, 0, None));
    for ignored in [
        Event::Scale {
            pool: name("p"),
            workers: 3,
        },
        Event::RollCancelled { pool: name("p") },
        Event::Reset { pool: name("p") },
        Event::PoolRemoved { pool: name("p") },
    ] {
        assert_eq!(sim.send(ignored), []);
    }
    assert_eq!(sim.roll(&[], Patience::OneTry), []);
    sim.run(secs(1.0));
    assert!(sim.checked.find_pool("p").is_none());
    assert_eq!(sim.checked.deadline(), None);
    assert_eq!(sim.rolls(), []);
    assert_eq!(sim.spawns().len(), 3);
}

#[test]
fn an_empty_pool_is_forgotten_at_once() {
    let mut sim = sim(0, settings(1, 0), |_| slow());
    let _ = sim.send(Event::PoolRemoved { pool: name("p") });
    assert!(sim.checked.find_pool("p").is_none());
}

#[test]
fn a_pool_that_comes_back_while_it_leaves_is_a_new_one() {
    let mut sim = sim(2, settings(1, 0), |_| Fate::healthy());
    sim.manners = Manners::Busy;
    let _ = sim.send(Event::PoolRemoved { pool: name("p") });
    sim.run(secs(1.0));
    sim.add("p", 1, settings(1, 0), 1);
    sim.run(secs(1.0));
    assert_eq!(sim.serving(), [WorkerId(3)]);
    sim.run(secs(60.0));
    assert_eq!(sim.checked.pool("p").workers, 1);
    assert_eq!(sim.checked.workers().len(), 1);
}

#[test]
fn a_claimed_number_is_nobody_here() {
    let mut sim = sim(1, settings(1, 0), |_| Fate::healthy());
    assert_eq!(sim.checked.claim(), WorkerId(2));
    let worker = WorkerId(2);
    assert_eq!(sim.send(Event::Ready { worker }), []);
    assert_eq!(sim.kill(worker), []);
    let begun = sim.roll(&[], Patience::OneTry);
    assert!(matches!(
        begun[..],
        [Action::Spawn {
            worker: WorkerId(3),
            ..
        }]
    ));
}

#[test]
fn a_new_generation_rolls_into_its_settings() {
    let mut sim = sim(2, settings(1, 0), |_| slow());
    sim.add("p", 2, settings(2, 0), 2);
    assert_eq!(sim.spawns().len(), 2, "workers that run stay");
    assert_eq!(slots(&sim.roll(&[], Patience::OneTry)), [(0, 1), (1, 1)]);
    sim.run(secs(1.1));
    let generations: Vec<u64> = sim
        .checked
        .workers()
        .iter()
        .filter(|worker| worker.state == WorkerState::Serving)
        .map(|worker| worker.generation.0)
        .collect();
    assert_eq!(generations, [2, 2]);
    assert!(sim.now() > Moment::ORIGIN);
}
