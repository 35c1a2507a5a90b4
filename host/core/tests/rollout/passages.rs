//! Rollouts, one by one, and what they say.

use std::time::Duration;

use skep_core::rollout::{
    By, Deadlines, Ending, FailedStep, Input, Order, Output, RECORD_DEADLINE, Rollout, Rules,
    Stage, Wanted,
};
use skep_core::{Moment, Portion, Revision, Strategy, Tally, WorkerId};

const TENTH: Portion = Portion::percent(10);

const NEW: Output = Output::Want(Wanted::New { standby_old: true });
const NEW_ALONE: Output = Output::Want(Wanted::New { standby_old: false });
const OLD: Output = Output::Want(Wanted::Old);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Moment {
    Moment::after_origin(secs(seconds))
}

fn order() -> Order {
    Order {
        from: Some(Revision(1)),
        to: Revision(2),
        strategy: Strategy::Swap,
        canary: None,
        force: false,
        dry_run: false,
        observe: secs(10),
        rules: Rules {
            max_error_rate: Portion::percent(1),
            max_latency: Portion::percent(160),
        },
        deadlines: Deadlines {
            build: secs(60),
            validate: secs(11),
            roll_out: secs(30),
            restore: secs(20),
        },
    }
}

fn counts(requests: u64, errors: u64) -> Tally {
    Tally {
        requests,
        errors,
        latency: vec![(20, requests)],
    }
}

fn healthy() -> Input {
    Input::Tallies {
        old: counts(1000, 0),
        new: counts(1000, 1),
    }
}

fn unhealthy() -> Input {
    Input::Tallies {
        old: counts(1000, 0),
        new: counts(310, 16),
    }
}

fn why(text: &str) -> String {
    text.to_owned()
}

/// Plays inputs at the moment 0 and returns the outputs of the last one.
fn after(order: &Order, inputs: &[Input]) -> (Rollout, Vec<Output>) {
    let (mut rollout, mut out) = Rollout::begin(at(0), order.clone());
    for input in inputs {
        out = rollout.step(at(0), input.clone());
    }
    (rollout, out)
}

const TO_LIVE: [Input; 4] = [
    Input::Built,
    Input::Validated,
    Input::Settled,
    Input::Recorded,
];

fn rejected(step: FailedStep, reason: &str) -> Output {
    let reason = why(reason);
    Output::Ended(Ending::Rejected { step, reason })
}

fn rolled_back(step: FailedStep, reason: &str, by: By) -> Output {
    let reason = why(reason);
    Output::Ended(Ending::RolledBack { step, reason, by })
}

fn restoring(step: FailedStep, reason: &str, by: By) -> Output {
    let reason = why(reason);
    Output::Restoring { step, reason, by }
}

#[test]
fn a_good_revision_is_swapped_in() {
    let (mut rollout, out) = Rollout::begin(at(0), order());
    assert_eq!(out, [Output::Build]);
    assert_eq!(rollout.stage(), Stage::Building);
    assert_eq!(rollout.deadline(), Some(at(60)));
    assert_eq!(rollout.step(at(1), Input::Built), [Output::Validate]);
    assert_eq!(rollout.stage(), Stage::Validating);
    assert_eq!(rollout.deadline(), Some(at(12)));
    assert_eq!(rollout.wanted(), Wanted::Old);
    let out = rollout.step(at(2), Input::Validated);
    assert_eq!(out, [Output::Validated, NEW]);
    assert_eq!(rollout.stage(), Stage::RollingOut);
    assert_eq!(rollout.deadline(), Some(at(32)));
    assert_eq!(rollout.step(at(3), Input::Settled), [Output::Commit]);
    assert_eq!(rollout.deadline(), Some(at(3) + RECORD_DEADLINE));
    assert_eq!(rollout.step(at(4), Input::Recorded), [Output::Live]);
    assert_eq!(rollout.stage(), Stage::Observing);
    assert_eq!(rollout.deadline(), Some(at(14)));
    assert_eq!(rollout.step(at(5), healthy()), []);
    assert_eq!(rollout.step(at(13), Input::Timer), []);
    let out = rollout.step(at(14), Input::Timer);
    assert_eq!(out, [NEW_ALONE, Output::Ended(Ending::Done)]);
    assert_eq!(rollout.stage(), Stage::Ended);
    assert_eq!(rollout.deadline(), None);
    assert_eq!(rollout.step(at(15), unhealthy()), []);
}

