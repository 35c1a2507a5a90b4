//! The fault: the guest `revision`, but every answer is 40 ms late, without
//! using the CPU. It validates and never fails: only the clock tells.
//!
//! What must become of it: rolled back by its latency against the revision
//! before, where there is one that answers at once.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

const LATE_MS: u64 = 40;

fn handle(request: Request) -> Response {
    revision_answer::sleep(LATE_MS);
    revision_answer::answer(&request)
}
