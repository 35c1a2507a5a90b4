//! `skep serve`: the primary, in the foreground.

use std::path::{Path, PathBuf};

use skep_primary::{Client, Options, StartError};

use super::source::Loaded;
use crate::args::{Leash, Overrides, Source};
use crate::control::{SOCKET, chain};
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Runs until a signal or `skep stop` ends it.
pub(crate) fn run(
    source: &Source,
    overrides: Overrides,
    leash: Leash,
    control: Option<PathBuf>,
    printer: Printer,
) -> Result<(), Failure> {
    let loaded = Loaded::read(source, overrides).map_err(|unusable| unusable.told(printer))?;
    let control = control.unwrap_or_else(|| loaded.spec().server.state_dir.join(SOCKET));
    if leash == Leash::Stdin {
        hold(&control)?;
    }
    let options = Options {
        spec: loaded.spec().clone(),
        control,
    };
    skep_primary::run(options).map_err(|error| told(&loaded, error, printer))
}

fn told(loaded: &Loaded, error: StartError, printer: Printer) -> Failure {
    match error {
        StartError::Components(refused) => Failure::report(
            Exit::Configuration,
            loaded.component_problems(&refused).render(printer.color()),
        ),
        StartError::Bind(_) => Failure::new(Exit::Unavailable, chain(&error))
            .hint("`--listen ADDR`, or `address` of the listener, chooses another"),
        other => Failure::new(Exit::Failed, chain(&other)),
    }
}

/// Lets the end of stdin end the primary, by the same way as `skep stop`.
fn hold(control: &Path) -> Result<(), Failure> {
    let control = control.to_owned();
    std::thread::Builder::new()
        .name("leash".to_owned())
        .spawn(move || {
            // What comes before the end, or why it came, does not matter.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            let stopped =
                Client::connect(&control).and_then(|mut client| client.stop(false, |_| {}));
            if stopped.is_err() {
                // Not yet or no longer listening: workers end by themselves
                // once they have lost us.
                std::process::exit(Exit::Failed.code().into());
            }
        })
        .map(drop)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start a thread: {error}")))
}
