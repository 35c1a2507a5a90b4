//! One file per command, and one for those that are one request: calls the
//! crate that does the work and says what came of it.

mod build;
mod check;
mod deploy;
mod describe;
mod dev;
mod events;
mod gc;
mod history;
mod new;
mod operate;
mod serve;
mod source;
mod status;
mod stop;

use serde::Serialize;

use crate::args::{Args, Command};
use crate::control::Control;
use crate::doctor;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Does what the command line asks for.
pub(crate) fn run(args: Args, printer: Printer) -> Result<(), Failure> {
    let control = args.control;
    match args.command {
        Command::Serve {
            source,
            overrides,
            leash,
        } => serve::run(&source, overrides, leash, control, printer),
        Command::Check { source, format } => wait(check::run(&source, format, printer)),
        Command::Build { dir } => wait(build::run(&dir, printer)),
        Command::Dev { target, listen } => {
            wait(dev::run(&target, listen, control.as_deref(), printer))
        }
        Command::Status { format } => status::run(&Control::find(control), format, printer),
        Command::Stop { strength } => stop::run(&Control::find(control), strength, printer),
        Command::Describe { what, format } => {
            describe::run(&Control::find(control), &what, format, printer)
        }
        Command::History { app, format } => {
            history::run(&Control::find(control), &app, format, printer)
        }
        Command::Events { follow, format } => {
            events::run(&Control::find(control), follow, format, printer)
        }
        Command::Gc {
            config,
            dry_run,
            format,
        } => gc::run(control, config.as_deref(), dry_run, format, printer),
        Command::Deploy { app, source, terms } => wait(deploy::run(
            &Control::find(control),
            &app,
            &source,
            terms,
            printer,
        )),
        Command::Operate(operation) => {
            wait(operate::run(&Control::find(control), operation, printer))
        }
        Command::Doctor { format } => wait(doctor::run(format, printer)),
        Command::New { path, template } => new::run(&path, template, printer),
        Command::NotYet(name) => Err(Failure::new(
            Exit::Refused,
            format!("`skep {name}` is not available in this version"),
        )
        .hint("`skep help` lists what is")),
    }
}

/// A document as programs read it.
fn json(document: &impl Serialize) -> Result<String, Failure> {
    let mut json = serde_json::to_string_pretty(document).map_err(|error| {
        Failure::new(
            Exit::Bug,
            format!("the document is not representable: {error}"),
        )
    })?;
    json.push('\n');
    Ok(json)
}

/// Runs a command that waits for more than one thing at a time.
fn wait<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?
        .block_on(command)
}
