//! What the tenants of one worker share, and what each has of it.
//!
//! One [`Tenants`] per worker, one [`TenantShare`] per tenant on it, made by
//! whoever loads handlers. Every handler of a tenant has the same share, and
//! everything that its guests use is counted there.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Context;
use std::time::{Duration, Instant};

use skep_core::Seats;
use skep_core::fair::{self, Member};

use crate::housekeeping::{Housekeeping, Stock};
use crate::run_queue::{Entry, Go, RunQueue};
use crate::runtime::Capacity;
use crate::settings::Flavor;

/// The limits of one tenant on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// Its part of the CPU, relative to the other tenants' weights.
    pub weight: NonZeroU32,
    /// Bytes of all its instances; 0 is no limit.
    pub memory: u64,
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self {
            weight: fair::EVEN,
            memory: 0,
        }
    }
}

/// What the tenants of one worker share. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Shared>);

struct Shared {
    run_queue: Arc<RunQueue>,
    /// One for each engine, whose instances are its own. Tenants have the same
    /// number in both.
    seats: Mutex<[Seats; 2]>,
    /// Bytes of all instances.
    memory: AtomicU64,
    housekeeping: Arc<Housekeeping>,
}

impl Shared {
    fn seats(&self) -> MutexGuard<'_, [Seats; 2]> {
        // Whole at every step.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenants").finish_non_exhaustive()
    }
}

impl Tenants {
    /// A worker without tenants, whose engines have this capacity. `pace` is
    /// called when the period of [`tick`](crate::tick)s should be another: a
    /// millisecond, or a quarter of that while tenants compete.
    #[must_use]
    pub fn new(capacity: Capacity, pace: fn(Duration)) -> Self {
        let seats = Seats::new(capacity.instances);
        Self(Arc::new(Shared {
            run_queue: Arc::new(RunQueue::new(pace)),
            seats: Mutex::new([seats.clone(), seats]),
            memory: AtomicU64::new(0),
            housekeeping: Arc::default(),
        }))
    }

    /// Another tenant.
    #[must_use]
    pub fn join(&self, name: &str, limits: ShareLimits) -> Arc<TenantShare> {
        let mut seats = self.0.seats();
        let number = seats[0].join();
        let same = seats[1].join();
        debug_assert_eq!(number, same, "tenants come and go in both");
        Arc::new(TenantShare {
            name: name.into(),
            worker: Arc::clone(&self.0),
            member: self.0.run_queue.join(limits.weight),
            number,
            cpu: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            memory_limit: AtomicU64::new(limits.memory),
            stocks: Mutex::default(),
        })
    }

    /// Bytes of memories, tables and what the host holds besides of all live
    /// instances, those too that wait for their next call. Not all of it need be
    /// resident.
    #[must_use]
    pub fn guest_memory(&self) -> u64 {
        self.0.memory.load(Relaxed)
    }
}

/// What one tenant has of its worker.
pub struct TenantShare {
    name: Box<str>,
    worker: Arc<Shared>,
    member: Member,
    /// Its number among those with seats.
    number: usize,
    /// CPU time of its guests in nanoseconds.
    cpu: AtomicU64,
    memory: AtomicU64,
    memory_limit: AtomicU64,
    /// Instances that were made ahead, of each of its handlers.
    stocks: Mutex<Vec<Weak<dyn Stock>>>,
}

