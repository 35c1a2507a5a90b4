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
}
