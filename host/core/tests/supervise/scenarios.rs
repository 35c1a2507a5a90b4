//! The rules of the supervisor, one by one.

use skep_core::supervise::{
    Action, BreakerState, EndStatus, Event, FailureKind, Notice, Patience, RollFailure, Strength,
    WorkerState, fork_budget,
};
use skep_core::{ExitReason, SlotIndex, SupervisionSettings, WorkerId};

use crate::sim::{Fate, Manners, Sim, densest, name, secs};

fn spawn_of(actions: &[Action]) -> Option<(WorkerId, SlotIndex, u32)> {
    actions.iter().find_map(|action| match action {
        Action::Spawn {
            worker,
            slot,
            attempt,
            ..
        } => Some((*worker, *slot, *attempt)),
        _ => None,
    })
}

fn resets(sim: &Sim) -> usize {
    sim.checked
        .notices()
        .filter(|(_, notice)| matches!(notice, Notice::Reset { .. }))
        .count()
}

#[test]
fn a_pool_is_filled_at_once_and_drained_at_the_end() {
    let mut sim = Sim::pool(1, 4, |_| Fate::healthy());
    assert_eq!(sim.spawns().len(), 4);
    sim.run(secs(1.0));
    assert_eq!(sim.serving().len(), 4);
    let view = sim.checked.pool("p");
    assert_eq!((view.serving, view.spawns, view.restarts), (4, 4, 0));
    sim.finish(Strength::Drain);
    assert!(
        sim.exits()
            .iter()
            .all(|(_, reason)| *reason == ExitReason::Requested)
    );
}

#[test]
fn a_fork_bomb_is_bounded_and_raises_one_alert() {
    for workers in 1..=16 {
        for seed in 0..100 {
            let mut sim = Sim::pool(seed, workers, |_| Fate::Stillborn { after: secs(0.005) });
            sim.run(secs(300.0));
            let budget = fork_budget(&SupervisionSettings::default(), workers);
            assert!(workers != 2 || budget == 7);
            let densest = densest(&sim.spawns(), secs(60.0));
            assert!(
                densest <= budget,
                "{workers} workers, seed {seed}: {densest}"
            );
            assert_eq!(sim.tripped(), [FailureKind::Startup]);
            // It is still tried.
            assert!(sim.spawns().last().unwrap().since_origin() > secs(260.0));
        }
    }
}

#[test]
fn forks_of_failing_workers_are_bounded_however_they_fail() {
    for workers in 1..=16 {
        for seed in 0..60_u64 {
            let mut random = seed;
            let mut sim = Sim::pool(seed, workers, move |_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                let draw = (random >> 40) % 1000;
                #[expect(clippy::cast_precision_loss, reason = "it is below 1000")]
                let life = draw as f64 / 101.0;
                match (random >> 33) % 5 {
                    0 => Fate::Unborn,
                    1 => Fate::Stillborn { after: secs(life) },
                    2 => Fate::Unfit { after: secs(life) },
                    3 => Fate::Stuck,
                    _ => Fate::lives(life, draw % 2 == 0),
                }
            });
            sim.run(secs(400.0));
            let budget = fork_budget(&SupervisionSettings::default(), workers);
            let densest = densest(&sim.spawns(), secs(60.0));
            assert!(
                densest <= budget,
                "{workers} workers, seed {seed}: {densest}"
            );
            sim.finish(Strength::Stop);
        }
    }
}

