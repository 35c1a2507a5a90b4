//! Laws under any sequence of events: lost, late, repeated, about workers that
//! never were. The laws themselves are in [`crate::checked`].
//!
//! `SKEP_SIM_STEPS` says how many steps are tried, `SKEP_SIM_SEED` with which
//! sequences. A sequence that breaks a law is shrunk, and belongs below.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use skep_core::supervise::{EndStatus, Event, Patience, Strength, WorkerState};
use skep_core::{Generation, SupervisionSettings, WorkerId};

use crate::checked::{Checked, steps};
use crate::sim::name;

/// Few enough for every run of the tests; `SKEP_SIM_STEPS` asks for more.
const STEPS: u64 = 120_000;

/// More workers than this make the laws slow and tell nothing new.
const CROWD: usize = 20;

const POOLS: [&str; 2] = ["p", "q"];

#[derive(Clone, Debug)]
enum Op {
    /// Time passes, and no timer is delivered.
    Pass(u64),
    /// Time passes, with a timer whenever one is due.
    Run(u64),
    /// An event about the n-th living worker.
    Living(usize, What),
    /// An event about a worker number, whoever that is.
    Any(u64, What),
    Timer,
    /// Those that were killed exit.
    Reap,
    Scale(usize, u16),
    Add(usize, u16, u64),
    Remove(usize),
    Reset(usize),
    /// All workers of a pool, or those living ones that a bit is set for.
    Roll(usize, u8, Patience),
    Cancel(usize),
    Claim,
    Shutdown(Strength),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Spawned,
    SpawnFailed,
    Ready,
    Unfit,
    Beat(u64, bool, u64, u64),
    Drained,
    Exited,
}

/// How new workers do once operators leave the pools alone.
#[derive(Clone, Copy, Debug)]
enum World {
    Healthy,
    Stillborn,
    Stuck,
    /// Every second worker fails, at once.
    Mixed,
}

fn event(worker: WorkerId, what: What, checked: &Checked) -> Event {
    let message = String::new();
    match what {
        What::Spawned => Event::Spawned { worker },
        What::SpawnFailed => Event::SpawnFailed { worker, message },
        What::Ready => Event::Ready { worker },
        What::Unfit => Event::Unfit { worker, message },
        What::Beat(ahead, served, requests, memory) => Event::Beat {
            worker,
            at: checked.now + Duration::from_millis(ahead),
            served,
            requests,
            memory,
        },
        What::Drained => Event::Drained { worker },
        What::Exited => Event::Exited {
            worker,
            status: EndStatus::Signal(9),
        },
    }
}

fn add(
    checked: &mut Checked,
    pool: usize,
    workers: u16,
    settings: &SupervisionSettings,
    generation: u64,
) {
    let _ = checked.step(Event::PoolAdded {
        pool: name(POOLS[pool]),
        workers,
        settings: settings.clone(),
        generation: Generation(generation),
    });
}

/// Killed workers exit, if there are more workers than `crowd`.
fn reap(checked: &mut Checked, crowd: usize) {
    let workers = checked.workers();
    if workers.len() > crowd {
        for worker in workers {
            if worker.state == WorkerState::Killed {
                let _ = checked.step(event(worker.id, What::Exited, checked));
            }
        }
    }
}

fn run(checked: &mut Checked, duration: Duration) {
    let end = checked.now + duration;
    while let Some(deadline) = checked.deadline().filter(|deadline| *deadline <= end) {
        checked.now = checked.now.max(deadline);
        let _ = checked.step(Event::Timer);
        reap(checked, CROWD);
    }
    checked.now = end;
}

/// Operators rest, timers come, and who is asked to go goes: rolls end, or
/// [`Checked::set_fair`] says that they do not.
fn come_to_rest(checked: &mut Checked, world: World) {
    // Whoever is due by now is; the world is fair from here on.
    let _ = checked.step(Event::Timer);
    checked.set_fair(true);
    for turn in 0..3000_u64 {
        for worker in checked.workers() {
            let worker = worker.id;
            let Some(view) = checked.worker(worker).cloned() else {
                continue;
            };
            let ready = match world {
                World::Healthy => Some(true),
                World::Stillborn => Some(false),
                World::Stuck => None,
                World::Mixed => Some((worker.0 + turn) % 2 == 0),
            };
            let what = match (view.state, ready) {
                (WorkerState::Starting, Some(true)) => What::Ready,
                (WorkerState::Starting, None) => continue,
                (WorkerState::Serving, _) => What::Beat(0, true, 0, 0),
                _ => What::Exited,
            };
            let _ = checked.step(event(worker, what, checked));
        }
        if checked.pools().all(|pool| pool.rolling.is_none()) {
            checked.set_fair(false);
            return;
        }
        let Some(deadline) = checked.deadline() else {
            break;
        };
        checked.now = checked.now.max(deadline);
        let _ = checked.step(Event::Timer);
    }
    panic!(
        "rolls did not end: {:?}",
        checked.pools().collect::<Vec<_>>()
    );
}

