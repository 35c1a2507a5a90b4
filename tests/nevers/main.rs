//! What the design says never happens, read from manifests and sources
//! (DESIGN §3). A test here fails with the file and the line.

mod documents;
mod manifests;
mod sources;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use skep_tests::build::root;

/// Rust files below a directory of the repository, in order.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root().join(dir), &mut found);
    found.sort();
    assert!(!found.is_empty(), "there is nothing in {dir}");
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|is| is == "rs") {
            found.push(path);
        }
    }
}

/// A path as people write it.
fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Whether a file is a test as a whole.
fn is_test(path: &Path) -> bool {
    let path = shown(path);
    path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.starts_with("tests/")
        || path.starts_with("benches/")
}

/// Collects offences, so that one run shows all of them.
#[derive(Default)]
struct Offences(String);

impl Offences {
    fn add(&mut self, path: &Path, line: usize, what: &str) {
        let _ = writeln!(self.0, "{}:{line}: {what}", shown(path));
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.0, "{what}");
    }

    fn none(self, never: &str) {
        assert!(self.0.is_empty(), "never: {never}\n{}", self.0);
    }
}

/// The lines of a file that are code: numbered, without comments and texts,
/// and without its tests.
fn code_of(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).expect("sources can be read");
    let mut lines = Vec::new();
    let mut tests = false;
    for (index, line) in text.lines().enumerate() {
        // By convention the tests of a file are its last module.
        tests |= line == "#[cfg(test)]" && {
            let next = text.lines().nth(index + 1).unwrap_or_default();
            (next.starts_with("mod ") || next.starts_with("pub(super) mod ")) && next.ends_with('{')
        };
        if !tests {
            lines.push((index + 1, without_texts(line)));
        }
    }
    lines
}

/// A line without its comment and with its texts emptied. Good enough for the
/// words that are sought; raw texts over several lines are taken for code.
fn without_texts(line: &str) -> String {
    let mut code = String::new();
    let mut chars = line.chars().peekable();
    let mut within = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' if within => drop(chars.next()),
            '"' => within = !within,
            '\'' if !within && chars.peek() == Some(&'"') => drop(chars.next()),
            '/' if !within && chars.peek() == Some(&'/') => break,
            char if !within => code.push(char),
            _ => {}
        }
    }
    code
}

/// Whether `code` has `word` as a whole word.
fn has_word(code: &str, word: &str) -> bool {
    let is_part = |char: Option<char>| char.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

#[test]
fn the_reader_of_sources_reads_them() {
    assert_eq!(without_texts(r#"a("unsafe \" x") // unsafe"#), "a() ");
    assert_eq!(without_texts(r#"b('"', "x")"#), "b(', )");
    assert!(has_word("unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
