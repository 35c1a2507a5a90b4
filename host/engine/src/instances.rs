//! A handler's instances: made for a call, or kept from an earlier one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use skep_core::{InstancePolicy, Outcome};
use wasmtime::Store;

use crate::blueprint::Blueprint;
use crate::fault::{Verdict, verdict};
use crate::guest::Guest;
use crate::world::{Job, World};

/// What became of instances, for the scoreboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCounts {
    /// Instances made.
    pub made: u64,
    /// Calls that found an instance waiting.
    pub reused: u64,
    /// Instances that wait now.
    pub idle: usize,
}

/// One instance with its store.
struct Instance<P> {
    store: Store<Guest>,
    proxy: P,
    /// Calls that it has answered.
    used: u32,
    /// What it held when it had answered the first of them.
    held: usize,
}

impl<P> Instance<P> {
    /// Whether it has gathered more with each call, which would fill its tables in
    /// the end.
    fn leaks(&mut self) -> bool {
        let held = Guest::resources(&mut self.store);
        if self.used == 1 {
            self.held = held;
        }
        held > self.held + KEPT
    }
}

/// Resources that an instance may take for itself after its first call: a stream
/// for its first line of output, say.
const KEPT: usize = 8;

struct Waiting<P> {
    instance: Instance<P>,
    since: Instant,
}

/// A handler whose instances answer one call at a time.
pub(crate) struct Instances<W: World> {
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) world: W,
    /// Idle instances, newest last.
    waiting: Mutex<Vec<Waiting<W::Proxy>>>,
    /// Whether instances are kept no longer.
    retired: AtomicBool,
    made: AtomicU64,
    reused: AtomicU64,
}

impl<W: World> Instances<W> {
    pub(crate) fn new(blueprint: &Arc<Blueprint>, world: W) -> Arc<Self> {
        Arc::new(Self {
            blueprint: Arc::clone(blueprint),
            world,
            waiting: Mutex::new(Vec::new()),
            retired: AtomicBool::new(false),
            made: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        })
    }

    /// Runs one call to its end.
    pub(crate) async fn run(self: Arc<Self>, job: Job) -> Verdict {
        let mut instance = match self.obtain(&job.request_id).await {
            Ok(instance) => instance,
            Err(verdict) => return verdict,
        };
        instance.store.set_epoch_deadline(1);
        let result = W::call(&instance.proxy, &mut instance.store, job).await;
        self.settle(instance, result)
    }

    fn policy(&self) -> &InstancePolicy {
        &self.blueprint.setup.instance
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Waiting<W::Proxy>>> {
        // A panic while the list was held left it whole: it is only pushed to
        // and popped from.
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The instance that was used last, because its memory is the warmest, or
    /// a new one.
    async fn obtain(&self, request_id: &Arc<str>) -> Result<Instance<W::Proxy>, Verdict> {
        if self.policy().reuse > 1
            && let Some(waiting) = self.list().pop()
        {
            self.reused.store(self.reused.load(Relaxed) + 1, Relaxed);
            let mut instance = waiting.instance;
            instance
                .store
                .data_mut()
                .set_request(Arc::clone(request_id));
            return Ok(instance);
        }
        let mut store = Guest::store(&self.blueprint, Arc::clone(request_id))?;
        match self.world.instantiate(&mut store).await {
            Ok(proxy) => {
                // A worker is one thread: nothing comes in between.
                self.made.store(self.made.load(Relaxed) + 1, Relaxed);
                Ok(Instance {
                    store,
                    proxy,
                    used: 0,
                    held: 0,
                })
            }
            Err(error) => Err(verdict(&error, Some(&store.data().ledger))),
        }
    }

    /// Says how a call ended, and keeps its instance if that was well and its
    /// life is not over.
    fn settle(
        &self,
        mut instance: Instance<W::Proxy>,
        result: wasmtime::Result<Verdict>,
    ) -> Verdict {
        let verdict = match result {
            Ok(verdict) => verdict,
            Err(error) => return verdict(&error, Some(&instance.store.data().ledger)),
        };
        instance.used += 1;
        let keep = verdict.outcome == Outcome::Ok && instance.used < self.policy().reuse;
        if keep && !self.retired.load(Relaxed) && !instance.leaks() {
            self.list().push(Waiting {
                instance,
                since: Instant::now(),
            });
        }
        verdict
    }

    /// Drops what has waited for longer than the policy says.
    pub(crate) fn expire(&self) {
        let idle = self.policy().idle;
        let expired: Vec<_> = {
            let mut list = self.list();
            let keep = list.partition_point(|waiting| waiting.since.elapsed() > idle);
            list.drain(..keep).collect()
        };
        drop(expired);
    }

    /// Drops what waits, and keeps nothing any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        let waiting = std::mem::take(&mut *self.list());
        drop(waiting);
    }

    pub(crate) fn counts(&self) -> InstanceCounts {
        InstanceCounts {
            made: self.made.load(Relaxed),
            reused: self.reused.load(Relaxed),
            idle: self.list().len(),
        }
    }
}