#[test]
fn without_observation_it_is_done_when_it_is_live() {
    let order = Order {
        observe: Duration::ZERO,
        ..order()
    };
    let (_, out) = after(&order, &TO_LIVE);
    let ended = Output::Ended(Ending::Done);
    assert_eq!(out, [Output::Live, NEW_ALONE, ended]);
}

#[test]
fn restarting_replaces_the_workers() {
    let order = Order {
        strategy: Strategy::Restart,
        ..order()
    };
    let (mut rollout, out) = after(&order, &[Input::Built, Input::Validated]);
    assert_eq!(out, [Output::Validated, Output::Roll { patient: false }]);
    assert_eq!(rollout.wanted(), Wanted::New { standby_old: true });
    // That no worker has an older plan may be so before all are replaced.
    assert_eq!(rollout.step(at(0), Input::Settled), []);
    assert_eq!(rollout.step(at(0), Input::Rolled), [Output::Commit]);

    let (mut rollout, _) = after(&order, &[Input::Built, Input::Validated]);
    let reason = why("worker 7 was not ready within 10 s");
    let failed = Input::RollFailed {
        reason: reason.clone(),
    };
    let out = rollout.step(at(0), failed);
    assert_eq!(
        out,
        [restoring(FailedStep::RollOut, &reason, By::Failure), OLD]
    );
    assert_eq!(rollout.step(at(0), Input::Rolled), []);
    let out = rollout.step(at(0), Input::Settled);
    assert_eq!(
        out,
        [rolled_back(FailedStep::RollOut, &reason, By::Failure)]
    );
}

#[test]
fn a_canary_holds_until_it_is_promoted() {
    let order = Order {
        canary: Some(TENTH),
        ..order()
    };
    let (mut rollout, out) = after(&order, &[Input::Built, Input::Validated]);
    let share = Output::Want(Wanted::Canary(TENTH));
    assert_eq!(out, [Output::Validated, share]);
    assert_eq!(rollout.step(at(0), Input::Settled), [Output::Canary]);
    assert_eq!(rollout.stage(), Stage::Canary);
    assert_eq!(rollout.step(at(1), healthy()), []);
    assert_eq!(rollout.deadline(), Some(at(10)));
    assert_eq!(rollout.step(at(10), Input::Timer), [Output::Holding]);
    assert_eq!(rollout.deadline(), None);
    assert_eq!(rollout.step(at(9000), Input::Timer), []);
    assert_eq!(rollout.step(at(9000), Input::Promote), [NEW]);
    assert_eq!(rollout.step(at(9000), Input::Settled), [Output::Commit]);
    assert_eq!(rollout.step(at(9000), Input::Recorded), [Output::Live]);
    assert_eq!(rollout.deadline(), Some(at(9010)));
    // An operator who is content need not wait.
    let out = rollout.step(at(9001), Input::Promote);
    assert_eq!(out, [NEW_ALONE, Output::Ended(Ending::Done)]);
}

#[test]
fn a_canary_that_fails_goes_back() {
    let order = Order {
        canary: Some(TENTH),
        ..order()
    };
    let to_canary = [Input::Built, Input::Validated, Input::Settled];
    let words = "5.17% of 310 requests failed, more than max_error_rate = 1%";
    for wait in [5, 50] {
        let (mut rollout, _) = after(&order, &to_canary);
        if wait > 10 {
            let _ = rollout.step(at(10), Input::Timer);
        }
        let out = rollout.step(at(wait), unhealthy());
        // It was never written down, so there is nothing to revert.
        let back = restoring(FailedStep::Observe, words, By::Health);
        assert_eq!(out, [back, OLD]);
    }
    // Too few to be certain before the end, and a pattern at the end.
    let (mut rollout, _) = after(&order, &to_canary);
    let few = Input::Tallies {
        old: counts(1000, 0),
        new: counts(10, 2),
    };
    assert_eq!(rollout.step(at(5), few), []);
    let out = rollout.step(at(10), Input::Timer);
    let words = "20% of 10 requests failed, more than max_error_rate = 1%";
    let back = restoring(FailedStep::Observe, words, By::Health);
    assert_eq!(out, [back, OLD]);
}

