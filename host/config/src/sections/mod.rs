//! One file per kind of table.

pub(crate) mod app;
pub(crate) mod listener;
pub(crate) mod pool;
pub(crate) mod server;
pub(crate) mod tenant;

use skep_core::InvalidName;

use crate::document::{Entry, Schema, Section, Spanned, quotable};
use crate::elements::name;
use crate::report::Reported;

/// The top level of the file.
pub(crate) static FILE: Schema = Schema {
    title: "the file",
    keys: &["server", "listener", "pool", "tenant", "app"],
    unavailable: &[("admin", "this version has no admin endpoints")],
};

/// The table that a key would be at home in, for keys that stand elsewhere.
pub(crate) fn home_of(key: &str) -> Option<&'static str> {
    [
        &app::SCHEMA,
        &pool::SCHEMA,
        &listener::SCHEMA,
        &server::SCHEMA,
        &tenant::SCHEMA,
    ]
    .into_iter()
    .find(|schema| schema.keys.contains(&key))
    .map(|schema| schema.title)
}

/// Tables of one kind that were read.
pub(crate) struct Declared<T> {
    /// In the order of the file.
    pub(crate) list: Vec<T>,
    /// Every name that has a table, those of faulty tables among them: what
    /// refers to one of these is not wrong itself.
    pub(crate) names: Vec<String>,
    /// The problem of what stands in the place of such tables and is none.
    pub(crate) unreadable: Option<Reported>,
}

/// Reads `[KIND.NAME]` tables; `read` gets the checked name and the section,
/// which is opened (and its keys checked) even where the name is faulty.
pub(crate) fn named<'a, N, T>(
    file: &Section<'a>,
    kind: &'static str,
    schema: &'static Schema,
    check_name: impl Fn(&str) -> Result<N, InvalidName>,
    read: impl Fn(Option<Spanned<N>>, &Section<'a>) -> Option<T>,
) -> Declared<T> {
    let mut declared = Declared {
        list: Vec::new(),
        names: Vec::new(),
        unreadable: None,
    };
    let Some(tables) = file.get(kind) else {
        return declared;
    };
    let Some(entries) = tables.as_map() else {
        let reported = tables
            .problem(format!("`{kind}` must be a table of named tables"))
            .hint(format!("begin each with a header, as {}", header(kind)))
            .report();
        declared.unreadable = Some(reported);
        return declared;
    };
    for entry in entries {
        if !entry.is_table() {
            // One header without a name is one slip, however many keys follow.
            if declared.unreadable.is_none() {
                declared.unreadable = Some(report_nameless(&entry, kind, schema));
            }
            continue;
        }
        declared.names.push(entry.name.to_owned());
        let name = name::check(&entry, kind, &check_name).ok();
        let title = format!("[{kind}.{}]", quotable(entry.name));
        if let Some(section) = entry.as_section(schema, &title) {
            declared.list.extend(read(name, &section));
        }
    }
    declared
}

/// `[app]` with keys directly below it, or `[[app.x]]`.
fn report_nameless(entry: &Entry<'_>, kind: &str, schema: &Schema) -> Reported {
    let name = quotable(entry.name);
    if schema.keys.contains(&entry.name) {
        entry
            .key_problem(format!("`{name}` stands in [{kind}], which has no name"))
            .hint(format!("give the {kind} a name, as {}", header(kind)))
            .report()
    } else {
        entry
            .problem(format!("`{name}` must be a table, not {}", entry.found()))
            .hint(format!("begin it with [{kind}.{name}]"))
            .report()
    }
}

/// A header to show as an example.
fn header(kind: &str) -> String {
    match kind {
        "app" => "[app.hello]".to_owned(),
        "tenant" => "[tenant.acme]".to_owned(),
        kind => format!("[{kind}.web]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is absent unless it is written: the reference shows these behind a
    /// `#`, because no value would say the same.
    const WITHOUT_DEFAULT: &[&str] = &["alert", "rate", "user", "validate"];

    #[test]
    fn the_reference_shows_every_key_and_none_that_is_unavailable() {
        let reference = include_str!("../../../../config/reference.toml");
        for schema in [
            &app::SCHEMA,
            &pool::SCHEMA,
            &listener::SCHEMA,
            &server::SCHEMA,
            &tenant::SCHEMA,
        ] {
            let header = format!("\n{}", schema.title.trim_end_matches("NAME]"));
            let (_, section) = reference.split_once(&header).unwrap();
            let (section, _) = section.split_once("\n# ---").unwrap_or((section, ""));
            for key in schema.keys {
                let sign = if WITHOUT_DEFAULT.contains(key) {
                    "#"
                } else {
                    ""
                };
                assert!(section.contains(&format!("\n{sign}{key} = ")), "{key}");
            }
            for (key, _) in schema.unavailable {
                for sign in ["", "#", "# "] {
                    assert!(!section.contains(&format!("\n{sign}{key} = ")), "{key}");
                }
            }
        }
    }
}
