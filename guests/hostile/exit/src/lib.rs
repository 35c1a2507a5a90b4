//! The attack: asks `wasi:cli/exit` to end the process, before there is a
//! response: with success under `/`, with the code N under `/N` (of which WASI
//! 0.2 tells the host only whether it is 0), and under `/late` after the headers.
//!
//! The outcome: `trap`, 500 (`/late`: cut off, the connection closed). It is
//! the instance that ends, whatever its code; the worker does not.

use std::io::Write;
use std::process;

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    match request.path() {
        "/late" => Response::stream(200, [("content-type", "text/plain")], |writer| {
            writer.write_all(b"and now")?;
            writer.flush()?;
            process::exit(0)
        }),
        path => process::exit(path.trim_start_matches('/').parse().unwrap_or(0)),
    }
}
