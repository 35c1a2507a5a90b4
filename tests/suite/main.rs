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
mod cancel;
mod chaos;
mod cli;
mod deploys;
mod dispatch;
mod egress;
mod foreign;
mod hostile;
mod jail;
mod limits;
mod logs;
mod operations;
mod serving;
mod streaming;
mod strict;
mod supervision;
mod surge;

use skep_tests::guest;

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