/// Node's and PM2's own fault: whoever lives a little longer than it takes to
/// count as stable crashes for ever, and nobody is told.
#[test]
fn a_crash_loop_of_any_period_is_bounded() {
    let settings = SupervisionSettings::default();
    for workers in 1..=8 {
        for tenths in [1, 20, 50, 99, 101, 110, 150, 200, 290, 310, 450, 700] {
            let life = f64::from(tenths) / 10.0;
            let mut sim = Sim::pool(u64::from(workers), workers, move |_| {
                Fate::lives(life, true)
            });
            sim.run(secs(900.0));
            let budget = fork_budget(&settings, workers);
            // The first fill is what the configuration asks for.
            let forks = &sim.spawns()[usize::from(workers)..];
            let densest = densest(forks, secs(60.0));
            assert!(densest <= budget, "{workers} × {life} s: {densest} forks");
            // As often as it is to trip: with less, every crash is replaced.
            let crashes_in_window = f64::from(workers) * 30.0 / (life + 0.02);
            if crashes_in_window > 6.0 {
                assert_ne!(sim.tripped(), [], "{workers} × {life} s");
            }
            // All at once are a window's worth.
            if crashes_in_window < 3.0 && workers < 5 {
                assert_eq!(sim.tripped(), [], "{workers} × {life} s");
            }
        }
    }
}

#[test]
fn what_was_asked_for_and_taken_back_keeps_nobody_waiting() {
    let mut sim = Sim::pool(1, 2, |_| Fate::healthy());
    sim.run(secs(100.0));
    for workers in [20, 2] {
        let _ = sim.send(Event::Scale {
            pool: name("p"),
            workers,
        });
        sim.run(secs(1.0));
    }
    assert!(spawn_of(&sim.kill(WorkerId(1))).is_some());
}

#[test]
fn a_crash_counts_for_its_time_whoever_serves_since() {
    let mut sim = Sim::pool(1, 2, |_| Fate::healthy());
    sim.run(secs(10.5));
    sim.kill(WorkerId(1));
    sim.run(secs(29.5));
    assert_eq!(sim.checked.pool("p").crashes_in_window, 1);
    sim.run(secs(1.0));
    assert_eq!(sim.checked.pool("p").crashes_in_window, 0);
}

#[test]
fn a_killed_stable_worker_is_replaced_in_the_same_step() {
    let mut sim = Sim::pool(1, 2, |_| Fate::healthy());
    sim.run(secs(10.5));
    let actions = sim.kill(WorkerId(1));
    assert_eq!(spawn_of(&actions), Some((WorkerId(3), SlotIndex(0), 1)));
    assert_eq!(
        sim.exits(),
        [(WorkerId(1), ExitReason::Signal { signal: 9 })]
    );
    let view = sim.checked.pool("p");
    assert_eq!(
        (view.spawns, view.restarts, view.crashes_in_window),
        (3, 1, 1)
    );
    assert!(!view.last_exit.unwrap().voluntary);
    // Its successor was not stable: that one is waited for.
    sim.run(secs(1.0));
    assert_eq!(spawn_of(&sim.kill(WorkerId(3))), None);
    sim.run(secs(1.0));
    assert_eq!(sim.spawns().len(), 4);
    assert_eq!(sim.serving().len(), 2);
}

#[test]
fn a_stable_worker_is_stable_even_if_the_timer_is_late() {
    let mut sim = Sim::pool(1, 1, |_| Fate::healthy());
    sim.run(secs(9.9));
    sim.checked.now = sim.now() + secs(0.2);
    assert!(spawn_of(&sim.kill(WorkerId(1))).is_some());
}

#[test]
fn kills_of_stable_workers_trip_the_runtime_breaker_only_when_they_are_many() {
    let mut sim = Sim::pool(3, 8, |_| Fate::healthy());
    sim.run(secs(15.0));
    for kill in 1..=4 {
        let victim = sim.serving()[0];
        assert!(spawn_of(&sim.kill(victim)).is_some(), "kill {kill}");
        sim.run(secs(0.1));
    }
    let victim = sim.serving()[0];
    assert_eq!(spawn_of(&sim.kill(victim)), None);
    assert_eq!(sim.tripped(), [FailureKind::Runtime]);
    assert_eq!(sim.serving().len(), 7, "all others go on");
    sim.run(secs(29.0));
    assert_eq!(sim.serving().len(), 7);
    sim.run(secs(2.0));
    assert_eq!(sim.serving().len(), 8, "the probe serves");
    assert!(matches!(
        sim.checked.pool("p").breaker,
        BreakerState::Probing { .. }
    ));
    sim.run(secs(10.0));
    assert_eq!(sim.checked.pool("p").breaker, BreakerState::Admitting);
    assert_eq!(resets(&sim), 1);
}

