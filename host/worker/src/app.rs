//! One handler of an app, loaded in this worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use skep_core::{AppLimits, AppName, HandlerId, Outcome};
use skep_engine::Handler;
use skep_sys::{Register, Sole as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::admission::{Admission, Permit, Place};
use crate::budget::{Budget, Call, Column, Origin};
use crate::counts::Counts;
use crate::log::AppLog;
use crate::news::News;
use crate::register::{Queued, UseTold};
use crate::upload::Upload;

/// One handler of an app. It lives for as long as a request of it is in flight;
/// its end is reported as [`News`].
pub(crate) struct App {
    pub(crate) id: HandlerId,
    pub(crate) name: AppName,
    pub(crate) handler: Handler,
    pub(crate) strip_prefix: bool,
    pub(crate) limits: AppLimits,
    pub(crate) log: Arc<AppLog>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counts: Counts,
    use_told: UseTold,
    /// Requests that were routed here and have not ended.
    in_flight: AtomicU32,
    cut: AtomicBool,
    told: Notify,
    news: mpsc::UnboundedSender<News>,
}

/// The right to call an app, until it is dropped: what its budgets and its
/// tenant's gave for this one call.
pub(crate) struct Admitted {
    _permit: Permit,
    _call: Option<Call>,
}

/// What an app is, besides its handler.
pub(crate) struct Setting {
    pub(crate) id: HandlerId,
    pub(crate) name: AppName,
    pub(crate) strip_prefix: bool,
    pub(crate) limits: AppLimits,
    pub(crate) log: Arc<AppLog>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) register: Arc<Register>,
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
            use_told: UseTold::new(setting.register),
            in_flight: AtomicU32::new(0),
            cut: AtomicBool::new(false),
            told: Notify::new(),
            news,
        }
    }

    /// The right to call, at once or after a wait. A request waits no longer
    /// than its own timeout, after which it could not be answered any more.
    pub(crate) async fn admit(
        &self,
        budget: &Budget,
        on: &Column,
        origin: Origin,
    ) -> Result<Admitted, Outcome> {
        let permit = match self.admission.try_admit(origin) {
            Some(permit) => match budget.try_begin(on) {
                Ok(call) => return Ok(Admitted::new(permit, call)),
                Err(_) => Some(permit),
            },
            None => None,
        };
        self.unless_cut(self.wait(permit, budget, on, origin)).await
    }

    /// First the app's permit and then its tenant's call: the other way round,
    /// requests that wait for one app would hold what the tenant's others could
    /// use. Both waits together are bounded by the app's queue and its timeout.
    async fn wait(
        &self,
        permit: Option<Permit>,
        budget: &Budget,
        on: &Column,
        origin: Origin,
    ) -> Result<Admitted, Outcome> {
        let over = |_| Outcome::TenantOverBudget;
        let _queued = Queued::say(&on.register, budget.row());
        let until = Instant::now() + self.limits.timeout;
        let permit = match permit {
            Some(permit) => permit,
            None => self.admission.admit(origin, until).await?,
        };
        if let Ok(call) = budget.try_begin(on) {
            return Ok(Admitted::new(permit, call));
        }
        let mut place = self.admission.aside(origin).map_err(over)?;
        tokio::select! {
            biased;
            call = budget.wait(on, origin, until) => Ok(Admitted::new(permit, call?)),
            () = place.displaced() => Err(Outcome::TenantOverBudget),
        }
    }

    /// What `first` gives, while the request has a place and no permit: for the
    /// first part of a body, before which a guest could do nothing but hold an
    /// instance. Afterwards it is to be [admitted](Self::admit) like any other.
    ///
    /// There are as many such places as requests that may run and wait, shared
    /// between clients as the queue is.
    pub(crate) async fn gather<T>(
        &self,
        origin: Origin,
        first: impl Future<Output = T>,
    ) -> Result<T, Outcome> {
        let mut place: Place = self.admission.gather(origin)?;
        self.unless_cut(async {
            tokio::select! {
                biased;
                first = first => Ok(first),
                () = place.displaced() => Err(Outcome::QueueFull),
            }
        })
        .await
    }

    /// The watch over the pace of a request's body, once it was admitted.
    pub(crate) fn upload(&self) -> Upload {
        Upload::new(&self.admission)
    }

    /// What `waits` gives, unless everything in flight is ended.
    async fn unless_cut<T>(
        &self,
        waits: impl Future<Output = Result<T, Outcome>>,
    ) -> Result<T, Outcome> {
        let cut = self.told.notified();
        if self.cut.load(Relaxed) {
            return Err(Outcome::Deadline);
        }
        tokio::select! {
            biased;
            done = waits => done,
            () = cut => Err(Outcome::Deadline),
        }
    }

    /// What its guests use is told in this row of the register from now on.
    pub(crate) fn told_in(&self, row: u32) {
        self.use_told.move_to(row);
    }

    /// Brings the register up to date with what its guests use. At the end of
    /// each request, and about every half second.
    pub(crate) fn tell_use(&self) {
        self.use_told.tell(self.handler.usage());
    }

    /// A request is this handler's from now on.
    pub(crate) fn request_began(&self) {
        self.in_flight.add(1);
    }

    /// A request of this handler's has ended.
    pub(crate) fn request_ended(&self) {
        self.in_flight.sub(1);
    }

    /// Ends everything that is in flight; says how much that is.
    pub(crate) fn cut(&self) -> u32 {
        let in_flight = self.in_flight.load(Relaxed);
        self.cut.store(true, Relaxed);
        self.told.notify_waiters();
        self.handler.cut();
        in_flight
    }
}

impl Admitted {
    fn new(permit: Permit, call: Option<Call>) -> Self {
        Self {
            _permit: permit,
            _call: call,
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.use_told.end(self.handler.usage());
        // Fails when the worker itself ends.
        let _ = self.news.send(News::Gone {
            handler: self.id,
            made: self.handler.instances().made,
        });
    }
}
