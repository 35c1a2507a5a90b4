//! The attack: thousands of header fields, each as large as the host allows.
//! They lie in the host's memory; of the guest's they take a megabyte.
//!
//! The outcome: `memory-budget`, 500; the memory comes back with the instance.

use skep_guest::wasip2::http::types::Fields;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// A little less than a host lets one set of fields hold.
const SIZE: usize = 120 << 10;

fn handle(_: Request) -> Response {
    let value = vec![b'x'; SIZE];
    let mut hoard = Vec::new();
    loop {
        let fields = Fields::new();
        fields
            .append("x-hog", &value)
            .expect("the host takes no more");
        hoard.push(fields);
    }
}
