//! Instances that wait for their next request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_core::{InstancePolicy, Outcome};
use wasmtime::Store;

use crate::fault::{Verdict, verdict};
use crate::guest::Guest;
use crate::handler::Inner;

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

/// A component whose imports are resolved, of either version of `wasi:http`.
pub(crate) trait World {
    /// An instance of it.
    type Proxy;

    /// Makes an instance in a fresh store.
    fn instantiate(
        &self,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<Self::Proxy>> + Send;
}

/// One instance with its store.
pub(crate) struct Instance<P> {
    pub(crate) store: Store<Guest>,
    pub(crate) proxy: P,
    /// Calls that it has answered.
    pub(crate) used: u32,
}

struct Waiting<P> {
    instance: Instance<P>,
    since: Instant,
}

/// The idle instances of one handler, newest last.
pub(crate) struct Instances<P> {
    policy: InstancePolicy,
    waiting: Mutex<Vec<Waiting<P>>>,
    made: AtomicU64,
    reused: AtomicU64,
}

impl<P> Instances<P> {
    pub(crate) fn new(policy: InstancePolicy) -> Self {
        Self {
            policy,
            waiting: Mutex::new(Vec::new()),
            made: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Waiting<P>>> {
        // A panic while the list was held left it whole: it is only pushed to
        // and popped from.
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The instance that was used last, because its memory is the warmest, or
    /// a new one.
    pub(crate) async fn obtain<W: World<Proxy = P>>(
        &self,
        world: &W,
        handler: &Arc<Inner>,
        request: Arc<str>,
    ) -> Result<Instance<P>, Verdict> {
        if self.policy.reuse > 1
            && let Some(waiting) = self.list().pop()
        {
            self.reused.fetch_add(1, Relaxed);
            return Ok(waiting.instance);
        }
        let mut store = Guest::store(handler, request);
        match world.instantiate(&mut store).await {
            Ok(proxy) => {
                self.made.fetch_add(1, Relaxed);
                Ok(Instance {
                    store,
                    proxy,
                    used: 0,
                })
            }
            Err(error) => Err(verdict(&error, Some(&store.data().ledger))),
        }
    }

    /// Says how a call ended, and keeps its instance if that was well and its
    /// life is not over.
    pub(crate) fn settle(
        &self,
        mut instance: Instance<P>,
        result: wasmtime::Result<Verdict>,
    ) -> Verdict {
        let verdict = match result {
            Ok(verdict) => verdict,
            Err(error) => return verdict(&error, Some(&instance.store.data().ledger)),
        };
        instance.used += 1;
        if verdict.outcome == Outcome::Ok && instance.used < self.policy.reuse {
            self.list().push(Waiting {
                instance,
                since: Instant::now(),
            });
        }
        verdict
    }

    /// Drops what has waited for longer than the policy says.
    pub(crate) fn expire(&self, idle: Duration) {
        let expired: Vec<_> = {
            let mut list = self.list();
            let keep = list.partition_point(|waiting| waiting.since.elapsed() > idle);
            list.drain(..keep).collect()
        };
        drop(expired);
    }

    pub(crate) fn counts(&self) -> InstanceCounts {
        InstanceCounts {
            made: self.made.load(Relaxed),
            reused: self.reused.load(Relaxed),
            idle: self.list().len(),
        }
    }
}