#[test]
fn one_that_turns_bad_is_taken_back_and_that_is_written_down() {
    let (mut rollout, _) = after(&order(), &TO_LIVE);
    let words = "5.17% of 310 requests failed, more than max_error_rate = 1%";
    let out = rollout.step(at(3), unhealthy());
    let back = restoring(FailedStep::Observe, words, By::Health);
    assert_eq!(out, [back, Output::Revert, OLD]);
    assert_eq!(rollout.stage(), Stage::Restoring);
    assert_eq!(rollout.deadline(), Some(at(23)));
    let mut late = rollout.clone();
    let ended = rolled_back(FailedStep::Observe, words, By::Health);
    assert_eq!(rollout.step(at(4), Input::Settled), [ended]);
    let words = format!("{words}; the old revision was not back on all workers within 20 s");
    let ended = rolled_back(FailedStep::Observe, &words, By::Health);
    assert_eq!(late.step(at(23), Input::Timer), [ended]);
}

/// What both counted when the new one takes that long; the old one takes 20 ms.
fn latencies(rounds: u64, millis: u64) -> Input {
    let tally = |requests, millis| Tally {
        requests,
        errors: 0,
        latency: vec![(
            skep_core::tally_bucket_of(Duration::from_millis(millis)),
            requests,
        )],
    };
    Input::Tallies {
        old: tally(500 + rounds * 10, 20),
        new: tally(100 + rounds * 10, millis),
    }
}

#[test]
fn one_that_seems_to_be_slow_is_compared_side_by_side_and_goes_or_stays() {
    let (mut rollout, _) = after(&order(), &TO_LIVE);
    assert_eq!(rollout.remark(), None);
    let out = rollout.step(at(9), latencies(0, 40));
    assert!(
        matches!(&out[..], [Output::Comparing { reason }, Output::Want(Wanted::Both)]
            if reason.contains("side by side")),
        "{out:?}"
    );
    assert_eq!(rollout.stage(), Stage::Observing);
    assert_eq!(rollout.remark(), Some("compared side by side"));
    let mut good = rollout.clone();
    let mut silent = rollout.clone();

    // It is slower there as well. The 10 seconds of `observe` do not end it.
    let mut out = Vec::new();
    for round in 1..20 {
        assert_eq!(out, []);
        out = rollout.step(at(9 + round), latencies(round, 40));
        if !out.is_empty() {
            break;
        }
    }
    assert!(
        matches!(&out[..], [Output::Restoring { step: FailedStep::Observe, reason, by: By::Health },
            Output::Revert, Output::Want(Wanted::Old)] if reason.contains("max_latency = 160%")),
        "{out:?}"
    );

    // Both are slower now: it was the machine.
    let both = |rounds: u64| {
        let Input::Tallies { mut old, mut new } = latencies(0, 40) else {
            unreachable!()
        };
        for tally in [&mut old, &mut new] {
            tally.requests += rounds * 10;
            tally.latency.push((250, rounds * 10));
        }
        Input::Tallies { old, new }
    };
    let mut out = Vec::new();
    for round in 1..20 {
        out = good.step(at(9 + round), both(round));
        if !out.is_empty() {
            break;
        }
    }
    assert_eq!(out, [NEW_ALONE, Output::Ended(Ending::Done)]);

    // Nobody asks for anything any more.
    assert_eq!(silent.step(at(18), Input::Timer), []);
    let due = silent.deadline().unwrap();
    let out = silent.step(due, Input::Timer);
    assert_eq!(out, [NEW_ALONE, Output::Ended(Ending::Done)]);
}

