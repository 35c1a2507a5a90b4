//! The program `skep`: reads the command line, calls the crate that does the
//! work, prints, and exits with a code of SPEC §1. It decides nothing about
//! serving, and no other crate prints.
//!
//! The same executable is also the worker and the builder: hidden roles that
//! the primary starts, and that never get as far as the command line.
#![forbid(unsafe_code)]

mod alike;
mod args;
mod commands;
mod control;
mod doctor;
mod exit;
mod print;
mod progress;
mod project;
mod roles;
mod table;

use std::process::ExitCode;

use exit::Exit;
use print::Printer;

/// Workers allocate for every request, and mimalloc is what makes that cheap;
/// the primary and the CLI get it with them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: a role's first instructions are its confinement's.
    if let Some(code) = roles::enter() {
        return code;
    }
    std::panic::set_hook(Box::new(print::panicked));
    std::panic::catch_unwind(command)
        .unwrap_or(Exit::Bug)
        .into()
}

fn command() -> Exit {
    let args = match args::parse(std::env::args_os(), std::env::var_os("SKEP_CONTROL")) {
        Ok(args) => args,
        Err(stop) => return stop.print(),
    };
    // No kernel refuses these calls. If one did, the process would go on with the
    // signals that its parent left it.
    let _ = skep_sys::signals::hear_of_children();
    if !matches!(args.command, args::Command::Serve { .. }) {
        let _ = skep_sys::signals::release();
    }
    let printer = Printer::new(args.color);
    match commands::run(args, printer) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            printer.failure(&failure);
            failure.exit()
        }
    }
}
