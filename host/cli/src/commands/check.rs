//! `skep check`: every problem of the configuration and of the components it
//! names, in one go. Nothing is started but builders.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use skep_config::Problems;
use tokio::time::timeout;

use super::operate::interrupted;
use super::source::{Loaded, Unusable, started};
use crate::args::{Format, Overrides, Source};
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::table::count;

/// Silence that makes people wonder.
const WORTH_A_NOTE: Duration = Duration::from_secs(1);

/// Checks, and says what was found.
pub(crate) async fn run(
    source: &Source,
    control: Option<PathBuf>,
    format: Format,
    printer: Printer,
) -> Result<(), Failure> {
    let found = find(source, control, printer).await;
    match (format, found) {
        (Format::Text, Ok(loaded)) => printer.data(&summary(&loaded)),
        (Format::Json, Ok(_)) => printer.data(&document(source, &Problems::default())),
        (Format::Json, Err(Unusable::Problems(problems))) => {
            printer.data(&document(source, &problems))?;
            Err(Failure::said(Exit::Configuration))
        }
        (_, Err(unusable)) => Err(unusable.told(printer)),
    }
}

async fn find(
    source: &Source,
    control: Option<PathBuf>,
    printer: Printer,
) -> Result<Loaded, Unusable> {
    let loaded = Loaded::read(source, Overrides::default())?;
    loaded.control(control)?;
    let checking = skep_primary::check_components(loaded.spec());
    let refused = tokio::select! {
        refused = with_note(checking, printer) => refused.map_err(|error| started(&loaded, error))?,
        // What was compiled so far goes with us.
        interrupted = interrupted() => {
            interrupted?;
            return Err(Failure::new(Exit::Failed, "interrupted").into());
        }
    };
    if refused.is_empty() {
        return Ok(loaded);
    }
    Err(Unusable::Problems(loaded.component_problems(refused)))
}

/// Says what takes so long, if it does: a cached component takes no time, a
/// JavaScript engine ten seconds.
async fn with_note<T>(checking: impl Future<Output = T>, printer: Printer) -> T {
    let mut checking = std::pin::pin!(checking);
    if let Ok(checked) = timeout(WORTH_A_NOTE, &mut checking).await {
        return checked;
    }
    printer.note("compiling");
    checking.await
}

fn summary(loaded: &Loaded) -> String {
    let spec = loaded.spec();
    format!(
        "{}: ok ({}, {}, {})\n",
        loaded.path().display(),
        count(spec.apps.len(), "app"),
        count(spec.pools.len(), "pool"),
        count(spec.listeners.len(), "listener"),
    )
}

fn document(source: &Source, problems: &Problems) -> String {
    let json = json!({
        "path": source.path().display().to_string(),
        "ok": problems.is_empty(),
        "problems": problems.to_json(),
    });
    format!("{json:#}\n")
}

#[cfg(test)]
mod tests {
    use skep_config::Problem;

    use super::*;

    #[test]
    fn programs_get_a_document_either_way() {
        let source = Source::DefaultFile;
        let read = |problems| -> serde_json::Value {
            serde_json::from_str(&document(&source, &problems)).unwrap()
        };
        assert_eq!(
            read(Problems::default()),
            json!({ "path": "skep.toml", "ok": true, "problems": [] })
        );
        let broken = read(Problem::without_place("it is empty".into(), None).into());
        assert_eq!(broken["ok"], false);
        assert_eq!(broken["problems"][0]["message"], "it is empty");
    }
}
