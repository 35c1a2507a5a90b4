//! What one process writes to its standard error, as records of the log.
//!
//! Each process has a pipe of its own, so whoever reads it knows who wrote. A
//! worker writes records, which are passed on as they are; but only those that
//! name that very worker and process, for it may have been taken over. All else
//! (a panic, an abort, nonsense) becomes a record of ours that says who said it
//! and quotes it.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use skep_core::{Allowance, LogFormat, LogLevel, PoolName, Record, WorkerId, is_record};
use skep_sys::Output;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

use super::lines::{Line, Lines};
use super::{Sink, begin};
use crate::fleet::now;

/// Bytes that one process may write in a second: four times what one app may,
/// and what passes on takes a hundredth of a core. Above that its pipe is not
/// read; it fills, and the process has to drop and count.
const RATE: u64 = 4 << 20;

/// What a line costs of that besides its bytes, so that short ones do not cost
/// more than long ones.
const LINE: usize = 64;

/// Bytes of records that quote one process in a second: several panics with
/// their backtraces. What is more is dropped and counted.
const QUOTED_RATE: u64 = 64 << 10;

/// Bytes of one quotation, as of a guest's line.
const QUOTED: usize = 8 << 10;

/// Bytes that are read from one process before others have their turn.
const TURN: usize = 16 << 10;

/// How long a process that writes too much is left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// Pieces that are read of a process that has ended: all that a pipe holds, and
/// no more, for somebody else may have its end and go on.
const LAST_TURNS: usize = 8;

/// How often what was dropped is told of.
const REPORT: Duration = Duration::from_secs(1);

/// Who writes.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    /// The hidden subcommand.
    role: &'static str,
    /// What its other records are about.
    about: Option<(&'static str, String)>,
    /// For a worker, which may write records, in this format.
    worker: Option<(WorkerId, LogFormat)>,
}

impl Speaker {
    /// A process that writes no records.
    pub(crate) const fn role(role: &'static str, about: Option<(&'static str, String)>) -> Self {
        Self {
            role,
            about,
            worker: None,
        }
    }

    /// A worker that writes records in this format.
    pub(crate) fn worker(pool: &PoolName, worker: WorkerId, format: LogFormat) -> Self {
        Self {
            role: "worker",
            about: Some(("pool", pool.to_string())),
            worker: Some((worker, format)),
        }
    }
}

/// The pipe of one process.
#[derive(Debug)]
pub(super) struct Source {
    pipe: AsyncFd<Output>,
    state: RefCell<State>,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There may be more.
    More,
    /// There is nothing left for now.
    Empty,
    /// Nobody can write any more.
    Ended,
}

impl Source {
    /// Must be called within a tokio runtime.
    pub(super) fn new(output: Output, speaker: Speaker, pid: u32) -> io::Result<Self> {
        Ok(Self {
            pipe: skep_sys::watch(output)?,
            state: RefCell::new(State::new(speaker, pid)),
        })
    }

    /// Passes on what comes until nobody can write any more.
    pub(super) async fn follow(&self, sink: &Sink) {
        let mut untold = pin!(None::<Sleep>);
        loop {
            tokio::select! {
                ready = self.pipe.readable() => {
                    // Fails only where the runtime ends.
                    let Ok(mut ready) = ready else { return };
                    match self.turn(sink) {
                        Turn::More => {}
                        Turn::Empty => ready.clear_ready(),
                        Turn::Ended => return,
                    }
                }
                () = due(untold.as_mut()) => self.tell_dropped(sink),
            }
            if self.state.borrow().dropped == 0 {
                untold.set(None);
            } else if untold.is_none() {
                untold.set(Some(sleep(REPORT)));
            }
            // Others have their turn.
            tokio::task::yield_now().await;
            while !self.state.borrow_mut().read.is_open(now()) {
                sleep(PAUSE).await;
            }
        }
    }

    /// Passes on what is left of a process that has ended.
    pub(super) fn finish(&self, sink: &Sink) {
        for _ in 0..LAST_TURNS {
            if self.turn(sink) != Turn::More {
                break;
            }
        }
        let mut batch = String::new();
        self.state.borrow_mut().finish(sink.format(), &mut batch);
        sink.write(&batch);
        self.tell_dropped(sink);
    }

    /// Reads once. Not through the runtime, which may not have seen yet that
    /// there is something.
    fn turn(&self, sink: &Sink) -> Turn {
        let mut piece = [0; TURN];
        let count = match self.pipe.get_ref().read(&mut piece) {
            Ok(0) => return Turn::Ended,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Turn::More,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Empty,
            Err(_) => return Turn::Ended,
        };
        let mut batch = String::new();
        let mut state = self.state.borrow_mut();
        state.take(&piece[..count], sink.format(), &mut batch);
        sink.write(&batch);
        Turn::More
    }

    fn tell_dropped(&self, sink: &Sink) {
        let mut state = self.state.borrow_mut();
        let dropped = std::mem::take(&mut state.dropped);
        if dropped > 0 {
            let record = begin(sink.format(), LogLevel::Warn, "log.dropped");
            let record = state.says(record).number("records", dropped);
            sink.write(&record.finish());
        }
    }
}

