//! The connector: a process that opens outbound connections for workers, which
//! cannot. What it does is `skep-connector`'s; here is how it becomes one.

use std::process::ExitCode;

use anyhow::Context as _;
use skep_connector::{Ended, NameFiles, Names, serve};
use skep_core::Sandbox;
use skep_sys::confine::{Ports, confine_connector};
use skep_sys::{Channel, process};

use super::talk;
use crate::exit::{Exit, Failure};
use crate::print::{ColorChoice, Printer};

/// Descriptors that a connector may have: one for each worker, and for each
/// connection and question that is on its way.
const DESCRIPTORS: u64 = 1 << 16;

/// Plays the role to its end.
pub(super) fn run() -> ExitCode {
    match play() {
        Ok(Ended::Alone) => Exit::Done.into(),
        Ok(Ended::Outdated(why)) => {
            Printer::new(ColorChoice::Never).note(&format!(
                "connector: {why}; another one that can is to be started"
            ));
            Exit::Done.into()
        }
        Err(error) => {
            let failure = Failure::from(error).while_doing("connector");
            Printer::new(ColorChoice::Never).failure(&failure);
            Exit::Failed.into()
        }
    }
}

fn play() -> anyhow::Result<Ended> {
    let channel = Channel::inherited().context("this command is for skep itself")?;
    // A title is for people who read process lists.
    let _ = process::set_title("skep connector");
    let names = Names::new(NameFiles::default()).context("cannot read how names are resolved")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(serve(channel, names, confine))
}

/// Gives up what a connector does not need; returns what of that the kernel
/// lacks. Which ports it may connect to is decided for each connection: apps
/// with other grants come and go.
fn confine(sandbox: Sandbox) -> anyhow::Result<Vec<String>> {
    let confined = confine_connector(Ports::All, DESCRIPTORS, talk::strictness(sandbox))
        .context("cannot confine the connector")?;
    Ok(confined.missing().iter().map(ToString::to_string).collect())
}
