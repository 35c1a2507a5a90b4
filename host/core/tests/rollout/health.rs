//! How often the judge is wrong, and how soon it is right.

use std::time::Duration;

use skep_core::rollout::{Health, Rules, judge};
use skep_core::{Portion, Tally, tally_bucket_of};

use crate::random::Random;

const RULES: Rules = Rules {
    max_error_rate: Portion::percent(1),
    max_latency: Portion::percent(160),
};

fn tally(requests: u64, errors: u64) -> Tally {
    Tally {
        requests,
        errors,
        latency: vec![(20, requests)],
    }
}

/// Requests until the verdict is bad, looked at every `every`; `None` if it
/// never is.
fn alarm(seed: u64, per_mille: u64, most: u64, every: u64) -> Option<u64> {
    let mut random = Random::new(seed);
    let old = tally(5000, 10);
    let mut errors = 0;
    for requests in 1..=most {
        errors += u64::from(random.per_mille(per_mille));
        if requests % every == 0 && judge(&RULES, &old, &tally(requests, errors), false).is_bad() {
            return Some(requests);
        }
    }
    judge(&RULES, &old, &tally(most, errors), true)
        .is_bad()
        .then_some(most)
}

#[test]
fn a_good_revision_is_not_taken_back_by_chance() {
    let alarms = |seeds: std::ops::Range<u64>, most, every| {
        seeds
            .filter(|seed| alarm(*seed, 2, most, every).is_some())
            .count()
    };
    let hundreds = alarms(0..1000, 10_000, 100);
    assert!(hundreds <= 2, "{hundreds} of 1000");
    // Nor by looking at every single request.
    let each = alarms(0..1000, 1000, 1);
    assert!(each <= 10, "{each} of 1000");
}

#[test]
fn one_in_twenty_failing_is_seen_within_a_few_hundred_requests() {
    let mut seen: Vec<u64> = (0..1000)
        .map(|seed| alarm(seed, 50, 2000, 10).expect("seen in the end"))
        .collect();
    seen.sort_unstable();
    assert!(seen[500] <= 150, "half of them after {}", seen[500]);
    assert!(seen[990] <= 600, "99 % of them after {}", seen[990]);
}

#[test]
fn everything_failing_is_seen_at_once() {
    for seed in 0..100 {
        assert_eq!(alarm(seed, 1000, 1000, 1), Some(20));
    }
}

/// Latencies of `count` requests around `micros`, within a factor of two.
fn spread(random: &mut Random, count: u64, micros: u64) -> Tally {
    let mut sum = Tally::default();
    for _ in 0..count {
        let latency = Duration::from_micros(micros * 3 / 4 + random.below(micros * 3 / 4));
        sum.add(&Tally {
            requests: 1,
            errors: 0,
            latency: vec![(tally_bucket_of(latency), 1)],
        });
    }
    sum
}

#[test]
fn twice_as_slow_is_suspect_and_as_slow_as_before_is_not() {
    let mut random = Random::new(1);
    let mut missed = 0;
    for micros in [2000, 2500, 3000, 3500, 5000, 11_000, 80_000] {
        for _ in 0..20 {
            let old = spread(&mut random, 200, micros);
            let same = judge(&RULES, &old, &spread(&mut random, 60, micros), false);
            assert_eq!(same, Health::Good, "{micros} µs");
            let slow = |times| {
                let new = spread(&mut random, 200, micros * times);
                matches!(judge(&RULES, &old, &new, false), Health::Suspect { .. })
            };
            let [twice, thrice] = [2, 3].map(slow);
            assert!(thrice, "{micros} µs");
            missed += u32::from(!twice);
        }
    }
    assert_eq!(missed, 0, "of 140");
}
