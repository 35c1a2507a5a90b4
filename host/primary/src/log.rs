//! Writing records to standard error without ever waiting for it.
//!
//! Standard error may be a stalled terminal or a full pipe, so one thread writes
//! to it, and nothing else does. It writes the primary's own records, which come
//! through a queue, and the output of each of skep's processes, which comes
//! through a pipe per process. Records that do not fit the queue are dropped and
//! counted, and the count is logged once there is room. A process drops what does
//! not fit its pipe, so a process that floods takes no room from others. Callers
//! decide what records say; `skep-core` decides how they look.

mod lines;
mod speaker;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_core::{LogFormat, LogLevel, LogSpec, Record};
use skep_sys::Output;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use self::speaker::Source;

pub(crate) use self::speaker::Speaker;

/// Records that may wait to be written: about half a second of a crash loop of
/// a thousand workers, and less than 1 MiB.
const QUEUE: usize = 4096;

/// How long the shutdown waits for the last records to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Where records go. Clones write to the same place.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    /// `None` if records are discarded.
    queue: Option<UnboundedSender<Said>>,
}

/// What the log and the writer's thread share.
#[derive(Debug)]
struct Shared {
    spec: Mutex<LogSpec>,
    /// Records in the queue.
    waiting: AtomicUsize,
    dropped: AtomicU64,
    last_output: AtomicU64,
}

/// What the writer's thread gets through its queue.
#[derive(Debug)]
enum Said {
    Record(String),
    /// Read this process's pipe.
    Begun(u64, Box<(Output, Speaker, u32)>),
    /// The process has ended: read the rest of its pipe.
    Ended(u64),
}

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    done: Receiver<()>,
}

/// While it exists, the pipe of one process is read. To be dropped when that
/// process has ended: the rest of the pipe is written before later records.
#[derive(Debug)]
pub(crate) struct Listening {
    id: u64,
    queue: Option<UnboundedSender<Said>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(Said::Ended(self.id));
        }
    }
}

