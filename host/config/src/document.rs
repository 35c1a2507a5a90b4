//! Reading TOML items with their places.
//!
//! A [`Section`] is a table whose keys a [`Schema`] lists; opening one reports
//! every key that is not listed or not available. An [`Entry`] is one value,
//! with its name and its place, about which an element parser may complain.

use toml_edit::{Item, TableLike, Value};

use crate::problem::Span;
use crate::report::{Draft, Report, Reported};
use crate::suggest;

/// The keys of one kind of table.
#[derive(Debug)]
pub(crate) struct Schema {
    /// What the table is called where no table is at hand: `[app.NAME]`.
    pub(crate) title: &'static str,
    /// Keys that are honoured.
    pub(crate) keys: &'static [&'static str],
    /// Keys that later versions will honour, each with what holds without it.
    pub(crate) unavailable: &'static [(&'static str, &'static str)],
}

impl Schema {
    /// Every key that a user may have meant.
    fn known(&self) -> impl Iterator<Item = &'static str> {
        let unavailable = self.unavailable.iter().map(|(key, _)| *key);
        self.keys.iter().copied().chain(unavailable)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// The TOML of an entry.
#[derive(Clone, Copy)]
enum Node<'a> {
    Value(&'a Value),
    Table(&'a dyn TableLike),
    ArrayOfTables,
}

/// One value of the file, with its name.
#[derive(Clone)]
pub(crate) struct Entry<'a> {
    /// The key, or for an element of an array the key of the array.
    pub(crate) name: &'a str,
    /// Where the key stands.
    pub(crate) key_span: Span,
    /// Where the value stands.
    pub(crate) span: Span,
    node: Node<'a>,
    report: &'a Report,
}

impl<'a> Entry<'a> {
    fn of_table(table: &'a dyn TableLike, name: &'a str, report: &'a Report) -> Option<Self> {
        let (key, item) = table.get_key_value(name)?;
        let node = match item {
            Item::None => return None,
            Item::Value(Value::InlineTable(table)) => Node::Table(table),
            Item::Value(value) => Node::Value(value),
            Item::Table(table) => Node::Table(table),
            Item::ArrayOfTables(_) => Node::ArrayOfTables,
        };
        // Tables that only exist by way of dotted keys or of the headers below
        // them have no place of their own; neither has an item without text.
        let key_span = key.span().or_else(|| item.span()).unwrap_or(0..0);
        let span = item.span().unwrap_or_else(|| key_span.clone());
        Some(Self {
            name: key.get(),
            key_span,
            span,
            node,
            report,
        })
    }

    /// Begins a problem at the value.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Draft<'a> {
        self.report.at(&self.span, message)
    }

    /// Begins a problem at the key.
    pub(crate) fn key_problem(&self, message: impl Into<String>) -> Draft<'a> {
        self.report.at(&self.key_span, message)
    }

    /// Says that the value should have been `expected`, as in `example`.
    pub(crate) fn wrong_type(&self, expected: &str, example: &str) -> Reported {
        let found = self.found();
        self.problem(format!(
            "`{}` must be {expected}, not {found}",
            quotable(self.name)
        ))
        .hint(format!("as in `{} = {example}`", quotable(self.name)))
        .report()
    }

    /// The kind of the value, with its article.
    pub(crate) fn found(&self) -> &'static str {
        match self.node {
            Node::Value(Value::String(_)) => "a string",
            Node::Value(Value::Integer(_)) => "an integer",
            Node::Value(Value::Float(_)) => "a decimal number",
            Node::Value(Value::Boolean(_)) => "a boolean",
            Node::Value(Value::Datetime(_)) => "a date or time",
            Node::Value(Value::Array(_)) => "an array",
            Node::Value(Value::InlineTable(_)) | Node::Table(_) => "a table",
            Node::ArrayOfTables => "an array of tables",
        }
    }

    pub(crate) fn as_str(&self) -> Option<&'a str> {
        match self.node {
            Node::Value(value) => value.as_str(),
            _ => None,
        }
    }

    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.node {
            Node::Value(value) => value.as_integer(),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self.node {
            Node::Value(value) => value.as_bool(),
            _ => None,
        }
    }

    pub(crate) const fn is_table(&self) -> bool {
        matches!(self.node, Node::Table(_))
    }

    /// The elements of an array, each with the array's name; `None` for
    /// anything else.
    pub(crate) fn as_array(&self) -> Option<Vec<Self>> {
        let Node::Value(Value::Array(array)) = self.node else {
            return None;
        };
        let element = |value: &'a Value| Self {
            span: value.span().unwrap_or_else(|| self.span.clone()),
            node: match value {
                Value::InlineTable(table) => Node::Table(table),
                value => Node::Value(value),
            },
            ..self.clone()
        };
        Some(array.iter().map(element).collect())
    }

    /// The entries of a table whose keys the user chooses; `None` for anything
    /// else.
    pub(crate) fn as_map(&self) -> Option<Vec<Self>> {
        let Node::Table(table) = self.node else {
            return None;
        };
        let names = table.iter().map(|(name, _)| name);
        Some(
            names
                .filter_map(|name| Self::of_table(table, name, self.report))
                .collect(),
        )
    }

    /// Opens the table as a section that is called `title` in messages;
    /// `None` for anything else.
    pub(crate) fn as_section(&self, schema: &'static Schema, title: &str) -> Option<Section<'a>> {
        let Node::Table(table) = self.node else {
            return None;
        };
        Some(Section::open(table, schema, title, self.report))
    }
}

