//! Computes for `?ms=N` milliseconds of CPU time (10 by default), and then
//! answers: an honest guest that needs the CPU, for tests of fairness.
//!
//! A guest has no CPU clock, and a wall clock goes on while others have the
//! CPU. So it works in small slices of equal length and counts each as what
//! the quickest of them took.

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// Turns of the loop in a slice: some tens of microseconds, so that most
/// slices pass without an interruption.
const TURNS: u64 = 20_000;

fn handle(request: Request) -> Response {
    let Ok(milliseconds) = request.query_value("ms").map_or(Ok(10), str::parse::<u64>) else {
        return Response::new(400).with_body("ms is not a number\n");
    };
    let wanted = milliseconds.saturating_mul(1_000_000);
    let (mut slices, mut quickest, mut sum) = (0_u64, u64::MAX, 0);
    while slices == 0 || slices.saturating_mul(quickest) < wanted {
        let began = monotonic_clock::now();
        sum = slice(sum);
        quickest = quickest.min(monotonic_clock::now().saturating_sub(began).max(1));
        slices += 1;
    }
    Response::text(format!("computed {sum:x} in {slices} slices\n"))
}

/// A chain of multiplications that the compiler cannot shorten.
fn slice(mut sum: u64) -> u64 {
    for turn in 0..TURNS {
        sum = std::hint::black_box(sum ^ turn).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    sum
}
