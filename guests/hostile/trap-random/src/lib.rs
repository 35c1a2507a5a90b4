//! The attack: traps at a point that nobody can foresee: before its response,
//! after the headers, in the middle of the body, after its last byte, or not at
//! all.
//!
//! The outcome: `trap`, seen as 500 or cut off, or `ok` and whole. What looks
//! whole is whole.

use std::io::Write as _;

use skep_guest::wasip2::random::random::get_random_u64;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

/// Pieces of the body.
const PIECES: u64 = 4;

fn handle(_: Request) -> Response {
    // One point more than there are, for the times that all goes well.
    let trap_at = get_random_u64() % (PIECES + 3);
    let reached = move |point: u64| {
        if point == trap_at {
            core::arch::wasm32::unreachable()
        }
    };
    reached(0);
    Response::stream(200, [("content-type", "text/plain")], move |writer| {
        writer.flush()?;
        reached(1);
        for piece in 0..PIECES {
            writer.write_all(b"piece\n")?;
            writer.flush()?;
            reached(piece + 2);
        }
        Ok(())
    })
}
