//! Paths, relative to the directory of the file.

use std::path::{Path, PathBuf};

use crate::document::{Entry, quotable};
use crate::report::Reported;

/// Reads a path; `example` is TOML.
pub(crate) fn read(entry: &Entry<'_>, dir: &Path, example: &str) -> Result<PathBuf, Reported> {
    let text = entry
        .as_str()
        .ok_or_else(|| entry.wrong_type("a path", example))?;
    if text.is_empty() {
        return Err(entry
            .problem(format!("`{}` may not be empty", quotable(entry.name)))
            .hint(format!("as in `{} = {example}`", quotable(entry.name)))
            .report());
    }
    if text.contains('\0') {
        return Err(entry
            .problem(format!(
                "`{}` contains a NUL character",
                quotable(entry.name)
            ))
            .report());
    }
    Ok(dir.join(text))
}
