//! Keys of the configuration.

use std::collections::BTreeMap;

use super::{Names, between, compare, is_name, markdown, quoted, source};
use crate::{Offences, is_test, rust_files, shown};

const MANUAL: &str = "docs/configuration.md";
const REFERENCE: &str = "config/reference.toml";

/// Schemas that have a table in the manual, and the heading above it.
const TABLES: [(&str, &str); 7] = [
    ("[server]", "## `[server]`"),
    ("[listener.NAME]", "## `[listener.NAME]`"),
    ("[pool.NAME]", "## `[pool.NAME]`"),
    ("[app.NAME]", "## `[app.NAME]`"),
    ("[tenant.NAME]", "## Tenants and budgets"),
    ("`validate`", "### Validation"),
    ("`rollout`", "### Rollout"),
];

/// Keys of schemas that the manual explains in the row of the key that they
/// belong to, and the heading above that table.
const IN_ROWS: [(&str, &str); 3] = [
    ("log", "## `[server]`"),
    ("alert", "## `[server]`"),
    ("instance", "## `[app.NAME]`"),
];

/// What one kind of table may have.
struct Schema {
    keys: Names,
    unavailable: Names,
}

/// All schemas by their titles.
fn schemas() -> BTreeMap<String, Schema> {
    let mut schemas = BTreeMap::new();
    for path in rust_files("host/config/src") {
        if is_test(&path) {
            continue;
        }
        let code = source(&shown(&path));
        for piece in code.split(": Schema = Schema {").skip(1) {
            let (body, _) = piece.split_once("\n};").expect("a schema has an end");
            let title = between(body, "title: \"", "\"").expect("a schema has a title");
            let keys = between(body, "keys: &[", "]").expect("a schema has keys");
            let (_, later) = body
                .split_once("unavailable: &[")
                .expect("a schema says what is unavailable");
            let schema = Schema {
                keys: quoted(keys).map(str::to_owned).collect(),
                // Pairs of a key and a reason.
                unavailable: later
                    .split('(')
                    .skip(1)
                    .filter_map(quoted_first)
                    .map(str::to_owned)
                    .collect(),
            };
            assert!(!schema.keys.is_empty(), "{title} has no keys");
            schemas.insert(title.to_owned(), schema);
        }
    }
    let keys: usize = schemas.values().map(|schema| schema.keys.len()).sum();
    assert!(schemas.len() >= 12 && keys >= 75, "{keys} keys are too few");
    schemas
}

fn quoted_first(code: &str) -> Option<&str> {
    quoted(code).next()
}

/// The keys in `{ KEY = VALUE, … }`, wherever a text has that.
fn within_braces(text: &str) -> Names {
    text.split('{')
        .skip(1)
        .filter_map(|piece| piece.split_once('}'))
        .flat_map(|(inner, _)| inner.split(','))
        .filter_map(|pair| pair.split_once(" = "))
        .map(|(key, _)| key.trim().to_owned())
        .collect()
}

