//! The worker's log records, on their way to stderr.
//!
//! Stderr is a pipe from this worker alone to the primary, and writing to it never
//! blocks: a worker that waited would serve nothing. Records that the pipe does
//! not take are kept up to a limit; records beyond it are dropped and counted.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_core::{
    Allowance, AppName, LogLevel, LogSpec, Moment, Record, Revision, TenantName, WorkerId,
};
use skep_engine::{GuestLog, Stream};
use skep_sys::clock;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Bytes of records that may wait for the pipe: four times as many as one
/// tenant may have there, so that one that floods takes nobody else's room.
const QUEUE: usize = 4 * LANE;

/// Bytes of one tenant's records that may wait for the pipe: a thousand of most
/// records, which are of 200 bytes, and several of the longest, a line of 8 KiB
/// of which every byte is quoted.
const LANE: usize = 256 << 10;

/// The shortest time between two reports of one app's dropped records, so that
/// the reports do not flood the log themselves.
const REPORT: Duration = Duration::from_secs(10);

/// Where the worker's records go.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    spec: LogSpec,
    worker: WorkerId,
    pid: u32,
    out: Arc<Out>,
    known: Arc<Mutex<Known>>,
}

/// Who writes, for as long as anything of it is loaded.
#[derive(Debug, Default)]
struct Known {
    volumes: BTreeMap<AppName, Arc<Volume>>,
    lanes: BTreeMap<TenantName, Weak<Lane>>,
}

/// The way to stderr.
#[derive(Debug, Default)]
struct Out {
    queue: Mutex<VecDeque<Queued>>,
    /// Bytes of what waits.
    waiting: Lane,
    /// Something has begun to wait.
    begun: Notify,
    dropped: AtomicU64,
}

/// A line that waits for the pipe, or the rest of one, and in whose lane.
#[derive(Debug)]
struct Queued {
    line: String,
    written: usize,
    lane: Option<Arc<Lane>>,
}

impl Out {
    /// Writes a line, now or once there is room in the pipe, if not too much
    /// waits for that. Never waits itself.
    fn send(&self, line: String, lane: Option<&Arc<Lane>>) -> bool {
        let mut queue = lock(&self.queue);
        let mut written = 0;
        if queue.is_empty() {
            written = write_some(line.as_bytes());
            if written == line.len() {
                return true;
            }
        }
        // A line that has begun is completed: half a line would spoil the next one.
        let must = written > 0;
        if let Some(lane) = lane
            && !lane.enter(line.len(), LANE, must)
        {
            return false;
        }
        if !self.waiting.enter(line.len(), QUEUE, must) {
            if let Some(lane) = lane {
                lane.leave(line.len());
            }
            return false;
        }
        queue.push_back(Queued {
            line,
            written,
            lane: lane.map(Arc::clone),
        });
        self.begun.notify_one();
        true
    }

    /// Writes what waits, as far as the pipe takes it. Returns whether nothing
    /// waits any more.
    fn flush(&self) -> bool {
        let mut queue = lock(&self.queue);
        while let Some(first) = queue.front_mut() {
            let rest = &first.line.as_bytes()[first.written..];
            let written = write_some(rest);
            first.written += written;
            if written < rest.len() {
                return false;
            }
            self.waiting.leave(first.line.len());
            if let Some(lane) = &first.lane {
                lane.leave(first.line.len());
            }
            queue.pop_front();
        }
        // Frees the memory that a burst took.
        *queue = VecDeque::new();
        true
    }
}

/// How many of these bytes stderr takes now. If the primary is gone, all count as
/// taken: nothing reads them any more.
fn write_some(bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match io::stderr().write(&bytes[written..]) {
            Ok(count) if count > 0 => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return written,
            Ok(_) | Err(_) => return bytes.len(),
        }
    }
    written
}

/// Writes what waits whenever the pipe has room again.
async fn keep_writing(out: Arc<Out>, pipe: AsyncFd<OwnedFd>) {
    loop {
        out.begun.notified().await;
        loop {
            // Fails only where the runtime ends.
            let Ok(mut room) = pipe.writable().await else {
                return;
            };
            if out.flush() {
                break;
            }
            room.clear_ready();
        }
    }
}

impl Log {
    pub(crate) fn new(spec: LogSpec, worker: WorkerId) -> Self {
        Self {
            spec,
            worker,
            pid: std::process::id(),
            out: Arc::default(),
            known: Arc::default(),
        }
    }

