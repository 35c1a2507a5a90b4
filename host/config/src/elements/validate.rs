//! The request that an app must answer well before it takes traffic.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::PathAndQuery;
use skep_core::HttpCheck;

use crate::document::{Entry, Schema, quotable};
use crate::elements::{count, duration};
use crate::report::{Draft, Reported};

const EXAMPLE: &str = "{ path = \"/ready\" }";
const PATH_EXAMPLE: &str = "\"/ready\"";

static SCHEMA: Schema = Schema {
    title: "`validate`",
    keys: &["path", "status", "timeout"],
    unavailable: &[],
};

/// Half of what a worker has to start: a check that hangs is told apart from a
/// worker that does.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_STATUS: u16 = 200;

const STATUS: RangeInclusive<u16> = 100..=599;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(10);
/// The longest path, in bytes: that of a route.
const MAX_PATH: usize = 1024;

pub(crate) fn read(entry: &Entry<'_>) -> Result<HttpCheck, Reported> {
    let section = entry
        .as_section(&SCHEMA, SCHEMA.title)
        .ok_or_else(|| entry.wrong_type("a table", EXAMPLE))?;
    let path = section.get("path").map(|entry| read_path(&entry));
    let status = section.read("status", |entry| count::read(entry, &STATUS));
    let timeout = section.read("timeout", |entry| duration::read(entry, &TIMEOUT));
    // A mistyped key in its place is problem enough.
    let missing = || {
        section.refused().unwrap_or_else(|| {
            entry
                .problem("`validate` has no `path`")
                .hint(format!(
                    "name what is requested, as in `validate = {EXAMPLE}`"
                ))
                .report()
        })
    };
    Ok(HttpCheck {
        path: path.unwrap_or_else(|| Err(missing()))?,
        status: status.unwrap_or(DEFAULT_STATUS),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
    })
}

fn read_path(entry: &Entry<'_>) -> Result<String, Reported> {
    let text = entry
        .as_str()
        .ok_or_else(|| entry.wrong_type("a path", PATH_EXAMPLE))?;
    if is_path(text) {
        return Ok(text.to_owned());
    }
    Err(diagnose(entry, text).report())
}

/// Whether it can be sent as it is, in a request's first line.
fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= MAX_PATH
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && !text.contains('#')
        && PathAndQuery::try_from(text).is_ok()
}

fn diagnose<'a>(entry: &Entry<'a>, text: &str) -> Draft<'a> {
    if text.len() > MAX_PATH {
        return entry.problem(format!("a path may have at most {MAX_PATH} characters"));
    }
    if text.contains('#') {
        return entry
            .problem("a path has no fragment: what follows '#' is never sent")
            .hint("remove '#' and what follows it");
    }
    if !text.starts_with('/') {
        let url = text.split_once("://");
        let rest = url.map_or(text, |(_, rest)| {
            rest.find('/').map_or("/", |at| &rest[at..])
        });
        let close = if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        };
        let hint = if is_path(&close) {
            format!("write \"{}\"", quotable(&close))
        } else {
            format!("as in `path = {PATH_EXAMPLE}`")
        };
        let message = match url {
            Some(_) => "a path has no scheme and no host: the app itself is asked".to_owned(),
            None => format!("`{}` is not a path: it must begin with '/'", quotable(text)),
        };
        return entry.problem(message).hint(hint);
    }
    entry
        .problem(format!("`{}` contains what a path may not", quotable(text)))
        .hint("write it as clients send it, percent-encoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_sent_as_it_is() {
        for path in ["/", "/ready", "/ready?full=1&x=%20", "/~a/b.c;d", "//x"] {
            assert!(is_path(path), "{path}");
        }
        for path in [
            "",
            "ready",
            "?x",
            "*",
            "/a b",
            "/a#b",
            "/ä",
            "/\u{0}",
            "/a\r\nb",
            "/<a>",
            "http://a/",
        ] {
            assert!(!is_path(path), "{path}");
        }
        assert!(is_path(&format!("/{}", "a".repeat(MAX_PATH - 1))));
        assert!(!is_path(&format!("/{}", "a".repeat(MAX_PATH))));
    }
}