/// The first cells of the tables of keys below a heading.
fn table_of_keys(manual: &str, heading: &str) -> Names {
    let rows = markdown::rows(markdown::section(manual, heading));
    let keys = rows.iter().filter(|row| row.head.starts_with("key"));
    keys.flat_map(|row| markdown::spans(row.cells[0]))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_configuration_key_is_in_the_manual() {
    let schemas = schemas();
    let manual = markdown::read(MANUAL);
    let mut offences = Offences::default();
    let mut compared = 0;
    for (title, heading) in TABLES {
        let place = format!("{MANUAL}, {heading}");
        let listed = table_of_keys(&manual, heading);
        compare(&mut offences, &place, &schemas[title].keys, &listed);
        compared += 1;
    }
    for (key, heading) in IN_ROWS {
        let place = format!("{MANUAL}, {heading}, `{key}`");
        let rows = markdown::rows(markdown::section(&manual, heading));
        let row = rows.iter().find(|row| row.cells[0] == format!("`{key}`"));
        let text = row.expect("the key has a row").cells.join(" ");
        let listed = within_braces(&text);
        let schema = &schemas[&format!("`{key}`")];
        compare(&mut offences, &place, &schema.keys, &listed);
        compared += 1;
    }
    let environment = markdown::section(&manual, "### Environment and secrets");
    let listed = within_braces(environment);
    // The names of variables are the user's; examples are parsed elsewhere.
    for key in schemas["a variable of `env`"].keys.difference(&listed) {
        offences.note(&format!("{MANUAL} does not list `{key}`"));
    }
    let tables: Names = markdown::spans(&manual)
        .filter_map(|span| span.strip_prefix('[')?.strip_suffix(']'))
        .filter_map(|title| title.split('.').next())
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect();
    let file = &schemas["the file"];
    let both = file.keys.union(&file.unavailable).cloned().collect();
    compare(&mut offences, MANUAL, &both, &tables);
    // A schema that is new has to be added to one of the lists above.
    assert_eq!(compared + 2, schemas.len(), "a schema is not compared");
    offences.none("a key that is only in the code, or only in the manual");
}

#[test]
fn every_key_of_later_versions_is_in_the_manual() {
    let schemas = schemas();
    let manual = markdown::read(MANUAL);
    let tables = &schemas["the file"].keys;
    let listed: Names = markdown::spans(markdown::section(&manual, "## Not in this version"))
        .map(|span| span.trim_matches(['[', ']']))
        .filter(|span| is_name(span) && !tables.contains(*span))
        .map(str::to_owned)
        .collect();
    let unavailable: Names = schemas
        .values()
        .flat_map(|schema| schema.unavailable.clone())
        .collect();
    assert!(unavailable.len() >= 5, "these are too few: {unavailable:?}");
    let mut offences = Offences::default();
    compare(&mut offences, MANUAL, &unavailable, &listed);
    offences.none("a key that is refused and not listed, or listed and not refused");
}

#[test]
fn every_configuration_key_is_in_the_reference() {
    let schemas = schemas();
    let reference = markdown::read(REFERENCE);
    let mut offences = Offences::default();
    // The keys of each table, and of those that are tables themselves.
    let mut listed: BTreeMap<String, Names> = BTreeMap::new();
    let mut table = String::new();
    let mut comment = String::new();
    for line in reference.lines() {
        if let Some(name) = line.strip_prefix('[') {
            let kind = name.split(['.', ']']).next().unwrap_or_default();
            table = schemas
                .keys()
                .find(|title| title.starts_with(&format!("[{kind}")))
                .unwrap_or_else(|| panic!("{line} is no table"))
                .clone();
        }
        // A key without a default stands behind a sign without a space.
        let shown = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        let pair = shown.unwrap_or(line).split_once(" = ");
        let Some((key, value)) = pair.filter(|(key, _)| is_name(key)) else {
            comment = if line.starts_with("# ") {
                comment + line + "\n"
            } else {
                String::new()
            };
            continue;
        };
        listed.entry(table.clone()).or_default().insert(key.into());
        let inner = schemas
            .keys()
            .find(|title| !title.starts_with('[') && title.ends_with(&format!("`{key}`")));
        if let Some(title) = inner {
            let mut keys = within_braces(value);
            keys.extend(within_braces(&comment));
            // A comment explains them by lines as `# format: …`.
            let labels = comment.lines().filter_map(|line| {
                let (label, _) = line.strip_prefix("# ")?.split_once(": ")?;
                is_name(label).then(|| label.to_owned())
            });
            keys.extend(labels);
            listed.insert(title.clone(), keys);
        }
        comment.clear();
    }
    for (title, schema) in schemas.iter().filter(|(title, _)| *title != "the file") {
        let place = format!("{REFERENCE}, {title}");
        let listed = listed.get(title).cloned().unwrap_or_default();
        compare(&mut offences, &place, &schema.keys, &listed);
    }
    offences.none("a key that is only in the code, or only in the reference");
}

#[test]
fn keys_in_braces_are_found() {
    let found = within_braces("`{ a = 1, b_c = \"x\" }` or { d = {} }");
    assert!(["a", "b_c"].iter().all(|key| found.contains(*key)));
}
