//! Lists in the documents that the code must not outgrow. What a document
//! lists must also exist, where its lists can be read back.

mod commands;
mod exits;
mod fields;
mod json;
mod keys;
mod markdown;
mod records;

use std::collections::BTreeSet;

use crate::Offences;

/// Names in order, each once.
type Names = BTreeSet<String>;

/// Notes what only the code has, and what only a document has.
fn compare(offences: &mut Offences, document: &str, code: &Names, listed: &Names) {
    for name in code.difference(listed) {
        offences.note(&format!("{document} does not list `{name}`"));
    }
    for name in listed.difference(code) {
        offences.note(&format!("{document} lists `{name}`, which does not exist"));
    }
}

/// Whether a text is a name as keys, fields and commands have it.
fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The texts in quotes of a piece of code.
fn quoted(code: &str) -> impl Iterator<Item = &str> {
    code.split('"').skip(1).step_by(2)
}

/// What stands between two texts, the first of each.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}

/// A source of the repository without its tests.
fn source(path: &str) -> String {
    let text = markdown::read(path);
    let code = text.split("#[cfg(test)]").next();
    code.unwrap_or_default().to_owned()
}

/// `CamelCase` as serde and clap write it: in lowercase, with `between` before every
/// word but the first.
fn lowered(name: &str, between: &str) -> String {
    let mut lowered = String::new();
    for (index, char) in name.char_indices() {
        if char.is_ascii_uppercase() && index > 0 {
            lowered.push_str(between);
        }
        lowered.push(char.to_ascii_lowercase());
    }
    lowered
}

#[test]
fn names_in_code_are_read() {
    assert!(is_name("p50_ms") && !is_name("Name") && !is_name("a-b") && !is_name("2xx"));
    assert_eq!(quoted("&[\"a\", \"b\"]").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(lowered("OutOfMemory", "-"), "out-of-memory");
    assert_eq!(between("a [b] [c]", "[", "]"), Some("b"));
}
