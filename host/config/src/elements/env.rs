//! The environment of an app: literal values, variables and files.

use std::path::Path;

use crate::document::{Entry, Schema, quotable};
use crate::elements::path;
use crate::environment::{Environment, reason};
use crate::report::Reported;

const EXAMPLE: &str = "{ MODE = \"prod\" }";
const VALUE_EXAMPLE: &str = "\"value\"";

/// Names that skep sets itself.
const RESERVED: &str = "SKEP_";

static SOURCE: Schema = Schema {
    title: "a variable of `env`",
    keys: &["from_env", "from_file"],
    unavailable: &[],
};

/// The environment that was read.
#[derive(Default)]
pub(crate) struct Env {
    /// In the order of the file.
    pub(crate) resolved: Vec<(String, String)>,
    /// Names whose value has a problem: they are there, but not known.
    pub(crate) faulty: Vec<String>,
}

pub(crate) fn read(entry: &Entry<'_>, dir: &Path, environment: &dyn Environment) -> Env {
    let mut env = Env::default();
    let Some(variables) = entry.as_map() else {
        entry.wrong_type("a table", EXAMPLE);
        return env;
    };
    for variable in variables {
        let name = check_name(&variable);
        match read_value(&variable, dir, environment) {
            Ok(value) if name.is_ok() => env.resolved.push((variable.name.to_owned(), value)),
            _ => env.faulty.push(variable.name.to_owned()),
        }
    }
    env
}

fn check_name(variable: &Entry<'_>) -> Result<(), Reported> {
    let name = variable.name;
    let fault = if name.is_empty() {
        "the name of a variable may not be empty".to_owned()
    } else if name.contains(['=', '\0']) {
        format!(
            "`{}` is no name of a variable: it contains '=' or NUL",
            quotable(name)
        )
    } else if name.starts_with(RESERVED) {
        format!(
            "`{}` is reserved: skep sets the variables that begin with {RESERVED}",
            quotable(name)
        )
    } else {
        return Ok(());
    };
    Err(variable.key_problem(fault).report())
}

fn read_value(
    variable: &Entry<'_>,
    dir: &Path,
    environment: &dyn Environment,
) -> Result<String, Reported> {
    if let Some(text) = variable.as_str() {
        return without_nul(variable, text.to_owned());
    }
    if variable.is_table() {
        return read_source(variable, dir, environment);
    }
    let number = variable.as_integer().map(|number| number.to_string());
    let flag = variable.as_bool().map(|flag| flag.to_string());
    Err(match number.or(flag) {
        Some(text) => variable
            .problem(format!("`{}` must be a string", quotable(variable.name)))
            .hint(format!("write it in quotes: \"{text}\""))
            .report(),
        None => variable.wrong_type("a string", VALUE_EXAMPLE),
    })
}

fn read_source(
    variable: &Entry<'_>,
    dir: &Path,
    environment: &dyn Environment,
) -> Result<String, Reported> {
    let title = format!("`{}`", quotable(variable.name));
    let section = variable
        .as_section(&SOURCE, &title)
        .ok_or_else(|| variable.wrong_type("a string", VALUE_EXAMPLE))?;
    match (section.get("from_env"), section.get("from_file")) {
        (Some(source), None) => from_env(&source, environment),
        (None, Some(source)) => from_file(&source, dir, environment),
        (Some(_), Some(other)) => Err(other
            .key_problem(format!(
                "{title} has two sources, `from_env` and `from_file`"
            ))
            .hint("remove one of them")
            .report()),
        // A mistyped key in its place is problem enough.
        (None, None) => Err(section.refused().unwrap_or_else(|| {
            variable
                .problem(format!("{title} has no source"))
                .hint("write a string, { from_env = \"NAME\" } or { from_file = \"PATH\" }")
                .report()
        })),
    }
}

fn from_env(source: &Entry<'_>, environment: &dyn Environment) -> Result<String, Reported> {
    let name = source
        .as_str()
        .ok_or_else(|| source.wrong_type("the name of a variable", "\"DATABASE_URL\""))?;
    // The system's own call panics on these.
    let value = if name.is_empty() || name.contains(['=', '\0']) {
        None
    } else {
        environment.var(name)
    };
    let value = value.ok_or_else(|| {
        source
            .problem(format!(
                "the environment variable `{}` is not set",
                quotable(name)
            ))
            .hint("set it where skep is started")
            .report()
    })?;
    without_nul(source, value)
}

fn from_file(
    source: &Entry<'_>,
    dir: &Path,
    environment: &dyn Environment,
) -> Result<String, Reported> {
    let path = path::read(source, dir, "\"secret.key\"")?;
    let mut text = environment.read(&path).map_err(|error| {
        let shown = quotable(source.as_str().unwrap_or_default());
        source
            .problem(format!("cannot read `{shown}`: {}", reason(&error)))
            .report()
    })?;
    // Editors end files with a newline that is not part of the secret.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    without_nul(source, text)
}

/// The value itself is never shown: it may be a secret.
fn without_nul(entry: &Entry<'_>, value: String) -> Result<String, Reported> {
    if value.contains('\0') {
        return Err(entry
            .problem("the value of a variable may not contain a NUL character")
            .report());
    }
    Ok(value)
}
