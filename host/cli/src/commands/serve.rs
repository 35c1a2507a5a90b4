//! `skep serve`: the primary, in the foreground.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_core::FleetSpec;
use skep_primary::{Client, Options, StartError};

use super::source::{Loaded, Unusable, started};
use crate::args::{Leash, Overrides, Source};
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Bytes of what is told about a configuration that is rejected by a reload:
/// about a dozen problems with their lines.
const MAX_REASON: usize = 4 << 10;

/// Runs until a signal or `skep stop` ends it.
pub(crate) fn run(
    source: &Source,
    overrides: Overrides,
    leash: Leash,
    control: Option<PathBuf>,
    printer: Printer,
) -> Result<(), Failure> {
    let (loaded, missing) =
        Loaded::to_serve(source, overrides.clone()).map_err(|unusable| unusable.told(printer))?;
    let control = loaded
        .control(control)
        .map_err(|unusable| unusable.told(printer))?;
    if leash == Leash::Stdin {
        hold(&control)?;
    }
    let again = source.clone();
    let options = Options {
        spec: spec(&loaded, leash),
        reread: Arc::new(move |missing| {
            Loaded::again(&again, overrides.clone(), missing)
                .map(|loaded| spec(&loaded, leash))
                .map_err(reason)
        }),
        control,
        config: loaded.config().map(Path::to_owned),
    };
    skep_primary::run(options).map_err(|error| match (error, missing) {
        // None of them was ever served.
        (StartError::Components(_), Some(problems)) => problems.told(printer),
        (error, _) => started(&loaded, error).told(printer),
    })
}

/// What is to be served. Who holds us deploys with every change and looks at
/// the result: a new revision is not observed then.
fn spec(loaded: &Loaded, leash: Leash) -> FleetSpec {
    let mut spec = loaded.spec().clone();
    if leash == Leash::Stdin {
        for app in spec.apps.values_mut() {
            app.rollout.observe = Duration::ZERO;
        }
    }
    spec
}

/// Why a configuration is not served, for an operator, the log and the alert.
fn reason(unusable: Unusable) -> String {
    match unusable {
        Unusable::Problems(problems) => problems.brief(MAX_REASON).trim_end().to_owned(),
        Unusable::Failure(failure) => failure.to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_held_does_not_observe() {
        let dir = tempfile::tempdir().unwrap();
        let component = dir.path().join("a.wasm");
        std::fs::write(&component, "").unwrap();
        let source = Source::Component(component);
        let loaded = Loaded::read(&source, Overrides::default()).unwrap();
        let observe = |leash| {
            let spec = spec(&loaded, leash);
            spec.apps.values().next().unwrap().rollout.observe
        };
        assert_eq!(observe(Leash::Stdin), Duration::ZERO);
        assert_ne!(observe(Leash::Off), Duration::ZERO);
    }

    #[test]
    fn a_rejected_configuration_is_told_in_bounded_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skep.toml");
        let many = (0..1000).map(|n| format!("[app.a{n}]\ncomponnt = \"a.wasm\"\n"));
        std::fs::write(&file, many.collect::<String>()).unwrap();
        let unusable = Loaded::read(&Source::File(file), Overrides::default()).unwrap_err();
        let reason = reason(unusable);
        assert!(reason.len() <= MAX_REASON, "{}", reason.len());
        assert!(reason.contains("componnt"), "{reason}");
    }
}
