//! The worker's log records, on their way to stderr.
//!
//! Writing is done by a thread of its own behind a bounded queue, because
//! stderr may be a terminal that somebody has stopped: a worker that waits for
//! it serves nothing. What does not fit is dropped and counted.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_core::{AppName, LogLevel, LogSpec, Record, Revision, WorkerId};
use skep_engine::{GuestLog, Stream};
use skep_sys::confine::{Companion, companion};

/// Records that may wait for stderr. A burst of a second's worth at the rate
/// that one app is allowed.
const QUEUE: usize = 1024;

/// Guest lines a second of one app that are written; the rest are counted.
const LINES_PER_SECOND: u64 = 200;

/// Where the worker's records go.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    spec: LogSpec,
    worker: WorkerId,
    pid: u32,
}

static WRITER: OnceLock<SyncSender<String>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Starts the writer, which writes once it is confined with the rest of the
/// process: a confined process starts no threads.
pub(crate) fn start_writer() -> io::Result<Companion> {
    let (sender, receiver) = sync_channel::<String>(QUEUE);
    let writer = companion("log", move || {
        for line in receiver {
            let mut stderr = io::stderr().lock();
            // Nobody can be told that stderr is gone.
            let _ = stderr.write_all(line.as_bytes());
        }
    })?;
    WRITER.get_or_init(|| sender);
    Ok(writer)
}

impl Log {
    pub(crate) fn new(spec: LogSpec, worker: WorkerId) -> Self {
        Self {
            spec,
            worker,
            pid: std::process::id(),
        }
    }

    /// Begins a record, or nothing if its level is not wanted.
    pub(crate) fn record(&self, level: LogLevel, name: &str) -> Option<Record> {
        if level > self.spec.level {
            return None;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Some(
            Record::new(self.spec.format, millis, level, name)
                .number("worker", self.worker)
                .number("pid", self.pid),
        )
    }

    /// Hands a record over. Never waits.
    pub(crate) fn write(&self, record: Record) {
        let queued = WRITER
            .get()
            .is_some_and(|writer| writer.try_send(record.finish()).is_ok());
        if !queued {
            DROPPED.fetch_add(1, Relaxed);
        }
    }

    /// Reports what was dropped since the last call, if anything was.
    pub(crate) fn report_dropped(&self) {
        let dropped = DROPPED.swap(0, Relaxed);
        if dropped > 0
            && let Some(record) = self.record(LogLevel::Warn, "log.dropped")
        {
            self.write(record.number("records", dropped));
        }
    }
}

/// The lines that one app's guests write.
#[derive(Debug)]
pub(crate) struct AppLog {
    log: Log,
    app: AppName,
    revision: Revision,
    second: AtomicU64,
    written: AtomicU64,
}

impl AppLog {
    pub(crate) fn new(log: Log, app: AppName, revision: Revision) -> Self {
        Self {
            log,
            app,
            revision,
            second: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Begins a record about this app, within its rate.
    pub(crate) fn record(&self, level: LogLevel, name: &str) -> Option<Record> {
        let record = self.log.record(level, name)?;
        if !self.may_write() {
            DROPPED.fetch_add(1, Relaxed);
            return None;
        }
        Some(
            record
                .text("app", self.app.as_str())
                .number("revision", self.revision),
        )
    }

    pub(crate) fn write(&self, record: Record) {
        self.log.write(record);
    }

    fn may_write(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        if self.second.swap(now, Relaxed) != now {
            self.written.store(0, Relaxed);
        }
        self.written.fetch_add(1, Relaxed) < LINES_PER_SECOND
    }
}

impl GuestLog for AppLog {
    fn line(&self, stream: Stream, request: &str, line: &[u8]) {
        let Some(record) = self.record(LogLevel::Info, "app.log") else {
            return;
        };
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.write(
            record
                .text("request", request)
                .text("stream", stream)
                .text("text", &String::from_utf8_lossy(line)),
        );
    }

    fn record(&self, level: LogLevel, request: &str, context: &str, message: &str) {
        if let Some(record) = self.record(level, "app.log") {
            self.write(
                record
                    .text("request", request)
                    .text("context", context)
                    .text("text", message),
            );
        }
    }
}
