//! The attack: handles of stdout without end, each with a line that is nearly
//! as long as a line may be and never ends.
//!
//! The outcome: `memory-budget`, 500.

use skep_guest::wasip2::cli::stdout;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// A little less than the longest line.
const LINE: usize = 8000;

fn handle(_: Request) -> Response {
    let line = vec![b'x'; LINE];
    let mut hoard = Vec::new();
    loop {
        let stream = stdout::get_stdout();
        for piece in line.chunks(4000) {
            stream
                .blocking_write_and_flush(piece)
                .expect("the host takes lines");
        }
        hoard.push(stream);
    }
}
