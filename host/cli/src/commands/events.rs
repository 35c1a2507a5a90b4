//! `skep events`: what happened, and what happens. Programs get the events as
//! they are, one JSON object a line; people get columns.

use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

use serde_json::{Map, Value};

use crate::args::Format;
use crate::control::Control;
use crate::exit::{Exit, Failure};
use crate::print::{DataStyle, Printer, one_line};
use crate::table::cut;

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

/// Members that are left out where there is no room, the first ones first.
const LEAST: [&str; 5] = ["generation", "pid", "slot", "voluntary", "pool"];

/// Columns from which on the whole time is shown.
const WIDE: usize = 120;

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
            printed = printer.stream(&line(&event, style, printer.columns()));
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

fn line(event: &Value, style: DataStyle, room: usize) -> String {
    match event {
        Value::Object(members) if style != DataStyle::Raw => text(members, style, room),
        other => format!("{other}\n"),
    }
}

/// An event on one line: what there is no room for is left out, numbers that say the
/// least first, and what is left is cut. The whole event is in `--json`.
fn text(members: &Map<String, Value>, style: DataStyle, room: usize) -> String {
    let word = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or("-");
    let time = one_line(word("time"));
    let time = if room < WIDE {
        time_of_day(&time)
    } else {
        &time
    };
    let level = format!("{:<5}", one_line(word("level")));
    let name = format!("{:<NAME_WIDTH$}", one_line(word("name")));
    let before = [time, &level, &name].map(|text| text.chars().count());
    let left = room.saturating_sub(before.iter().sum::<usize>() + before.len() - 1);
    let rest = cut(&rest(members, left), left).into_owned();
    let name = match (style, severity(members)) {
        (DataStyle::Colored, Severity::Error) => format!("\x1b[1;31m{name}\x1b[0m"),
        (DataStyle::Colored, Severity::Warn) => format!("\x1b[1;33m{name}\x1b[0m"),
        _ => name,
    };
    format!("{time} {level} {name}{rest}\n")
}

/// The other members, as many as there is room for.
fn rest(members: &Map<String, Value>, room: usize) -> String {
    let between = members.keys().map(String::as_str).filter(|key| {
        !matches!(*key, "time" | "level" | "name") && !FIRST.contains(key) && !LAST.contains(key)
    });
    let mut shown: Vec<_> = FIRST
        .into_iter()
        .chain(between)
        .chain(LAST)
        .filter_map(|key| {
            let value = members.get(key).filter(|value| !value.is_null())?;
            Some((key, format!("  {}={}", one_line(key), shown(value))))
        })
        .collect();
    let length = |shown: &[(&str, String)]| {
        let lengths = shown.iter().map(|(_, text)| text.chars().count());
        lengths.sum::<usize>()
    };
    for least in LEAST {
        if length(&shown) > room {
            shown.retain(|(key, _)| *key != least);
        }
    }
    shown.into_iter().map(|(_, text)| text).collect()
}

/// `11:32:44` of `2026-11-21T11:32:44.120Z`.
fn time_of_day(time: &str) -> &str {
    let of_day = time.split_once('T').map(|(_, of_day)| of_day);
    let seconds = of_day.and_then(|of_day| of_day.get(..8));
    seconds.unwrap_or(time)
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
        let read: Value = serde_json::from_str(&line(&event, DataStyle::Raw, 80)).unwrap();
        assert_eq!(read, event);
        assert_eq!(line(&event, DataStyle::Raw, 80).lines().count(), 1);
    }

    #[test]
    fn people_get_columns() {
        let plain = |event: Value| line(&event, DataStyle::Plain, 400);
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
    fn an_event_is_one_line_that_fits() {
        let event = json!({
            "time": "2026-11-21T11:32:44.120Z", "level": "error", "name": "worker.exited",
            "pool": "default", "worker": 12, "slot": 3, "pid": 12345, "generation": 4,
            "voluntary": false, "reason": "crash", "message": "it said more than there is room for",
        });
        for room in [80, 100, 120, 200] {
            for style in [DataStyle::Plain, DataStyle::Colored] {
                let line = line(&event, style, room);
                assert_eq!(line.lines().count(), 1);
                let colour = "\x1b[1;31m\x1b[0m".len();
                let most = room + if style == DataStyle::Plain { 0 } else { colour };
                assert!(line.trim_end().chars().count() <= most, "{room}: {line}");
                assert!(line.contains("worker=12"), "{line}");
                assert!(line.contains("reason=crash"), "{line}");
            }
        }
        let narrow = line(&event, DataStyle::Plain, 80);
        assert!(
            narrow.starts_with("11:32:44 error worker.exited"),
            "{narrow}"
        );
        assert!(!narrow.contains("pid="), "{narrow}");
    }

    #[test]
    fn colour_follows_severity() {
        let colored = |event: Value| line(&event, DataStyle::Colored, 400);
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
