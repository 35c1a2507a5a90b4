//! Reading Markdown as far as the documents of the repository use it.

use std::fs;

use skep_tests::build::root;

/// One row of a table.
#[derive(Debug, PartialEq)]
pub(super) struct Row<'a> {
    /// The first cell of the table's head.
    pub(super) head: &'a str,
    /// Its cells.
    pub(super) cells: Vec<&'a str>,
}

/// A file of the repository.
pub(super) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines, each with whether it belongs to a block of code.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut block = false;
    text.lines().map(move |line| {
        let fence = line.starts_with("```");
        block ^= fence;
        (block || fence, line)
    })
}

/// What stands below a heading, up to the next heading of any rank.
pub(super) fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, below) = text
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("there is no heading '{heading}'"));
    let end = lines(below)
        .find(|(block, line)| !block && line.starts_with('#'))
        .map_or(below.len(), |(_, line)| {
            line.as_ptr().addr() - below.as_ptr().addr()
        });
    &below[..end]
}

/// The headings, without their signs.
pub(super) fn headings(text: &str) -> impl Iterator<Item = &str> {
    lines(text)
        .filter(|(block, line)| !block && line.starts_with('#'))
        .map(|(_, line)| line.trim_start_matches('#').trim())
}

/// The lines of blocks of code.
pub(super) fn code(text: &str) -> impl Iterator<Item = &str> {
    lines(text)
        .filter(|(block, line)| *block && !line.starts_with("```"))
        .map(|(_, line)| line)
}

/// The texts in backquotes, outside of blocks of code.
pub(super) fn spans(text: &str) -> impl Iterator<Item = &str> {
    lines(text)
        .filter(|(block, _)| !block)
        .flat_map(|(_, line)| {
            assert!(
                line.matches('`').count() % 2 == 0,
                "a text in backquotes goes over two lines: {line}"
            );
            line.split('`').skip(1).step_by(2)
        })
}

/// The rows of all tables.
pub(super) fn rows(text: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut head = None;
    for (block, line) in lines(text) {
        if block || !line.starts_with('|') {
            head = None;
        } else if let Some(head) = head {
            if !line.starts_with("|---") {
                rows.push(Row {
                    head,
                    cells: cells(line),
                });
            }
        } else {
            head = cells(line).first().copied();
        }
    }
    rows
}

fn cells(line: &str) -> Vec<&str> {
    let inner = line.trim_start_matches('|').trim_end_matches('|');
    let mut cells = Vec::new();
    let mut start = 0;
    for (at, _) in inner.match_indices('|') {
        if !inner[..at].ends_with('\\') {
            cells.push(inner[start..at].trim());
            start = at + 1;
        }
    }
    cells.push(inner[start..].trim());
    cells
}

/// The paragraphs outside of blocks of code.
pub(super) fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").filter(|piece| !piece.contains("```"))
}

#[test]
fn documents_are_read() {
    let text = "# A\n\n## `b`\n\nx `y` z\n\n```text\n# no `\n```\n\n| k | v |\n|---|---|\n| `a\\|b` | c |\n## D\n";
    let section = section(text, "## `b`");
    assert!(section.ends_with("c |\n"), "{section}");
    assert_eq!(headings(text).collect::<Vec<_>>(), ["A", "`b`", "D"]);
    assert_eq!(spans(section).collect::<Vec<_>>(), ["y", "a\\|b"]);
    assert_eq!(code(section).collect::<Vec<_>>(), ["# no `"]);
    let row = Row {
        head: "k",
        cells: vec!["`a\\|b`", "c"],
    };
    assert_eq!(rows(section), [row]);
    assert_eq!(paragraphs(section).count(), 2);
}
