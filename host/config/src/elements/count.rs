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
        .ok_or_else(|| report_wrong_type(entry, range))?;
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

fn report_wrong_type<T>(entry: &Entry<'_>, range: &RangeInclusive<T>) -> Reported
where
    T: TryFrom<i64> + PartialOrd,
{
    let quoted = entry.as_str().and_then(|text| text.parse::<i64>().ok());
    match quoted.map(|number| (number, T::try_from(number))) {
        Some((number, Ok(fits))) if range.contains(&fits) => entry
            .problem(format!(
                "`{}` must be an integer, not a string",
                quotable(entry.name)
            ))
            .hint(format!("write it without quotes: {number}"))
            .report(),
        _ => entry.wrong_type("an integer", "100"),
    }
}
