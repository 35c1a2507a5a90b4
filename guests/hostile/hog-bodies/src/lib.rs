//! The attack: thousands of responses that are never sent, each with half of
//! what the host takes of a body that nobody reads.
//!
//! The outcome: `memory-budget`, 500; the memory comes back with the instance.

use skep_guest::wasip2::http::types::{Fields, OutgoingResponse};
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    let chunk = vec![b'x'; 64 << 10];
    let mut hoard = Vec::new();
    loop {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        let stream = body.write().expect("the stream is taken once");
        for _ in 0..8 {
            let room = stream.check_write().unwrap_or(0);
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
            let _ = stream.write(&chunk[..length]);
        }
        hoard.push((stream, body, response));
    }
}
