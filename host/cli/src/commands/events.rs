//! `skep events`: what happened, and what happens. Programs get the events as
//! they are, one JSON object a line; people get columns.

use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

use serde_json::{Map, Value};

use crate::args::Format;
use crate::control::Control;
use crate::exit::{Exit, Failure};
use crate::print::{DataStyle, Printer, one_line};

/// Members that stand in this order before all others, and those that stand
/// after them: long ones.
const FIRST: [&str; 7] = [
    "app",
    "revision",
    "pool",
    "worker",
    "slot",
    "pid",
    "generation",
];
const LAST: [&str; 2] = ["reason", "message"];

/// The longest name of SPEC §5; longer ones are not cut.
const NAME_WIDTH: usize = 17;

/// How much an event wants to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// Something failed.
    Error,
    /// Something is odd but works.
    Warn,
    /// All is well.
    Calm,
}

/// Asks the primary and prints what it says, as it says it.
pub(super) fn run(
    control: &Control,
    follow: bool,
    format: Format,
    printer: Printer,
) -> Result<(), Failure> {
    let style = match format {
        Format::Json => DataStyle::Raw,
        Format::Text => printer.data_style(),
    };
    if follow {
        end_with_reader()?;
    }
    let mut printed = Ok(ControlFlow::Continue(()));
    control
        .connect()?
        .events(follow, |event| {
            printed = printer.stream(&line(&event, style));
            match printed {
                Ok(flow) => flow,
                Err(_) => ControlFlow::Break(()),
            }
        })
        .map_err(|error| control.failed(error))?;
    let flow = printed?;
    if follow && flow.is_continue() {
        printer.note("the primary has ended");
    }
    Ok(())
}

/// Ends this process when nobody reads its output any more, as `head` does after a
/// line: until the next event there may be hours.
fn end_with_reader() -> Result<(), Failure> {
    let watch = || {
        skep_sys::wait_for_hang_up(std::io::stdout().as_fd());
        std::process::exit(Exit::Done.code().into());
    };
    let watching = std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(watch);
    watching
        .map(drop)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start a thread: {error}")))
}

fn line(event: &Value, style: DataStyle) -> String {
    match event {
        Value::Object(members) if style != DataStyle::Raw => text(members, style),
        other => format!("{other}\n"),
    }
}

fn text(members: &Map<String, Value>, style: DataStyle) -> String {
    let word = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or("-");
    let name = format!("{:<NAME_WIDTH$}", one_line(word("name")));
    let name = match (style, severity(members)) {
        (DataStyle::Colored, Severity::Error) => format!("\x1b[1;31m{name}\x1b[0m"),
        (DataStyle::Colored, Severity::Warn) => format!("\x1b[1;33m{name}\x1b[0m"),
        _ => name,
    };
    let mut line = format!(
        "{} {:<5} {name}",
        one_line(word("time")),
        one_line(word("level"))
    );
    let between = members.keys().map(String::as_str).filter(|key| {
        !matches!(*key, "time" | "level" | "name") && !FIRST.contains(key) && !LAST.contains(key)
    });
    for key in FIRST.into_iter().chain(between).chain(LAST) {
        if let Some(value) = members.get(key).filter(|value| !value.is_null()) {
            line.push_str(&format!("  {}={}", one_line(key), shown(value)));
        }
    }
    line.push('\n');
    line
}

/// A value as it is where that is clear, else as JSON; without what a terminal
/// would obey, which JSON does not escape all of.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) if is_clear(text) => text.clone(),
        other => other.to_string(),
    };
    one_line(&text).into_owned()
}

fn is_clear(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !"\"=".contains(c))
}

/// What the event says of itself, or what its name says.
fn severity(members: &Map<String, Value>) -> Severity {
    let word = |key: &str| members.get(key).and_then(Value::as_str);
    match (word("level"), word("name")) {
        (Some("error"), _)
        | (
            None,
            Some(
                "pool.tripped" | "app.rejected" | "app.rolled_back" | "app.quarantined"
                | "config.rejected",
            ),
        ) => Severity::Error,
        (Some("warn"), _) | (None, Some("pool.probing")) => Severity::Warn,
        (None, Some("worker.exited")) if members.get("voluntary") == Some(&Value::Bool(false)) => {
            Severity::Warn
        }
        _ => Severity::Calm,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_get_what_the_primary_said() {
        let event = json!({ "name": "app.live", "time": "t", "x": { "y": [1] } });
        let read: Value = serde_json::from_str(&line(&event, DataStyle::Raw)).unwrap();
        assert_eq!(read, event);
        assert_eq!(line(&event, DataStyle::Raw).lines().count(), 1);
    }

    #[test]
    fn people_get_columns() {
        let plain = |event: Value| line(&event, DataStyle::Plain);
        assert_eq!(
            plain(json!({
                "time": "2026-11-21T11:32:44.120Z", "level": "info", "name": "app.live", "app": "hello",
                "revision": 8, "after": "12ms", "reason": null,
            })),
            "2026-11-21T11:32:44.120Z info  app.live           app=hello  revision=8  after=12ms\n"
        );
        assert_eq!(
            plain(json!({
                "time": "2026-11-21T11:32:44.120Z", "name": "worker.exited", "reason": "crash",
                "code": 3, "voluntary": false, "worker": 12, "pool": "default",
                "message": "it said \"no\"\n\u{1b}[2J\u{9b}",
            })),
            "2026-11-21T11:32:44.120Z -     worker.exited      pool=default  worker=12  code=3  \
             voluntary=false  reason=crash  message=\"it said \\\"no\\\"\\n\\u001b[2J\\u{9b}\"\n"
        );
        assert_eq!(plain(json!({})), "- -     -                \n");
    }

    #[test]
    fn colour_follows_severity() {
        let colored = |event: Value| line(&event, DataStyle::Colored);
        for (event, style) in [
            (json!({ "name": "pool.tripped" }), Some("1;31")),
            (json!({ "name": "app.rolled_back" }), Some("1;31")),
            (json!({ "name": "pool.probing" }), Some("1;33")),
            (
                json!({ "name": "worker.exited", "voluntary": false }),
                Some("1;33"),
            ),
            (json!({ "name": "worker.exited", "voluntary": true }), None),
            (json!({ "name": "app.live" }), None),
            (
                json!({ "name": "anything", "level": "error" }),
                Some("1;31"),
            ),
            (json!({ "name": "pool.tripped", "level": "info" }), None),
        ] {
            let line = colored(event.clone());
            match style {
                Some(style) => assert!(line.contains(&format!("\x1b[{style}m")), "{event}"),
                None => assert!(!line.contains('\x1b'), "{event}"),
            }
        }
    }
}
