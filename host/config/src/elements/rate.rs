//! So many in a time: `"100/min"`, `"20/10s"`; of an app also per client or
//! per header.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;
use skep_core::{Rate, RateLimit, RatePer};

use crate::document::{Entry, quotable};
use crate::elements::duration;
use crate::report::{Draft, Reported};

const EXAMPLE: &str = "\"100/min\"";
const HOW: &str = "write a number, a slash and s, min, h, d or a duration, as \"100/min\"";
const HOW_PER: &str = "\"per client\" or \"per header NAME\" may follow the rate";

/// In seconds.
const UNITS: &[(&str, u64)] = &[
    ("s", 1),
    ("sec", 1),
    ("second", 1),
    ("m", 60),
    ("min", 60),
    ("minute", 60),
    ("h", 3600),
    ("hour", 3600),
    ("d", 86_400),
    ("day", 86_400),
];

/// What people write instead of a slash and a unit.
const SHORT: &[(&str, &str)] = &[("rps", "/s"), ("rpm", "/min"), ("rph", "/h")];

/// What people call a client.
const CLIENTS: &[&str] = &["client", "ip", "address", "peer", "user", "remote"];

/// Far above what a machine can count in a second.
const COUNT: RangeInclusive<u32> = 1..=1_000_000_000;
/// Below a second a client could not be told when to come again.
const PERIOD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
/// The longest header name: what anybody uses is far below.
const MAX_HEADER: usize = 256;

/// Reads the rate of all requests together.
pub(crate) fn read(entry: &Entry<'_>) -> Result<Rate, Reported> {
    let text = as_text(entry)?;
    if let Some((rate, _)) = text.split_once(" per ")
        && parse(rate.trim()).is_ok()
    {
        return Err(entry
            .problem("the rate of a tenant is that of all its requests together")
            .hint(format!(
                "write \"{}\"; an app's `rate` may be per client or header",
                rate.trim()
            ))
            .report());
    }
    parse(text).map_err(|error| error.report(entry, text))
}

/// Reads a rate, and who has one each.
pub(crate) fn read_limit(entry: &Entry<'_>) -> Result<RateLimit, Reported> {
    let text = as_text(entry)?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (rate, per) = match *words {
        [rate] => (rate, RatePer::All),
        [rate, "per", "client"] => (rate, RatePer::Client),
        [rate, "per", ref who @ ..] if parse(rate).is_ok() => {
            let per = read_header(who).map_err(|fault| refuse_per(entry, rate, who, fault))?;
            (rate, per)
        }
        _ => return Err(InvalidRate::Malformed.report(entry, text)),
    };
    let rate = parse(rate).map_err(|error| error.report(entry, rate))?;
    Ok(RateLimit { rate, per })
}

/// A text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum InvalidRate {
    Malformed,
    Count,
    Period(Duration),
}

impl InvalidRate {
    fn report(&self, entry: &Entry<'_>, text: &str) -> Reported {
        let (what, least, most, found) = match self {
            Self::Malformed => return malformed(entry, text).report(),
            Self::Count => (
                "number",
                COUNT.start().to_string(),
                COUNT.end().to_string(),
                quotable(text.split('/').next().unwrap_or(text)),
            ),
            Self::Period(found) => (
                "time",
                duration::shown(*PERIOD.start()),
                duration::shown(*PERIOD.end()),
                duration::shown(*found),
            ),
        };
        entry
            .problem(format!(
                "the {what} of a rate must be between {least} and {most}, not {found}"
            ))
            .report()
    }
}

/// Why what follows `per` is nobody.
enum InvalidPer {
    NoName,
    Header(String),
    Unknown,
}

fn as_text<'a>(entry: &Entry<'a>) -> Result<&'a str, Reported> {
    entry.as_str().ok_or_else(|| match entry.as_integer() {
        Some(number) if number > 0 => entry
            .problem(format!(
                "`{}` must be a rate, not an integer",
                quotable(entry.name)
            ))
            .hint(format!(
                "write the time too: \"{number}/s\" or \"{number}/min\""
            ))
            .report(),
        _ => entry.wrong_type("a rate", EXAMPLE),
    })
}

fn parse(text: &str) -> Result<Rate, InvalidRate> {
    let (count, period) = text.split_once('/').ok_or(InvalidRate::Malformed)?;
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidRate::Malformed);
    }
    let seconds = UNITS.iter().find(|(unit, _)| *unit == period);
    let period = seconds
        .map(|(_, seconds)| Duration::from_secs(*seconds))
        .or_else(|| duration::parse(period))
        .ok_or(InvalidRate::Malformed)?;
    let count = count.parse().map_err(|_| InvalidRate::Count)?;
    if !COUNT.contains(&count) {
        return Err(InvalidRate::Count);
    }
    if !PERIOD.contains(&period) {
        return Err(InvalidRate::Period(period));
    }
    Ok(Rate { count, period })
}

