//! Fuzzing of the reader of HTTP/1.1: by itself, in step with hyper's server,
//! and behind nginx. For libFuzzer, and as a program of its own that needs no
//! nightly compiler:
//!
//! ```text
//! cargo run --release -p skep-fuzz-http1 -- alone 100000000
//! cargo run --release -p skep-fuzz-http1 -- hyper 100000000 [SEED]
//! cargo run --release -p skep-fuzz-http1 -- nginx 100000 [SEED]
//! ```
//!
//! What it compares, and which differences have a reason, is said in
//! `host/http1/tests/in_step`, of which CI makes a short run.

pub mod cost;
#[path = "../../../../host/http1/tests/in_step/mod.rs"]
mod in_step;
pub mod nginx;
pub mod run;

use std::time::Instant;

use in_step::compare::{Verdict, compare};
use in_step::machine::{Server, wild};

/// The requests that inputs are made of.
pub const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/http1");

/// The machine by itself: bytes mean the same however they are cut, and no
/// order of calls breaks its promises.
///
/// # Panics
///
/// They do not, or it does.
pub fn alone<'a>(
    now: Instant,
    bytes: &'a [u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    script: &[u8],
) {
    let whole = Server::hear(now, [bytes]);
    let cut = Server::hear(now, pieces);
    assert_eq!(whole.reading, cut.reading);
    assert_eq!(whole.out, cut.out);
    wild(now, bytes, script, &whole.reading);
}

/// The machine in step with hyper.
///
/// # Panics
///
/// They differ, for no reason.
pub fn beside_hyper(now: Instant, bytes: &[u8]) -> impl Ord + std::fmt::Debug + use<> {
    let ours = Server::hear(now, [bytes]);
    let theirs = in_step::hyper::hear(bytes);
    let verdict: Verdict = compare(bytes, &ours, &theirs)
        .unwrap_or_else(|fault| panic!("{fault}\n{:?}\n{theirs:?}", ours.reading));
    verdict
}
