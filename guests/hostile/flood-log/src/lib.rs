//! The attack: writes 200,000 lines (20 MB) to stdout and stderr, one of them
//! a megabyte long and one of them not UTF-8, and then answers.
//!
//! The outcome: `ok`, 200, or the budget that it uses up first; the log holds
//! the allowed part, and how much was dropped.

use std::io::{self, Write};

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

const LINES: usize = 200_000;

fn handle(_: Request) -> Response {
    let filler = "flood ".repeat(15);
    for index in 0..LINES / 2 {
        println!("{index:>8} {filler}");
        eprintln!("{index:>8} {filler}");
    }
    println!("{}", "long".repeat(1 << 18));
    // A log that takes no more is what this guest deserves.
    let _ = io::stdout().write_all(b"\xff\xfe not text\n");
    Response::text("logged a lot\n")
}