#[test]
fn a_comparison_ends_for_whatever_ends_an_observation() {
    let (mut rollout, _) = after(&order(), &TO_LIVE);
    let _ = rollout.step(at(1), latencies(0, 40));
    let out = rollout.clone().step(at(2), Input::Promote);
    assert_eq!(out, [NEW_ALONE, Output::Ended(Ending::Done)]);
    let inputs = [
        unhealthy(),
        Input::Tripped { reason: why("x") },
        Input::Rollback { reason: why("x") },
    ];
    for input in inputs {
        let out = rollout.clone().step(at(2), input);
        assert!(
            matches!(
                out[..],
                [
                    Output::Restoring { .. },
                    Output::Revert,
                    Output::Want(Wanted::Old)
                ]
            ),
            "{out:?}"
        );
    }
}

#[test]
fn a_dry_run_stops_before_the_roll_out() {
    let dry = Order {
        dry_run: true,
        ..order()
    };
    let (_, out) = after(&dry, &[Input::Built, Input::Validated]);
    assert_eq!(out, [Output::Validated, Output::Ended(Ending::Checked)]);
    // There is nothing to force.
    let forced = Order { force: true, ..dry };
    let failed = Input::ValidationFailed {
        reason: why("DATABASE_URL is empty"),
    };
    let (_, out) = after(&forced, &[Input::Built, failed]);
    assert_eq!(
        out,
        [rejected(FailedStep::Validate, "DATABASE_URL is empty")]
    );
}

#[test]
fn failures_before_the_roll_out_reject() {
    let failed = Input::BuildFailed {
        step: FailedStep::Check,
        reason: why("imports wasi:sockets"),
    };
    let (_, out) = after(&order(), &[failed]);
    assert_eq!(out, [rejected(FailedStep::Check, "imports wasi:sockets")]);
    let failed = Input::ValidationFailed {
        reason: why("GET /ready answered 500"),
    };
    let (_, out) = after(&order(), &[Input::Built, failed]);
    assert_eq!(
        out,
        [rejected(FailedStep::Validate, "GET /ready answered 500")]
    );
    let stop = Input::Rollback {
        reason: why("called off"),
    };
    let (_, out) = after(&order(), &[Input::Built, stop]);
    assert_eq!(out, [rejected(FailedStep::Operator, "called off")]);
}

