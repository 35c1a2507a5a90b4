//! What is written about the configuration is true: the reference, the
//! examples and the documentation.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::path::{Path, PathBuf};

use skep_config::{Checked, parse};

mod world;

use world::World;

const REFERENCE: &str = include_str!("../../../config/reference.toml");
const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");

/// A line of the reference that shows a key without a default begins so, and
/// no other does: `#key = value`.
fn without_sign(line: &str) -> Option<&str> {
    line.strip_prefix('#')
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn checked(name: &str, text: &str) -> Checked {
    parse(Path::new(name), text, &World).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

#[test]
fn the_reference_says_the_defaults() {
    let minimal = checked(
        "reference.toml",
        "[app.hello]\ncomponent = \"hello.wasm\"\n",
    );
    assert_eq!(checked("reference.toml", REFERENCE).spec, minimal.spec);
}

#[test]
fn what_the_reference_shows_without_a_default_is_valid() {
    let lines = REFERENCE
        .lines()
        .map(|line| without_sign(line).unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join("\n");
    let spec = checked("reference.toml", &text).spec;
    assert!(spec.server.alert.is_some());
    assert!(spec.apps.values().all(|app| app.validate.is_some()));
}

#[test]
fn the_examples_have_no_problems() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/examples");
    let examples: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!examples.is_empty());
    for path in examples {
        let name = path.file_name().unwrap().to_str().unwrap();
        checked(name, &std::fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn every_piece_of_the_documentation_is_valid() {
    let mut pieces = 0;
    for piece in DOCUMENTATION.split("```toml\n").skip(1) {
        let (piece, _) = piece.split_once("```").unwrap();
        let text = if piece.contains("[app.") {
            piece.to_owned()
        } else {
            format!("{piece}\n[app.hello]\ncomponent = \"hello.wasm\"\n")
        };
        checked("configuration.md", &text);
        pieces += 1;
    }
    assert!(pieces >= 5, "only {pieces} pieces");
}

#[test]
fn the_documentation_names_every_key() {
    for line in REFERENCE.lines() {
        let line = without_sign(line).unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        assert!(
            DOCUMENTATION.contains(&format!("`{key}`")),
            "`{key}` is not documented"
        );
    }
}
