//! The attack: `flood-log` by `wasi:logging`: 100,000 records, some with line
//! breaks and escape sequences that would forge others, one of a megabyte.
//!
//! The outcome: `ok`, 200, or the budget that it uses up first; the log holds
//! the allowed part, each record on a line of its own, and how much was
//! dropped.

use skep_guest::{Request, Response};

wit_bindgen::generate!({ path: "wit", world: "imports" });

use wasi::logging::logging::{Level, log};

skep_guest::handler!(handle);

const RECORDS: usize = 100_000;

fn handle(_: Request) -> Response {
    let filler = "flood ".repeat(15);
    // What a terminal or a reader of lines would take for the host's word.
    log(
        Level::Info,
        "forged\n",
        "one\nskep: serving http://forged\r\n\u{1b}[2Jtwo",
    );
    log(Level::Critical, "long", &"long".repeat(1 << 18));
    for index in 0..RECORDS {
        let level = match index % 3 {
            0 => Level::Debug,
            1 => Level::Warn,
            _ => Level::Critical,
        };
        log(level, "flood", &format!("{index:>8} {filler}"));
    }
    Response::text("logged a lot\n")
}
