//! Several calls of `wasi:http/handler@0.3` at a time on one instance.
//!
//! Each instance has a task of its own, and runs at once when it is given a call, which
//! it is for as long as the policy allows:
//!
//! ```text
//!  instance: open ──▶ closed (spent, idle, retired, a call failed or was given up)
//!      call: queued ──▶ answering ──▶ leaving ──▶ gone ──▶ told
//!                       handler runs  its task     nothing of it is
//!                                     goes on      in the event loop
//! ```
//!
//! The instance ends when it is closed and no call is on it. The blast radius is
//! what `concurrent` says: when one call traps, the others on its instance fail
//! too.
//!
//! A guest's tasks cannot be cancelled one by one, so for a shared instance
//! - the CPU budget is that of the instance and renewed with each call that it
//!   takes, which it only does while it is not computing;
//! - a call that is given up makes its instance take no more. What its guest does
//!   for it goes on until the others have ended, each at the latest at its own
//!   deadline.

use std::future::Future as _;
use std::hash::{Hash as _, Hasher};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use skep_core::{InstancePolicy, Outcome};
use tokio::time::Sleep;
use wasmtime::AsContextMut as _;
use wasmtime::component::{Accessor, GuestTaskId};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use crate::blueprint::Blueprint;
use crate::fault::verdict;
use crate::guest::{self, Guest};
use crate::instances::InstanceCounts;
use crate::meter::Meter;
use crate::p3::{self, Answered, Asked, Quiet};
use crate::places::{Occupied, Places};
use crate::world::{Job, Reception};

/// A handler whose instances answer several calls at a time.
pub(crate) struct SharedInstances {
    blueprint: Arc<Blueprint>,
    pub(crate) pre: ServicePre<Guest>,
    instances: Mutex<Vec<Arc<Places>>>,
    /// Whether instances are kept no longer.
    retired: AtomicBool,
    made: AtomicU64,
    calls: AtomicU64,
}

impl SharedInstances {
    pub(crate) fn new(blueprint: &Arc<Blueprint>, pre: ServicePre<Guest>) -> Arc<Self> {
        Arc::new(Self {
            blueprint: Arc::clone(blueprint),
            pre,
            instances: Mutex::default(),
            retired: AtomicBool::new(false),
            made: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        })
    }

    /// What became of its instances.
    pub(crate) fn counts(&self) -> InstanceCounts {
        let made = self.made.load(Relaxed);
        InstanceCounts {
            made,
            reused: self.calls.load(Relaxed).saturating_sub(made),
            idle: 0,
        }
    }

    /// Lets the instances end with the calls that they have.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        for places in self.instances().drain(..) {
            places.close();
        }
    }

    fn instances(&self) -> MutexGuard<'_, Vec<Arc<Places>>> {
        // Whole at every step.
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a call a place on an instance with room, or on a new one.
    pub(crate) fn take(self: &Arc<Self>, job: Job) {
        Meter::charge_overhead(&self.blueprint.share);
        // A worker is one thread: nothing comes in between, here and below.
        self.calls.store(self.calls.load(Relaxed) + 1, Relaxed);
        self.place(job);
    }

    fn place(self: &Arc<Self>, job: Job) {
        let policy = &self.blueprint.setup.instance;
        let mut instances = self.instances();
        instances.retain(|places| places.is_open());
        if let Some(places) = instances.iter().find(|places| places.has_room(policy)) {
            let places = Arc::clone(places);
            drop(instances);
            places.take(job);
            places.run();
            return;
        }
        self.made.store(self.made.load(Relaxed) + 1, Relaxed);
        let request_id = Arc::clone(&job.request_id);
        let places = Places::new();
        places.take(job);
        if self.retired.load(Relaxed) {
            places.close();
        } else {
            instances.push(Arc::clone(&places));
        }
        drop(instances);
        places.live(Box::pin(live(
            Arc::downgrade(self),
            Arc::clone(&self.blueprint),
            self.pre.clone(),
            Occupied(Arc::clone(&places)),
            request_id,
        )));
    }
}

impl Drop for SharedInstances {
    fn drop(&mut self) {
        self.retire();
    }
}

/// The life of one shared instance.
async fn live(
    shared: Weak<SharedInstances>,
    blueprint: Arc<Blueprint>,
    pre: ServicePre<Guest>,
    occupied: Occupied,
    request_id: Arc<str>,
) {
    let setup = &blueprint.setup;
    let places = &*occupied.0;
    let mut store = match Guest::store(&blueprint, request_id) {
        Ok(store) => store,
        Err(refused) => {
            for job in occupied.end(None) {
                job.reception.ended(refused.clone());
            }
            return;
        }
    };
    let quiet = Quiet::default();
    let begun = AtomicU32::new(0);
    let result = {
        let life = async {
            let proxy = pre.instantiate_async(&mut store).await?;
            store.set_epoch_deadline(1);
            let serve = async |accessor: &Accessor<Guest>| {
                let mut instance = Instance {
                    accessor,
                    proxy: &proxy,
                    places,
                    quiet: &quiet,
                    policy: &setup.instance,
                    begun: &begun,
                    answering: FuturesUnordered::new(),
                    leaving: Vec::new(),
                    idle: None,
                };
                std::future::poll_fn(|cx| instance.poll(cx)).await
            };
            store.run_concurrent(serve).await?
        };
        let mut life = pin!(life);
        let mut meter = Meter::new(&blueprint.share, blueprint.clock, setup.cpu);
        let mut renewed = 0;
        std::future::poll_fn(|cx| {
            // Out here, because a busy store polls nothing inside.
            if places.look(cx) {
                return Poll::Ready(Ok(()));
            }
            let now = begun.load(Relaxed);
            if std::mem::replace(&mut renewed, now) != now {
                meter.renew();
            }
            meter.poll(cx, |cx| quiet.poll_loop(life.as_mut(), cx))
        })
        .await
    };
    let Err(error) = result else {
        return;
    };
    let verdict = verdict(&error, Some(&store.data().ledger));
    drop(store);
    let queue = occupied.end(Some(&verdict));
    let again = shared.upgrade().filter(|_| begun.load(Relaxed) > 0);
    for job in queue {
        match &again {
            // It was the others' fault.
            Some(shared) => shared.place(job),
            None => job.reception.ended(verdict.clone()),
        }
    }
}

