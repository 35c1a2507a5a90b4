//! Log records as text: pure formatting, for every process that writes them.

use std::fmt::{Display, Write as _};

use crate::{LogFormat, LogLevel};

/// One log record, put together field by field and then written at once.
#[derive(Debug)]
pub struct Record {
    format: LogFormat,
    line: String,
}

impl Record {
    /// Begins a record at `unix_millis` (milliseconds since 1970, UTC).
    #[must_use]
    pub fn new(format: LogFormat, unix_millis: u64, level: LogLevel, name: &str) -> Self {
        debug_assert!(
            name.bytes().all(|b| is_of_key(b) || b == b'.'),
            "whoever passes records on would not know {name} for one"
        );
        let mut line = String::with_capacity(160);
        let time = Timestamp(unix_millis);
        let level = match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        };
        let _ = match format {
            LogFormat::Text => write!(line, "{time} {level:<5} {name}"),
            LogFormat::Json => write!(
                line,
                "{{\"time\":\"{time}\",\"level\":\"{level}\",\"name\":\"{name}\""
            ),
        };
        Self { format, line }
    }

    /// Adds a number, or anything else whose text needs no quotes.
    #[must_use]
    pub fn number(mut self, key: &str, value: impl Display) -> Self {
        let _ = match self.format {
            LogFormat::Text => write!(self.line, " {key}={value}"),
            LogFormat::Json => write!(self.line, ",\"{key}\":{value}"),
        };
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, key: &str, value: &str) -> Self {
        match self.format {
            LogFormat::Text => {
                let _ = write!(self.line, " {key}=");
                let plain = !value.is_empty()
                    && value
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
                if plain {
                    self.line.push_str(value);
                } else {
                    quote(&mut self.line, value);
                }
            }
            LogFormat::Json => {
                let _ = write!(self.line, ",\"{key}\":");
                quote(&mut self.line, value);
            }
        }
        self
    }

    /// The record as one line, newline included.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == LogFormat::Json {
            self.line.push('}');
        }
        self.line.push('\n');
        self.line
    }
}

/// A JSON string, which is also how text records quote: no control character
/// of a guest's line reaches a terminal.
fn quote(line: &mut String, value: &str) {
    line.push('"');
    for c in value.chars() {
        let _ = match c {
            '"' | '\\' => write!(line, "\\{c}"),
            '\n' => write!(line, "\\n"),
            '\r' => write!(line, "\\r"),
            '\t' => write!(line, "\\t"),
            c if c.is_control() => write!(line, "\\u{:04x}", u32::from(c)),
            c => write!(line, "{c}"),
        };
    }
    line.push('"');
}

/// Whether `line`, which has no newline, is what a [`Record`] in this format can
/// be whose first fields are `own` and that has no other field of such a name.
///
/// For a reader that passes on what somebody wrote whom it does not trust: such
/// a line says by its own fields who wrote it, holds no control character, and
/// is one JSON object where it should be. What its other fields say is not
/// looked at.
#[must_use]
pub fn is_record(line: &str, format: LogFormat, own: &[(&str, u64)]) -> bool {
    fields_of(line, format, own).is_some_and(|fields| are_fields(fields, format, own))
}

/// What follows the beginning of a record and its own fields.
fn fields_of<'a>(line: &'a str, format: LogFormat, own: &[(&str, u64)]) -> Option<&'a str> {
    let (opens, level, name, ends) = match format {
        LogFormat::Text => ("", " ", " ", ""),
        LogFormat::Json => ("{\"time\":\"", "\",\"level\":\"", "\",\"name\":\"", "\""),
    };
    let rest = line.strip_prefix(opens)?;
    let (time, rest) = rest.split_at_checked(TIME.len())?;
    let is_time = time.bytes().zip(TIME.bytes()).all(|(b, like)| match like {
        b'0' => b.is_ascii_digit(),
        like => b == like,
    });
    let rest = rest.strip_prefix(level)?;
    let levels = match format {
        LogFormat::Text => ["error", "warn ", "info ", "debug"],
        LogFormat::Json => ["error", "warn", "info", "debug"],
    };
    let rest = levels.iter().find_map(|level| rest.strip_prefix(level))?;
    let rest = rest.strip_prefix(name)?;
    let (name, rest) = split_while(rest, |b| is_of_key(b) || b == b'.');
    let mut rest = rest.strip_prefix(ends)?;
    for (key, value) in own {
        let field = match format {
            LogFormat::Text => format!(" {key}={value}"),
            LogFormat::Json => format!(",\"{key}\":{value}"),
        };
        rest = rest.strip_prefix(&field)?;
    }
    (is_time && !name.is_empty()).then_some(rest)
}

