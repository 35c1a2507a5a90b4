//! The attack: answers at once and whole, and then does not end: it waits for
//! ever, or under `/spin` computes for ever. The client is content and sends
//! the next request, and the instances pile up.
//!
//! The outcome: 200 for the client; counted as `deadline` (`/spin`:
//! `cpu-budget`). A lingering call keeps its permit, so there are never more
//! than the app's `concurrency`.

use skep_guest::Request;
use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::wasip2::exports::http::incoming_handler::Guest;
use skep_guest::wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Linger;

impl Guest for Linger {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let mut spins = false;
        skep_guest::serve(request, out, |request: Request| {
            spins = request.path() == "/spin";
            skep_guest::Response::text("done, you think\n")
        });
        if spins {
            let mut turns: u64 = 0;
            loop {
                turns = std::hint::black_box(turns.wrapping_add(1));
            }
        }
        loop {
            monotonic_clock::subscribe_duration(u64::MAX / 2).block();
        }
    }
}

skep_guest::wasip2::http::proxy::export!(Linger with_types_in skep_guest::wasip2);
