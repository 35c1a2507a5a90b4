//! Fields of documents that commands print as JSON.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{Members, Types};
use super::{Names, between, compare, is_name, markdown, quoted, source};
use crate::Offences;

const OPERATIONS: &str = "docs/operations.md";
const CLI: &str = "docs/cli.md";

/// What the tables of the status document say.
#[derive(Default)]
struct Described {
    /// Fields that have a row, as paths without the signs of arrays.
    paths: Names,
    /// The words in backquotes that explain a field.
    words: BTreeMap<String, Names>,
    /// The rows of exit reasons.
    reasons: Names,
}

impl Described {
    fn read(text: &str) -> Self {
        let mut described = Self::default();
        for row in markdown::rows(markdown::section(text, "## Status")) {
            let first = markdown::spans(row.cells[0]).map(|span| span.replace("[]", ""));
            let paths: Vec<String> = match row.head {
                // `.x` stands behind another field of what that belongs to.
                "field" => {
                    let mut owner = String::new();
                    let whole = |span: String| {
                        let path = if span.starts_with('.') {
                            format!("{owner}{span}")
                        } else {
                            span
                        };
                        owner = path
                            .rsplit_once('.')
                            .map_or_else(|| path.clone(), |(owner, _)| owner.to_owned());
                        path
                    };
                    first.map(whole).collect()
                }
                "figure" => first
                    .flat_map(|span| [format!("apps.{span}"), format!("tenants.{span}")])
                    .collect(),
                "reason" => {
                    described.reasons.extend(first);
                    continue;
                }
                other => panic!("the status has a table of {other}"),
            };
            for path in paths {
                let words = markdown::spans(row.cells[1]).map(str::to_owned);
                described
                    .words
                    .entry(path.clone())
                    .or_default()
                    .extend(words);
                described.paths.insert(path);
            }
        }
        assert!(
            described.paths.len() >= 40,
            "the tables of fields are not read"
        );
        described
    }

    /// Whether a field or what belongs to it has a row, or its owner's row names it.
    fn names(&self, path: &str) -> bool {
        let by_owner = path.rsplit_once('.').is_some_and(|(owner, name)| {
            self.words
                .get(owner)
                .is_some_and(|words| words.contains(name))
        });
        let below = format!("{path}.");
        by_owner
            || self.paths.contains(path)
            || self.paths.iter().any(|path| path.starts_with(&below))
    }
}

fn status() -> Members {
    let types = Types::of(&[
        "host/core/src/spec.rs",
        "host/core/src/exit.rs",
        "host/wire/src/dispatcher.rs",
        "host/wire/src/status.rs",
    ]);
    let members = types.members("FleetStatus", &[]);
    assert!(members.paths.len() >= 100, "{}", members.paths.len());
    assert!(members.values.len() >= 20, "{}", members.values.len());
    members
}

#[test]
fn every_field_of_the_status_is_in_the_manual() {
    let described = Described::read(&markdown::read(OPERATIONS));
    let Members { paths, values } = status();
    let mut offences = Offences::default();
    for path in paths.iter().filter(|path| !described.names(path)) {
        offences.note(&format!("{OPERATIONS} does not list `{path}`"));
    }
    let fields: BTreeSet<_> = paths.iter().cloned().collect();
    for path in described.paths.difference(&fields) {
        offences.note(&format!(
            "{OPERATIONS} lists `{path}`, which does not exist"
        ));
    }
    let mut reasons = Names::new();
    for (path, value) in values {
        if path.ends_with(".kind") {
            reasons.insert(value);
        } else if !described
            .words
            .get(&path)
            .is_some_and(|words| words.contains(&value))
        {
            offences.note(&format!("{OPERATIONS}: `{path}` may be `{value}`"));
        }
    }
    compare(&mut offences, OPERATIONS, &reasons, &described.reasons);
    offences.none("a field that is only in the code, or only in the manual");
}

/// The fields of a document, without what they belong to, and the values of its enums.
fn names_in(types: &Types, root: &str, elsewhere: &[&str]) -> Names {
    let Members { paths, values } = types.members(root, elsewhere);
    let last = |path: String| path.rsplit('.').next().unwrap_or_default().to_owned();
    let values = values.into_iter().map(|(_, value)| value);
    paths.into_iter().map(last).chain(values).collect()
}

/// What the manual of a command says of its JSON: the names in its paragraphs about
/// that.
fn said_of(manual: &str, command: &str) -> Names {
    let section = markdown::section(manual, &format!("## `{command}`"));
    let names: Names = markdown::paragraphs(section)
        .filter(|paragraph| paragraph.starts_with("With `--json`"))
        .flat_map(markdown::spans)
        .filter(|span| is_name(span) && !["null", "status"].contains(span))
        .map(str::to_owned)
        .collect();
    assert!(!names.is_empty(), "{CLI} says nothing of {command} --json");
    names
}

#[test]
fn every_field_of_other_documents_is_in_the_manual() {
    let manual = markdown::read(CLI);
    let control = Types::of(&["host/wire/src/control.rs"]);
    let describe = Types::of(&["host/cli/src/commands/describe.rs"]);
    let doctor = Types::of(&["host/cli/src/doctor/mod.rs"]);
    // The status document is another list, and so is the history.
    let elsewhere = [
        "AppHistory",
        "AppStatus",
        "ListenerStatus",
        "PoolStatus",
        "TenantStatus",
        "WorkerStatus",
    ];
    let mut offences = Offences::default();
    for (command, fields) in [
        ("history", names_in(&control, "AppHistory", &[])),
        ("gc", names_in(&control, "SweptFiles", &[])),
        ("describe", names_in(&describe, "Found", &elsewhere)),
        ("doctor", names_in(&doctor, "Finding", &[])),
    ] {
        let place = format!("{CLI}, {command}");
        compare(&mut offences, &place, &fields, &said_of(&manual, command));
    }
    offences.none("a field that is only in the code, or only in the manual");
}

#[test]
fn every_field_of_a_check_is_in_the_manual() {
    let check = source("host/cli/src/commands/check.rs");
    let problem = source("host/config/src/problem.rs");
    let documents = [
        between(&check, "fn document(", "\n}"),
        between(&problem, "fn to_json(", "\n    }\n"),
    ];
    let mut fields = Names::new();
    for document in documents {
        let document = document.expect("a function makes the document");
        let keys = quoted(document)
            .filter(|key| is_name(key) && document.contains(&format!("\"{key}\": ")));
        fields.extend(keys.map(str::to_owned));
    }
    assert!(fields.len() >= 10, "these are too few: {fields:?}");
    let mut offences = Offences::default();
    let listed = said_of(&markdown::read(CLI), "check");
    compare(&mut offences, CLI, &fields, &listed);
    offences.none("a field that is only in the code, or only in the manual");
}
