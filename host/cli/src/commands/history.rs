//! `skep history`: the revisions of an app.

use skep_wire::{AppHistory, RevisionStatus};

use super::json;
use crate::args::Format;
use crate::control::Control;
use crate::exit::Failure;
use crate::print::Printer;
use crate::table::{Align, NOTHING, Table};

/// Characters of a digest that tell two revisions of one app apart.
const DIGEST_SHOWN: usize = 12;

/// Asks the primary and prints what it says.
pub(super) fn run(
    control: &Control,
    app: &str,
    format: Format,
    printer: Printer,
) -> Result<(), Failure> {
    let history = control
        .connect()?
        .history(app)
        .map_err(|error| control.failed(error))?;
    if let Some(left_out) = &history.left_out {
        printer.note(&format!("too much to tell: left out are {left_out}"));
    }
    match format {
        Format::Text => printer.data(&render(&history, printer.columns())),
        Format::Json => printer.data(&json(&history)?),
    }
}

/// The revisions as a table, newest first.
pub(super) fn render(history: &AppHistory, room: usize) -> String {
    use Align::{Left, Right};
    if history.revisions.is_empty() {
        return "no revisions\n".to_owned();
    }
    let mut table = Table::new([
        ("REVISION", Right),
        ("NOW", Left),
        ("OUTCOME", Left),
        ("TIME", Left),
        ("DIGEST", Left),
        ("SOURCE", Left),
        ("REASON", Left),
    ])
    .dropping(&["DIGEST", "SOURCE", "REASON"])
    .cutting(&["SOURCE", "REASON"]);
    for revision in &history.revisions {
        table.row([
            revision.revision.to_string(),
            now(history, revision).to_owned(),
            revision.outcome.clone(),
            revision.time.clone(),
            revision
                .digest
                .as_deref()
                .map_or_else(|| NOTHING.to_owned(), short),
            revision.source.clone(),
            revision
                .reason
                .clone()
                .unwrap_or_else(|| NOTHING.to_owned()),
        ]);
    }
    table.render(room)
}

fn now(history: &AppHistory, revision: &RevisionStatus) -> &'static str {
    let revision = Some(revision.revision);
    if history.active == revision {
        "active"
    } else if history.canary == revision {
        "canary"
    } else {
        NOTHING
    }
}

fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(DIGEST_SHOWN).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use skep_core::{AppName, Revision};

    use super::*;

    pub(in crate::commands) fn history() -> AppHistory {
        let revision = |number, outcome: &str, reason: Option<&str>| RevisionStatus {
            revision: Revision(number),
            digest: Some(format!("sha256:{number:064x}").replace('0', "a")),
            source: "/srv/hello.wasm".into(),
            time: format!("2026-11-21T11:32:4{number}Z"),
            outcome: outcome.into(),
            reason: reason.map(str::to_owned),
        };
        AppHistory {
            app: AppName::new("hello").unwrap(),
            active: Some(Revision(1)),
            canary: Some(Revision(3)),
            revisions: vec![
                revision(3, "deploying", None),
                revision(2, "rolled-back", Some("5.1% of\nrequests failed")),
                revision(1, "live", None),
            ],
            left_out: None,
        }
    }

    #[test]
    fn people_read_a_table() {
        let golden = "\
REVISION  NOW     OUTCOME      TIME                  DIGEST        SOURCE           REASON
       3  canary  deploying    2026-11-21T11:32:43Z  aaaaaaaaaaaa  /srv/hello.wasm  -
       2  -       rolled-back  2026-11-21T11:32:42Z  aaaaaaaaaaaa  /srv/hello.wasm  5.1% of\\nrequests failed
       1  active  live         2026-11-21T11:32:41Z  aaaaaaaaaaaa  /srv/hello.wasm  -
";
        assert_eq!(render(&history(), 200), golden);
        for line in render(&history(), 80).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            render(&history(), 80).contains("5.1% of"),
            "the reason stays"
        );
        let none = AppHistory {
            revisions: Vec::new(),
            ..history()
        };
        assert_eq!(render(&none, 80), "no revisions\n");
    }
}
