//! The suites that drive the skep binary: real processes, real sockets, real
//! guests.
//!
//! Nothing here sleeps to let something happen: it waits for conditions. What
//! is timed are the bounds that were promised, with room for slow machines.
#![expect(clippy::unwrap_used, reason = "this is a test as a whole")]

mod balance;
mod broken;
mod budgets;
mod cache;
mod calls;
mod cancel;
mod chaos;
mod claims;
mod cli;
mod connections;
mod control;
mod deploys;
mod dispatch;
mod dispatchers;
mod early;
mod egress;
mod figures;
mod foreign;
mod hostile;
mod http2;
mod jail;
mod judgement;
mod liars;
mod limits;
mod logs;
mod messages;
mod operations;
mod operator;
mod pictures;
mod quarantine;
mod reloads;
mod segments;
mod serving;
mod shares;
mod signals;
mod state;
mod streaming;
mod strict;
mod supervision;
mod surge;

use skep_tests::{Skep, guest};

/// An `[app.NAME]` section for a guest, with further lines.
fn app(name: &str, guest_name: &str, lines: &str) -> String {
    let component = guest(guest_name);
    format!(
        "\n[app.{name}]\ncomponent = \"{}\"\n{lines}\n",
        component.display()
    )
}

/// One listener on a free port, and this many workers.
fn pool(workers: u16) -> String {
    format!("[listener.web]\naddress = \"127.0.0.1:0\"\n[pool.default]\nworkers = {workers}\n")
}

/// The unruly guests: that of WASI 0.2 under `/2/`, that of 0.3 under `/3/`.
fn unruly(lines: &str) -> Skep {
    Skep::config(&format!(
        "{}{}{}",
        pool(1),
        app(
            "two",
            "hostile-unruly",
            &format!("routes = [\"/2/*\"]\nstrip_prefix = true\n{lines}")
        ),
        app(
            "three",
            "hostile-unruly-p3",
            &format!("routes = [\"/3/*\"]\nstrip_prefix = true\n{lines}")
        ),
    ))
}