    /// Writes what stderr does not take at once when it takes it: to be called
    /// once, in the runtime.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub(crate) fn keep_writing(&self) -> io::Result<()> {
        let pipe = io::stderr().as_fd().try_clone_to_owned()?;
        match skep_sys::watch(pipe) {
            Ok(pipe) => drop(tokio::spawn(keep_writing(Arc::clone(&self.out), pipe))),
            // A file, where a test has left us one. It takes everything.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What an app may write. Its handlers share one, at the rate of the newest.
    fn volume(&self, app: AppName, tenant: TenantName, rate: u64) -> Arc<Volume> {
        let mut known = lock(&self.known);
        if let Some(volume) = known.volumes.get(&app) {
            lock(&volume.allowance).change(rate);
            return Arc::clone(volume);
        }
        let before = known.lanes.get(&tenant).and_then(Weak::upgrade);
        let lane = before.unwrap_or_default();
        known.lanes.insert(tenant, Arc::downgrade(&lane));
        let volume = Arc::new(Volume {
            app: app.clone(),
            allowance: Mutex::new(Allowance::new(rate, now())),
            lane,
            dropped: AtomicU64::new(0),
            reported: Mutex::default(),
        });
        known.volumes.insert(app, Arc::clone(&volume));
        volume
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
        if !self.out.send(record.finish(), None) {
            self.out.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Reports what was dropped since the last call, if anything was: of the
    /// worker's own records, and of those of each app. To be called now and
    /// then.
    pub(crate) fn report_dropped(&self) {
        let dropped = self.out.dropped.swap(0, Relaxed);
        if dropped > 0
            && let Some(record) = self.record(LogLevel::Warn, "log.dropped")
        {
            self.write(record.number("records", dropped));
        }
        let now = now();
        let mut known = lock(&self.known);
        known.volumes.retain(|_, volume| {
            // Asked first: what is dropped after that is of a handler that is
            // there.
            let is_gone = Arc::strong_count(volume) == 1;
            if let Some(dropped) = volume.to_report(now)
                && let Some(record) = self.record(LogLevel::Warn, "log.dropped")
            {
                let record = record.text("app", volume.app.as_str());
                self.write(record.number("records", dropped));
            }
            !is_gone || volume.dropped.load(Relaxed) > 0
        });
        known.lanes.retain(|_, lane| lane.strong_count() > 0);
    }
}

/// The lines that one app's guests write.
#[derive(Debug)]
pub(crate) struct AppLog {
    log: Log,
    tenant: TenantName,
    revision: Revision,
    volume: Arc<Volume>,
}

impl AppLog {
    pub(crate) fn new(log: Log, of: AppIs, rate: u64) -> Self {
        Self {
            volume: log.volume(of.app, of.tenant.clone(), rate),
            tenant: of.tenant,
            revision: of.revision,
            log,
        }
    }

    /// The app's owner.
    pub(crate) fn tenant(&self) -> &str {
        self.tenant.as_str()
    }

    /// Begins a record about this app, within its rate.
    pub(crate) fn record(&self, level: LogLevel, name: &str) -> Option<Record> {
        let record = self.log.record(level, name)?;
        if !self.volume.is_open() {
            self.volume.drop_one();
            return None;
        }
        Some(
            record
                .text("app", self.volume.app.as_str())
                .number("revision", self.revision),
        )
    }

    pub(crate) fn write(&self, record: Record) {
        let line = record.finish();
        self.volume.spend(line.len());
        if !self.log.out.send(line, Some(&self.volume.lane)) {
            self.volume.drop_one();
        }
    }
}

/// Whose log it is.
pub(crate) struct AppIs {
    pub(crate) app: AppName,
    pub(crate) tenant: TenantName,
    pub(crate) revision: Revision,
}

/// What one app may write on this worker, all its handlers together.
#[derive(Debug)]
struct Volume {
    app: AppName,
    allowance: Mutex<Allowance>,
    lane: Arc<Lane>,
    dropped: AtomicU64,
    /// When the last drops were reported.
    reported: Mutex<Option<Moment>>,
}

impl Volume {
    fn is_open(&self) -> bool {
        lock(&self.allowance).is_open(now())
    }

    fn spend(&self, bytes: usize) {
        lock(&self.allowance).spend(bytes);
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// How many were dropped, if it is time to say so.
    fn to_report(&self, now: Moment) -> Option<u64> {
        let mut reported = lock(&self.reported);
        if reported.is_some_and(|then| now.since(then) < REPORT) {
            return None;
        }
        let dropped = self.dropped.swap(0, Relaxed);
        if dropped == 0 {
            return None;
        }
        *reported = Some(now);
        Some(dropped)
    }
}

/// Bytes that wait for stderr: of a tenant, or of all.
#[derive(Debug, Default)]
struct Lane(AtomicUsize);

impl Lane {
    /// Whether there was room for so many, or they `must` enter.
    fn enter(&self, bytes: usize, limit: usize, must: bool) -> bool {
        let room = must || self.0.load(Relaxed) + bytes <= limit;
        if room {
            self.0.fetch_add(bytes, Relaxed);
        }
        room
    }

    fn leave(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Relaxed);
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

fn now() -> Moment {
    Moment::after_origin(clock::monotonic())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves it consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use skep_core::LogFormat;

    use super::*;

    #[test]
    fn an_apps_handlers_share_its_rate_and_what_is_over_is_told_once_in_a_while() {
        let spec = LogSpec {
            format: LogFormat::Text,
            level: LogLevel::Info,
        };
        let log = Log::new(spec, WorkerId(1));
        let app_log = |revision| {
            let of = AppIs {
                app: AppName::new("a").unwrap(),
                tenant: TenantName::new("t").unwrap(),
                revision: Revision(revision),
            };
            AppLog::new(log.clone(), of, 100)
        };
        let (one, two) = (app_log(1), app_log(2));
        assert!(Arc::ptr_eq(&one.volume, &two.volume));
        assert!(one.record(LogLevel::Info, "app.log").is_some());
        one.volume.spend(100_000);
        for _ in 0..3 {
            assert!(two.record(LogLevel::Info, "app.log").is_none());
        }
        // Not wanted at this level anyway.
        assert!(two.record(LogLevel::Debug, "app.log").is_none());

        let at = |seconds| Moment::after_origin(Duration::from_secs(seconds));
        assert_eq!(one.volume.to_report(at(100)), Some(3));
        two.volume.drop_one();
        assert_eq!(one.volume.to_report(at(109)), None);
        assert_eq!(one.volume.to_report(at(110)), Some(1));
        assert_eq!(one.volume.to_report(at(200)), None);

        drop((one, two));
        log.report_dropped();
        assert!(lock(&log.known).volumes.is_empty());
    }
}
