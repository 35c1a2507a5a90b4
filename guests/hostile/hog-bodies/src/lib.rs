//! The attack: thousands of responses that are never sent, each with as much
//! of a body as the host takes into its buffers.
//!
//! The outcome: `memory-budget`, 500; the memory comes back with the instance.

use skep_guest::wasip2::http::types::{Fields, OutgoingResponse};
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    let chunk = vec![b'x'; 1 << 20];
    let mut hoard = Vec::new();
    loop {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        let stream = body.write().expect("the stream is taken once");
        // Until the buffers are full: nobody reads at the other end.
        while let Ok(room @ 1..) = stream.check_write() {
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
            if stream.write(&chunk[..length]).is_err() {
                break;
            }
        }
        hoard.push((stream, body, response));
    }
}
