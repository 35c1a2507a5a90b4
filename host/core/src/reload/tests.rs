//! Every path of a reload, and what holds on all of them.

use super::*;

type Reload = super::Reload<String>;

fn at(millis: u64) -> Moment {
    Moment::after_origin(Duration::from_millis(millis))
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

const WITHIN: Duration = Duration::from_secs(1);

fn trying(trials: &[(u64, &str)]) -> Input<String> {
    let trials = trials.iter();
    let trials = trials.map(|(worker, name)| (WorkerId(*worker), BTreeSet::from([app(name)])));
    Input::Trying {
        trials: Ok(trials.collect()),
        within: WITHIN,
    }
}

fn tried(worker: u64, invalid: &[&str], excused: &[&str]) -> Input<String> {
    let invalid = invalid.iter().map(|name| (app(name), "no".to_owned()));
    Input::Tried {
        worker: WorkerId(worker),
        verdict: Ok(invalid.collect()),
        excused: excused.iter().map(|name| app(name)).collect(),
    }
}

fn applied(rolls: &[&str]) -> Input<String> {
    Input::Applied {
        rolls: rolls.iter().map(|name| pool(name)).collect(),
        within: WITHIN,
    }
}

fn followed() -> Input<String> {
    Input::Progress(Progress {
        settled: true,
        full: true,
        handed_out: true,
        tripped: None,
    })
}

/// Steps one through all of these at the origin, and returns what the last brought.
fn run(
    reload: &mut Reload,
    inputs: impl IntoIterator<Item = Input<String>>,
) -> Option<Output<String>> {
    let mut last = None;
    for input in inputs {
        last = reload.step(at(0), input);
    }
    last
}

fn prepared() -> [Input<String>; 4] {
    [
        Input::Read(Ok(())),
        Input::Built(Ok(())),
        Input::Free,
        Input::Composed(Ok(())),
    ]
}

/// One that applies, with nothing to try.
fn applying(rolls: &[&str]) -> Reload {
    let mut reload = Reload::next(at(0));
    let output = run(&mut reload, prepared().into_iter().chain([trying(&[])]));
    assert_eq!(output, Some(Output::Apply));
    assert_eq!(run(&mut reload, [applied(rolls)]), None);
    reload
}

#[test]
fn the_steps_follow_each_other() {
    let mut reload = Reload::next(at(0));
    let steps = [
        (Input::Read(Ok(())), Some(Output::Build), Stage::Building),
        (
            Input::Built(Ok(())),
            Some(Output::AwaitTurn),
            Stage::Waiting,
        ),
        (Input::Timer, None, Stage::Waiting),
        (Input::Free, Some(Output::Compose), Stage::Composing),
        (Input::Composed(Ok(())), Some(Output::Try), Stage::Trying),
        (trying(&[(1, "a"), (2, "b")]), None, Stage::Trying),
        (tried(2, &[], &[]), None, Stage::Trying),
        // Of nobody that is waited for.
        (tried(7, &["a"], &[]), None, Stage::Trying),
        (
            tried(1, &["a"], &["a"]),
            Some(Output::Apply),
            Stage::Applying,
        ),
        // Before it was applied nobody can have followed.
        (followed(), None, Stage::Applying),
        (applied(&["p"]), None, Stage::Applying),
        (followed(), None, Stage::Applying),
        (
            Input::RollEnded {
                pool: pool("p"),
                result: Ok(()),
            },
            None,
            Stage::Applying,
        ),
        (followed(), Some(Output::InForce), Stage::Ended),
        (followed(), None, Stage::Ended),
        (Input::Timer, None, Stage::Ended),
    ];
    for (input, output, stage) in steps {
        let said = format!("{input:?}");
        assert_eq!(reload.step(at(0), input), output, "{said}");
        assert_eq!(reload.stage(), stage, "{said}");
    }
}

#[test]
fn the_first_waits_for_no_worker() {
    let mut reload = Reload::first(at(0));
    let output = run(&mut reload, prepared().into_iter().chain([trying(&[])]));
    assert_eq!(output, Some(Output::Apply));
    assert_eq!(run(&mut reload, [applied(&[])]), Some(Output::InForce));
}

#[test]
fn what_fails_before_it_is_applied_is_rejected_at_once() {
    let why = || "why".to_owned();
    let failures = [
        (0, Input::Read(Err(why()))),
        (1, Input::Built(Err(why()))),
        (3, Input::Composed(Err(why()))),
        (
            4,
            Input::Trying {
                trials: Err(why()),
                within: WITHIN,
            },
        ),
    ];
    for (after, failure) in failures {
        let mut reload = Reload::next(at(0));
        let _ = run(&mut reload, prepared().into_iter().take(after));
        let output = run(&mut reload, [failure]);
        assert_eq!(output, Some(Output::Rejected(Rejected::Step(why()))));
        assert_eq!(reload.stage(), Stage::Ended);
    }
}

#[test]
fn each_stage_that_waits_has_an_end() {
    let reject = |mut reload: Reload, millis, why: &str| {
        let until = reload.deadline().unwrap();
        assert_eq!(until, at(millis));
        assert_eq!(reload.step(at(millis - 1), Input::Timer), None);
        match reload.step(until, Input::Timer) {
            Some(Output::Rejected(rejected)) => assert_eq!(rejected.to_string(), why),
            other => panic!("{other:?}"),
        }
    };
    let mut waiting = Reload::next(at(0));
    let _ = run(&mut waiting, prepared().into_iter().take(2));
    reject(waiting, 1_800_000, "others still work on what it changes");

    let mut silent = Reload::next(at(0));
    let _ = run(&mut silent, prepared());
    let _ = run(
        &mut silent,
        [trying(&[(1, "a"), (2, "b")]), tried(1, &[], &[])],
    );
    let why = "validate: the canary worker was not ready in time, with app b";
    reject(silent, 1000, why);

    let mut late = applying(&[]);
    assert_eq!(late.step(at(1000), Input::Timer), Some(Output::Restore));
    // Nobody goes back before the driver has said so.
    assert_eq!(late.deadline(), None);
    assert_eq!(late.step(at(1000), followed()), None);
    let restored = Input::Restored { within: WITHIN };
    assert_eq!(late.step(at(1000), restored), None);
    let why = "the workers did not follow in time; not all workers are back yet";
    reject(late, 2000, why);
}

#[test]
fn what_fails_once_it_is_applied_is_restored_first() {
    let refused = Input::Refused {
        app: app("a"),
        reason: "no".to_owned(),
    };
    let roll = Input::RollEnded {
        pool: pool("p"),
        result: Err(RollFailure::Tripped),
    };
    let tripped = Input::Progress(Progress {
        tripped: Some(pool("p")),
        ..Progress::default()
    });
    for (failures, why) in [
        (vec![refused.clone(), followed()], "app a: no".to_owned()),
        (
            vec![roll.clone(), followed()],
            format!("pool p: {}", RollFailure::Tripped),
        ),
        (vec![tripped], "pool p has tripped".to_owned()),
        // The first reason is the reason.
        (vec![refused, roll, followed()], "app a: no".to_owned()),
    ] {
        let mut reload = applying(&["p"]);
        assert_eq!(run(&mut reload, failures), Some(Output::Restore));
        assert_eq!(reload.stage(), Stage::Restoring);
        let restored = Input::Restored { within: WITHIN };
        match run(&mut reload, [restored, followed()]) {
            Some(Output::Rejected(rejected)) => assert_eq!(rejected.to_string(), why),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn all_that_is_invalid_is_named() {
    let mut reload = Reload::next(at(0));
    let _ = run(&mut reload, prepared());
    match run(
        &mut reload,
        [trying(&[(1, "a")]), tried(1, &["a", "b", "c"], &["b"])],
    ) {
        Some(Output::Rejected(why)) => {
            assert_eq!(why.to_string(), "validate: app a: no; app c: no");
        }
        other => panic!("{other:?}"),
    }
}

/// A generator of pseudo-random numbers: Knuth's MMIX constants.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn any(random: &mut Random) -> Input<String> {
    let step = |random: &mut Random| match random.below(8) {
        0 => Err("why".to_owned()),
        _ => Ok(()),
    };
    let names = ["p", "q"];
    let name = names[usize::try_from(random.below(2)).unwrap()];
    match random.below(14) {
        0 => Input::Read(step(random)),
        1 => Input::Built(step(random)),
        2 => Input::Free,
        3 => Input::Composed(step(random)),
        4 => trying(&[(1, "a"), (2, "b")][..usize::try_from(random.below(3)).unwrap()]),
        5 => tried(1, &[], &[]),
        6 => tried(2, &["b"], if random.below(2) == 0 { &["b"] } else { &[] }),
        7 => applied(&[name]),
        8 => Input::Refused {
            app: app("a"),
            reason: "no".to_owned(),
        },
        9 => Input::RollEnded {
            pool: pool(name),
            result: match random.below(4) {
                0 => Err(RollFailure::Tripped),
                _ => Ok(()),
            },
        },
        10 => Input::Restored { within: WITHIN },
        11 => Input::Timer,
        _ => Input::Progress(Progress {
            settled: random.below(2) == 0,
            full: random.below(2) == 0,
            handed_out: random.below(2) == 0,
            tripped: (random.below(8) == 0).then(|| pool("p")),
        }),
    }
}

#[test]
fn whatever_happens_the_laws_hold() {
    let mut ends = [0_u32; 2];
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let first = random.below(4) == 0;
        let mut reload = if first {
            Reload::first(at(0))
        } else {
            Reload::next(at(0))
        };
        let (mut now, mut applied, mut restored) = (0, false, false);
        for _ in 0..200 {
            now += random.below(300);
            let ended = reload.stage() == Stage::Ended;
            let output = reload.step(at(now), any(&mut random));
            // What has ended stays so, and says no more.
            assert!(!ended || (output.is_none() && reload.stage() == Stage::Ended));
            match output {
                Some(Output::Apply) => {
                    assert!(!applied, "seed {seed}: applied twice");
                    applied = true;
                }
                Some(Output::Restore) => {
                    assert!(applied && !restored && !first, "seed {seed}");
                    restored = true;
                }
                Some(Output::InForce) => {
                    assert!(applied && !restored, "seed {seed}: in force unapplied");
                    ends[0] += 1;
                }
                Some(Output::Rejected(_)) => {
                    // Whatever was applied was taken back before.
                    assert_eq!(applied, restored, "seed {seed}");
                    ends[1] += 1;
                }
                _ => {}
            }
        }
    }
    assert!(ends.iter().all(|&ends| ends > 500), "{ends:?}");
}