fn play(
    seed: u64,
    workers: u16,
    all: &[SupervisionSettings; 2],
    ops: &[Op],
    (rest, world): (usize, World),
) {
    let mut checked = Checked::new(seed);
    add(&mut checked, 0, workers, &all[0], 1);
    for (index, op) in ops.iter().enumerate() {
        if index == rest {
            come_to_rest(&mut checked, world);
        }
        match *op {
            Op::Pass(millis) => checked.now = checked.now + Duration::from_millis(millis),
            Op::Run(millis) => run(&mut checked, Duration::from_millis(millis)),
            Op::Living(index, what) => {
                let workers = checked.workers();
                if let Some(worker) = workers.get(index % workers.len().max(1)) {
                    let _ = checked.step(event(worker.id, what, &checked));
                }
            }
            Op::Any(worker, what) => {
                let _ = checked.step(event(WorkerId(worker), what, &checked));
            }
            Op::Reap => reap(&mut checked, 0),
            Op::Timer => drop(checked.step(Event::Timer)),
            Op::Scale(pool, workers) => drop(checked.step(Event::Scale {
                pool: name(POOLS[pool]),
                workers,
            })),
            Op::Add(pool, workers, generation) => {
                let settings = &all[usize::from(generation % 2 == 0)];
                add(&mut checked, pool, workers, settings, generation);
            }
            Op::Remove(pool) => drop(checked.step(Event::PoolRemoved {
                pool: name(POOLS[pool]),
            })),
            Op::Reset(pool) => drop(checked.step(Event::Reset {
                pool: name(POOLS[pool]),
            })),
            Op::Roll(pool, bits, patience) => {
                let living = checked.workers().into_iter().map(|worker| worker.id);
                let workers = (0..8).zip(living);
                let workers = workers.filter(|(bit, _)| bits >> bit & 1 == 1);
                let _ = checked.step(Event::Roll {
                    pool: name(POOLS[pool]),
                    workers: workers.map(|(_, worker)| worker).collect(),
                    patience,
                });
            }
            Op::Cancel(pool) => drop(checked.step(Event::RollCancelled {
                pool: name(POOLS[pool]),
            })),
            Op::Claim => {
                let worker = checked.claim();
                let _ = checked.step(event(worker, What::Ready, &checked));
                assert_eq!(checked.worker(worker), None);
            }
            Op::Shutdown(strength) => drop(checked.step(Event::Shutdown { strength })),
        }
    }
    come_to_rest(&mut checked, world);
    // However it went: when exits arrive, a shutdown ends.
    let _ = checked.step(Event::Shutdown {
        strength: Strength::Drain,
    });
    run(&mut checked, Duration::from_secs(60));
    for worker in checked.workers() {
        let _ = checked.step(Event::Exited {
            worker: worker.id,
            status: EndStatus::Code(0),
        });
    }
    assert_eq!(checked.deadline(), None);
}

fn whats() -> impl Strategy<Value = What> {
    prop_oneof![
        1 => Just(What::Spawned),
        1 => Just(What::SpawnFailed),
        4 => Just(What::Ready),
        1 => Just(What::Unfit),
        3 => (0..5000_u64, any::<bool>(), 0..120_u64, 0..120_u64)
            .prop_map(|(ahead, served, requests, memory)| What::Beat(ahead, served, requests, memory)),
        1 => Just(What::Drained),
        3 => Just(What::Exited),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let millis = || prop_oneof![0..50_u64, 0..2_000_u64, 0..20_000_u64];
    let pool = || prop_oneof![5 => Just(0_usize), 1 => Just(1)];
    let patience = prop_oneof![Just(Patience::OneTry), Just(Patience::UntilTripped)];
    prop_oneof![
        2 => millis().prop_map(Op::Pass),
        6 => millis().prop_map(Op::Run),
        16 => (any::<usize>(), whats()).prop_map(|(index, what)| Op::Living(index, what)),
        1 => (0..60_u64, whats()).prop_map(|(worker, what)| Op::Any(worker, what)),
        2 => Just(Op::Timer),
        2 => Just(Op::Reap),
        1 => (pool(), 0..6_u16).prop_map(|(pool, workers)| Op::Scale(pool, workers)),
        1 => (pool(), 0..6_u16, 0..6_u64)
            .prop_map(|(pool, workers, generation)| Op::Add(pool, workers, generation)),
        1 => pool().prop_map(Op::Reset),
        3 => (pool(), prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], patience)
            .prop_map(|(pool, bits, patience)| Op::Roll(pool, bits, patience)),
        1 => prop_oneof![
            2 => pool().prop_map(Op::Cancel),
            1 => pool().prop_map(Op::Remove),
            1 => Just(Op::Claim),
        ],
    ]
}

fn worlds() -> impl Strategy<Value = World> {
    prop_oneof![
        Just(World::Healthy),
        Just(World::Stillborn),
        Just(World::Stuck),
        Just(World::Mixed),
    ]
}

