//! Names of tables and references to them.

use skep_core::{InvalidName, PoolName, TenantName};

use crate::document::{Entry, Spanned, quotable};
use crate::report::Reported;

/// The pool that exists without being declared.
pub(crate) fn default_pool() -> PoolName {
    PoolName::new("default").expect("`default` is a valid name")
}

/// The tenant of apps that name none.
pub(crate) fn default_tenant() -> TenantName {
    TenantName::new("default").expect("`default` is a valid name")
}

/// The pool that a tenant has if it is dedicated.
pub(crate) fn pool_of(tenant: &TenantName) -> PoolName {
    PoolName::new(tenant.as_str()).expect("tenants and pools have names of one kind")
}

/// Reads a value that is a name.
pub(crate) fn read<N>(
    entry: &Entry<'_>,
    check: impl Fn(&str) -> Result<N, InvalidName>,
) -> Result<Spanned<N>, Reported> {
    let text = entry
        .as_str()
        .ok_or_else(|| entry.wrong_type("a name", "\"default\""))?;
    let value = check(text).map_err(|error| {
        let draft = entry.problem(format!(
            "`{}` is no `{}`: {}",
            quotable(text),
            quotable(entry.name),
            reason(error)
        ));
        match valid(text, &check) {
            Some(valid) => draft.hint(format!("did you mean \"{valid}\"?")).report(),
            None => draft.report(),
        }
    })?;
    Ok(Spanned {
        value,
        span: entry.span.clone(),
    })
}

/// Checks the name of the table that `entry` is.
pub(crate) fn check<N>(
    entry: &Entry<'_>,
    kind: &str,
    check: impl Fn(&str) -> Result<N, InvalidName>,
) -> Result<Spanned<N>, Reported> {
    let value = check(entry.name).map_err(|error| {
        let draft = entry.key_problem(format!(
            "`{}` cannot be the name of {}: {}",
            quotable(entry.name),
            with_article(kind),
            reason(error)
        ));
        match valid(entry.name, &check) {
            Some(valid) => draft.hint(format!("as in [{kind}.{valid}]")).report(),
            None => draft.report(),
        }
    })?;
    Ok(Spanned {
        value,
        span: entry.key_span.clone(),
    })
}

/// Makes a name out of any text: lower-case, other characters as `-`.
pub(crate) fn sanitize(text: &str) -> String {
    // The longest name that the vocabulary allows.
    const LONGEST: usize = 63;
    let name: String = text
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '-' | '_') => c,
            _ => '-',
        })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(LONGEST)
        .collect();
    name.trim_end_matches('-').to_owned()
}

fn valid<N>(text: &str, check: impl Fn(&str) -> Result<N, InvalidName>) -> Option<String> {
    let name = sanitize(text);
    check(&name).is_ok().then_some(name)
}

/// The error, with a character in it that could not be printed escaped.
fn reason(error: InvalidName) -> String {
    match error {
        InvalidName::Character(c) if !(c.is_ascii_graphic() || c.is_alphanumeric()) => {
            let escaped = quotable(&c.to_string());
            format!("a name may contain only a-z, 0-9, '-' and '_'; '{escaped}' is none of them")
        }
        error => error.to_string(),
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {kind}")
}

#[cfg(test)]
mod tests {
    use skep_core::AppName;

    use super::*;

    #[test]
    fn any_text_with_a_letter_or_digit_makes_a_name() {
        assert_eq!(sanitize("Hello World"), "hello-world");
        assert_eq!(sanitize("__x.y"), "x-y");
        assert_eq!(sanitize("ünï"), "n");
        assert_eq!(sanitize("…"), "");
        assert!(AppName::new(&sanitize(&"Ab.".repeat(100))).is_ok());
    }
}