/// A table with a schema.
pub(crate) struct Section<'a> {
    table: &'a dyn TableLike,
    schema: &'static Schema,
    report: &'a Report,
    refused: Option<Reported>,
}

impl<'a> Section<'a> {
    /// Reports every key that the schema does not offer.
    pub(crate) fn open(
        table: &'a dyn TableLike,
        schema: &'static Schema,
        title: &str,
        report: &'a Report,
    ) -> Self {
        let mut refused = None;
        for (key, _) in table.iter().filter(|(key, _)| !schema.keys.contains(key)) {
            if let Some(entry) = Entry::of_table(table, key, report) {
                refused = Some(refuse_key(&entry, schema, title));
            }
        }
        Self {
            table,
            schema,
            report,
            refused,
        }
    }

    /// The problem of a key that the schema does not offer.
    pub(crate) const fn refused(&self) -> Option<Reported> {
        self.refused
    }

    pub(crate) fn get(&self, key: &'static str) -> Option<Entry<'a>> {
        debug_assert!(
            self.schema.keys.contains(&key),
            "{key} is missing in a schema"
        );
        Entry::of_table(self.table, key, self.report)
    }

    /// Reads a key; `None` if it is absent or has a problem.
    pub(crate) fn read<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&Entry<'a>) -> Result<T, Reported>,
    ) -> Option<T> {
        parse(&self.get(key)?).ok()
    }

    /// Reads a key into a setting that holds its default.
    pub(crate) fn set<T>(
        &self,
        setting: &mut T,
        key: &'static str,
        parse: impl FnOnce(&Entry<'a>) -> Result<T, Reported>,
    ) {
        if let Some(value) = self.read(key, parse) {
            *setting = value;
        }
    }
}

fn refuse_key(entry: &Entry<'_>, schema: &'static Schema, title: &str) -> Reported {
    let name = entry.name;
    if let Some((_, without)) = schema.unavailable.iter().find(|(key, _)| *key == name) {
        return entry
            .key_problem(format!("`{name}` is not available in this version of skep"))
            .hint(format!("remove it; {without}"))
            .report();
    }
    let draft = entry.key_problem(format!("unknown key `{}` in {title}", quotable(name)));
    if entry.report.is_full() {
        return draft.report();
    }
    let hint = if let Some(meant) = suggest::closest(name, schema.known()) {
        format!("did you mean `{meant}`?")
    } else if let Some(home) = crate::sections::home_of(name) {
        format!("`{name}` belongs in {home}")
    } else {
        format!("known keys: {}", schema.keys.join(", "))
    };
    draft.hint(hint).report()
}

/// A name or value out of the file, fit for a message: escaped, and cut if it
/// is very long.
pub(crate) fn quotable(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).flat_map(escape).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let printable = matches!(c, '\'' | '"' | '\\');
    let escaped = (!printable).then(|| c.escape_debug());
    let plain = printable.then_some(c);
    escaped.into_iter().flatten().chain(plain)
}