fn settings() -> impl Strategy<Value = SupervisionSettings> {
    let millis = |most: u64| (0..most).prop_map(Duration::from_millis);
    let short = (
        (millis(2000), millis(2000), millis(5000), 1..6_u32),
        (millis(500), millis(3000), millis(2000), millis(2000)),
    )
        .prop_map(
            |((start, uptime, window, crashes), (backoff, most, hang, probe))| {
                SupervisionSettings {
                    start_timeout: start,
                    min_uptime: uptime,
                    crash_window: window.max(Duration::from_millis(100)),
                    max_crashes: crashes,
                    backoff,
                    backoff_max: most,
                    hang_timeout: hang,
                    drain_timeout: hang,
                    kill_timeout: start,
                    probe_interval: probe.max(Duration::from_millis(100)),
                    ..SupervisionSettings::default()
                }
            },
        );
    let replacing = (
        prop_oneof![1 => Just(0_u16), 2 => Just(1), 1 => Just(2)],
        prop_oneof![2 => Just(0_u16), 2 => Just(1), 1 => Just(2)],
        prop_oneof![2 => Just(0_u64), 1 => Just(100)],
        prop_oneof![2 => Just(Duration::ZERO), 1 => millis(3000)],
        prop_oneof![2 => Just(0_u64), 1 => Just(100)],
    );
    let times = prop_oneof![1 => Just(SupervisionSettings::default()), 2 => short];
    (times, replacing).prop_map(
        |(times, (surge, max_unavailable, max_requests, max_age, memory_soft))| {
            SupervisionSettings {
                surge,
                max_unavailable,
                max_requests,
                max_age,
                memory_soft,
                ..times
            }
        },
    )
}

/// The retry was left starting by a generation that ended.
#[test]
fn a_probe_waits_for_a_retry_of_an_older_generation() {
    let settings = SupervisionSettings {
        start_timeout: Duration::from_millis(1010),
        min_uptime: Duration::ZERO,
        crash_window: Duration::from_millis(100),
        max_crashes: 1,
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
        hang_timeout: Duration::ZERO,
        drain_timeout: Duration::ZERO,
        kill_timeout: Duration::from_millis(1010),
        probe_interval: Duration::from_millis(100),
        ..SupervisionSettings::default()
    };
    let ops = [
        Op::Living(0, What::Exited),
        Op::Add(0, 2, 2),
        Op::Living(578_019_223_886_776_259, What::Exited),
        Op::Pass(0),
        Op::Run(100),
    ];
    let all = [settings.clone(), settings];
    play(0, 1, &all, &ops, (usize::MAX, World::Healthy));
}

/// The exit of a worker that was created only in the step that heard of it.
#[test]
fn an_exit_that_comes_before_its_worker_is_nothing() {
    let ops = [
        Op::Living(0, What::Unfit),
        Op::Pass(4000),
        Op::Any(2, What::Exited),
    ];
    let all = [
        SupervisionSettings::default(),
        SupervisionSettings::default(),
    ];
    play(0, 1, &all, &ops, (usize::MAX, World::Healthy));
}

/// A roll took two workers away; one of the slots went and came again meanwhile.
#[test]
fn a_roll_ends_without_a_slot_that_was_scaled_away_and_is_there_again() {
    let settings = |max_unavailable| SupervisionSettings {
        surge: 0,
        max_unavailable,
        ..SupervisionSettings::default()
    };
    let ops = [
        Op::Living(0, What::Ready),
        Op::Living(1, What::Ready),
        Op::Roll(0, 0, Patience::OneTry),
        Op::Add(0, 1, 2),
        Op::Scale(0, 2),
        Op::Living(2, What::Ready),
        Op::Living(3, What::Ready),
    ];
    for last in [2, 3, 4] {
        let mut ops = ops.clone();
        ops[5] = Op::Living(last, What::Ready);
        play(0, 2, &[settings(2), settings(0)], &ops, (5, World::Healthy));
    }
}

#[test]
fn laws_hold_for_any_sequence() {
    let wanted = number("SKEP_SIM_STEPS").unwrap_or(STEPS);
    let first = number("SKEP_SIM_SEED").unwrap_or(1);
    let ends = prop_oneof![
        3 => ops(),
        1 => prop_oneof![Just(Strength::Drain), Just(Strength::Stop), Just(Strength::Kill)]
            .prop_map(Op::Shutdown),
    ];
    let games = (
        (any::<u64>(), 0..6_u16),
        (settings(), settings()).prop_map(|(one, two)| [one, two]),
        prop::collection::vec(ops(), 0..150),
        prop::collection::vec(ends, 0..30),
        (0..150_usize, worlds()),
    );
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    };
    let begun = steps();
    let mut seed = first;
    while steps() - begun < wanted {
        let bytes: Vec<u8> = (0..4).flat_map(|_| seed.to_le_bytes()).collect();
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config.clone(), random);
        let result = runner.run(&games, |((seed, workers), all, sequence, end, rest)| {
            let sequence: Vec<Op> = sequence.into_iter().chain(end).collect();
            play(seed, workers, &all, &sequence, rest);
            Ok(())
        });
        if let Err(error) = result {
            panic!("seed {seed}: {error}");
        }
        seed += 1;
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