/// The shape of a time.
const TIME: &str = "0000-00-00T00:00:00.000Z";

fn are_fields(mut rest: &str, format: LogFormat, own: &[(&str, u64)]) -> bool {
    let (before, between, end) = match format {
        LogFormat::Text => (" ", "=", ""),
        LogFormat::Json => (",\"", "\":", "}"),
    };
    let is_taken = |key: &str| {
        let own = own.iter().any(|(own, _)| *own == key);
        own || ["time", "level", "name"].contains(&key)
    };
    while rest != end {
        let after = rest.strip_prefix(before).and_then(|rest| {
            let (key, rest) = split_while(rest, is_of_key);
            let rest = rest.strip_prefix(between)?;
            (!key.is_empty() && !is_taken(key)).then_some(rest)
        });
        let Some(after) = after.and_then(|rest| after_value(rest, format)) else {
            return false;
        };
        rest = after;
    }
    true
}

/// What follows a value.
fn after_value(rest: &str, format: LogFormat) -> Option<&str> {
    if let Some(quoted) = rest.strip_prefix('"') {
        return after_quoted(quoted);
    }
    let (value, rest) = match format {
        LogFormat::Text => split_while(rest, |b| b.is_ascii_graphic() && b != b'"' && b != b'\\'),
        LogFormat::Json => split_while(rest, |b| b.is_ascii_alphanumeric() || b"-.".contains(&b)),
    };
    let is_value = match format {
        LogFormat::Text => !value.is_empty(),
        LogFormat::Json => ["true", "false", "null"].contains(&value) || is_number(value),
    };
    is_value.then_some(rest)
}

/// Whether this is a number of JSON, without an exponent.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits)
}

/// What follows a text that [`quote`] has written, of which the first quote is
/// gone.
fn after_quoted(text: &str) -> Option<&str> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some(&text[at + 1..]),
            '\\' => match chars.next()?.1 {
                '"' | '\\' | 'n' | 'r' | 't' => {}
                'u' => {
                    let digits = chars.by_ref().take(4);
                    let valid = digits.filter(|(_, digit)| digit.is_ascii_hexdigit());
                    if valid.count() < 4 {
                        return None;
                    }
                }
                _ => return None,
            },
            c if c.is_control() => return None,
            _ => {}
        }
    }
    None
}

const fn is_of_key(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'
}

fn split_while(text: &str, is: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|b| !is(b)).unwrap_or(text.len());
    // Only ASCII is ever taken, so this is between characters.
    text.split_at(end)
}

/// A time in milliseconds since 1970 as RFC 3339, in UTC, with milliseconds.
#[must_use]
pub fn timestamp(unix_millis: u64) -> String {
    Timestamp(unix_millis).to_string()
}

/// RFC 3339 with milliseconds.
struct Timestamp(u64);

