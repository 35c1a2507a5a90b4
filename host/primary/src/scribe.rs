//! Writing down what must outlive the primary, in order and beside its loop.
//!
//! A thread of its own does one thing after the other, because a flush to disk
//! may take long and because two writers of one app's history would overtake
//! each other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_core::history::History;
use skep_core::{AppName, LogLevel};
use skep_wire::SweptFiles;
use tokio::sync::oneshot;

use crate::artifacts::{Digest, Workshop};
use crate::journal::Journal;
use crate::store::{Store, StoreError};
use crate::sweep::Extent;
use crate::worker_ids::WorkerIds;

/// How long what still is to be written may take at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// What is to be written down together.
#[derive(Debug)]
pub(crate) struct Writing {
    /// The app.
    pub(crate) app: AppName,
    /// Its revisions.
    pub(crate) history: History,
    /// A component to be kept first, with its digest.
    pub(crate) component: Option<(PathBuf, Digest)>,
}

type Job = Box<dyn FnOnce(&Store) + Send>;

/// The way to the thread that writes. Clones lead to the same.
#[derive(Clone)]
pub(crate) struct Scribe {
    store: Store,
    journal: Journal,
    jobs: mpsc::Sender<Job>,
    /// Whether a sweep is among the jobs.
    sweep_waits: Arc<AtomicBool>,
    worker_ids: Arc<WorkerIds>,
}

impl std::fmt::Debug for Scribe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scribe")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Scribe {
    /// Starts the thread.
    pub(crate) fn start(store: Store, journal: Journal) -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let writer = store.clone();
        std::thread::spawn(move || {
            for job in inbox {
                job(&writer);
            }
        });
        Self {
            store,
            journal,
            jobs,
            sweep_waits: Arc::default(),
            worker_ids: Arc::default(),
        }
    }

    /// Writes, after what was given before. It is done whether or not the
    /// result is awaited.
    pub(crate) fn write(
        &self,
        writing: Writing,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let done = self.ask(move |store| write(store, &writing).map_err(|error| chain(&error)));
        async move {
            done.await
                .unwrap_or_else(|| Err("skep is ending".to_owned()))
        }
    }

    /// Keeps a component, if it is not kept yet.
    pub(crate) fn keep(
        &self,
        component: PathBuf,
        digest: Digest,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let done =
            self.ask(move |store| keep(store, &component, digest).map_err(|error| chain(&error)));
        async move {
            done.await
                .unwrap_or_else(|| Err("skep is ending".to_owned()))
        }
    }

    /// The history of an app, as it is on disk. One that cannot be read is moved
    /// aside and told of; what can be made out of it is the history then.
    pub(crate) fn read(&self, app: AppName) -> impl Future<Output = History> + Send + 'static {
        let journal = self.journal.clone();
        let read = self.ask(move |store| read(store, &app, &journal));
        async move { read.await.unwrap_or_default() }
    }

    /// Does what takes the disk's time, after what was given before; `None` if skep
    /// ends before.
    pub(crate) fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        self.ask(work)
    }

    /// Sweeps the state directory, after what was given before; `None` if skep
    /// ends before.
    pub(crate) fn sweep(
        &self,
        workshop: &Workshop,
        extent: Extent,
    ) -> impl Future<Output = Option<Result<SweptFiles, String>>> + Send + 'static {
        let sweeper = workshop.sweeper();
        self.ask(move |store| sweeper.sweep(store, extent))
    }

    /// Sweeps as [`Self::sweep`] does; `None` also if another sweep is about to
    /// begin, which does for both.
    pub(crate) fn sweep_soon(
        &self,
        workshop: &Workshop,
        extent: Extent,
    ) -> impl Future<Output = Option<Result<SweptFiles, String>>> + Send + 'static {
        let waits = Arc::clone(&self.sweep_waits);
        let swept = (!waits.swap(true, Ordering::Relaxed)).then(|| {
            let sweeper = workshop.sweeper();
            self.ask(move |store| {
                waits.store(false, Ordering::Relaxed);
                sweeper.sweep(store, extent)
            })
        });
        async move { swept?.await }
    }

    /// Where the component of a revision is.
    pub(crate) fn component_path(&self, digest: &str) -> Option<PathBuf> {
        let digest = digest.parse().ok()?;
        Some(self.store.component_path(digest))
    }

    /// Where events of what is written go.
    pub(crate) const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// How far workers are numbered.
    pub(crate) fn worker_ids(&self) -> &WorkerIds {
        &self.worker_ids
    }

    /// Waits until everything was written, but not for ever.
    pub(crate) fn finish(self) {
        self.close_worker_ids();
        let (done, waiting) = mpsc::channel();
        let _ = self.jobs.send(Box::new(move |_| {
            let _ = done.send(());
        }));
        let _ = waiting.recv_timeout(FLUSH_DEADLINE);
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        // The thread lives as long as we do.
        let _ = self.jobs.send(Box::new(move |store| {
            let _ = answer.send(job(store));
        }));
        async move { answered.await.ok() }
    }
}

fn write(store: &Store, writing: &Writing) -> Result<(), StoreError> {
    if let Some((path, digest)) = &writing.component {
        keep(store, path, *digest)?;
    }
    store.save(&writing.app, &writing.history)
}

fn keep(store: &Store, path: &Path, digest: Digest) -> Result<(), StoreError> {
    let file = File::open(path).map_err(|source| StoreError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    store.keep_component(&file, digest)
}

fn read(store: &Store, app: &AppName, journal: &Journal) -> History {
    let error = match store.load(app) {
        Ok(history) => return history,
        Err(error) => error,
    };
    // Whatever is wrong with it: nothing may be written over it.
    let aside = store.set_aside(app).ok();
    let salvaged = aside.as_deref().and_then(|path| store.salvage(path));
    // At once: another start is to find it.
    let unsaved = salvaged
        .as_ref()
        .and_then(|history| store.save(app, history).err());
    let kept = salvaged.as_ref().map_or_else(
        || "nothing".to_owned(),
        |history| {
            let active = history.active().map_or_else(
                || "none active".to_owned(),
                |active| format!("{active} active"),
            );
            format!(
                "{} revisions, {active}, the next is {}{}",
                history.revisions().len(),
                history.next(),
                if history.paused() { ", paused" } else { "" }
            )
        },
    );
    journal.event(LogLevel::Error, "app.history_lost", |line| {
        let line = line
            .text("app", app.as_str())
            .text("reason", &chain(&error))
            .text("kept", &kept);
        let line = match &unsaved {
            Some(error) => line.text("unsaved", &chain(error)),
            None => line,
        };
        match &aside {
            Some(aside) => line.text("moved_to", &aside.to_string_lossy()),
            None => line,
        }
    });
    salvaged.unwrap_or_default()
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
