//! Variables that an app cannot do without.

use std::collections::BTreeMap;

use crate::document::{Entry, quotable};
use crate::elements::env::Env;

const EXAMPLE: &str = "[\"DATABASE_URL\"]";

/// Reads the names and checks that each is in `env` and not empty.
pub(crate) fn read(entry: &Entry<'_>, env: &Env) -> Vec<String> {
    let Some(elements) = entry.as_array() else {
        entry.wrong_type("an array of names", EXAMPLE);
        return Vec::new();
    };
    let resolved = env
        .resolved
        .iter()
        .map(|(name, value)| (name.as_str(), Some(value)));
    // Faulty ones were reported; that they are required adds nothing.
    let faulty = env.faulty.iter().map(|name| (name.as_str(), None));
    let known: BTreeMap<&str, Option<&String>> = resolved.chain(faulty).collect();
    let mut names = Vec::new();
    for element in &elements {
        let Some(value) = element.as_str() else {
            element
                .problem("the name of a variable must be a string")
                .hint(format!("as in `require = {EXAMPLE}`"))
                .report();
            continue;
        };
        let shown = quotable(value);
        match known.get(value) {
            None => {
                element
                    .problem(format!("the required variable `{shown}` is not in `env`"))
                    .hint(format!(
                        "add `{shown} = {{ from_env = \"{shown}\" }}` to `env`"
                    ))
                    .report();
            }
            Some(Some(value)) if value.is_empty() => {
                element
                    .problem(format!("the required variable `{shown}` is empty"))
                    .report();
            }
            Some(_) => {}
        }
        names.push(value.to_owned());
    }
    names
}
