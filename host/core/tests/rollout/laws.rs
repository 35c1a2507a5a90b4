//! Laws of a rollout under any sequence of inputs, right or wrong:
//!
//! - it ends, within the sum of its deadlines (a canary that holds excepted),
//!   once, and nothing comes after;
//! - nothing is rolled out before a validation that succeeded or was overruled;
//! - it is written down only when all workers have come to it, is live only
//!   when it is written down, and done only when it was live for `observe`
//!   or an operator said so;
//! - done leaves every plan without the old revision; rolled back leaves it
//!   with nothing else, and what may have been written down is reverted first;
//! - every state but a proven canary has a deadline; a timer that is due moves
//!   it, and one that is not changes nothing;
//! - it is compared side by side only while it is live and observed, for a
//!   bounded time, and what that left open is said at its end;
//! - a revision that plainly fails while it is watched goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_core::rollout::{
    By, COMPARE_LIMIT, Deadlines, Ending, FailedStep, Input, Order, Output, RECORD_DEADLINE,
    Rollout, Rules, Stage, Wanted,
};
use skep_core::{Moment, Portion, Revision, Strategy, Tally, WorkerId};

use crate::random::{Random, steps};

/// What the driver was told last about which handlers workers shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Want(Wanted),
    Roll,
}

/// A rollout whose every step is checked.
struct Checked {
    rollout: Rollout,
    order: Order,
    now: Moment,
    /// When it began; moved on by the time that a canary holds.
    begun: Moment,
    log: Vec<Output>,
    directive: Option<Directive>,
    valid: bool,
    live_at: Option<Moment>,
    canary_at: Option<Moment>,
    holding: bool,
    ending: Option<Ending>,
}

