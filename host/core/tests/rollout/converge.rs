//! How workers come to a plan.

use std::collections::BTreeSet;

use skep_core::converge::{Convergence, Pace, Refused, Step};
use skep_core::{HandlerId, SlotIndex, WorkerId};

use crate::fleet::Fleet;
use crate::random::steps;

fn set(handlers: &[u64]) -> BTreeSet<HandlerId> {
    handlers.iter().copied().map(HandlerId).collect()
}

fn load(worker: u64, handler: u64) -> Step {
    Step::Load {
        worker: WorkerId(worker),
        handler: HandlerId(handler),
    }
}

fn serve(worker: u64) -> Step {
    Step::Serve {
        worker: WorkerId(worker),
    }
}

/// Workers 1, 2, … in slots 0, 1, …, which serve plan 1 with handler 1.
fn pool(workers: u16) -> Convergence {
    let mut pool = Convergence::new(1, set(&[1]));
    for slot in 0..workers {
        let worker = WorkerId(u64::from(slot) + 1);
        pool.born(worker, SlotIndex(slot));
        assert_eq!(pool.ready(worker, &[]), []);
    }
    assert!(pool.is_settled());
    pool
}

#[test]
fn one_by_one_in_the_order_of_slots() {
    let mut pool = pool(2);
    assert_eq!(pool.want(2, set(&[1, 2]), Pace::OneByOne), [load(1, 2)]);
    assert_eq!(pool.laggards(), [WorkerId(1), WorkerId(2)]);
    assert_eq!(pool.loaded(WorkerId(1), HandlerId(2)), [serve(1)]);
    assert_eq!(pool.plan_of(WorkerId(1)), Some(1));
    assert_eq!(pool.serving(WorkerId(1), 2), [load(2, 2)]);
    assert_eq!(pool.plan_of(WorkerId(1)), Some(2));
    assert_eq!(pool.loaded(WorkerId(2), HandlerId(2)), [serve(2)]);
    assert!(!pool.is_settled());
    assert_eq!(pool.serving(WorkerId(2), 2), []);
    assert!(pool.is_settled());
}

#[test]
fn whoever_has_begun_goes_on_before_a_lower_slot() {
    let mut pool = Convergence::new(1, set(&[1]));
    pool.born(WorkerId(1), SlotIndex(0));
    pool.born(WorkerId(2), SlotIndex(1));
    assert_eq!(pool.ready(WorkerId(2), &[]), []);
    assert_eq!(pool.want(2, set(&[2]), Pace::OneByOne), [load(2, 2)]);
    assert_eq!(pool.ready(WorkerId(1), &[]), []);
    assert_eq!(pool.loaded(WorkerId(2), HandlerId(2)), [serve(2)]);
    assert_eq!(pool.serving(WorkerId(2), 2), [load(1, 2)]);
}

#[test]
fn all_at_once_does_not_wait() {
    let mut pool = pool(2);
    let steps = pool.want(2, set(&[2]), Pace::AllAtOnce);
    assert_eq!(steps, [load(1, 2), load(2, 2)]);
    assert_eq!(pool.loaded(WorkerId(2), HandlerId(2)), [serve(2)]);
    assert_eq!(pool.loaded(WorkerId(1), HandlerId(2)), [serve(1)]);
}

#[test]
fn a_newer_plan_takes_over_in_the_middle() {
    let mut pool = pool(1);
    assert_eq!(pool.want(5, set(&[1, 2]), Pace::OneByOne), [load(1, 2)]);
    // The load of 2 is out: 3 is loaded beside, and the switch waits for both.
    assert_eq!(pool.want(6, set(&[1, 3]), Pace::OneByOne), [load(1, 3)]);
    assert_eq!(pool.loaded(WorkerId(1), HandlerId(3)), []);
    // What plan 6 does not need may be refused.
    assert_eq!(
        pool.refused(WorkerId(1), HandlerId(2)),
        (Refused::Unneeded, vec![serve(1)])
    );
    // The switch is out: nothing is sent before its answer.
    assert_eq!(pool.want(7, set(&[1, 2]), Pace::OneByOne), []);
    assert_eq!(pool.serving(WorkerId(1), 6), [load(1, 2)]);
    assert_eq!(pool.loaded(WorkerId(1), HandlerId(2)), [serve(1)]);
    // An acknowledgement of another plan is not the one that is waited for.
    assert_eq!(pool.serving(WorkerId(1), 6), []);
    assert!(!pool.is_settled());
    assert_eq!(pool.serving(WorkerId(1), 7), []);
    assert!(pool.is_settled());
}

#[test]
fn what_one_cannot_load_is_not_tried_on_the_next() {
    let mut pool = pool(3);
    assert_eq!(pool.want(2, set(&[1, 2]), Pace::OneByOne), [load(1, 2)]);
    assert_eq!(
        pool.refused(WorkerId(1), HandlerId(2)),
        (Refused::Stuck, vec![])
    );
    assert!(!pool.is_settled());
    // Back: everybody was at it, but the plan has a new number.
    assert_eq!(pool.want(3, set(&[1]), Pace::OneByOne), [serve(1)]);
    assert_eq!(pool.serving(WorkerId(1), 3), [serve(2)]);
    assert_eq!(pool.leaving(WorkerId(2)), [serve(3)]);
    assert_eq!(pool.serving(WorkerId(3), 3), []);
    assert!(pool.is_settled());
    // Nobody remembers the refusal.
    assert_eq!(pool.want(4, set(&[2]), Pace::OneByOne), [load(1, 2)]);
}

