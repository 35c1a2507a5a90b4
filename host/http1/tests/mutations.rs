//! The machine, by itself and in step with hyper, on changed requests: a short
//! run of what `tests/fuzz` does for longer.

#[path = "in_step/mod.rs"]
mod in_step;

use std::path::Path;
use std::time::Instant;

use in_step::compare::compare;
use in_step::machine::{Server, wild};
use in_step::mutate::Mutator;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/http1");

/// Some seconds without optimisation.
const INPUTS: usize = 100_000;

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn cuts_make_no_difference_and_nothing_panics() {
    let mut inputs = Mutator::new(Path::new(CORPUS), 1);
    let now = Instant::now();
    for _ in 0..INPUTS {
        inputs.advance();
        let whole = Server::hear(now, [inputs.text()]);
        let cut = Server::hear(now, inputs.pieces());
        let text = shown(inputs.text());
        assert_eq!(whole.reading, cut.reading, "{text}");
        assert_eq!(whole.out, cut.out, "{text}");
        let script = inputs.rng().next().to_le_bytes();
        wild(now, inputs.text(), &script, &whole.reading);
    }
}

#[test]
fn what_is_answered_is_heard_the_same_by_hyper() {
    let mut inputs = Mutator::new(Path::new(CORPUS), 2);
    let now = Instant::now();
    for _ in 0..INPUTS {
        inputs.advance();
        let ours = Server::hear(now, [inputs.text()]);
        let theirs = in_step::hyper::hear(inputs.text());
        if let Err(fault) = compare(inputs.text(), &ours, &theirs) {
            panic!(
                "{fault}: {}\n{:?}\n{theirs:?}",
                shown(inputs.text()),
                ours.reading
            );
        }
    }
}
