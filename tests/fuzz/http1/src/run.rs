//! Many inputs, one after the other, with what was found and how fast.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::exit;
use std::time::{Duration, Instant};

use crate::CORPUS;
use crate::in_step::mutate::Mutator;

/// How often progress is told.
const TOLD: Duration = Duration::from_secs(20);

/// The machine by itself.
pub fn alone(inputs: u64, seed: u64) {
    let now = Instant::now();
    let mut scripts = crate::in_step::mutate::Rng::new(seed ^ 0xa5a5);
    run(inputs, seed, |mutator| {
        let script = scripts.next().to_le_bytes();
        crate::alone(now, mutator.text(), mutator.pieces(), &script);
    });
}

/// The machine in step with hyper.
pub fn beside_hyper(inputs: u64, seed: u64) {
    let now = Instant::now();
    let mut verdicts = BTreeMap::new();
    run(inputs, seed, |mutator| {
        let verdict = crate::beside_hyper(now, mutator.text());
        *verdicts.entry(verdict).or_insert(0_u64) += 1;
    });
    for (verdict, times) in verdicts {
        println!("{times:>12} {verdict:?}");
    }
}

/// Ends the program at the first input of which `check` panics.
fn run(inputs: u64, seed: u64, mut check: impl FnMut(&Mutator)) {
    let mut mutator = Mutator::new(Path::new(CORPUS), seed);
    let begun = Instant::now();
    let mut told = begun;
    for done in 0..inputs {
        mutator.advance();
        if catch_unwind(AssertUnwindSafe(|| check(&mutator))).is_err() {
            println!(
                "input {done} of seed {seed}: \"{}\"",
                mutator.text().escape_ascii()
            );
            let cuts: Vec<_> = mutator.pieces().map(<[u8]>::len).collect();
            println!("in pieces of {cuts:?}");
            exit(1);
        }
        if told.elapsed() > TOLD || done + 1 == inputs {
            told = Instant::now();
            let rate = (done + 1) as f64 / begun.elapsed().as_secs_f64();
            println!("{} inputs of seed {seed}, {rate:.0} a second", done + 1);
        }
    }
}
