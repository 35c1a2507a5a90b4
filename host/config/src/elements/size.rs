//! Numbers of bytes: `"64MiB"`, `"10MB"`, `4096`.

use std::ops::RangeInclusive;

use crate::document::{Entry, quotable};
use crate::report::Reported;

const EXAMPLE: &str = "\"64MiB\"";

/// Largest first, so that the first that divides a size is its best unit.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a size; a bare integer is a number of bytes.
pub(crate) fn read(entry: &Entry<'_>, range: &RangeInclusive<u64>) -> Result<u64, Reported> {
    read_within(entry, range, |bytes| range.contains(&bytes), "")
}

/// Reads a size for which zero stands for `zero`.
pub(crate) fn read_or_zero(
    entry: &Entry<'_>,
    range: &RangeInclusive<u64>,
    zero: &str,
) -> Result<u64, Reported> {
    let allowed = |bytes| bytes == 0 || range.contains(&bytes);
    read_within(entry, range, allowed, &format!(", or 0 for {zero}"))
}

/// `or` is what is allowed besides the range, for the message.
fn read_within(
    entry: &Entry<'_>,
    range: &RangeInclusive<u64>,
    allowed: impl Fn(u64) -> bool,
    or: &str,
) -> Result<u64, Reported> {
    let bytes = match (entry.as_str(), entry.as_integer()) {
        (Some(text), _) => parse(text).ok_or_else(|| report_invalid(entry, text))?,
        (None, Some(bytes)) => {
            u64::try_from(bytes).map_err(|_| outside(entry, bytes, range, or))?
        }
        (None, None) => return Err(entry.wrong_type("a size", EXAMPLE)),
    };
    if allowed(bytes) {
        Ok(bytes)
    } else {
        let found = entry
            .as_str()
            .map_or_else(|| bytes.to_string(), |_| shown(bytes));
        Err(outside(entry, found, range, or))
    }
}

fn outside(
    entry: &Entry<'_>,
    found: impl std::fmt::Display,
    range: &RangeInclusive<u64>,
    or: &str,
) -> Reported {
    let (least, most) = (shown(*range.start()), shown(*range.end()));
    entry
        .problem(format!(
            "`{}` must be between {least} and {most}{or}, not {found}",
            quotable(entry.name)
        ))
        .report()
}

fn report_invalid(entry: &Entry<'_>, text: &str) -> Reported {
    let meant = UNITS.iter().find_map(|(unit, _)| {
        let number = strip_suffix_ignoring_case(text.trim(), unit)?.trim();
        let close = format!("{number}{unit}");
        parse(&close).map(|_| close)
    });
    let short = ["K", "M", "G", "T"].iter().find_map(|unit| {
        let number = strip_suffix_ignoring_case(text.trim(), unit)?.trim();
        let close = format!("{number}{unit}iB");
        parse(&close).map(|_| close)
    });
    let hint = meant.or(short).map_or_else(
        || {
            format!(
                "write a whole number and B, KB, KiB, MB, MiB, GB, GiB, TB or TiB, as {EXAMPLE}"
            )
        },
        |close| format!("did you mean \"{close}\"?"),
    );
    entry
        .problem(format!("`{}` is not a size", quotable(text)))
        .hint(hint)
        .report()
}

fn strip_suffix_ignoring_case<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (start, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(start)
}

fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// As in the configuration, in the largest unit that needs no fraction.
pub(crate) fn shown(bytes: u64) -> String {
    let (unit, factor) = UNITS
        .iter()
        .find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))
        .copied()
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_or_decimal() {
        assert_eq!(parse("64MiB"), Some(64 << 20));
        assert_eq!(parse("10MB"), Some(10_000_000));
        assert_eq!(parse("1KiB"), Some(1024));
        assert_eq!(parse("2kB"), Some(2000));
        assert_eq!(parse("2GiB"), Some(2 << 30));
        assert_eq!(parse("17"), Some(17));
        assert_eq!(parse("17B"), Some(17));
    }

    #[test]
    fn anything_else_is_no_size() {
        for text in [
            "",
            "MiB",
            "-1MiB",
            "1.5GiB",
            "64 MiB",
            "64mib",
            "+5",
            "99999999999GiB",
            "１",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["0B", "1B", "64MiB", "10MB", "4GiB", "1500KB"] {
            assert_eq!(shown(parse(text).unwrap()), text);
        }
        assert_eq!(shown(1 << 50), "1024TiB");
    }
}