impl Log {
    /// Starts a thread that writes to `sink`.
    ///
    /// # Errors
    ///
    /// No descriptors or threads left.
    pub(crate) fn start(
        spec: LogSpec,
        sink: impl Write + Send + 'static,
    ) -> io::Result<(Self, Writer)> {
        let (queue, said) = unbounded_channel();
        let (finished, done) = sync_channel(1);
        let log = Self {
            shared: Arc::new(Shared::new(spec)),
            queue: Some(queue),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let shared = log.shared.clone();
        let work = move || {
            let sink = Sink {
                shared,
                out: RefCell::new(Box::new(sink)),
            };
            LocalSet::new().block_on(&runtime, write(said, Rc::new(sink)));
            let _ = finished.send(());
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(work)?;
        Ok((log, Writer { done }))
    }

    /// A log that discards all records.
    #[cfg(test)]
    pub(crate) fn discard() -> Self {
        let spec = LogSpec {
            format: LogFormat::Text,
            level: LogLevel::Error,
        };
        Self {
            shared: Arc::new(Shared::new(spec)),
            queue: None,
        }
    }

    /// Writes a record with the fields that `fill` adds, if its level is wanted.
    pub(crate) fn record(&self, level: LogLevel, name: &str, fill: impl FnOnce(Record) -> Record) {
        let spec = self.shared.spec();
        if level <= spec.level {
            self.push(fill(begin(spec.format, level, name)).finish());
        }
    }

    /// Changes format and level, for all clones too.
    pub(crate) fn reconfigure(&self, spec: LogSpec) {
        let own = &self.shared.spec;
        *own.lock().unwrap_or_else(PoisonError::into_inner) = spec;
    }

    /// Writes a line as it is, whatever the format and the level.
    pub(crate) fn plain(&self, line: &str) {
        self.push(format!("{line}\n"));
    }

    /// Passes on what a process writes to its end of this pipe, until the result
    /// is dropped.
    pub(crate) fn listen(&self, output: Output, speaker: Speaker, pid: u32) -> Listening {
        let id = self.shared.last_output.fetch_add(1, Relaxed);
        if let Some(queue) = &self.queue {
            let _ = queue.send(Said::Begun(id, Box::new((output, speaker, pid))));
        }
        Listening {
            id,
            queue: self.queue.clone(),
        }
    }

    fn push(&self, record: String) {
        let Some(queue) = &self.queue else { return };
        let Shared {
            waiting, dropped, ..
        } = &*self.shared;
        if waiting.fetch_add(1, Relaxed) < QUEUE {
            let _ = queue.send(Said::Record(record));
        } else {
            waiting.fetch_sub(1, Relaxed);
            dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Shared {
    fn new(spec: LogSpec) -> Self {
        Self {
            spec: Mutex::new(spec),
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            last_output: AtomicU64::new(0),
        }
    }

    fn spec(&self) -> LogSpec {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Waits until everything is written, at most [`FLUSH_DEADLINE`]. All clones
    /// of the log must be dropped before.
    pub(crate) fn finish(self) {
        let _ = self.done.recv_timeout(FLUSH_DEADLINE);
    }
}

/// Standard error, for the writer's thread: the only place where writing may
/// block.
struct Sink {
    shared: Arc<Shared>,
    out: RefCell<Box<dyn Write>>,
}

impl Sink {
    fn format(&self) -> LogFormat {
        self.shared.spec().format
    }

    fn write(&self, lines: &str) {
        // A failure of standard error cannot be reported anywhere.
        let _ = self.out.borrow_mut().write_all(lines.as_bytes());
    }
}

/// The pipe of a process, and the task that reads it.
struct Followed {
    source: Rc<Source>,
    task: AbortHandle,
}

impl Followed {
    fn finish(&self, sink: &Sink) {
        self.task.abort();
        self.source.finish(sink);
    }
}

/// Writes until all clones of the log are dropped.
async fn write(mut said: UnboundedReceiver<Said>, sink: Rc<Sink>) {
    let mut followed = BTreeMap::new();
    while let Some(said) = said.recv().await {
        match said {
            Said::Record(record) => {
                sink.shared.waiting.fetch_sub(1, Relaxed);
                sink.write(&record);
                let lost = sink.shared.dropped.swap(0, Relaxed);
                if lost > 0 {
                    let record = begin(sink.format(), LogLevel::Warn, "log.dropped");
                    sink.write(&record.number("count", lost).finish());
                }
            }
            Said::Begun(id, begun) => {
                let (output, speaker, pid) = *begun;
                if let Some(new) = follow(output, speaker, pid, &sink) {
                    followed.insert(id, new);
                }
            }
            Said::Ended(id) => {
                if let Some(ended) = followed.remove(&id) {
                    ended.finish(&sink);
                }
            }
        }
    }
    for left in followed.values() {
        left.finish(&sink);
    }
    let _ = sink.out.borrow_mut().flush();
}

fn follow(output: Output, speaker: Speaker, pid: u32, sink: &Rc<Sink>) -> Option<Followed> {
    match Source::new(output, speaker, pid) {
        Ok(source) => {
            let source = Rc::new(source);
            let (reads, sink) = (Rc::clone(&source), Rc::clone(sink));
            let task = spawn_local(async move { reads.follow(&sink).await }).abort_handle();
            Some(Followed { source, task })
        }
        Err(error) => {
            let record = begin(sink.format(), LogLevel::Error, "log.unread");
            let record = record.number("pid", pid);
            sink.write(&record.text("message", &error.to_string()).finish());
            None
        }
    }
}

fn begin(format: LogFormat, level: LogLevel, name: &str) -> Record {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Record::new(format, millis, level, name)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    const TEXT: LogSpec = LogSpec {
        format: LogFormat::Text,
        level: LogLevel::Info,
    };

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A terminal that reports each write, and then blocks until `leave`.
    struct Stalled {
        entered: Sender<()>,
        leave: Receiver<()>,
        sink: Kept,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            let _ = self.leave.recv();
            self.sink.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_wanted_levels_are_written() {
        let sink = Kept::default();
        let (log, writer) = Log::start(TEXT, sink.clone()).unwrap();
        log.record(LogLevel::Info, "worker.ready", |r| r.number("worker", 3));
        log.record(LogLevel::Debug, "never", |r| r);
        log.plain("skep: serving");
        drop(log);
        writer.finish();
        let text = sink.text();
        let (_, rest) = text.split_once(' ').unwrap();
        assert_eq!(rest, "info  worker.ready worker=3\nskep: serving\n");
    }

    #[test]
    fn a_stalled_terminal_costs_records_and_no_time() {
        let (entered, writing) = channel();
        let (go, leave) = channel();
        let sink = Kept::default();
        let stalled = Stalled {
            entered,
            leave,
            sink: sink.clone(),
        };
        let (log, writer) = Log::start(TEXT, stalled).unwrap();
        log.plain("first");
        writing.recv().unwrap();
        for _ in 0..QUEUE + 7 {
            log.plain("more");
        }
        drop(log);
        drop(go);
        writer.finish();
        let text = sink.text();
        assert_eq!(text.matches("more").count(), QUEUE);
        assert!(text.contains("warn  log.dropped count=7"), "{text}");
    }

    fn role() -> Speaker {
        Speaker::role("connector", None)
    }

    #[test]
    fn what_a_process_said_last_comes_before_what_is_said_of_its_end() {
        let sink = Kept::default();
        let (log, writer) = Log::start(TEXT, sink.clone()).unwrap();
        let (ours, theirs) = Output::pipe().unwrap();
        let listening = log.listen(ours, role(), 7);
        let mut theirs = File::from(theirs);
        theirs.write_all(b"one\ntwo").unwrap();
        drop(listening);
        log.plain("it has exited");
        // `theirs` keeps the pipe open, which must not delay the end.
        drop(log);
        writer.finish();
        drop(theirs);
        let text = sink.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].ends_with("error connector.stderr pid=7 text=one"),
            "{text}"
        );
        assert!(
            lines[1].ends_with("error connector.stderr pid=7 text=two"),
            "{text}"
        );
        assert_eq!(lines[2..], ["it has exited"]);
    }

    #[test]
    fn a_flood_delays_nobody_and_is_counted() {
        let sink = Kept::default();
        let (log, writer) = Log::start(TEXT, sink.clone()).unwrap();
        let (ours, theirs) = Output::pipe().unwrap();
        let flooding = log.listen(ours, role(), 7);
        let mut theirs = File::from(theirs);
        let flood = std::thread::spawn(move || {
            let mut taken = 0;
            let (piece, until) = (b"flood\n".repeat(1000), Instant::now() + DEADLINE);
            while taken < 1 << 20 && Instant::now() < until {
                match theirs.write(&piece) {
                    Ok(count) => taken += count,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                std::thread::yield_now();
            }
            taken
        });
        let (ours, theirs) = Output::pipe().unwrap();
        let quiet = log.listen(ours, role(), 8);
        let mut theirs = File::from(theirs);
        for number in 0..20 {
            let began = Instant::now();
            theirs
                .write_all(format!("quiet{number}\n").as_bytes())
                .unwrap();
            log.plain(&format!("own{number}"));
            while !(sink.text().contains(&format!("pid=8 text=quiet{number}\n"))
                && sink.text().contains(&format!("own{number}\n")))
            {
                assert!(began.elapsed() < DEADLINE, "{number}");
                std::thread::yield_now();
            }
        }
        assert!(flood.join().unwrap() >= 1 << 20);
        drop((flooding, quiet, log));
        writer.finish();
        let text = sink.text();
        assert!(text.len() < 2 << 20, "{}", text.len());
        assert!(
            text.contains("warn  log.dropped pid=7 records="),
            "{}",
            text.len()
        );
    }

    #[test]
    fn a_stalled_terminal_holds_up_no_process() {
        let (entered, writing) = channel();
        let (go, leave) = channel();
        let sink = Kept::default();
        let stalled = Stalled {
            entered,
            leave,
            sink: sink.clone(),
        };
        let (log, writer) = Log::start(TEXT, stalled).unwrap();
        log.plain("first");
        writing.recv().unwrap();
        let (ours, theirs) = Output::pipe().unwrap();
        let listening = log.listen(ours, role(), 7);
        let mut theirs = File::from(theirs);
        let full = loop {
            if let Err(error) = theirs.write(b"more\n") {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop((listening, log, go));
        writer.finish();
        assert!(sink.text().contains("pid=7 text=more"));
        // Nobody reads any more.
        let gone = theirs.write(b"more\n").unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }
}