impl Checked {
    fn new(order: Order) -> Self {
        let now = Moment::after_origin(Duration::from_secs(1000));
        let (rollout, log) = Rollout::begin(now, order.clone());
        assert_eq!(log, [Output::Build]);
        Self {
            rollout,
            order,
            now,
            begun: now,
            log,
            directive: None,
            valid: false,
            live_at: None,
            canary_at: None,
            holding: false,
            ending: None,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        if self.rollout.stage() == Stage::Canary {
            self.begun = self.begun + time;
        }
    }

    fn step(&mut self, input: &Input) {
        let stage = self.rollout.stage();
        let due = self.rollout.deadline();
        let was_ended = self.ending.is_some();
        let out = self.rollout.step(self.now, input.clone());
        for (index, output) in out.iter().enumerate() {
            assert!(self.ending.is_none(), "{output:?} after the end");
            self.check(input, stage, output);
            self.log.push(output.clone());
            assert_eq!(
                self.ending.is_some(),
                index + 1 == out.len() && { matches!(output, Output::Ended(_)) }
            );
        }
        assert_eq!(
            self.ending.is_some(),
            self.rollout.stage() == Stage::Ended,
            "an end is told"
        );
        if *input == Input::Abandon && !was_ended {
            assert_eq!(self.ending, Some(Ending::Abandoned));
        }
        let deadline = self.rollout.deadline();
        if *input == Input::Timer {
            if due.is_some_and(|due| due <= self.now) {
                assert!(deadline > Some(self.now) || deadline.is_none(), "lost");
                assert_ne!(deadline, due);
            } else {
                assert_eq!((deadline, out.len()), (due, 0), "before its time");
                assert_eq!(self.rollout.stage(), stage);
            }
        }
        let may_wait = self.ending.is_some() || self.holding;
        let still = self.rollout.stage() == Stage::Canary || self.ending.is_some();
        assert!(deadline.is_some() || (may_wait && still), "no deadline");
        self.check_wanted();
        if matches!(input, Input::Tallies { new, .. } if new.errors >= 500)
            && matches!(stage, Stage::Canary | Stage::Observing)
        {
            assert_eq!(self.rollout.stage(), Stage::Restoring, "it fails");
        }
    }

    fn check_wanted(&self) {
        let wanted = self.rollout.wanted();
        match self.directive {
            None => assert_eq!(wanted, Wanted::Old),
            Some(Directive::Want(told)) => assert_eq!(wanted, told),
            Some(Directive::Roll) => assert_eq!(wanted, self.new_beside_old()),
        }
    }

    fn new_beside_old(&self) -> Wanted {
        Wanted::New {
            standby_old: self.order.from.is_some(),
        }
    }

    fn said(&self, what: impl Fn(&Output) -> bool) -> bool {
        self.log.iter().any(what)
    }

    fn direct(&mut self, directive: Directive) {
        if directive != Directive::Want(Wanted::Old) {
            assert!(self.valid, "{directive:?} before it is valid");
            assert!(!self.order.dry_run, "{directive:?} in a dry run");
            assert!(
                !self.said(|output| matches!(output, Output::Restoring { .. })),
                "{directive:?} while it goes back"
            );
        }
        self.directive = Some(directive);
    }

    fn check(&mut self, input: &Input, stage: Stage, output: &Output) {
        match output {
            Output::Build => panic!("built twice"),
            Output::Validate => assert_eq!(*input, Input::Built),
            Output::Validated => {
                assert_eq!((input, stage), (&Input::Validated, Stage::Validating));
                self.valid = true;
            }
            Output::Forced { .. } => {
                assert!(self.order.force && stage == Stage::Validating);
                self.valid = true;
            }
            Output::Want(wanted) => {
                assert!(*wanted != Wanted::Both || self.order.from.is_some());
                if let Wanted::Canary(share) = wanted {
                    assert_eq!(self.order.canary, Some(*share));
                    assert!(self.order.from.is_some() && *share < Portion::ALL);
                }
                let stays = *wanted == Wanted::New { standby_old: true };
                assert!(!stays || self.order.from.is_some());
                self.direct(Directive::Want(*wanted));
            }
            Output::Roll { patient } => {
                let forced = self.said(|output| matches!(output, Output::Forced { .. }));
                assert_eq!(*patient, forced);
                assert!(forced || self.order.strategy == Strategy::Restart);
                self.direct(Directive::Roll);
            }
            Output::Canary => {
                assert_eq!(*input, Input::Settled);
                let share = self.order.canary.map(Wanted::Canary).map(Directive::Want);
                assert_eq!(self.directive, share);
                self.canary_at = Some(self.now);
            }
            Output::Holding => {
                assert!(self.now.since(self.canary_at.unwrap()) >= self.order.observe);
                assert!(!self.holding, "told twice");
                self.holding = true;
            }
            Output::Commit => {
                let arrived = match self.directive {
                    Some(Directive::Want(Wanted::New { .. })) => Input::Settled,
                    Some(Directive::Roll) => Input::Rolled,
                    other => panic!("written down at {other:?}"),
                };
                assert_eq!(*input, arrived, "written down before workers are there");
                assert_eq!(stage, Stage::RollingOut);
            }
            Output::Live => {
                assert_eq!(*input, Input::Recorded);
                assert_eq!(self.log.last(), Some(&Output::Commit));
                self.live_at = Some(self.now);
            }
            Output::Comparing { .. } => {
                assert_eq!(stage, Stage::Observing);
                assert!(self.live_at.is_some());
            }
            Output::Unclear { .. } => assert_eq!(*input, Input::Timer, "before its time"),
            Output::Restoring { by, .. } => {
                let forced_back = [Stage::RollingOut, Stage::Canary, Stage::Observing];
                assert!(forced_back.contains(&stage), "restored from {stage}");
                assert_eq!(*by == By::Operator, matches!(input, Input::Rollback { .. }));
            }
            Output::Revert => {
                assert!(self.said(|output| *output == Output::Commit));
                assert!(matches!(self.log.last(), Some(Output::Restoring { .. })));
            }
            Output::Ended(ending) => {
                self.check_end(input, stage, ending);
                self.ending = Some(ending.clone());
            }
        }
    }

    fn check_end(&self, input: &Input, stage: Stage, ending: &Ending) {
        match ending {
            Ending::Done => {
                let alone = Wanted::New { standby_old: false };
                assert_eq!(self.directive, Some(Directive::Want(alone)));
                let watched = self.now.since(self.live_at.expect("it was live"));
                assert!(
                    watched >= self.order.observe
                        || *input == Input::Promote
                        || self.order.from.is_none()
                );
            }
            Ending::Checked => {
                assert!(self.order.dry_run && self.valid);
                assert_eq!(self.directive, None);
            }
            Ending::Rejected { .. } => assert_eq!(self.directive, None),
            Ending::RolledBack { step, by, .. } => {
                assert_eq!(self.directive, Some(Directive::Want(Wanted::Old)));
                let told = self.log.iter().filter_map(|output| match output {
                    Output::Restoring { step, by, .. } => Some((*step, *by)),
                    _ => None,
                });
                assert_eq!(told.collect::<Vec<_>>(), [(*step, *by)]);
                assert_eq!(
                    self.said(|output| *output == Output::Commit),
                    self.said(|output| *output == Output::Revert),
                    "what is written down is what is active"
                );
                assert_eq!(stage, Stage::Restoring);
            }
            Ending::Abandoned => assert_eq!(*input, Input::Abandon),
        }
    }

    fn check_time(&self) {
        let Deadlines {
            build,
            validate,
            roll_out,
            restore,
        } = self.order.deadlines;
        let watched = self.order.observe + COMPARE_LIMIT;
        let sum = build + validate + roll_out * 2 + RECORD_DEADLINE + watched + restore;
        assert!(self.now.since(self.begun) <= sum, "it takes too long");
    }
}

fn order(random: &mut Random) -> Order {
    let mut millis = || Duration::from_millis(1 + random.below(20_000));
    let deadlines = Deadlines {
        build: millis(),
        validate: millis(),
        roll_out: millis(),
        restore: millis(),
    };
    let observe = millis();
    Order {
        from: random.percent(85).then_some(Revision(1)),
        to: Revision(2),
        strategy: random.pick(&[Strategy::Swap, Strategy::Restart]).unwrap(),
        canary: random
            .pick(&[None, None, Some(Portion::percent(10)), Some(Portion::ALL)])
            .unwrap(),
        force: random.percent(30),
        dry_run: random.percent(10),
        observe: if random.percent(25) {
            Duration::ZERO
        } else {
            observe
        },
        rules: Rules {
            max_error_rate: Portion::percent(1),
            max_latency: Portion::percent(160),
        },
        deadlines,
    }
}

fn tallies(new: Tally) -> Input {
    let old = Tally {
        requests: 1000,
        errors: 0,
        latency: vec![(20, 1000)],
    };
    Input::Tallies { old, new }
}

/// What a driver says sooner or later, well or badly.
fn answer(random: &mut Random, checked: &Checked) -> Input {
    let reason = || "why".to_owned();
    let well = random.percent(80);
    match (checked.rollout.stage(), checked.log.last()) {
        (Stage::Building, _) if well => Input::Built,
        (Stage::Building, _) => Input::BuildFailed {
            step: FailedStep::Check,
            reason: reason(),
        },
        (Stage::Validating, _) if well => Input::Validated,
        (Stage::Validating, _) => Input::ValidationFailed { reason: reason() },
        (_, Some(Output::Commit)) if well => Input::Recorded,
        (_, Some(Output::Commit)) => Input::RecordFailed { reason: reason() },
        (Stage::RollingOut, Some(Output::Roll { .. })) if well => Input::Rolled,
        (Stage::RollingOut, Some(Output::Roll { .. })) => Input::RollFailed { reason: reason() },
        (Stage::RollingOut, _) if !well => Input::Refused {
            worker: WorkerId(1),
            reason: reason(),
        },
        (Stage::RollingOut | Stage::Restoring, _) => Input::Settled,
        (Stage::Canary, _) if random.percent(40) => Input::Promote,
        _ => any(random),
    }
}

fn any(random: &mut Random) -> Input {
    let reason = "why".to_owned();
    match random.below(40) {
        0 => Input::Built,
        1 => Input::BuildFailed {
            step: FailedStep::Build,
            reason,
        },
        2 => Input::Validated,
        3 => Input::ValidationFailed { reason },
        4 | 5 => Input::Settled,
        6 => Input::Refused {
            worker: WorkerId(2),
            reason,
        },
        7 => Input::Rolled,
        8 => Input::RollFailed { reason },
        9 => Input::Tripped { reason },
        10 => Input::Recorded,
        11 => Input::RecordFailed { reason },
        12 | 13 => Input::Promote,
        14 => Input::Rollback { reason },
        15 if random.percent(30) => Input::Abandon,
        16 => tallies(Tally {
            requests: 600,
            errors: 500 + random.below(100),
            latency: vec![(20, 600)],
        }),
        17 => tallies(Tally {
            requests: 30,
            errors: random.below(3),
            latency: vec![(26, 30)],
        }),
        // It seems to be slow.
        18 | 19 => tallies(Tally {
            requests: 300 + random.below(300),
            errors: 0,
            latency: vec![(80, 300)],
        }),
        20..24 => tallies(Tally {
            requests: 300,
            errors: random.below(2),
            latency: vec![(20, 300)],
        }),
        _ => Input::Timer,
    }
}

/// Plays one rollout to its end; returns how it ended and in how many steps.
fn play(seed: u64) -> (String, u64) {
    let mut random = Random::new(seed);
    let mut checked = Checked::new(order(&mut random));
    // A driver that is late with its timers is not held to the deadlines.
    let prompt = random.percent(80);
    let diligence = 10 + random.below(80);
    let mut taken = 0;
    while checked.ending.is_none() {
        taken += 1;
        assert!(taken < 2000, "it does not end");
        let deadline = checked.rollout.deadline();
        let left = deadline.map_or(Duration::from_secs(5), |due| due.since(checked.now));
        if random.percent(25) {
            checked.pass(left);
            if !prompt {
                checked.pass(Duration::from_millis(random.below(5000)));
            }
            if deadline.is_some() {
                checked.step(&Input::Timer);
                continue;
            }
        } else {
            checked.pass(left.mul_f64(0.2 * random.below(4) as f64 / 4.0));
        }
        let input = if random.percent(diligence) {
            answer(&mut random, &checked)
        } else {
            any(&mut random)
        };
        checked.step(&input);
    }
    if prompt {
        checked.check_time();
    }
    for _ in 0..5 {
        let input = any(&mut random);
        checked.step(&input);
    }
    let name = match checked.ending.unwrap() {
        Ending::Done => "done".to_owned(),
        Ending::Checked => "checked".to_owned(),
        Ending::Rejected { step, .. } => format!("rejected: {step}"),
        Ending::RolledBack { step, by, .. } => format!("rolled back: {step} by {}", by.name()),
        Ending::Abandoned => "abandoned".to_owned(),
    };
    (name, taken)
}

#[test]
fn laws_hold_for_any_sequence() {
    let total = steps(400_000);
    let mut endings: BTreeMap<String, u64> = BTreeMap::new();
    let (mut taken, mut seed) = (0, 0);
    while taken < total {
        let run = std::panic::catch_unwind(|| play(seed));
        let (ending, steps) = run.unwrap_or_else(|panic| {
            eprintln!("rollout {seed}");
            std::panic::resume_unwind(panic)
        });
        *endings.entry(ending).or_default() += 1;
        taken += steps;
        seed += 1;
    }
    // Laws of what never happens would hold for ever.
    for ending in [
        "done",
        "checked",
        "abandoned",
        "rejected: build",
        "rejected: check",
        "rejected: validate",
        "rejected: operator",
        "rolled back: roll-out by failure",
        "rolled back: record by failure",
        "rolled back: observe by failure",
        "rolled back: observe by health",
        "rolled back: operator by operator",
    ] {
        let count = endings.get(ending).copied().unwrap_or(0);
        assert!(count * 1000 > seed, "{ending}: {count} of {seed}");
    }
}