fn malformed<'a>(entry: &Entry<'a>, text: &str) -> Draft<'a> {
    let compact: String = text.split_whitespace().collect();
    let compact = compact.to_ascii_lowercase();
    let slashed = compact.replacen("per", "/", 1);
    let singular = slashed.trim_end_matches('s').to_owned();
    let short = SHORT.iter().find_map(|(unit, meant)| {
        let number = compact.strip_suffix(unit)?;
        Some(format!("{number}{meant}"))
    });
    let close = [Some(compact), Some(slashed), Some(singular), short];
    let close = close.into_iter().flatten().find(|text| parse(text).is_ok());
    let draft = entry.problem(format!("`{}` is not a rate", quotable(text)));
    match close {
        Some(close) => draft.hint(format!("did you mean \"{close}\"?")),
        None => draft.hint(HOW),
    }
}

fn read_header(who: &[&str]) -> Result<RatePer, InvalidPer> {
    match *who {
        ["header"] => Err(InvalidPer::NoName),
        ["header", ref name @ ..] => {
            let name = name.join(" ");
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(header) if name.len() <= MAX_HEADER => {
                    Ok(RatePer::Header(header.as_str().to_owned()))
                }
                _ => Err(InvalidPer::Header(name)),
            }
        }
        _ => Err(InvalidPer::Unknown),
    }
}

/// `rate` is a rate, and `who` is what follows its `per`.
fn refuse_per(entry: &Entry<'_>, rate: &str, who: &[&str], fault: InvalidPer) -> Reported {
    let who = who.join(" ");
    let is_client = CLIENTS.iter().any(|word| {
        who.eq_ignore_ascii_case(word) || who.eq_ignore_ascii_case(&format!("{word}s"))
    });
    let is_header = who.contains('-') && HeaderName::from_bytes(who.as_bytes()).is_ok();
    let (message, hint) = match fault {
        InvalidPer::NoName => (
            "the name of the header is missing".to_owned(),
            format!("as in `{} = \"{rate} per header X-Api-Key\"`", entry.name),
        ),
        InvalidPer::Header(name) => (
            format!("`{}` is not the name of a header", quotable(&name)),
            format!("as in `{} = \"{rate} per header X-Api-Key\"`", entry.name),
        ),
        InvalidPer::Unknown => {
            let hint = if is_client {
                format!("did you mean \"{rate} per client\"?")
            } else if is_header {
                format!("did you mean \"{rate} per header {}\"?", quotable(&who))
            } else {
                HOW_PER.to_owned()
            };
            (format!("a rate is not per `{}`", quotable(&who)), hint)
        }
    };
    entry.problem(message).hint(hint).report()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_in_a_time() {
        for (text, count, seconds) in [
            ("1000/s", 1000, 1),
            ("1/sec", 1, 1),
            ("2/second", 2, 1),
            ("3/m", 3, 60),
            ("100/min", 100, 60),
            ("100/minute", 100, 60),
            ("5/h", 5, 3600),
            ("5/hour", 5, 3600),
            ("7/d", 7, 86_400),
            ("7/day", 7, 86_400),
            ("10/10s", 10, 10),
            ("100/30s", 100, 30),
            ("1/1000ms", 1, 1),
            ("1/24h", 1, 86_400),
            ("1000000000/s", 1_000_000_000, 1),
        ] {
            let period = Duration::from_secs(seconds);
            assert_eq!(parse(text), Ok(Rate { count, period }), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_rate() {
        for text in [
            "", "100", "/s", "100/", "-1/s", "+1/s", "1.5/s", "1 /s", "1/ s", "1/S", "1/60",
            "1/week", "1/s/s", "１/s",
        ] {
            assert_eq!(parse(text), Err(InvalidRate::Malformed), "{text}");
        }
        for text in ["0/s", "1000000001/s", "99999999999999999999/s"] {
            assert_eq!(parse(text), Err(InvalidRate::Count), "{text}");
        }
        for (text, period) in [
            ("1/0s", Duration::ZERO),
            ("1/999ms", Duration::from_millis(999)),
            ("1/25h", Duration::from_hours(25)),
        ] {
            assert_eq!(parse(text), Err(InvalidRate::Period(period)), "{text}");
        }
    }

    #[test]
    fn a_header_is_lower_case() {
        let read = |words: &[&str]| read_header(words).ok();
        assert_eq!(
            read(&["header", "X-Api-Key"]),
            Some(RatePer::Header("x-api-key".to_owned()))
        );
        assert_eq!(read(&["header"]), None);
        assert_eq!(read(&["header", "a", "b"]), None);
        assert_eq!(read(&["header", "a:b"]), None);
        assert_eq!(read(&["header", &"a".repeat(257)]), None);
        assert_eq!(read(&["Header", "a"]), None);
    }
}
