//! Writing records to standard error without ever waiting for it.
//!
//! Standard error may be a stalled terminal or a full pipe, so a thread of its
//! own writes; what does not fit its queue is dropped, counted, and told of
//! once there is room. What records say is decided by the callers, and how
//! they look by `skep-core`.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_core::{LogFormat, LogLevel, LogSpec, Record};

/// Records that may wait to be written: about half a second of a crash loop of
/// a thousand workers, and less than 1 MiB.
const QUEUE: usize = 4096;

/// How long the last records may take to be written at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Where records go. Clones write to the same place.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    spec: Arc<Mutex<LogSpec>>,
    queue: Option<SyncSender<String>>,
    dropped: Arc<AtomicU64>,
}

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    done: Receiver<()>,
}

impl Log {
    /// Starts a thread that writes to `sink`.
    pub(crate) fn start(spec: LogSpec, mut sink: impl Write + Send + 'static) -> (Self, Writer) {
        let (queue, records) = sync_channel::<String>(QUEUE);
        let (finished, done) = sync_channel(1);
        let log = Self {
            spec: Arc::new(Mutex::new(spec)),
            queue: Some(queue),
            dropped: Arc::default(),
        };
        let dropped = log.dropped.clone();
        let format = spec.format;
        std::thread::spawn(move || {
            for record in records {
                // There is nowhere to complain about standard error.
                let _ = sink.write_all(record.as_bytes());
                let lost = dropped.swap(0, Relaxed);
                if lost > 0 {
                    let record = begin(format, LogLevel::Warn, "log.dropped")
                        .number("count", lost)
                        .finish();
                    let _ = sink.write_all(record.as_bytes());
                }
            }
            let _ = sink.flush();
            let _ = finished.send(());
        });
        (log, Writer { done })
    }

    /// Swallows everything.
    pub(crate) fn discard() -> Self {
        Self {
            spec: Arc::new(Mutex::new(LogSpec {
                format: LogFormat::Text,
                level: LogLevel::Error,
            })),
            queue: None,
            dropped: Arc::default(),
        }
    }

    /// Writes a record with the fields that `fill` adds, if its level is wanted.
    pub(crate) fn record(&self, level: LogLevel, name: &str, fill: impl FnOnce(Record) -> Record) {
        let spec = self.spec();
        if level <= spec.level {
            self.push(fill(begin(spec.format, level, name)).finish());
        }
    }

    /// Writes records in this way from now on, those of all clones too.
    pub(crate) fn reconfigure(&self, spec: LogSpec) {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
    }

    fn spec(&self) -> LogSpec {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line as it is, whatever the format and the level.
    pub(crate) fn plain(&self, line: &str) {
        self.push(format!("{line}\n"));
    }

    fn push(&self, record: String) {
        if let Some(queue) = &self.queue
            && queue.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Writer {
    /// Waits until everything was written, but not for ever. All clones of the
    /// log must be gone.
    pub(crate) fn finish(self) {
        let _ = self.done.recv_timeout(FLUSH_DEADLINE);
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
    use std::io;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    const TEXT: LogSpec = LogSpec {
        format: LogFormat::Text,
        level: LogLevel::Info,
    };

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Says when it is written to, and then waits for leave.
    struct Stalled {
        entered: Sender<()>,
        leave: Receiver<()>,
        sink: Sink,
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
        let sink = Sink::default();
        let (log, writer) = Log::start(TEXT, sink.clone());
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
        let sink = Sink::default();
        let stalled = Stalled {
            entered,
            leave,
            sink: sink.clone(),
        };
        let (log, writer) = Log::start(TEXT, stalled);
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
}