async fn due(sleep: Pin<&mut Option<Sleep>>) {
    match sleep.as_pin_mut() {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// What is known of what one process has written.
#[derive(Debug)]
struct State {
    speaker: Speaker,
    pid: u32,
    lines: Lines,
    read: Allowance,
    quoted: Allowance,
    dropped: u64,
}

impl State {
    fn new(speaker: Speaker, pid: u32) -> Self {
        Self {
            speaker,
            pid,
            lines: Lines::default(),
            read: Allowance::new(RATE, now()),
            quoted: Allowance::new(QUOTED_RATE, now()),
            dropped: 0,
        }
    }

    /// Takes what was written, and adds what is to be passed on to `batch`.
    fn take(&mut self, piece: &[u8], format: LogFormat, batch: &mut String) {
        self.read.spend(piece.len());
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(piece, |line| self.pass(line, format, batch));
        self.lines = lines;
    }

    fn finish(&mut self, format: LogFormat, batch: &mut String) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.finish(|line| self.pass(line, format, batch));
    }

    fn pass(&mut self, line: Line<'_>, format: LogFormat, batch: &mut String) {
        self.read.spend(LINE);
        let text = match line {
            Line::Whole(line) => {
                if let Some(record) = self.record(line) {
                    batch.push_str(record);
                    batch.push('\n');
                    return;
                }
                line
            }
            Line::Part(part) => part,
        };
        for part in text.chunks(QUOTED) {
            if !self.quoted.is_open(now()) {
                self.dropped += 1;
                continue;
            }
            let name = format!("{}.stderr", self.speaker.role);
            let record = self.says(begin(format, LogLevel::Error, &name));
            let record = record.text("text", &String::from_utf8_lossy(part));
            let record = record.finish();
            self.quoted.spend(record.len());
            batch.push_str(&record);
        }
    }

    /// The line, if it is a record that its writer may write.
    fn record<'a>(&self, line: &'a [u8]) -> Option<&'a str> {
        let (worker, format) = self.speaker.worker?;
        let own = [("worker", worker.0), ("pid", u64::from(self.pid))];
        let line = str::from_utf8(line).ok()?;
        is_record(line, format, &own).then_some(line)
    }

    /// Adds who says it.
    fn says(&self, mut record: Record) -> Record {
        if let Some((key, value)) = &self.speaker.about {
            record = record.text(key, value);
        }
        if let Some((worker, _)) = self.speaker.worker {
            record = record.number("worker", worker);
        }
        record.number("pid", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let pool = PoolName::new("p").unwrap();
        let speaker = Speaker::worker(&pool, WorkerId(3), LogFormat::Text);
        State::new(speaker, 77)
    }

    fn said(state: &mut State, bytes: &[u8]) -> String {
        let mut batch = String::new();
        state.take(bytes, LogFormat::Text, &mut batch);
        batch
    }

    fn record(worker: u64, pid: u32) -> String {
        Record::new(LogFormat::Text, 0, LogLevel::Info, "app.log")
            .number("worker", worker)
            .number("pid", pid)
            .text("text", "a b")
            .finish()
    }

    #[test]
    fn records_pass_whole_and_in_order() {
        let mut state = state();
        let two = record(3, 77).repeat(2);
        let (one, other) = two.as_bytes().split_at(50);
        let first = said(&mut state, one);
        assert_eq!(first + &said(&mut state, other), two);
    }

    #[test]
    fn what_is_no_record_of_its_writer_is_quoted() {
        let mut state = state();
        let primary = "2026-01-01T00:00:00.000Z error pool.tripped pool=p crashes=5\n";
        for line in [
            record(4, 77),
            record(3, 78),
            primary.to_owned(),
            "skep: serving 127.0.0.1:1\n".to_owned(),
            "\u{1b}[2J\u{1b}[H\r\n".to_owned(),
            "thread 'main' panicked at a.rs:1:1:\n".to_owned(),
        ] {
            let quoted = said(&mut state, line.as_bytes());
            let (head, text) = quoted.split_once(" text=").unwrap();
            assert!(
                head.ends_with(" error worker.stderr pool=p worker=3 pid=77"),
                "{head}"
            );
            assert!(!text.trim_end().contains(char::is_control), "{text:?}");
            assert_eq!(quoted.matches('\n').count(), 1);
        }
        assert!(said(&mut state, b"\xff\xfe\n").contains("text="));
        // Nothing is said by nothing.
        assert_eq!(said(&mut state, b"\n\n"), "");

        assert_eq!(said(&mut state, b"no end"), "");
        let mut batch = String::new();
        state.finish(LogFormat::Json, &mut batch);
        assert!(
            batch.contains("\"pool\":\"p\",\"worker\":3,\"pid\":77,\"text\":\"no end\""),
            "{batch}"
        );
    }

    #[test]
    fn floods_are_dropped_and_counted_and_records_are_not() {
        let mut state = state();
        let flood = b"x\n".repeat(TURN / 2);
        let mut quoted = 0;
        for _ in 0..24 {
            quoted += said(&mut state, &flood).len();
        }
        let most = usize::try_from(QUOTED_RATE).unwrap();
        assert!(quoted < 3 * most, "{quoted}");
        assert!(state.dropped > 50_000, "{}", state.dropped);
        assert_eq!(said(&mut state, record(3, 77).as_bytes()), record(3, 77));
        // Meanwhile it is not read any more.
        assert!(!state.read.is_open(now()));
    }

    #[test]
    fn other_roles_write_no_records() {
        let about = Some(("listener", "web".to_owned()));
        let mut state = State::new(Speaker::role("dispatcher", about), 9);
        let said = said(&mut state, record(3, 9).as_bytes());
        assert!(
            said.contains(" dispatcher.stderr listener=web pid=9 text="),
            "{said}"
        );
    }
}