#[test]
fn a_hundred_patient_kills_do_not_trip_anything() {
    let mut sim = Sim::pool(3, 4, |_| Fate::healthy());
    sim.run(secs(15.0));
    for _ in 0..100 {
        let victim = sim.serving()[0];
        assert!(spawn_of(&sim.kill(victim)).is_some());
        sim.run(secs(9.0));
        assert_eq!(sim.serving().len(), 4);
    }
    assert!(sim.tripped().is_empty());
    assert_eq!(sim.checked.pool("p").restarts, 100);
}

#[test]
fn a_worker_that_had_served_is_a_runtime_failure_and_one_that_had_not_is_not() {
    for (well, kind) in [(true, FailureKind::Runtime), (false, FailureKind::Startup)] {
        let mut sim = Sim::pool(1, 2, move |_| Fate::lives(0.5, well));
        sim.run(secs(100.0));
        assert_eq!(sim.tripped(), [kind]);
    }
}

#[test]
fn a_tripped_startup_breaker_does_not_stop_the_replacement_of_stable_workers() {
    let mut sim = Sim::pool(1, 3, move |action| {
        let slot = matches!(
            action,
            Action::Spawn {
                slot: SlotIndex(2),
                ..
            }
        );
        if slot {
            Fate::Stillborn { after: secs(0.01) }
        } else {
            Fate::healthy()
        }
    });
    sim.run(secs(45.0));
    assert_eq!(sim.tripped(), [FailureKind::Startup]);
    assert_eq!(
        spawn_of(&sim.kill(WorkerId(1))).map(|(_, slot, _)| slot),
        Some(SlotIndex(0))
    );
    sim.run(secs(1.0));
    assert_eq!(sim.serving().len(), 2);
}

#[test]
fn a_probe_that_becomes_stable_fills_the_pool_again() {
    let mut spawned = 0;
    let mut sim = Sim::pool(1, 4, move |_| {
        spawned += 1;
        if spawned <= 6 {
            Fate::Stillborn { after: secs(0.01) }
        } else {
            Fate::healthy()
        }
    });
    sim.run(secs(20.0));
    assert_eq!(sim.tripped().len(), 1);
    assert!(matches!(
        sim.checked.pool("p").breaker,
        BreakerState::Tripped { .. }
    ));
    // The first probe fails like the rest, the second does not.
    sim.run(secs(50.0));
    assert_eq!(sim.serving().len(), 1);
    assert!(matches!(
        sim.checked.pool("p").breaker,
        BreakerState::Probing { .. }
    ));
    sim.run(secs(11.0));
    assert_eq!(sim.serving().len(), 4);
    assert_eq!((sim.tripped().len(), resets(&sim)), (1, 1));
}

#[test]
fn an_operator_may_reset_a_breaker() {
    let mut sim = Sim::pool(1, 2, |_| Fate::Stillborn { after: secs(0.01) });
    sim.run(secs(20.0));
    assert_eq!(sim.spawns().len(), 5);
    let actions = sim.send(Event::Reset { pool: name("p") });
    assert!(actions.contains(&Action::Notice(Notice::Reset { pool: name("p") })));
    assert_eq!(sim.spawns().len(), 7);
    sim.run(secs(20.0));
    assert_eq!(sim.tripped().len(), 2);
}

#[test]
fn readiness_fails_closed() {
    let mut sim = Sim::pool(1, 1, |_| Fate::Stuck);
    sim.run(secs(9.0));
    sim.checked.now = sim.now() + secs(1.5);
    let actions = sim.send(Event::Ready {
        worker: WorkerId(1),
    });
    assert_eq!(
        actions,
        [Action::Kill {
            worker: WorkerId(1)
        }]
    );
    sim.run(secs(0.1));
    assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::StartTimeout)]);
    sim.run(secs(100.0));
    assert!(
        sim.exits()
            .iter()
            .all(|(_, reason)| *reason == ExitReason::StartTimeout)
    );
}