#[test]
fn every_step_has_a_deadline_and_its_own_words() {
    let words = |inputs: &[Input]| {
        let (mut rollout, _) = after(&order(), inputs);
        let deadline = rollout.deadline().unwrap();
        assert_eq!(rollout.step(at(0), Input::Timer), []);
        match rollout.step(deadline, Input::Timer).remove(0) {
            Output::Ended(Ending::Rejected { step, reason })
            | Output::Restoring { step, reason, .. } => format!("{step}: {reason}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(words(&[]), "build: building took longer than 60 s");
    assert_eq!(
        words(&TO_LIVE[..1]),
        "validate: validation took longer than 11 s"
    );
    assert_eq!(
        words(&TO_LIVE[..2]),
        "roll-out: the roll-out took longer than 30 s"
    );
    assert_eq!(
        words(&TO_LIVE[..3]),
        "record: recording the revision took longer than 10 s"
    );
}

#[test]
fn a_failure_after_the_roll_out_began_restores() {
    let roll_out = &TO_LIVE[..2];
    let refused = Input::Refused {
        worker: WorkerId(3),
        reason: why("out of memory"),
    };
    let tripped = Input::Tripped {
        reason: why("5 crashes"),
    };
    let unrecorded = Input::RecordFailed {
        reason: why("no space left on device"),
    };
    let stop = Input::Rollback {
        reason: why("asked for"),
    };
    let cases = [
        (
            roll_out,
            refused,
            restoring(FailedStep::RollOut, "worker 3: out of memory", By::Failure),
        ),
        (
            roll_out,
            tripped.clone(),
            restoring(FailedStep::RollOut, "5 crashes", By::Failure),
        ),
        (
            roll_out,
            stop.clone(),
            restoring(FailedStep::Operator, "asked for", By::Operator),
        ),
        (
            &TO_LIVE[..3],
            unrecorded,
            restoring(FailedStep::Record, "no space left on device", By::Failure),
        ),
        (
            &TO_LIVE[..],
            tripped,
            restoring(FailedStep::Observe, "5 crashes", By::Failure),
        ),
        (
            &TO_LIVE[..],
            stop,
            restoring(FailedStep::Operator, "asked for", By::Operator),
        ),
    ];
    for (inputs, input, expected) in cases {
        let (mut rollout, _) = after(&order(), inputs);
        let out = rollout.step(at(1), input);
        assert_eq!(out.first(), Some(&expected));
        assert_eq!(out.last(), Some(&OLD));
        assert_eq!(out.contains(&Output::Revert), inputs.len() > 2);
        assert_eq!(rollout.wanted(), Wanted::Old);
    }
}

#[test]
fn force_leaves_it_to_the_breaker() {
    let order = Order {
        force: true,
        canary: Some(TENTH),
        ..order()
    };
    let failed = Input::ValidationFailed {
        reason: why("DATABASE_URL is empty"),
    };
    let forced = [
        Output::Forced {
            reason: why("DATABASE_URL is empty"),
        },
        Output::Roll { patient: true },
    ];
    let (mut rollout, out) = after(&order, &[Input::Built, failed]);
    assert_eq!(out, forced);
    let reason = why("5 workers failed to start within 30 s");
    let tripped = Input::Tripped {
        reason: reason.clone(),
    };
    let out = rollout.step(at(5), tripped);
    assert_eq!(
        out,
        [restoring(FailedStep::RollOut, &reason, By::Failure), OLD]
    );

    // A validation that does not end is one that failed.
    let (mut rollout, _) = after(&order, &[Input::Built]);
    let out = rollout.step(at(11), Input::Timer);
    assert_eq!(out.last(), Some(&Output::Roll { patient: true }));
    // And one that succeeds needs no force.
    let (_, out) = after(&order, &[Input::Built, Input::Validated]);
    assert_eq!(out.last(), Some(&Output::Want(Wanted::Canary(TENTH))));
}

#[test]
fn a_first_revision_has_nothing_to_go_back_to() {
    let first = Order {
        from: None,
        canary: Some(TENTH),
        ..order()
    };
    let (mut rollout, out) = after(&first, &TO_LIVE[..2]);
    assert_eq!(out, [Output::Validated, NEW_ALONE]);
    let mut refused = rollout.clone();
    assert_eq!(rollout.step(at(0), Input::Settled), [Output::Commit]);
    let out = rollout.step(at(0), Input::Recorded);
    let ended = Output::Ended(Ending::Done);
    assert_eq!(out, [Output::Live, NEW_ALONE, ended]);
    // Not live yet, it is taken out again.
    let input = Input::Refused {
        worker: WorkerId(1),
        reason: why("trapped"),
    };
    let out = refused.step(at(0), input);
    let back = restoring(FailedStep::RollOut, "worker 1: trapped", By::Failure);
    assert_eq!(out, [back, OLD]);
}

#[test]
fn what_a_reload_made_live_is_only_observed() {
    let mut rollout = Rollout::observe(at(5), order());
    assert_eq!(rollout.stage(), Stage::Observing);
    assert_eq!(rollout.wanted(), Wanted::New { standby_old: true });
    assert_eq!(rollout.deadline(), Some(at(15)));
    let mut bad = rollout.clone();
    let out = bad.step(at(6), unhealthy());
    assert_eq!(out[1..], [Output::Revert, OLD]);
    assert_eq!(rollout.step(at(14), healthy()), []);
    let out = rollout.step(at(15), Input::Timer);
    assert_eq!(out, [NEW_ALONE, Output::Ended(Ending::Done)]);
}

#[test]
fn a_shutdown_ends_it_anywhere() {
    for count in 0..=TO_LIVE.len() {
        let (mut rollout, _) = after(&order(), &TO_LIVE[..count]);
        let out = rollout.step(at(0), Input::Abandon);
        assert_eq!(out, [Output::Ended(Ending::Abandoned)]);
        assert_eq!(rollout.step(at(0), Input::Abandon), []);
    }
}
