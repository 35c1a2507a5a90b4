//! Exit codes.

use super::{Names, compare, markdown, source};
use crate::{Offences, is_test, rust_files, shown};

/// Documents that have a table of all codes, and its heading.
const TABLES: [(&str, &str); 2] = [
    ("docs/cli.md", "### Exit codes"),
    ("docs/operations.md", "## Exit codes"),
];

/// The numbers of `enum Exit`.
fn codes() -> Names {
    let code = source("host/cli/src/exit.rs");
    let body = super::between(&code, "enum Exit {", "\n}").expect("there is an enum of codes");
    let codes: Names = body
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, number)| number.to_owned())
        .collect();
    assert!(codes.len() >= 8, "these are too few: {codes:?}");
    codes
}

/// The number at the beginning of a text.
fn number(text: &str) -> Option<&str> {
    let end = text.find(|char: char| !char.is_ascii_digit());
    Some(&text[..end.unwrap_or(text.len())]).filter(|number| !number.is_empty())
}

#[test]
fn every_exit_code_is_in_both_tables() {
    let codes = codes();
    let mut offences = Offences::default();
    for (document, heading) in TABLES {
        let text = markdown::read(document);
        let listed: Names = markdown::rows(markdown::section(&text, heading))
            .iter()
            .filter(|row| row.head == "code")
            .map(|row| row.cells[0].to_owned())
            .collect();
        compare(&mut offences, document, &codes, &listed);
    }
    offences.none("an exit code that a table lacks, or only a table has");
}

/// The codes that replies of the primary carry, each with its file: the number
/// itself, or a constant with its value.
fn in_replies() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for dir in ["host/primary", "host/wire/src"] {
        for path in rust_files(dir).into_iter().filter(|path| !is_test(path)) {
            let place = shown(&path);
            let code = source(&place);
            let constants = code.split(": u8 = ").skip(1);
            let constants = constants.filter(|_| dir == "host/primary");
            let numbers = constants
                .chain(code.split(" code: ").skip(1))
                .filter_map(number);
            found.extend(numbers.map(|number| (place.clone(), number.to_owned())));
        }
    }
    assert!(found.len() >= 8, "these are too few: {found:?}");
    found
}

/// The codes that prose names, each with its document.
fn in_prose() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for document in [
        "README.md",
        "CHANGELOG.md",
        "docs/cli.md",
        "docs/configuration.md",
        "docs/guests.md",
        "docs/operations.md",
    ] {
        let text = markdown::read(document).replace('\n', " ");
        for words in ["exit code ", "exit code is "] {
            let numbers = text.split(words).skip(1).filter_map(number);
            found.extend(numbers.map(|number| (document.to_owned(), number.to_owned())));
        }
    }
    assert!(found.len() >= 15, "these are too few: {found:?}");
    found
}

#[test]
fn replies_and_prose_have_exit_codes_that_exist() {
    let codes = codes();
    let mut offences = Offences::default();
    for (place, number) in in_replies().into_iter().chain(in_prose()) {
        if !codes.contains(&number) {
            offences.note(&format!("{place}: {number}"));
        }
    }
    offences.none("a number that no command exits with");
}