#[test]
fn an_unfit_worker_says_why_and_is_killed_if_it_stays() {
    let mut sim = Sim::pool(1, 1, |_| Fate::Stuck);
    sim.run(secs(0.5));
    let message = "no such key".to_owned();
    let worker = WorkerId(1);
    assert_eq!(
        sim.send(Event::Unfit {
            worker,
            message: message.clone()
        }),
        []
    );
    sim.run(secs(4.9));
    assert_eq!(sim.exits(), []);
    sim.run(secs(0.2));
    assert_eq!(
        sim.exits(),
        [(worker, ExitReason::ValidationFailed { message })]
    );
}

#[test]
fn a_hung_worker_is_killed_and_replaced() {
    let mut first = true;
    let mut sim = Sim::pool(1, 2, move |_| {
        let hangs = std::mem::take(&mut first).then(|| secs(20.0));
        Fate::Serves {
            ready: secs(0.01),
            well: true,
            life: None,
            hangs,
        }
    });
    sim.run(secs(29.9));
    assert_eq!(sim.serving(), [WorkerId(1), WorkerId(2)]);
    sim.run(secs(0.5));
    assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::Hung)]);
    assert_eq!(sim.serving(), [WorkerId(2), WorkerId(3)]);
    assert_eq!(sim.checked.pool("p").crashes_in_window, 1);
}

#[test]
fn a_worker_that_hangs_as_soon_as_it_is_ready_was_never_stable() {
    let mut sim = Sim::pool(1, 1, |_| Fate::Serves {
        ready: secs(0.01),
        well: false,
        life: None,
        hangs: Some(secs(0.0)),
    });
    sim.run(secs(10.02));
    assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::Hung)]);
    assert_eq!(sim.checked.pool("p").breaker, BreakerState::Admitting);
    sim.run(secs(1.0));
    let worker = sim.checked.workers().pop().unwrap();
    assert_eq!(worker.attempt, 2);
}

#[test]
fn heartbeats_from_the_future_do_not_postpone_the_end() {
    let mut sim = Sim::pool(1, 1, |_| Fate::Serves {
        ready: secs(0.01),
        well: true,
        life: None,
        hangs: Some(secs(1.0)),
    });
    sim.run(secs(1.0));
    let at = sim.now() + secs(1e6);
    let _ = sim.send(Event::Beat {
        worker: WorkerId(1),
        at,
        served: true,
        requests: 1,
        memory: 0,
    });
    sim.run(secs(10.2));
    assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::Hung)]);
}

#[test]
fn an_asked_exit_is_voluntary_whatever_its_code_and_a_forced_one_is_not_clean() {
    for (manners, reason, seconds) in [
        (Manners::Polite(secs(3.0)), ExitReason::Requested, 3.0),
        (Manners::Busy, ExitReason::DrainTimeout, 30.0),
        (Manners::Deaf, ExitReason::DrainTimeout, 35.0),
    ] {
        let mut sim = Sim::pool(1, 1, |_| Fate::healthy());
        sim.manners = manners;
        sim.run(secs(1.0));
        let _ = sim.send(Event::Scale {
            pool: name("p"),
            workers: 0,
        });
        assert_eq!(sim.checked.workers()[0].state, WorkerState::Draining);
        sim.run(secs(seconds - 0.01));
        assert_eq!(sim.exits(), []);
        sim.run(secs(0.1));
        assert_eq!(sim.exits(), [(WorkerId(1), reason)]);
        assert!(sim.checked.pool("p").last_exit.unwrap().voluntary);
        assert_eq!(sim.checked.pool("p").crashes_in_window, 0);
    }
}

#[test]
fn an_unasked_clean_exit_is_a_crash() {
    let mut sim = Sim::pool(1, 1, |_| Fate::healthy());
    sim.run(secs(1.0));
    let _ = sim.send(Event::Exited {
        worker: WorkerId(1),
        status: EndStatus::Code(0),
    });
    assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::Crash { code: 0 })]);
    assert_eq!(sim.checked.pool("p").crashes_in_window, 1);
}

