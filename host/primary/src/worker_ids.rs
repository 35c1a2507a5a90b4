//! Workers' numbers, which go on after a restart: one names one worker for ever.
//!
//! ```text
//! STATE_DIR/last-worker  no number up to this one is given again
//! ```
//! The number there is ahead of those that are given, so that nothing is written
//! when a worker is born; an orderly end brings it back. A primary that is killed
//! leaves numbers out and repeats none.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use skep_core::{LogLevel, WorkerId};
use skep_sys::plain;

use crate::journal::Journal;
use crate::scribe::{Scribe, chain};
use crate::store::{Store, StoreError};

/// The file's name.
pub(crate) const FILE: &str = "last-worker";

/// Numbers that are ahead of the last one given, when it is written.
const AHEAD: u64 = 100;

/// How many of them must be left.
const LEFT: u64 = 50;

/// Bytes of a number and a newline.
const MAX_NUMBER: u64 = 32;

/// How far numbers are given and written down.
#[derive(Debug, Default)]
pub(crate) struct WorkerIds {
    last: AtomicU64,
    written: AtomicU64,
}

impl Scribe {
    /// Reads where the numbers of workers go on, and writes the next ones down.
    pub(crate) async fn open_worker_ids(&self) {
        let read = self.with_store(|store| {
            let last = read(&store.state_dir().join(FILE));
            // A number that large was not written by us, and leaves no others.
            let last = last.ok().filter(|last| *last < u64::MAX / 2);
            let last = last.unwrap_or_else(unreadable);
            (last, save(store, last + AHEAD))
        });
        let (last, saved) = read.await.unwrap_or((0, Ok(())));
        tell(self.journal(), saved);
        self.worker_ids().last.store(last, Relaxed);
        self.worker_ids().written.store(last + AHEAD, Relaxed);
    }

    /// The first number that no worker was ever given.
    pub(crate) fn first_worker(&self) -> WorkerId {
        WorkerId(self.worker_ids().last.load(Relaxed) + 1)
    }

    /// A worker was given a number.
    pub(crate) fn worker_given(&self, worker: WorkerId) {
        let ids = self.worker_ids();
        let last = ids.last.fetch_max(worker.0, Relaxed).max(worker.0);
        if last + LEFT > ids.written.load(Relaxed) {
            ids.written.store(last + AHEAD, Relaxed);
            let saved = self.with_store(move |store| save(store, last + AHEAD));
            let journal = self.journal().clone();
            tokio::spawn(async move { tell(&journal, saved.await.unwrap_or(Ok(()))) });
        }
    }

    /// No more numbers will be given: the next start goes on with the next.
    pub(crate) fn close_worker_ids(&self) {
        let last = self.worker_ids().last.load(Relaxed);
        // What fails leaves numbers out.
        drop(self.with_store(move |store| save(store, last)));
    }
}

fn read(path: &Path) -> io::Result<u64> {
    let file = match plain::file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut text = String::new();
    file.take(MAX_NUMBER).read_to_string(&mut text)?;
    let number = text.trim().parse();
    number.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Where to go on if the number is lost: seconds since 1970 are more than the
/// workers of any host until now.
fn unreadable() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn save(store: &Store, last: u64) -> Result<(), StoreError> {
    store.save_text(FILE, &format!("{last}\n"))
}

fn tell(journal: &Journal, saved: Result<(), StoreError>) {
    if let Err(error) = saved {
        journal.event(LogLevel::Warn, "worker.unnumbered", |line| {
            line.text("reason", &chain(&error))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_and_nonsense_is_not_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(&path).unwrap(), 0);
        let store = Store::open(dir.path()).unwrap();
        save(&store, 4711).unwrap();
        assert_eq!(read(&path).unwrap(), 4711);
        for nonsense in ["", "-1", "x", &"9".repeat(40)] {
            std::fs::write(&path, nonsense).unwrap();
            assert!(read(&path).is_err(), "{nonsense}");
        }
        assert!(unreadable() > 1_700_000_000);
    }
}
