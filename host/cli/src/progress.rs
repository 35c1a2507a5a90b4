//! What goes on while something takes long: on a terminal the last step with the time
//! that it has taken so far, elsewhere a line for each step.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::print::{Printer, one_line};
use crate::table::{cut, duration};

/// How often the time is shown anew.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// Writes over the line that the cursor is on.
const OVER: &str = "\r\x1b[K";

/// Steps, told one after the other.
#[derive(Debug)]
pub(crate) struct Progress {
    printer: Printer,
    step: Mutex<Option<Step>>,
}

#[derive(Debug)]
struct Step {
    text: String,
    since: Instant,
}

impl Progress {
    /// Nothing has been told yet.
    pub(crate) const fn new(printer: Printer) -> Self {
        Self {
            printer,
            step: Mutex::new(None),
        }
    }

    /// Begins a step, which ends the one before.
    pub(crate) fn step(&self, text: &str) {
        if !self.printer.is_watched() {
            return self.printer.note(text);
        }
        let mut step = self.held();
        self.finish(&mut step);
        *step = Some(Step {
            text: one_line(text).into_owned(),
            since: Instant::now(),
        });
        self.draw(&step);
    }

    /// Shows how long the step has taken so far.
    pub(crate) fn tick(&self) {
        self.draw(&self.held());
    }

    /// Ends the last step.
    pub(crate) fn end(&self) {
        self.finish(&mut self.held());
    }

    fn held(&self) -> MutexGuard<'_, Option<Step>> {
        // Whole at every step.
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, step: &Option<Step>) {
        if let Some(step) = step {
            let line = under_way(&step.text, step.since.elapsed(), self.printer.columns());
            self.printer.stderr(&format!("{OVER}{line}"));
        }
    }

    fn finish(&self, step: &mut Option<Step>) {
        if let Some(step) = step.take() {
            let line = over(&step.text, step.since.elapsed());
            self.printer.stderr(&format!("{OVER}{line}\n"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// A step on one line of a terminal, the time at its end.
fn under_way(text: &str, since: Duration, room: usize) -> String {
    let time = match since.as_secs() {
        0 => String::new(),
        _ => format!(" {}", duration(since.as_secs_f64())),
    };
    // The cursor takes a place.
    let left = room.saturating_sub(time.chars().count() + 1);
    format!("{}{time}", cut(&format!("skep: {text}…"), left))
}

/// A step that has ended; its time, if that is worth saying.
fn over(text: &str, took: Duration) -> String {
    match took.as_secs() {
        0 => format!("skep: {text}"),
        _ => format!("skep: {text} ({})", duration(took.as_secs_f64())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_how_long_it_takes_once_that_is_long() {
        let short = Duration::from_millis(300);
        let long = Duration::from_millis(13_400);
        assert_eq!(under_way("compiling", short, 80), "skep: compiling…");
        assert_eq!(under_way("compiling", long, 80), "skep: compiling… 13s");
        assert_eq!(over("compiling", short), "skep: compiling");
        assert_eq!(over("compiling", long), "skep: compiling (13s)");
    }

    #[test]
    fn a_step_under_way_fits_the_line() {
        let text = "compiling /a/very/long/path/to/a/component.wasm";
        for room in 10..80 {
            let line = under_way(text, Duration::from_secs(75), room);
            assert!(line.chars().count() < room, "{room}: {line}");
            assert!(line.ends_with(" 1m 15s"), "{room}: {line}");
        }
    }
}
