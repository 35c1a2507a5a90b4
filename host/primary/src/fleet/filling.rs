//! Pools that are new are filled one in each turn of the loop: a worker that is
//! ready is heard while others are still to be created. Whoever creates hundreds
//! before it hears one finds the first of them late.

use skep_core::PoolName;
use skep_core::supervise::Event;

use super::Fleet;

impl Fleet {
    /// Has a pool that is new filled.
    pub(super) fn fill_later(&mut self, pool: PoolName) {
        self.unfilled.push_back(pool);
    }

    /// Does not fill a pool that is not to be any more.
    pub(super) fn fill_no_more(&mut self, pool: &PoolName) {
        self.unfilled.retain(|name| name != pool);
    }

    /// Fills the next pool.
    pub(super) fn fill_next(&mut self) {
        if let Some(pool) = self.unfilled.pop_front() {
            self.tell_supervisor(&pool);
        }
    }

    /// Fills all that are left, for somebody who wants something of them.
    pub(super) fn fill_rest(&mut self) {
        while !self.unfilled.is_empty() {
            self.fill_next();
        }
    }

    /// Tells the supervisor how a pool is to be.
    pub(super) fn tell_supervisor(&mut self, name: &PoolName) {
        let Some(pool) = self.pools.get(name) else {
            return;
        };
        let event = Event::PoolAdded {
            pool: name.clone(),
            workers: pool.spec.workers,
            settings: pool.spec.supervision.clone(),
            generation: self.spec.generation,
        };
        self.step(event);
    }
}
