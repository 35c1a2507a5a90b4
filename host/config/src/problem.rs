//! What is wrong with a configuration, as values.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::render;

/// A byte range of the source text.
pub(crate) type Span = Range<usize>;

/// A configuration file's path and text, shared by the problems found in it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// Line and column of a byte, both from 1; columns are characters.
    pub(crate) fn position(&self, byte: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(byte)];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[start..].chars().count() + 1)
    }
}

/// One marked place of the source.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) span: Span,
    /// Written beside the caret; empty for none.
    pub(crate) label: String,
}

/// A place in a source, and others that explain it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) source: Arc<Source>,
    /// `None` for the file as a whole.
    pub(crate) mark: Option<Mark>,
    pub(crate) others: Vec<Mark>,
}

/// One thing that is wrong, where it stands, and what to do about it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) place: Option<Place>,
}

impl Problem {
    /// A problem that stands in no file.
    #[must_use]
    pub const fn without_place(message: String, hint: Option<String>) -> Self {
        Self {
            message,
            hint,
            place: None,
        }
    }

    /// What is wrong: a lower-case fragment.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The file in which it stands.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| place.source.path.as_path())
    }

    /// Line and column of its first character, both from 1.
    #[must_use]
    pub fn position(&self) -> Option<(usize, usize)> {
        let place = self.place.as_ref()?;
        let mark = place.mark.as_ref()?;
        Some(place.source.position(mark.span.start))
    }

    /// The problem with the lines it is about, a caret and the hint; several
    /// lines without a newline at the end. `color` adds terminal colours.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        render::problem(self, color)
    }

    /// An object of `message`, `hint`, `path`, `line`, `column`, `end_line`,
    /// `end_column` and `related`; what does not apply is null.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = json!({
            "message": self.message,
            "hint": self.hint,
            "path": self.path().map(|path| path.display().to_string()),
            "line": null, "column": null, "end_line": null, "end_column": null,
            "related": [],
        });
        if let Some(place) = &self.place
            && let Some(mark) = &place.mark
        {
            let (line, column) = place.source.position(mark.span.start);
            let (end_line, end_column) = place.source.position(mark.span.end);
            object["line"] = line.into();
            object["column"] = column.into();
            object["end_line"] = end_line.into();
            object["end_column"] = end_column.into();
            object["related"] = place
                .others
                .iter()
                .map(|other| {
                    let (line, column) = place.source.position(other.span.start);
                    json!({ "line": line, "column": column, "label": other.label })
                })
                .collect();
        }
        object
    }

    fn sort_key(&self) -> (Option<&Path>, usize) {
        let mark = self.place.as_ref().and_then(|place| place.mark.as_ref());
        (self.path(), mark.map_or(0, |mark| mark.span.start))
    }
}

impl fmt::Display for Problem {
    /// On one line: `path:line:column: message`, without what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            write!(f, "{}:", path.display())?;
            if let Some((line, column)) = self.position() {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of the file; never empty when it is
/// an error.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    /// `omitted` is the number of problems that were found but not kept.
    pub(crate) fn new(mut list: Vec<Problem>, omitted: usize) -> Self {
        list.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        Self { list, omitted }
    }

    /// The number of problems found.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The problems one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// All problems as text for people, separated by empty lines, with a
    /// newline at the end. `color` adds terminal colours.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let mut text = String::new();
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            text.push_str(&problem.render(color));
            text.push('\n');
        }
        text + &more(self.omitted)
    }

    /// As [`Self::render`] without colours, but the first problems only, as
    /// many as fit into `limit` bytes, and the number of the others: for
    /// answers, records and alerts, which have a size. The first problem is
    /// always told, on one line where there is no room for more.
    #[must_use]
    pub fn brief(&self, limit: usize) -> String {
        let mut text = String::new();
        for (index, problem) in self.list.iter().enumerate() {
            let after = self.len() - index - 1;
            let room = limit.saturating_sub(text.len() + more(after).len());
            let next = problem.render(false);
            match (index, next.len() + 2 <= room) {
                (0, true) => text.extend([&next, "\n"]),
                (0, false) => text.extend([&problem.to_string(), "\n"]),
                (_, true) => text.extend(["\n", &next, "\n"]),
                (_, false) => return text + &more(after + 1),
            }
        }
        text + &more(self.omitted)
    }

    /// An array of what [`Problem::to_json`] gives.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.list.iter().map(Problem::to_json).collect()
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(problems: I) -> Self {
        Self::new(problems.into_iter().collect(), 0)
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self::new(vec![problem], 0)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

/// The line that stands for so many problems; none for none.
fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "\n… and 1 more problem\n".to_owned(),
        count => format!("\n… and {count} more problems\n"),
    }
}
