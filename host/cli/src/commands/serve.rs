//! `skep serve`: the primary, in the foreground.

use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_core::FleetSpec;
use skep_primary::{Client, Options};

use super::source::{Loaded, started};
use crate::args::{Leash, Overrides, Source};
use crate::control::SOCKET;
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
    let mut spec = loaded.spec().clone();
    if leash == Leash::Stdin {
        hold(&control)?;
        unobserved(&mut spec);
    }
    let options = Options { spec, control };
    skep_primary::run(options).map_err(|error| started(&loaded, error).told(printer))
}

/// Takes a revision that was rolled out for good at once. Who holds us deploys
/// with every change and looks at the result.
fn unobserved(spec: &mut FleetSpec) {
    for app in spec.apps.values_mut() {
        app.rollout.observe = Duration::ZERO;
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
