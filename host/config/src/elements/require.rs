//! Variables that an app cannot do without.

use crate::document::{Entry, Spanned, quotable};
use crate::elements::env::{Env, Lack};

const EXAMPLE: &str = "[\"DATABASE_URL\"]";

/// Reads the names and checks that each is in `env` and not empty.
pub(crate) fn read(entry: &Entry<'_>, env: &Env) -> Vec<String> {
    let Some(elements) = entry.as_array() else {
        entry.wrong_type("an array of names", EXAMPLE);
        return Vec::new();
    };
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
        let name = Spanned {
            value,
            span: element.span.clone(),
        };
        match env.lacks(&name) {
            None => {}
            Some(Lack::Missing) => {
                element
                    .problem(format!("the required variable `{shown}` is not in `env`"))
                    .hint(format!(
                        "add `{shown} = {{ from_env = \"{shown}\" }}` to `env`"
                    ))
                    .report();
            }
            Some(Lack::Empty) => {
                element
                    .problem(format!("the required variable `{shown}` is empty"))
                    .report();
            }
        }
        names.push(value.to_owned());
    }
    names
}
