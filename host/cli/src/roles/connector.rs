//! The connector: a process that opens outbound connections for workers, which
//! cannot. What it does is `skep-connector`'s; here is how it becomes one.

use std::process::ExitCode;

use anyhow::Context as _;
use skep_connector::{Ended, NameFiles, Names, serve};
use skep_core::Sandbox;
use skep_sys::{Channel, process};

use crate::exit::{Exit, Failure};
use crate::print::{ColorChoice, Printer};

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
    // One descriptor for each connection that is on its way.
    let _ = process::raise_nofile_limit();
    let names = Names::new(NameFiles::default()).context("cannot read how names are resolved")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(serve(channel, names, confine))
}

/// Gives up what a connector does not need; returns what of that the kernel
/// lacks.
fn confine(_sandbox: Sandbox) -> anyhow::Result<Vec<String>> {
    // TO BE EXCHANGED for `skep_sys::confine::confine_connector`.
    process::no_new_privileges().context("cannot give up privileges")?;
    process::set_not_dumpable().context("cannot protect memory")?;
    Ok(Vec::new())
}
