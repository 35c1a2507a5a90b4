//! Spans of time: `"250ms"`, `"30s"`, `"5m"`, `"24h"`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::document::{Entry, quotable};
use crate::report::Reported;

const EXAMPLE: &str = "\"30s\"";

/// Largest first, in milliseconds.
const UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// What people write instead.
const LONG_UNITS: &[(&str, &str)] = &[
    ("milliseconds", "ms"),
    ("millis", "ms"),
    ("msec", "ms"),
    ("seconds", "s"),
    ("second", "s"),
    ("secs", "s"),
    ("sec", "s"),
    ("minutes", "m"),
    ("minute", "m"),
    ("mins", "m"),
    ("min", "m"),
    ("hours", "h"),
    ("hour", "h"),
    ("hrs", "h"),
    ("hr", "h"),
    ("days", "d"),
    ("day", "d"),
];

pub(crate) fn read(
    entry: &Entry<'_>,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, Reported> {
    let found = read_any(entry)?;
    if range.contains(&found) {
        return Ok(found);
    }
    Err(outside(entry, found, range, ""))
}

/// Reads a duration for which zero stands for `zero`.
pub(crate) fn read_or_zero(
    entry: &Entry<'_>,
    range: &RangeInclusive<Duration>,
    zero: &str,
) -> Result<Duration, Reported> {
    let found = read_any(entry)?;
    if found.is_zero() || range.contains(&found) {
        return Ok(found);
    }
    Err(outside(entry, found, range, &format!(", or 0s for {zero}")))
}

fn read_any(entry: &Entry<'_>) -> Result<Duration, Reported> {
    let Some(text) = entry.as_str() else {
        return Err(match entry.as_integer() {
            Some(number) if number >= 0 => entry
                .problem(format!(
                    "`{}` must be a duration, not an integer",
                    quotable(entry.name)
                ))
                .hint(format!(
                    "write the unit too: \"{number}s\" or \"{number}ms\""
                ))
                .report(),
            _ => entry.wrong_type("a duration", EXAMPLE),
        });
    };
    parse(text).ok_or_else(|| report_invalid(entry, text))
}

fn outside(
    entry: &Entry<'_>,
    found: Duration,
    range: &RangeInclusive<Duration>,
    or: &str,
) -> Reported {
    let (least, most) = (shown(*range.start()), shown(*range.end()));
    entry
        .problem(format!(
            "`{}` must be between {least} and {most}{or}, not {}",
            quotable(entry.name),
            shown(found)
        ))
        .report()
}

fn report_invalid(entry: &Entry<'_>, text: &str) -> Reported {
    let compact: String = text.split_whitespace().collect();
    let compact = compact.to_ascii_lowercase();
    let short = LONG_UNITS.iter().find_map(|(long, short)| {
        compact
            .strip_suffix(long)
            .map(|number| format!("{number}{short}"))
    });
    let bare = format!("{compact}s");
    let hint = [Some(compact), short, Some(bare)]
        .into_iter()
        .flatten()
        .find(|text| parse(text).is_some())
        .map_or_else(
            || format!("write a whole number and ms, s, m, h or d, as {EXAMPLE}"),
            |close| format!("did you mean \"{close}\"?"),
        );
    entry
        .problem(format!("`{}` is not a duration", quotable(text)))
        .hint(hint)
        .report()
}

pub(crate) fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(millis)
        .map(Duration::from_millis)
}

/// As in the configuration, in the largest unit that needs no fraction.
pub(crate) fn shown(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, factor) = UNITS
        .iter()
        .find(|(_, factor)| millis.is_multiple_of(*factor))
        .copied()
        .unwrap_or(("ms", 1));
    format!("{}{unit}", millis / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_shown() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("23h", 82_800_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(shown(Duration::from_millis(millis)), text);
        }
        assert_eq!(shown(Duration::from_secs(90)), "90s");
    }

    #[test]
    fn anything_else_is_no_duration() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30 s",
            "30S",
            "1h30m",
            "99999999999999999d",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