#[test]
fn a_plan_at_birth_leaves_those_that_run_alone() {
    let mut pool = pool(1);
    assert_eq!(pool.want(2, set(&[2]), Pace::AtBirth), []);
    pool.born(WorkerId(2), SlotIndex(0));
    assert_eq!(pool.ready(WorkerId(2), &[]), []);
    assert_eq!(pool.laggards(), [WorkerId(1)]);
    assert_eq!(pool.leaving(WorkerId(1)), []);
    assert!(pool.is_settled());
    assert_eq!(pool.plan_of(WorkerId(1)), None);
}

#[test]
fn one_that_starts_with_an_older_plan_is_waited_for() {
    let mut pool = Convergence::new(1, set(&[1]));
    pool.born(WorkerId(1), SlotIndex(0));
    assert!(pool.is_settled());
    assert_eq!(pool.want(2, set(&[2]), Pace::OneByOne), []);
    assert!(!pool.is_settled());
    assert_eq!(pool.ready(WorkerId(1), &[]), [load(1, 2)]);
}

#[test]
fn laws_hold_for_any_sequence() {
    let sequences = steps(400_000) / 100;
    let mut settled = 0;
    for seed in 0..sequences {
        let run = std::panic::catch_unwind(|| {
            let mut fleet = Fleet::new(seed);
            for _ in 0..80 {
                fleet.step();
            }
            fleet.finish();
            fleet.settled
        });
        settled += run.unwrap_or_else(|panic| {
            eprintln!("sequence {seed}");
            std::panic::resume_unwind(panic)
        });
    }
    assert!(settled > sequences * 5, "laws of what never happens");
}

#[test]
fn a_worker_serves_without_what_it_could_not_load_when_it_started() {
    let mut pool = Convergence::new(1, set(&[1, 2, 3]));
    let (worker, other) = (WorkerId(1), WorkerId(2));
    pool.born(worker, SlotIndex(0));
    // Of its own plan, and of no other.
    assert_eq!(pool.refused(worker, HandlerId(9)).0, Refused::Unasked);
    assert_eq!(pool.refused(other, HandlerId(2)).0, Refused::Unasked);
    assert_eq!(pool.refused(worker, HandlerId(2)).0, Refused::Lacking);
    assert!(!pool.is_served(HandlerId(1)));
    assert_eq!(pool.ready(worker, &[HandlerId(3), HandlerId(9)]), []);
    assert!(pool.is_settled());
    assert!(pool.is_served(HandlerId(1)));
    for lacking in [2, 3] {
        assert!(!pool.is_served(HandlerId(lacking)));
        assert!(pool.lacking(HandlerId(lacking)).eq([worker]));
    }
    assert_eq!(pool.lacking(HandlerId(9)).count(), 0);
    // What it has cannot be refused any more, what it lacks is refused again.
    assert_eq!(pool.refused(worker, HandlerId(1)).0, Refused::Unasked);
    assert_eq!(pool.refused(worker, HandlerId(2)).0, Refused::Lacking);
    assert_eq!(pool.loaded(worker, HandlerId(3)), []);
    assert!(pool.is_served(HandlerId(3)));

    // Another plan does not wait for what is lacking.
    let steps = pool.want(2, set(&[1, 2, 4]), Pace::OneByOne);
    assert_eq!(steps, [load(1, 4)]);
    assert_eq!(pool.loaded(worker, HandlerId(4)), [serve(1)]);
    assert_eq!(pool.serving(worker, 2), []);
    assert!(pool.lacking(HandlerId(2)).eq([worker]));
    // One that does not need it forgets it.
    assert_eq!(pool.want(3, set(&[1]), Pace::OneByOne), [serve(1)]);
    assert_eq!(pool.serving(worker, 3), []);
    assert_eq!(pool.lacking(HandlerId(2)).count(), 0);
    assert_eq!(pool.want(4, set(&[1, 2]), Pace::OneByOne), [load(1, 2)]);
}

#[test]
fn what_is_excused_holds_no_plan_up() {
    let mut pool = pool(2);
    pool.excuse(set(&[3]));
    let steps = pool.want(2, set(&[2, 3]), Pace::OneByOne);
    assert_eq!(steps, [load(1, 2), load(1, 3)]);
    // It lacks it from the moment that it is told to load it.
    assert_eq!(pool.loaded(WorkerId(1), HandlerId(2)), [serve(1)]);
    assert_eq!(
        pool.refused(WorkerId(1), HandlerId(3)),
        (Refused::Lacking, vec![])
    );
    assert_eq!(pool.serving(WorkerId(1), 2), [load(2, 2), load(2, 3)]);
    assert!(pool.lacking(HandlerId(3)).eq([WorkerId(1), WorkerId(2)]));
    // What is not excused does.
    assert_eq!(pool.loaded(WorkerId(2), HandlerId(3)), []);
    assert_eq!(
        pool.refused(WorkerId(2), HandlerId(2)),
        (Refused::Stuck, vec![])
    );
    assert!(!pool.is_settled());
    assert!(pool.is_served(HandlerId(2)));
}
