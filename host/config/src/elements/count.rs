//! Whole numbers within a range.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::document::{Entry, quotable};
use crate::report::Reported;

/// Reads a number; the range must hold 100, the number of the examples.
pub(crate) fn read<T>(entry: &Entry<'_>, range: &RangeInclusive<T>) -> Result<T, Reported>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let found = entry
        .as_integer()
        .ok_or_else(|| entry.wrong_type("an integer", "100"))?;
    match T::try_from(found) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(entry
            .problem(format!(
                "`{}` must be between {} and {}, not {found}",
                quotable(entry.name),
                range.start(),
                range.end(),
            ))
            .report()),
    }
}
