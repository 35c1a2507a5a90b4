//! Says which revision and which worker answered, in the headers `x-revision`
//! and `x-worker` and in the body: what tests of deploys count. At once, after
//! a while, with a chosen status, or in pieces; see the crate
//! `revision-answer`.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    revision_answer::answer(&request)
}