impl Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        let (days, clock) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant's `civil_from_days`, for days since 1970 only: years
        // that begin in March make the leap day the last of the year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_244_645_678, "2026-11-21T07:04:05.678Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp(millis).to_string(), text);
        }
    }

    #[test]
    fn both_formats_say_the_same() {
        let record = |format| {
            Record::new(format, 0, LogLevel::Warn, "worker.exited")
                .text("pool", "default")
                .number("pid", 7)
                .text("said", "a \"b\"\u{1b}[2J")
                .finish()
        };
        assert_eq!(
            record(LogFormat::Text),
            "1970-01-01T00:00:00.000Z warn  worker.exited pool=default pid=7 said=\"a \\\"b\\\"\\u001b[2J\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&record(LogFormat::Json)).unwrap();
        assert_eq!(json["said"], "a \"b\"\u{1b}[2J");
        assert_eq!(json["pid"], 7);
    }

    const OWN: &[(&str, u64)] = &[("worker", 3), ("pid", 77)];

    fn of_worker(format: LogFormat) -> Record {
        Record::new(format, 951_782_400_000, LogLevel::Info, "app.log")
            .number("worker", 3)
            .number("pid", 77)
    }

    #[test]
    fn what_a_worker_writes_is_a_record_of_it_and_of_nobody_else() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let odd = "a \"b\" \\ \u{1b}[2J\r\n\t\u{85} ü";
            for record in [
                of_worker(format),
                of_worker(format)
                    .text("app", "a")
                    .text("text", odd)
                    .text("empty", ""),
                of_worker(format)
                    .number("cpu_ms", -1.5)
                    .number("cut", true)
                    .text("last", "x"),
            ] {
                let line = record.finish();
                let line = line.trim_end();
                assert!(is_record(line, format, OWN), "{line}");
                for other in [[("worker", 4), ("pid", 77)], [("worker", 3), ("pid", 7)]] {
                    assert!(!is_record(line, format, &other), "{line}");
                }
                // Cut anywhere it is none, or one whose last value is short.
                for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
                    let cut = is_record(&line[..end], format, OWN);
                    assert!(!cut || format == LogFormat::Text, "{}", &line[..end]);
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_record_is_none() {
        let text = of_worker(LogFormat::Text).text("app", "a").finish();
        let json = of_worker(LogFormat::Json).text("app", "a").finish();
        let (text, json) = (text.trim_end(), json.trim_end());
        let inside = json.trim_end_matches('}');
        for line in [
            String::new(),
            "thread 'main' panicked at x.rs:1:1".to_owned(),
            text.replace(" info  ", " info "),
            text.replace("info ", "fatal"),
            text.replace("2000-", "20x0-"),
            text.replace(" worker=3", ""),
            text.replace(" worker=3", " worker=33"),
            text.replace(" worker=3 pid=77", " pool=p worker=3 pid=77"),
            format!("{text} worker=4"),
            format!("{text} pid=1"),
            format!("{text} level=error"),
            format!("{text} x"),
            format!("{text} x="),
            format!("{text}  x=1"),
            format!("{text} x=\"a"),
            format!("{text} x=\"a\"b"),
            format!("{text} x=\u{1b}[2J"),
            format!("{text} x=\"\u{1b}[2J\""),
            format!("{text} x=\"\u{9b}2J\""),
            format!("{text} x=\"\\x\""),
            format!("{text} x=\"\\u12g4\""),
            format!("{text}\r"),
            format!("{text}\nx"),
        ] {
            assert!(!is_record(&line, LogFormat::Text, OWN), "{line:?}");
        }
        for line in [
            String::new(),
            inside.to_owned(),
            format!("{json}}}"),
            format!("{json} "),
            format!("{inside},\"worker\":4}}"),
            format!("{inside},\"name\":\"pool.tripped\"}}"),
            format!("{inside},\"x\":01x}}"),
            format!("{inside},\"x\":01}}"),
            format!("{inside},\"x\":1.}}"),
            format!("{inside},\"x\":infinity}}"),
            format!("{inside},\"x\":[1]}}"),
            format!("{inside},\"x\":{{}}}}"),
            format!("{inside},\"x\":}}"),
            format!("{inside},\"\":1}}"),
            format!("{inside},\"w\\u006frker\":4}}"),
            json.replace("\"worker\":3", "\"worker\":3.0"),
            json.replace("\"app.log\"", "\"app log\""),
        ] {
            assert!(!is_record(&line, LogFormat::Json, OWN), "{line:?}");
        }
    }
}
