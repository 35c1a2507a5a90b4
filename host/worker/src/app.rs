//! One loaded app and the right to call it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use skep_core::Outcome;
use skep_engine::Handler;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::log::AppLog;

/// One loaded app.
pub(crate) struct App {
    pub(crate) handler: Handler,
    pub(crate) strip_prefix: bool,
    pub(crate) max_body: u64,
    pub(crate) log: Arc<AppLog>,
    /// Calls at one time, this worker's share.
    permits: Arc<Semaphore>,
    waiting: AtomicU32,
    queue: u32,
    /// Longest wait for a permit: a request that has used up its time waiting
    /// could not be answered any more.
    patience: Duration,
}

/// What an app is loaded with, besides its handler.
pub(crate) struct Admission {
    /// Calls at one time, this worker's share; at least 1.
    pub(crate) concurrency: u32,
    /// Requests that may wait, this worker's share.
    pub(crate) queue: u32,
    /// Longest wait.
    pub(crate) patience: Duration,
}

impl App {
    pub(crate) fn new(
        handler: Handler,
        strip_prefix: bool,
        max_body: u64,
        log: Arc<AppLog>,
        admission: &Admission,
    ) -> Self {
        Self {
            handler,
            strip_prefix,
            max_body,
            log,
            permits: Arc::new(Semaphore::new(admission.concurrency.max(1) as usize)),
            waiting: AtomicU32::new(0),
            queue: admission.queue,
            patience: admission.patience,
        }
    }

    /// The right to call, at once or after a wait in a queue that is bounded
    /// in length and in time.
    pub(crate) async fn admit(&self) -> Result<OwnedSemaphorePermit, Outcome> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        if self.waiting.load(Relaxed) >= self.queue {
            return Err(Outcome::QueueFull);
        }
        let _place = Place::take(&self.waiting);
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(self.patience, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Outcome::QueueFull),
        }
    }
}

/// A place in the queue; given back also when the client goes while it waits.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
