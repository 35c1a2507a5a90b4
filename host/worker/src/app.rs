//! One handler of an app, loaded in this worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use skep_core::{AppLimits, AppName, HandlerId, Outcome};
use skep_engine::Handler;
use tokio::sync::{Notify, mpsc};

use crate::admission::{Admission, Permit};
use crate::counts::Counts;
use crate::log::AppLog;
use crate::news::News;

/// One handler of an app. It lives for as long as something of it is in
/// flight; its end is news.
pub(crate) struct App {
    pub(crate) id: HandlerId,
    pub(crate) name: AppName,
    pub(crate) handler: Handler,
    pub(crate) strip_prefix: bool,
    pub(crate) limits: AppLimits,
    pub(crate) log: Arc<AppLog>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counts: Counts,
    /// Requests that were routed here and have not ended.
    in_flight: AtomicU32,
    cut: AtomicBool,
    told: Notify,
    news: mpsc::UnboundedSender<News>,
}

/// What an app is, besides its handler.
pub(crate) struct Setting {
    pub(crate) id: HandlerId,
    pub(crate) name: AppName,
    pub(crate) strip_prefix: bool,
    pub(crate) limits: AppLimits,
    pub(crate) log: Arc<AppLog>,
    pub(crate) admission: Arc<Admission>,
}

impl App {
    pub(crate) fn new(
        handler: Handler,
        setting: Setting,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        Self {
            id: setting.id,
            name: setting.name,
            handler,
            strip_prefix: setting.strip_prefix,
            limits: setting.limits,
            log: setting.log,
            admission: setting.admission,
            counts: Counts::new(),
            in_flight: AtomicU32::new(0),
            cut: AtomicBool::new(false),
            told: Notify::new(),
            news,
        }
    }

    /// The right to call, at once or after a wait. A request waits no longer
    /// than it may take: having used up its time it could not be answered any
    /// more.
    pub(crate) async fn admit(&self) -> Result<Permit, Outcome> {
        if let Some(permit) = self.admission.try_admit() {
            return Ok(permit);
        }
        let cut = self.told.notified();
        if self.cut.load(Relaxed) {
            return Err(Outcome::Deadline);
        }
        tokio::select! {
            biased;
            permit = self.admission.wait(self.limits.timeout) => permit,
            () = cut => Err(Outcome::Deadline),
        }
    }

    /// A request is this handler's from now on.
    pub(crate) fn request_began(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A request of this handler's has ended.
    pub(crate) fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Ends everything that is in flight; says how much that is.
    pub(crate) fn cut(&self) -> u32 {
        self.cut.store(true, Relaxed);
        self.told.notify_waiters();
        self.handler.cut();
        self.in_flight.load(Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Nobody listens any more when the worker itself ends.
        let _ = self.news.send(News::Gone {
            handler: self.id,
            made: self.handler.instances().made,
        });
    }
}