impl std::fmt::Debug for TenantShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantShare")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl TenantShare {
    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// CPU time that its guests have used on this worker so far.
    #[must_use]
    pub fn cpu_used(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// Bytes of its live instances, as [`Tenants::guest_memory`] counts.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    /// Its live instances, those too that wait for their next call.
    #[must_use]
    pub fn instances(&self) -> u32 {
        let seats = self.worker.seats();
        seats.iter().map(|seats| seats.held(self.number)).sum()
    }

    /// Has another limit from now on; 0 is none. What it has already it keeps.
    pub fn limit_memory(&self, bytes: u64) {
        self.memory_limit.store(bytes, Relaxed);
    }

    /// Its number among those with seats.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// What its worker does for its instances while nobody waits for it.
    pub(crate) fn housekeeping(&self) -> &Arc<Housekeeping> {
        &self.worker.housekeeping
    }

    /// Counts so many more bytes, if it may have them.
    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let limit = self.memory_limit.load(Relaxed);
        let fits = || bytes == 0 || limit == 0 || self.memory_used().saturating_add(bytes) <= limit;
        let may = fits() || self.give_back() && fits();
        if !may {
            return false;
        }
        // A worker is one thread: nothing comes in between.
        let used = self.memory.load(Relaxed).saturating_add(bytes);
        self.memory.store(used, Relaxed);
        let all = self.worker.memory.load(Relaxed);
        self.worker.memory.store(all.wrapping_add(bytes), Relaxed);
        true
    }

    /// Counts so many fewer.
    pub(crate) fn release(&self, bytes: usize) {
        for count in [&self.memory, &self.worker.memory] {
            // As above, and below.
            count.store(count.load(Relaxed).wrapping_sub(bytes as u64), Relaxed);
        }
    }

    /// The right to make an instance that takes so many seats of its engine, if
    /// there is one for this tenant.
    pub(crate) fn sit(self: &Arc<Self>, flavor: Flavor, seats: u32) -> Option<Seat> {
        let take = || self.worker.seats()[flavor as usize].take(self.number, seats);
        let taken = take() || self.give_back() && take();
        taken.then(|| Seat {
            tenant: Arc::clone(self),
            flavor,
            seats,
        })
    }

    /// Whether there is room for an instance that no call needs yet: seats that are
    /// nobody else's, and half of the memory.
    pub(crate) fn has_room_to_spare(&self, flavor: Flavor, seats: u32) -> bool {
        let limit = self.memory_limit.load(Relaxed);
        (limit == 0 || self.memory_used() <= limit / 2)
            && self.worker.seats()[flavor as usize].owes(self.number, seats)
    }

    /// There is another stock of instances that are made ahead.
    pub(crate) fn has_stock(&self, stock: Weak<dyn Stock>) {
        let mut stocks = self.stocks();
        stocks.retain(|stock| stock.strong_count() > 0);
        stocks.push(stock);
    }

    /// Drops what it has and no call needs. Says whether there was anything.
    fn give_back(&self) -> bool {
        let stocks: Vec<_> = self.stocks().iter().filter_map(Weak::upgrade).collect();
        let mut any = self.housekeeping().drop_spent_of(self.number);
        for stock in stocks {
            any |= stock.give_up();
        }
        any
    }

    fn stocks(&self) -> MutexGuard<'_, Vec<Weak<dyn Stock>>> {
        // Whole at every step.
        self.stocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of its guests may run, which else is queued afterwards.
    pub(crate) fn may_go(&self, entry: &mut Entry, now: Instant, cx: &Context<'_>) -> Option<Go> {
        self.worker.run_queue.may_go(self.member, entry, now, cx)
    }

    /// One of its guests met a tick.
    pub(crate) fn preempted(&self, entry: &mut Entry, now: Instant, cx: &Context<'_>) {
        self.worker.run_queue.preempted(self.member, entry, now, cx);
    }

    /// One of its guests has run for so long, for which the worker had
    /// `overhead` besides.
    pub(crate) fn charge(&self, now: Instant, spent: Duration, overhead: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.cpu
            .store(self.cpu.load(Relaxed).wrapping_add(nanos), Relaxed);
        self.worker
            .run_queue
            .charge(self.member, now, spent + overhead);
    }

    /// One of its guests is gone.
    pub(crate) fn leave(&self, entry: &mut Entry) {
        self.worker.run_queue.leave(self.member, entry);
    }
}

impl Drop for TenantShare {
    fn drop(&mut self) {
        self.worker.run_queue.part(self.member);
        for seats in self.worker.seats().iter_mut() {
            seats.leave(self.number);
        }
    }
}

/// What one handler has of its tenant's share: all of it, and what its own guests
/// use of it is counted here besides.
pub(crate) struct HandlerShare {
    tenant: Arc<TenantShare>,
    /// CPU time of its guests in nanoseconds.
    cpu: AtomicU64,
    /// Bytes of its live instances.
    memory: AtomicU64,
    /// Its live instances.
    instances: AtomicU32,
}

/// What the guests of one handler use of this worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time so far, validation included.
    pub cpu: Duration,
    /// Bytes of its live instances, as [`Tenants::guest_memory`] counts.
    pub memory: u64,
    /// Its live instances, those too that wait for their next call.
    pub instances: u32,
}

impl std::fmt::Debug for HandlerShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerShare")
            .field("tenant", &self.tenant.name)
            .finish_non_exhaustive()
    }
}

impl std::ops::Deref for HandlerShare {
    type Target = Arc<TenantShare>;

    fn deref(&self) -> &Arc<TenantShare> {
        &self.tenant
    }
}

impl HandlerShare {
    pub(crate) fn new(tenant: &Arc<TenantShare>) -> Arc<Self> {
        Arc::new(Self {
            tenant: Arc::clone(tenant),
            cpu: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            instances: AtomicU32::new(0),
        })
    }

    /// What its guests use.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            cpu: Duration::from_nanos(self.cpu.load(Relaxed)),
            memory: self.memory.load(Relaxed),
            instances: self.instances.load(Relaxed),
        }
    }

    /// As [`TenantShare::charge`].
    pub(crate) fn charge(&self, now: Instant, spent: Duration, overhead: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        // A worker is one thread: nothing comes in between, here and below.
        let used = self.cpu.load(Relaxed);
        self.cpu.store(used.wrapping_add(nanos), Relaxed);
        self.tenant.charge(now, spent, overhead);
    }

    /// As [`TenantShare::reserve`].
    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        let may = self.tenant.reserve(bytes);
        if may {
            let used = self.memory.load(Relaxed);
            self.memory.store(used + bytes as u64, Relaxed);
        }
        may
    }

    /// As [`TenantShare::release`].
    pub(crate) fn release(&self, bytes: usize) {
        let used = self.memory.load(Relaxed);
        self.memory.store(used - bytes as u64, Relaxed);
        self.tenant.release(bytes);
    }

    /// There is another instance.
    pub(crate) fn instance_made(&self) {
        let instances = self.instances.load(Relaxed);
        self.instances.store(instances + 1, Relaxed);
    }

    /// There is an instance less.
    pub(crate) fn instance_gone(&self) {
        let instances = self.instances.load(Relaxed);
        self.instances.store(instances - 1, Relaxed);
    }
}

/// The seats of one instance in its engine, given back when it is dropped.
pub(crate) struct Seat {
    tenant: Arc<TenantShare>,
    flavor: Flavor,
    seats: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.tenant.worker.seats();
        seats[self.flavor as usize].give_back(self.tenant.number, self.seats);
    }
}