type Answering<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<Left>> + Send + 'a>>;

/// A call whose handler has answered.
struct Left {
    answered: Answered,
    reception: Arc<dyn Reception>,
    stage: Stage,
}

/// How far a call is whose handler has answered.
enum Stage {
    /// Its task goes on.
    Working,
    /// Its task is over.
    Over,
    /// What was there of its answer then was taken. That makes room for more, so no
    /// more is taken until the loop is quiet.
    Taken(Asked),
}

impl Left {
    /// Ends the call, of whose task nothing is left, if it can be said how.
    fn is_told(&self, places: &Places, is_quiet: bool) -> bool {
        let verdict = match self.answered.verdict.outcome {
            Outcome::Ok => self.reception.returned(is_quiet),
            _ => Some(self.answered.verdict.clone()),
        };
        if let Some(verdict) = verdict {
            places.end(&self.reception, verdict);
            return true;
        }
        false
    }
}

/// What runs within the event loop of a store.
struct Instance<'a> {
    accessor: &'a Accessor<Guest>,
    proxy: &'a Service,
    places: &'a Places,
    quiet: &'a Quiet,
    policy: &'a InstancePolicy,
    /// Calls that the guest was asked.
    begun: &'a AtomicU32,
    answering: FuturesUnordered<Answering<'a>>,
    leaving: Vec<Left>,
    /// Ends it when nobody has come for long.
    idle: Option<Pin<Box<Sleep>>>,
}

impl Instance<'_> {
    /// Polled again after whatever the guest did. Ends when the instance does.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<wasmtime::Result<()>> {
        self.accessor
            .with(|mut access| guest::weigh_if_due(&mut access.as_context_mut()))?;
        while let Poll::Ready(Some(left)) = self.answering.poll_next_unpin(cx) {
            self.leaving.push(left?);
        }
        self.see_off(cx);
        self.welcome();
        // Those that have just come are asked now.
        while let Poll::Ready(Some(left)) = self.answering.poll_next_unpin(cx) {
            self.leaving.push(left?);
        }
        self.poll_idle(cx).map(Ok)
    }

    /// Ends the calls of which nothing is left.
    fn see_off(&mut self, cx: &Context<'_>) {
        if self.leaving.is_empty() {
            return;
        }
        let accessor = self.accessor;
        accessor.with(|mut access| {
            let mut store = access.as_context_mut();
            let Some(table) = store.concurrent_resource_table() else {
                return;
            };
            for left in &mut self.leaving {
                if matches!(left.stage, Stage::Working)
                    && table.get_any_mut(index_of(left.answered.task)).is_err()
                {
                    left.stage = Stage::Over;
                }
            }
        });
        let (places, before) = (self.places, self.leaving.len());
        let quiet = self.quiet;
        self.leaving.retain_mut(|left| {
            let is_quiet = match &mut left.stage {
                Stage::Working => return true,
                Stage::Over => false,
                Stage::Taken(asked) => match asked.poll(quiet, cx) {
                    Poll::Pending => return true,
                    Poll::Ready(()) => true,
                },
            };
            if left.is_told(places, is_quiet) {
                return false;
            }
            left.stage = Stage::Taken(Asked::default());
            cx.waker().wake_by_ref();
            true
        });
        if self.leaving.len() < before {
            self.name_request();
        }
    }

    /// Asks the guest what it has not been asked.
    fn welcome(&mut self) {
        while let Some(job) = self.places.next() {
            self.begun.fetch_add(1, Relaxed);
            let (accessor, proxy) = (self.accessor, self.proxy);
            let reception = Arc::clone(&job.reception);
            self.name_request();
            self.answering.push(Box::pin(async move {
                let answered = p3::answer(accessor, proxy, job).await?;
                Ok(Left {
                    answered,
                    reception,
                    stage: Stage::Working,
                })
            }));
        }
    }

    /// What the guest writes is for some call, and it cannot be told for which
    /// unless there is but one.
    fn name_request(&self) {
        let request = self.places.only_request().unwrap_or_default();
        self.accessor
            .with(|mut access| access.get().set_request(request));
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.places.is_empty() {
            self.idle = None;
            return Poll::Pending;
        }
        let reuse = self.policy.reuse;
        if self.places.close_empty(reuse, false) {
            return Poll::Ready(());
        }
        let idle = self.policy.idle;
        let timer = self
            .idle
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if timer.as_mut().poll(cx).is_ready() && self.places.close_empty(reuse, true) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Where a task is in its store's table: gone from there once it has exited.
/// wasmtime says so only of all tasks of a store together.
fn index_of(task: GuestTaskId) -> u32 {
    struct Index(u32);

    impl Hasher for Index {
        fn write(&mut self, _: &[u8]) {}

        fn write_u32(&mut self, index: u32) {
            self.0 = index;
        }

        fn finish(&self) -> u64 {
            self.0.into()
        }
    }

    let mut index = Index(u32::MAX);
    task.hash(&mut index);
    index.0
}
