//! The attack: a response head out of all proportion: 4,096 headers of 4 KiB
//! each, 16 MiB in all, kept in the host's memory and not in the guest's.
//!
//! The outcome: the host refuses the headers and the guest traps: `trap`, 500.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

const COUNT: usize = 4096;
const SIZE: usize = 4096;

fn handle(_: Request) -> Response {
    let mut response = Response::text("look at my headers\n");
    for index in 0..COUNT {
        response = response.with_header(format!("x-big-{index}"), vec![b'x'; SIZE]);
    }
    response
}
