//! A handler's instances: made for a call or ahead of it, or kept from an earlier one.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use skep_core::{InstancePolicy, Outcome, stock};
use wasmtime::Store;

use crate::blueprint::Blueprint;
use crate::event_loop;
use crate::fault::{Verdict, verdict};
use crate::guest::Guest;
use crate::housekeeping::{Making, Stock};
use crate::meter::Meter;
use crate::world::{Job, World};

/// What became of instances, for the scoreboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCounts {
    /// Instances made.
    pub made: u64,
    /// Calls that found an instance waiting.
    pub reused: u64,
    /// Instances that wait now, those that were made ahead included.
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

/// Instances that no call has.
struct Idle<P> {
    /// Kept from earlier calls, newest last.
    kept: Vec<Waiting<P>>,
    /// Made ahead, as many as `stock` says are here.
    ahead: Vec<Instance<P>>,
    stock: stock::Stock,
    /// Whether its makers were told that more are wanted.
    is_low: bool,
    /// Whether instances are kept no longer.
    retired: bool,
}

impl<P> Idle<P> {
    /// The instance that was used last, because its memory is the warmest, or one that
    /// was made ahead.
    fn take(&mut self) -> Option<Instance<P>> {
        if let Some(kept) = self.kept.pop() {
            return Some(kept.instance);
        }
        if self.stock.take() {
            return self.ahead.pop();
        }
        None
    }

    fn wants_more(&self) -> bool {
        !self.retired && self.stock.wants()
    }
}

/// A handler whose instances answer one call at a time.
pub(crate) struct Instances<W: World> {
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) world: W,
    idle: Mutex<Idle<W::Proxy>>,
    made: AtomicU64,
    reused: AtomicU64,
    /// As whoever makes instances ahead knows it.
    itself: Weak<dyn Stock>,
}

impl<W: World> Instances<W> {
    pub(crate) fn new(blueprint: &Arc<Blueprint>, world: W) -> Arc<Self> {
        let instances = Arc::new_cyclic(|itself: &Weak<Self>| Self {
            blueprint: Arc::clone(blueprint),
            world,
            idle: Mutex::new(Idle {
                kept: Vec::new(),
                ahead: Vec::new(),
                stock: stock::Stock::default(),
                is_low: false,
                retired: false,
            }),
            made: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            itself: itself.clone(),
        });
        let tenant = &blueprint.setup.tenant;
        tenant.has_stock(instances.itself.clone());
        instances
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

    fn idle(&self) -> MutexGuard<'_, Idle<W::Proxy>> {
        // Whole at every step.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance that waits, or a new one.
    async fn obtain(&self, request_id: &Arc<str>) -> Result<Instance<W::Proxy>, Verdict> {
        let (found, is_low) = {
            let mut idle = self.idle();
            let found = idle.take();
            let is_low = idle.wants_more() && !std::mem::replace(&mut idle.is_low, true);
            (found, is_low)
        };
        if is_low {
            let housekeeping = self.blueprint.setup.tenant.housekeeping();
            housekeeping.is_low(self.itself.clone());
        }
        let Some(mut instance) = found else {
            return self.make(Arc::clone(request_id)).await;
        };
        if instance.used > 0 {
            // A worker is one thread: nothing comes in between, here and below.
            self.reused.store(self.reused.load(Relaxed) + 1, Relaxed);
        }
        instance
            .store
            .data_mut()
            .set_request(Arc::clone(request_id));
        Ok(instance)
    }

    /// A new instance; what its guest writes meanwhile is for this request.
    async fn make(&self, request_id: Arc<str>) -> Result<Instance<W::Proxy>, Verdict> {
        let mut store = Guest::store(&self.blueprint, request_id)?;
        match self.world.instantiate(&mut store).await {
            Ok(proxy) => {
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
        if verdict.outcome != Outcome::Ok {
            return verdict;
        }
        instance.used += 1;
        let keep = instance.used < self.policy().reuse && !instance.leaks();
        let mut idle = self.idle();
        if keep && !idle.retired {
            idle.kept.push(Waiting {
                instance,
                since: Instant::now(),
            });
        } else if !event_loop::is_busy() {
            drop(idle);
            let housekeeping = self.blueprint.setup.tenant.housekeeping();
            housekeeping.drop_later([instance.store]);
        }
        // Otherwise it is dropped now: where calls come in numbers, the next one finds its
        // memory warm.
        verdict
    }

    /// Drops what has waited for longer than the policy says, and what was made ahead
    /// and is not wanted.
    pub(crate) fn expire(&self) {
        let longest = self.policy().idle;
        let mut idle = self.idle();
        let old = |waiting: &Waiting<_>| waiting.since.elapsed() > longest;
        let expired = idle.kept.partition_point(old);
        let expired: Vec<_> = idle.kept.drain(..expired).collect();
        let surplus = idle.stock.look() as usize;
        let surplus: Vec<_> = idle.ahead.drain(..surplus).collect();
        // Whoever should have made some may have failed.
        idle.is_low = false;
        drop(idle);
        let stores = expired.into_iter().map(|waiting| waiting.instance);
        let stores = stores.chain(surplus).map(|instance| instance.store);
        let housekeeping = self.blueprint.setup.tenant.housekeeping();
        housekeeping.drop_later(stores);
    }

    /// Drops what waits, and keeps nothing any more.
    pub(crate) fn retire(&self) {
        let mut idle = self.idle();
        idle.retired = true;
        idle.stock.clear();
        let waiting = (
            std::mem::take(&mut idle.kept),
            std::mem::take(&mut idle.ahead),
        );
        drop(idle);
        drop(waiting);
    }

    pub(crate) fn counts(&self) -> InstanceCounts {
        let idle = self.idle();
        InstanceCounts {
            made: self.made.load(Relaxed),
            reused: self.reused.load(Relaxed),
            idle: idle.kept.len() + idle.ahead.len(),
        }
    }
}

impl<W: World> Stock for Instances<W> {
    fn make_one(&self, cx: &mut Context<'_>) -> Making {
        let Blueprint {
            setup,
            share,
            clock,
            seats,
            ..
        } = &*self.blueprint;
        let wants_more = self.idle().wants_more();
        if !wants_more {
            self.idle().is_low = false;
            return Making::Enough;
        }
        let mut made = None;
        if setup.tenant.has_room_to_spare(setup.flavor, *seats) {
            (clock.ticks)();
            let mut meter = Meter::new(share, *clock, setup.cpu);
            let mut making = pin!(self.make("".into()));
            let mut had_its_turn = false;
            let polled = meter.poll(cx, |cx| {
                had_its_turn = true;
                making.as_mut().poll(cx)
            });
            if !had_its_turn {
                return Making::NotNow;
            }
            // A guest that computes before it is asked for anything is made when a call
            // needs it, and is the call's.
            if let Poll::Ready(Ok(instance)) = polled {
                made = Some(instance);
            }
        }
        let mut idle = self.idle();
        match made {
            Some(instance) => {
                idle.ahead.push(instance);
                idle.stock.put();
            }
            None => idle.stock.fail(),
        }
        idle.is_low = idle.wants_more();
        if idle.is_low {
            Making::More
        } else {
            Making::Enough
        }
    }

    fn give_up(&self) -> bool {
        let mut idle = self.idle();
        idle.stock.clear();
        let ahead = std::mem::take(&mut idle.ahead);
        drop(idle);
        !ahead.is_empty()
    }
}
