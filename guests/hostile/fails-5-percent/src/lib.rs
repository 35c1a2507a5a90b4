//! The fault: the guest `revision`, but one request of twenty, by chance, is
//! answered with 500. It validates: only traffic tells.
//!
//! What must become of it: rolled back by its error rate, for less than one
//! request of twenty failed in what `observe` let it have.

use skep_guest::wasip2::random::insecure;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// How many requests fail: one of so many.
const ONE_OF: u64 = 20;

fn handle(request: Request) -> Response {
    // 2⁶⁴ is no multiple of 20; that is off by less than one in 10¹⁸.
    if insecure::get_insecure_random_u64().is_multiple_of(ONE_OF) {
        return revision_answer::plain(500);
    }
    revision_answer::answer(&request)
}
