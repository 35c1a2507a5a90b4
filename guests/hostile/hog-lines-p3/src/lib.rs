//! The attack: `hog-lines` in WASI 0.3, where each line is a stream.
//!
//! The outcome: `memory-budget`, 500.

use wasip3::cli::stdout;
use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::wit_stream;

struct Hog;

/// A little less than the longest line.
const LINE: usize = 8000;

impl wasip3::exports::http::handler::Guest for Hog {
    async fn handle(_: Request) -> Result<Response, ErrorCode> {
        let mut hoard = Vec::new();
        loop {
            let (mut sink, source) = wit_stream::new();
            let written = stdout::write_via_stream(source);
            sink.write_all(vec![b'x'; LINE]).await;
            hoard.push((sink, written));
        }
    }
}

wasip3::http::service::export!(Hog);
