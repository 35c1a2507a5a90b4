//! The file of an app's component.

use std::path::{Path, PathBuf};

use crate::document::{Entry, Spanned, quotable};
use crate::elements::path;
use crate::environment::{Environment, reason};
use crate::report::Reported;
use crate::suggest;

const EXAMPLE: &str = "\"hello.wasm\"";

/// Reads the path and makes sure that the file can be read; what is in it is
/// found out later.
pub(crate) fn read(
    entry: &Entry<'_>,
    dir: &Path,
    environment: &dyn Environment,
) -> Result<Spanned<PathBuf>, Reported> {
    let value = path::read(entry, dir, EXAMPLE)?;
    let text = entry.as_str().unwrap_or_default();
    if let Some((scheme, _)) = text.split_once("://") {
        let draft = entry.problem(format!(
            "components from `{}` are not available in this version of skep",
            quotable(scheme)
        ));
        return Err(draft
            .hint("download the component and name its file")
            .report());
    }
    environment.readable(&value).map_err(|error| {
        let draft = entry.problem(format!(
            "cannot read component `{}`: {}",
            quotable(text),
            reason(&error)
        ));
        if text.starts_with("~/") {
            draft
                .hint("`~` is not expanded; write the whole path")
                .report()
        } else if error.kind() == std::io::ErrorKind::NotFound
            && let Some(meant) = near(&value, text, environment)
        {
            draft
                .hint(format!("did you mean \"{}\"?", quotable(&meant)))
                .report()
        } else if error.kind() == std::io::ErrorKind::NotFound && Path::new(text).is_relative() {
            draft
                .hint("paths are relative to the directory of the file")
                .report()
        } else {
            draft.report()
        }
    })?;
    Ok(Spanned {
        value,
        span: entry.span.clone(),
    })
}

/// The component in the same folder whose name is most like the one that is not there,
/// as it would be written; `value` is the path of `text`.
fn near(value: &Path, text: &str, environment: &dyn Environment) -> Option<String> {
    let folder = value.parent()?;
    let wanted = value.file_name()?.to_str()?;
    let names = environment.names_in(folder);
    let components = names.iter().filter(|name| name.ends_with(".wasm"));
    let meant = suggest::closest(wanted, components.map(String::as_str))?;
    let written = text.strip_suffix(wanted)?;
    Some(format!("{written}{meant}"))
}
