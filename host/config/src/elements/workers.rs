//! The number of workers of a pool.

use crate::document::{Entry, quotable};
use crate::report::Reported;

/// The most workers of one pool. Workers are single-threaded, so this is the
/// most cores that one pool can keep busy.
pub const MAX_WORKERS: u16 = 256;

/// What `"auto"` stands for: the cores that this process may use.
pub(crate) fn auto(parallelism: u16) -> u16 {
    parallelism.clamp(1, MAX_WORKERS)
}

pub(crate) fn read(entry: &Entry<'_>, parallelism: u16) -> Result<u16, Reported> {
    if entry.as_str() == Some("auto") {
        return Ok(auto(parallelism));
    }
    if let Some(number) = entry.as_integer() {
        return checked(number).ok_or_else(|| {
            entry
                .problem(format!(
                    "`workers` must be between 1 and {MAX_WORKERS}, not {number}"
                ))
                .hint("\"auto\" gives one worker per core")
                .report()
        });
    }
    Err(match entry.as_str() {
        Some(text) => {
            let draft = entry.problem(format!("`{}` is no number of workers", quotable(text)));
            match text.parse().ok().and_then(checked) {
                Some(number) => draft.hint(format!("write it without quotes: {number}")),
                None => draft.hint(format!(
                    "write \"auto\" or a number from 1 to {MAX_WORKERS}"
                )),
            }
            .report()
        }
        None => entry.wrong_type("\"auto\" or an integer", "\"auto\""),
    })
}

fn checked(number: i64) -> Option<u16> {
    u16::try_from(number)
        .ok()
        .filter(|number| (1..=MAX_WORKERS).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_at_least_one_and_at_most_the_maximum() {
        assert_eq!(auto(0), 1);
        assert_eq!(auto(2), 2);
        assert_eq!(auto(1000), MAX_WORKERS);
    }
}
