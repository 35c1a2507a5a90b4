//! The pools that a fleet begins with.
//!
//! They are filled one in each turn of the loop: a worker that is ready is heard
//! while others are still to be created. Whoever creates hundreds before it
//! hears one finds the first of them late.

use skep_core::PoolName;
use skep_core::supervise::Event;

use super::Fleet;

impl Fleet {
    /// Has the pools of the specification filled.
    pub(super) fn fill(&mut self) {
        // Before the workers, who are to know them from the beginning.
        self.switch_hosts();
        self.want_dispatchers(false);
        self.introduce_all();
        self.unfilled = self.pools.keys().cloned().collect();
        self.tell_unbuilt();
        if self.unfilled.is_empty() {
            self.announce();
        }
    }

    /// Fills the next pool.
    pub(super) fn fill_next(&mut self) {
        if let Some(pool) = self.unfilled.pop_front() {
            self.add_to_supervisor(&pool);
        }
        if self.unfilled.is_empty() {
            // A fleet without workers is complete as it is.
            self.announce();
        }
    }

    /// Fills all that are left, for somebody who wants something of them.
    pub(super) fn fill_rest(&mut self) {
        while !self.unfilled.is_empty() {
            self.fill_next();
        }
    }

    fn add_to_supervisor(&mut self, name: &PoolName) {
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