#[test]
fn a_replaced_worker_leaves_when_its_successor_is_ready() {
    let mut sim = Sim::pool(1, 1, |_| Fate::healthy());
    sim.run(secs(1.0));
    let actions = sim.roll(&[1], Patience::OneTry);
    assert_eq!(spawn_of(&actions), Some((WorkerId(2), SlotIndex(0), 1)));
    assert_eq!(sim.serving(), [WorkerId(1)]);
    assert_eq!(sim.roll(&[1], Patience::OneTry), [], "once is enough");
    sim.run(secs(0.05));
    assert_eq!(sim.serving(), [WorkerId(2)]);
    sim.run(secs(1.0));
    assert_eq!(sim.exits(), [(WorkerId(1), ExitReason::Requested)]);
}

#[test]
fn a_replacement_that_fails_leaves_the_old_worker_in_place() {
    for fate in [
        Fate::Unborn,
        Fate::Stuck,
        Fate::Stillborn { after: secs(1.0) },
        Fate::Unfit { after: secs(1.0) },
    ] {
        let mut first = true;
        let mut sim = Sim::pool(1, 1, move |_| {
            if std::mem::take(&mut first) {
                Fate::healthy()
            } else {
                fate.clone()
            }
        });
        sim.run(secs(1.0));
        let _ = sim.roll(&[1], Patience::OneTry);
        sim.run(secs(20.0));
        assert_eq!(sim.serving(), [WorkerId(1)]);
        assert_eq!(sim.spawns().len(), 2, "it is not tried again");
        let kept = Notice::Kept {
            worker: WorkerId(1),
            pool: name("p"),
            slot: SlotIndex(0),
        };
        assert_eq!(
            sim.checked
                .notices()
                .filter(|(_, notice)| **notice == kept)
                .count(),
            1
        );
    }
}

#[test]
fn a_successor_inherits_the_slot_of_a_worker_that_dies_meanwhile() {
    let mut sim = Sim::pool(1, 1, |_| Fate::healthy());
    sim.run(secs(15.0));
    let _ = sim.roll(&[1], Patience::OneTry);
    assert_eq!(spawn_of(&sim.kill(WorkerId(1))), None);
    sim.run(secs(1.0));
    assert_eq!(sim.serving(), [WorkerId(2)]);
    assert_eq!(sim.spawns().len(), 2);
}

#[test]
fn replacements_that_fail_trip_the_breaker_and_then_are_refused() {
    let mut first = true;
    let mut sim = Sim::pool(1, 1, move |_| {
        if std::mem::take(&mut first) {
            Fate::healthy()
        } else {
            Fate::Unborn
        }
    });
    sim.run(secs(1.0));
    for _ in 0..7 {
        let _ = sim.roll(&[1], Patience::OneTry);
        sim.run(secs(0.1));
    }
    assert_eq!(sim.spawns().len(), 6);
    assert_eq!(sim.tripped(), [FailureKind::Startup]);
    let refused = Notice::RollFailed {
        pool: name("p"),
        reason: RollFailure::Tripped,
        replaced: 0,
        left: 1,
    };
    let rolls = sim.rolls();
    assert_eq!(rolls.len(), 7);
    assert_eq!(rolls[5..], [refused.clone(), refused]);
    // No slot is empty, so nothing is left to prove.
    sim.run(secs(31.0));
    assert_eq!(sim.checked.pool("p").breaker, BreakerState::Admitting);
    assert_eq!(sim.serving(), [WorkerId(1)]);
}

#[test]
fn a_pool_grows_and_shrinks_from_the_end() {
    let mut sim = Sim::pool(1, 2, |_| Fate::healthy());
    sim.run(secs(1.0));
    let _ = sim.send(Event::Scale {
        pool: name("p"),
        workers: 4,
    });
    sim.run(secs(1.0));
    assert_eq!(sim.serving().len(), 4);
    assert_eq!(sim.checked.pool("p").restarts, 0);
    let _ = sim.send(Event::Scale {
        pool: name("p"),
        workers: 1,
    });
    assert_eq!(sim.serving(), [WorkerId(1)]);
    sim.run(secs(1.0));
    assert_eq!(sim.checked.workers().len(), 1);
}

