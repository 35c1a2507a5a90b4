//! Recycling: a worker that has reached a limit of requests, age or memory is
//! replaced, one at a time in a pool, the new one ready before the old drains.
//!
//! Only a stable worker is recycled: a limit that workers reach as soon as they
//! serve must not make the pool fork without end. [`Supervisor::next_recycling`]
//! is asked by the deadline and by the deed.

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{PoolName, SlotIndex, WorkerId};
use crate::supervise::backoff::{self, SplitMix64};
use crate::supervise::breaker::BreakerState;
use crate::supervise::event::{Action, Record, RecycleCause};
use crate::supervise::forks::Fork;
use crate::supervise::pool::Starts;
use crate::supervise::slot::Slot;
use crate::supervise::supervisor::Supervisor;
use crate::supervise::worker::{Stage, Standing, Worker};

/// What a pool remembers of its recyclings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recycling {
    /// Replacements that failed in a row.
    failures: u32,
    /// No other is started before.
    until: Moment,
}

/// What a worker has used up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wear {
    /// Requests that it has ever read.
    requests: u64,
    /// Bytes of its resident memory when it last beat; 0 is unknown.
    memory: u64,
    /// How much less than the limits it gets, in parts of `FULL_JITTER`.
    jitter: u16,
}

/// The parts of a whole limit in which jitter is measured: ten times what fits
/// into its type, so that it is less than 10 %.
const FULL_JITTER: u32 = 10 << 16;

impl Recycling {
    pub(super) const fn new() -> Self {
        Self {
            failures: 0,
            until: Moment::ORIGIN,
        }
    }

    /// A replacement serves.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(
        &mut self,
        now: Moment,
        settings: &SupervisionSettings,
        random: &mut SplitMix64,
    ) {
        self.failures = self.failures.saturating_add(1);
        let delay = backoff::delay(settings, self.failures, random);
        self.until = now + delay.max(settings.probe_interval);
    }
}

impl Wear {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
        Self {
            requests: 0,
            memory: 0,
            jitter: random.share(),
        }
    }

    pub(super) fn beat(&mut self, requests: u64, memory: u64) {
        self.requests = self.requests.max(requests);
        self.memory = memory;
    }

    /// Which limit is reached first, and when: a moment that may have passed.
    fn out(&self, ready: Moment, settings: &SupervisionSettings) -> Option<(Moment, RecycleCause)> {
        let age = settings.max_age;
        let age = age.saturating_sub(age / FULL_JITTER * u32::from(self.jitter));
        let requests = settings.max_requests;
        let less = u128::from(requests) * u128::from(self.jitter) / u128::from(FULL_JITTER);
        let requests = requests.saturating_sub(u64::try_from(less).unwrap_or(u64::MAX));
        let many = settings.max_requests > 0 && self.requests >= requests;
        let old = !settings.max_age.is_zero();
        let big = settings
            .soft_memory()
            .is_some_and(|soft| self.memory > 0 && self.memory >= soft);
        [
            many.then_some((Moment::ORIGIN, RecycleCause::Requests)),
            big.then_some((Moment::ORIGIN, RecycleCause::Memory)),
            old.then_some((ready + age, RecycleCause::Age)),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Worker {
    fn worn_out(&self, settings: &SupervisionSettings) -> Option<(Moment, RecycleCause)> {
        match self.stage {
            Stage::Serving {
                standing: Standing::Stable,
                ..
            } => self.wear.out(self.ready_at?, settings),
            Stage::Serving { .. } | Stage::Starting { .. } | Stage::Retired(_) => None,
        }
    }
}

impl Supervisor {
    /// Begins a recycling if one is due. Returns whether it did.
    pub(super) fn recycle(&mut self, name: &PoolName, out: &mut Vec<Action>) -> bool {
        let next = self.next_recycling(name).filter(|(at, ..)| *at <= self.now);
        let Some((_, slot, old, cause)) = next else {
            return false;
        };
        let Some(pool) = self.pools.get(name) else {
            return false;
        };
        let attempt = pool.recycling.failures.saturating_add(1);
        out.push(Action::Record(Record::Recycling {
            worker: old,
            pool: name.clone(),
            slot,
            cause,
        }));
        let new = self.start(name, slot, attempt, Fork::Asked, out);
        self.put(name, slot, Slot::Replacing { old, new });
        true
    }

    /// When a pool recycles next, if nothing happens before.
    pub(super) fn recycling_deadline(&self, name: &PoolName) -> Option<Moment> {
        self.next_recycling(name).map(|(at, ..)| at)
    }

    /// Whom a pool recycles next, and when: a moment that may have passed.
    /// `None` while none is worn out or something else than time is waited for.
    fn next_recycling(
        &self,
        name: &PoolName,
    ) -> Option<(Moment, SlotIndex, WorkerId, RecycleCause)> {
        let pool = self.pools.get(name)?;
        if pool.roll.is_some()
            || pool.replacing() > 0
            || pool.breaker.view() != BreakerState::Admitting
        {
            return None;
        }
        let (at, slot, worker, cause) = pool
            .held()
            .filter_map(|(slot, id)| {
                let (at, cause) = self.workers.get(&id)?.worn_out(&pool.settings)?;
                self.has_room(name, slot).then_some((at, slot, id, cause))
            })
            .min()?;
        if self.starts(name) == Starts::Busy {
            return None;
        }
        let at = at.max(pool.recycling.until).max(pool.allowed_at());
        Some((at, slot, worker, cause))
    }
}
