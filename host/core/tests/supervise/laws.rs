//! Laws under any sequence of events: lost, late, repeated, about workers that
//! never were. The laws themselves are in [`crate::sim::Checked`]:
//!
//! - never two workers that are not ready, or two that serve, in one slot;
//! - never a worker in a slot that the pool does not have;
//! - a worker that failed before starts alone in its pool, and retries stay
//!   within the fork budget;
//! - whoever lives, and whatever slot is empty, has a deadline; none is left in
//!   the past by a timer;
//! - every exit has one record, and no record is without an exit;
//! - a breaker raises one alert until it is reset;
//! - after a shutdown nothing is spawned, and its end is the last exit.

use std::time::Duration;

use proptest::prelude::*;
use skep_core::supervise::{EndStatus, Event, Strength};
use skep_core::{Generation, SupervisionSettings, WorkerId};

use crate::sim::{Checked, name};

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
    Scale(u16),
    Renew(u16, u64),
    Reset,
    Shutdown(Strength),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Spawned,
    SpawnFailed,
    Ready,
    Unfit,
    Beat(u64, bool),
    Drained,
    Exited,
    Replace,
}

fn event(worker: WorkerId, what: What, checked: &Checked) -> Event {
    let message = String::new();
    match what {
        What::Spawned => Event::Spawned { worker },
        What::SpawnFailed => Event::SpawnFailed { worker, message },
        What::Ready => Event::Ready { worker },
        What::Unfit => Event::Unfit { worker, message },
        What::Beat(ahead, served) => Event::Beat {
            worker,
            at: checked.now + Duration::from_millis(ahead),
            served,
        },
        What::Drained => Event::Drained { worker },
        What::Exited => Event::Exited {
            worker,
            status: EndStatus::Signal(9),
        },
        What::Replace => Event::Replace { worker },
    }
}

fn add(checked: &mut Checked, workers: u16, settings: &SupervisionSettings, generation: u64) {
    let _ = checked.step(Event::PoolAdded {
        pool: name("p"),
        workers,
        settings: settings.clone(),
        generation: Generation(generation),
    });
}

fn run(checked: &mut Checked, duration: Duration) {
    let end = checked.now + duration;
    while let Some(deadline) = checked.deadline().filter(|deadline| *deadline <= end) {
        checked.now = checked.now.max(deadline);
        let _ = checked.step(Event::Timer);
    }
    checked.now = end;
}

fn play(seed: u64, workers: u16, settings: &SupervisionSettings, ops: &[Op]) {
    let mut checked = Checked::new(seed);
    add(&mut checked, workers, settings, 1);
    for op in ops {
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
            Op::Timer => drop(checked.step(Event::Timer)),
            Op::Scale(workers) => drop(checked.step(Event::Scale {
                pool: name("p"),
                workers,
            })),
            Op::Renew(workers, generation) => add(&mut checked, workers, settings, generation),
            Op::Reset => drop(checked.step(Event::Reset { pool: name("p") })),
            Op::Shutdown(strength) => drop(checked.step(Event::Shutdown { strength })),
        }
    }
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
        2 => (0..5000_u64, any::<bool>()).prop_map(|(ahead, served)| What::Beat(ahead, served)),
        1 => Just(What::Drained),
        4 => Just(What::Exited),
        2 => Just(What::Replace),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let millis = || prop_oneof![0..50_u64, 0..2_000_u64, 0..20_000_u64];
    prop_oneof![
        2 => millis().prop_map(Op::Pass),
        6 => millis().prop_map(Op::Run),
        16 => (any::<usize>(), whats()).prop_map(|(index, what)| Op::Living(index, what)),
        1 => (0..60_u64, whats()).prop_map(|(worker, what)| Op::Any(worker, what)),
        2 => Just(Op::Timer),
        1 => (0..6_u16).prop_map(Op::Scale),
        1 => (0..6_u16, 0..6_u64).prop_map(|(workers, generation)| Op::Renew(workers, generation)),
        1 => Just(Op::Reset),
    ]
}

fn settings() -> impl Strategy<Value = SupervisionSettings> {
    let millis = |most: u64| (0..most).prop_map(Duration::from_millis);
    let short = (
        millis(2000),
        millis(2000),
        millis(5000),
        0..4_u32,
        millis(500),
        millis(3000),
        millis(2000),
        millis(2000),
    )
        .prop_map(
            |(start, uptime, window, crashes, backoff, most, hang, probe)| SupervisionSettings {
                start_timeout: start,
                min_uptime: uptime,
                crash_window: window.max(Duration::from_millis(100)),
                max_crashes: crashes.max(1),
                backoff,
                backoff_max: most,
                hang_timeout: hang,
                drain_timeout: hang,
                kill_timeout: start,
                probe_interval: probe.max(Duration::from_millis(100)),
            },
        );
    prop_oneof![Just(SupervisionSettings::default()), short]
}

/// Another: the retry was left starting by a generation that ended.
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
    };
    let ops = [
        Op::Living(0, What::Exited),
        Op::Renew(2, 2),
        Op::Living(578_019_223_886_776_259, What::Exited),
        Op::Pass(0),
        Op::Run(100),
    ];
    play(0, 1, &settings, &ops);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn laws_hold_for_any_sequence(
        seed in any::<u64>(),
        workers in 0..6_u16,
        settings in settings(),
        sequence in prop::collection::vec(ops(), 0..120),
        end in prop::collection::vec(prop_oneof![
            3 => ops(),
            1 => prop_oneof![Just(Strength::Drain), Just(Strength::Stop), Just(Strength::Kill)]
                .prop_map(Op::Shutdown),
        ], 0..30),
    ) {
        let sequence: Vec<Op> = sequence.into_iter().chain(end).collect();
        play(seed, workers, &settings, &sequence);
    }
}
