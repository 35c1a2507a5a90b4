//! Parts of something: `"10%"`, `"12.5%"`.

use std::ops::RangeInclusive;

use skep_core::Portion;

use crate::document::{Entry, quotable};
use crate::report::Reported;

const EXAMPLES: &str = "\"10%\" or \"0.25%\"";

/// What people write instead of the sign.
const LONG_SIGNS: &[&str] = &["percent", "per cent", "pct"];

pub(crate) fn read(
    entry: &Entry<'_>,
    range: &RangeInclusive<Portion>,
) -> Result<Portion, Reported> {
    let found = read_any(entry)?;
    if range.contains(&found) {
        return Ok(found);
    }
    Err(entry
        .problem(format!(
            "`{}` must be between {} and {}, not {found}",
            quotable(entry.name),
            range.start(),
            range.end(),
        ))
        .report())
}

/// Reads a percentage of any size, for callers with a range of their own.
pub(crate) fn read_any(entry: &Entry<'_>) -> Result<Portion, Reported> {
    if let Some(text) = entry.as_str() {
        return parse(text).ok_or_else(|| report_invalid(entry, text));
    }
    Err(match entry.as_integer() {
        Some(number) if number >= 0 => entry
            .problem(format!(
                "`{}` must be a percentage, not an integer",
                quotable(entry.name)
            ))
            .hint(format!("write the sign too: \"{number}%\""))
            .report(),
        // A decimal number may be meant as a share or as percent.
        _ => entry
            .problem(format!(
                "`{}` must be a percentage, not {}",
                quotable(entry.name),
                entry.found()
            ))
            .hint(format!(
                "write it with the sign and in quotes, as {EXAMPLES}"
            ))
            .report(),
    })
}

fn report_invalid(entry: &Entry<'_>, text: &str) -> Reported {
    let compact = text.trim().to_ascii_lowercase().replace(',', ".");
    let number = LONG_SIGNS
        .iter()
        .find_map(|sign| compact.strip_suffix(sign))
        .or_else(|| compact.strip_suffix('%'))
        .unwrap_or(&compact)
        .trim();
    // Without a sign "0.1" may be a tenth; only whole numbers are clear.
    let clear = number.len() < compact.len() || !number.contains('.');
    let close = format!("{number}%");
    let hint = if clear && parse(&close).is_some() {
        format!("did you mean \"{close}\"?")
    } else {
        format!("write a number with at most two decimals and %, as {EXAMPLES}")
    };
    entry
        .problem(format!("`{}` is not a percentage", quotable(text)))
        .hint(hint)
        .report()
}

fn parse(text: &str) -> Option<Portion> {
    let number = text.strip_suffix('%')?;
    let (whole, decimals) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, decimals)) => (whole, decimals),
        None => (number, ""),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.len() > 2 || !is_digits(whole) || !is_digits(decimals) {
        return None;
    }
    let hundredths: u32 = format!("{decimals:0<2}").parse().ok()?;
    let whole: u32 = whole.parse().ok()?;
    whole.checked_mul(100)?.checked_add(hundredths).map(Portion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_up_to_two_decimals() {
        for (text, hundredths) in [
            ("0%", 0),
            ("0.01%", 1),
            ("0.5%", 50),
            ("12.5%", 1250),
            ("12.05%", 1205),
            ("100%", 10_000),
            ("160%", 16_000),
            ("42949672.95%", u32::MAX),
        ] {
            assert_eq!(parse(text), Some(Portion(hundredths)), "{text}");
            assert_eq!(Portion(hundredths).to_string(), text);
        }
        assert_eq!(parse("12.50%"), Some(Portion(1250)));
        assert_eq!(parse("007%"), Some(Portion(700)));
    }

    #[test]
    fn anything_else_is_no_percentage() {
        for text in [
            "",
            "%",
            "10",
            "0.1",
            ".5%",
            "5.%",
            "-1%",
            "+1%",
            "1 %",
            "0.125%",
            "12,5%",
            "1e2%",
            "1.2.3%",
            "10%%",
            "１%",
            "42949672.96%",
            "99999999999999999999%",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
