//! Lines of a pipe, and who waits for them.

use std::io::{self, BufRead as _, BufReader};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lines so far, and whether they have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<(Mutex<(String, bool)>, Condvar)>, Arc<Gate>);

/// Whether lines are read at all.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Log {
    pub(crate) fn collect(&self, pipe: impl io::Read) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while {
            self.1.pass();
            reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
        } {
            let text = String::from_utf8_lossy(&line).into_owned();
            self.change(|log| log.0.push_str(&text));
            line.clear();
        }
        self.change(|log| log.1 = true);
    }

    /// Reads nothing more, or goes on.
    pub(crate) fn stall(&self, closed: bool) {
        *self.1.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.1.opened.notify_all();
    }

    fn change(&self, change: impl FnOnce(&mut (String, bool))) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    pub(crate) fn text(&self) -> String {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    pub(crate) fn wait_for(&self, deadline: Duration, text: &str) -> String {
        self.wait_for_since(0, deadline, text)
    }

    /// The same, of what comes after so many bytes.
    pub(crate) fn wait_for_since(&self, mark: usize, deadline: Duration, text: &str) -> String {
        let by = Instant::now() + deadline;
        let mut log = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &log.0[mark.min(log.0.len())..];
            if let Some(line) = new.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let left = by.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !log.1,
                "no line with {text:?} in:\n{}",
                log.0
            );
            log = self
                .0
                .1
                .wait_timeout(log, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Gate {
    fn pass(&self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        while *closed {
            closed = self
                .opened
                .wait(closed)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
