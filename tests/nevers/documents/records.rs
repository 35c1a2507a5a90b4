//! Names of log records, and outcomes of requests.

use std::fs;

use skep_tests::build::root;

use crate::{Offences, is_test, rust_files};

/// How the names of log records and events begin.
const SUBJECTS: [&str; 22] = [
    "alert",
    "alerter",
    "app",
    "artifact",
    "builder",
    "component",
    "config",
    "connector",
    "control",
    "dispatcher",
    "events",
    "handler",
    "listener",
    "log",
    "outbound",
    "pool",
    "primary",
    "request",
    "response",
    "sandbox",
    "state",
    "worker",
];

/// Names of files that look like names of records.
const FILES: [&str; 4] = ["wasm", "toml", "py", "js"];

/// The names of records in a line of code: `"worker.ready"`.
fn records(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|text| {
        text.split_once('.').is_some_and(|(subject, what)| {
            SUBJECTS.contains(&subject)
                && !what.is_empty()
                && what
                    .bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
                && !FILES.contains(&what)
        })
    })
}

#[test]
fn every_record_is_in_the_operators_manual() {
    let manual = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut offences = Offences::default();
    for path in rust_files("host") {
        if is_test(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            for record in records(line) {
                if !manual.contains(&format!("`{record}`")) {
                    offences.add(&path, number + 1, record);
                }
            }
        }
    }
    offences.none("a record that docs/operations.md does not name");
}

#[test]
fn every_outcome_is_in_the_manual_of_guests() {
    let manual = fs::read_to_string(root().join("docs/guests.md")).unwrap();
    let missing: Vec<_> = skep_core::Outcome::ALL
        .into_iter()
        .map(skep_core::Outcome::name)
        .filter(|name| !manual.contains(&format!("`{name}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/guests.md does not name {missing:?}"
    );
}

#[test]
fn names_of_records_are_found_in_code() {
    let found = |line| records(line).collect::<Vec<_>>();
    assert_eq!(
        found("event(\"worker.ready\", x(\"a.b\"), \"app.wasm\")"),
        ["worker.ready"]
    );
    assert_eq!(found("\"worker\"; \"pool.\"; \"log.Dropped\""), [""; 0]);
}
