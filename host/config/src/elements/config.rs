//! Values that a guest reads through `wasi:config`.

use std::collections::BTreeMap;

use crate::document::{Entry, quotable};
use crate::report::Reported;

/// Reads a table of strings; all of its problems are reported.
pub(crate) fn read(entry: &Entry<'_>) -> Result<BTreeMap<String, String>, Reported> {
    let values = entry
        .as_map()
        .ok_or_else(|| entry.wrong_type("a table", "{ greeting = \"hei\" }"))?;
    let mut fault = None;
    let mut config = BTreeMap::new();
    for value in values {
        match value.as_str() {
            Some(text) => {
                config.insert(value.name.to_owned(), text.to_owned());
            }
            None => fault = Some(report(&value)),
        }
    }
    fault.map_or(Ok(config), Err)
}

fn report(value: &Entry<'_>) -> Reported {
    let number = value.as_integer().map(|number| number.to_string());
    let flag = value.as_bool().map(|flag| flag.to_string());
    match number.or(flag) {
        Some(text) => value
            .problem(format!(
                "`{}` must be a string: a guest reads no other kind",
                quotable(value.name)
            ))
            .hint(format!("write it in quotes: \"{text}\""))
            .report(),
        None => value.wrong_type("a string", "\"hei\""),
    }
}
