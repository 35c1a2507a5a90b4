//! One of a few words.

use crate::document::{Entry, quotable};
use crate::report::Reported;
use crate::suggest;

/// Reads one of `choices`.
pub(crate) fn read<T: Copy>(entry: &Entry<'_>, choices: &[(&str, T)]) -> Result<T, Reported> {
    let words = || choices.iter().map(|(word, _)| *word);
    let list = || {
        let quoted: Vec<String> = words().map(|word| format!("\"{word}\"")).collect();
        quoted.join(", ")
    };
    let Some(text) = entry.as_str() else {
        let example = words().next().map(|word| format!("\"{word}\""));
        return Err(entry.wrong_type("a string", &example.unwrap_or_default()));
    };
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*choice);
    }
    let hint = suggest::closest(text, words()).map_or_else(
        || format!("use one of {}", list()),
        |meant| format!("did you mean \"{meant}\"?"),
    );
    Err(entry
        .problem(format!(
            "`{}` is no `{}`",
            quotable(text),
            quotable(entry.name)
        ))
        .hint(hint)
        .report())
}