#[test]
fn a_probe_that_is_scaled_away_is_followed_by_another() {
    let mut sim = Sim::pool(1, 3, |_| Fate::Stuck);
    sim.manners = Manners::Deaf;
    for worker in 1..=3 {
        let _ = sim.kill(WorkerId(worker));
    }
    sim.run(secs(70.0));
    assert_eq!(sim.tripped().len(), 1);
    let _ = sim.send(Event::Scale {
        pool: name("p"),
        workers: 0,
    });
    sim.run(secs(60.0));
    assert_eq!(sim.checked.pool("p").breaker, BreakerState::Admitting);
    assert!(sim.checked.workers().is_empty());
    assert_eq!(sim.checked.deadline(), None);
}

#[test]
fn a_new_generation_starts_with_a_clean_record() {
    let mut sim = Sim::pool(1, 2, |action| match action {
        Action::Spawn { generation, .. } if generation.0 == 1 => {
            Fate::Stillborn { after: secs(0.01) }
        }
        _ => Fate::healthy(),
    });
    sim.run(secs(20.0));
    assert_eq!(sim.tripped().len(), 1);
    sim.add("p", 2, SupervisionSettings::default(), 2);
    sim.run(secs(40.0));
    assert_eq!(sim.serving().len(), 2);
    assert_eq!(sim.checked.pool("p").breaker, BreakerState::Admitting);
}

#[test]
fn other_pools_do_not_notice_a_crash_loop() {
    let mut sim = Sim::new(1, |action| match action {
        Action::Spawn { pool, .. } if pool.as_str() == "bad" => {
            Fate::Stillborn { after: secs(0.01) }
        }
        _ => Fate::healthy(),
    });
    sim.add("bad", 2, SupervisionSettings::default(), 1);
    sim.add("good", 2, SupervisionSettings::default(), 1);
    sim.run(secs(20.0));
    let victim = sim.serving()[0];
    assert!(spawn_of(&sim.kill(victim)).is_some());
    assert_eq!(sim.checked.pool("good").breaker, BreakerState::Admitting);
    assert_eq!(sim.checked.pool("good").spawns, 3);
}

#[test]
fn a_shutdown_escalates_and_never_weakens() {
    let mut sim = Sim::pool(1, 2, |_| Fate::healthy());
    sim.manners = Manners::Deaf;
    sim.run(secs(1.0));
    let strengths = [
        Strength::Drain,
        Strength::Drain,
        Strength::Stop,
        Strength::Drain,
        Strength::Kill,
    ];
    let asked: Vec<usize> = strengths
        .map(|strength| sim.send(Event::Shutdown { strength }))
        .map(|actions| {
            actions
                .iter()
                .filter(|action| !matches!(action, Action::Notice(_)))
                .count()
        })
        .to_vec();
    assert_eq!(asked, [2, 0, 2, 0, 2]);
    sim.finish(Strength::Kill);
    assert!(
        sim.exits()
            .iter()
            .all(|(_, reason)| *reason == ExitReason::Requested)
    );
    assert_eq!(sim.checked.deadline(), None);
}

#[test]
fn a_shutdown_of_nothing_is_finished_at_once() {
    let mut sim = Sim::new(1, |_| Fate::healthy());
    let shutdown = Event::Shutdown {
        strength: Strength::Drain,
    };
    assert_eq!(sim.send(shutdown.clone()), [Action::Finished]);
    assert_eq!(sim.send(shutdown), []);
}

#[test]
fn a_shutdown_during_a_crash_loop_ends() {
    for after in [0.0, 0.02, 0.5, 3.0, 20.0, 40.0] {
        let mut sim = Sim::pool(5, 3, |_| Fate::Stillborn { after: secs(0.01) });
        sim.run(secs(after));
        sim.finish(Strength::Drain);
    }
}
