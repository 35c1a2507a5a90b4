//! What operators ask for: pools, sizes, resets and the end.

use crate::exit::ExitReason;
use crate::limits::SupervisionSettings;
use crate::name::{Generation, PoolName, WorkerId};
use crate::supervise::event::{Action, Record, Strength};
use crate::supervise::pool::{Pool, Presence};
use crate::supervise::retiree::Retiree;
use crate::supervise::slot::Slot;
use crate::supervise::supervisor::{Phase, Supervisor, ask};
use crate::supervise::worker::Stage;

impl Supervisor {
    pub(super) fn add_pool(
        &mut self,
        name: &PoolName,
        workers: u16,
        settings: &SupervisionSettings,
        generation: Generation,
        out: &mut Vec<Action>,
    ) {
        match self.pools.get_mut(name) {
            // What is left of the old one are retirees.
            Some(pool) if pool.presence == Presence::Leaving => {
                *pool = Pool::new(settings, generation);
            }
            Some(pool) if generation <= pool.generation => return,
            Some(pool) => pool.renew(settings, generation),
            None => {
                self.pools
                    .insert(name.clone(), Pool::new(settings, generation));
            }
        }
        self.scale(name, workers, out);
    }

    pub(super) fn scale(&mut self, name: &PoolName, workers: u16, out: &mut Vec<Action>) {
        let Some(pool) = self.staying(name) else {
            return;
        };
        for worker in pool.resize(workers).into_iter().flat_map(Slot::workers) {
            self.dismiss(worker, Strength::Drain, out);
        }
    }

    pub(super) fn remove_pool(&mut self, name: &PoolName, out: &mut Vec<Action>) {
        self.scale(name, 0, out);
        if let Some(pool) = self.staying(name) {
            let (settings, generation) = (pool.settings.clone(), pool.generation);
            *pool = Pool {
                presence: Presence::Leaving,
                spawns: pool.spawns,
                restarts: pool.restarts,
                last_exit: pool.last_exit.take(),
                ..Pool::new(&settings, generation)
            };
        }
        self.forget_pool(name);
    }

    /// A pool that is leaving and has no worker is gone.
    pub(super) fn forget_pool(&mut self, name: &PoolName) {
        if self.of(name).next().is_none() {
            self.pools
                .retain(|of, pool| of != name || pool.presence == Presence::Staying);
        }
    }

    pub(super) fn reset(&mut self, name: &PoolName, out: &mut Vec<Action>) {
        let now = self.now;
        if let Some(pool) = self.staying(name) {
            pool.reset(now);
            out.push(Action::Record(Record::Reset { pool: name.clone() }));
        }
    }

    /// The pool of a tripped breaker works again, as far as can be seen.
    pub(super) fn recover(&mut self, name: &PoolName, out: &mut Vec<Action>) {
        let now = self.now;
        if let Some(pool) = self.staying(name) {
            pool.recover(now);
            out.push(Action::Record(Record::Reset { pool: name.clone() }));
        }
    }

    pub(super) fn shut_down(&mut self, strength: Strength, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Finished => return,
            Phase::ShuttingDown { strength: so_far } if strength <= so_far => return,
            Phase::Running | Phase::ShuttingDown { .. } => {}
        }
        self.phase = Phase::ShuttingDown { strength };
        for pool in self.pools.values_mut() {
            pool.slots.clear();
            pool.roll = None;
        }
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            self.dismiss(worker, strength, out);
        }
    }

    /// Makes a worker a retiree because we want so, or presses one that is.
    /// Whoever calls has taken it out of its slot.
    pub(super) fn dismiss(&mut self, id: WorkerId, strength: Strength, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&worker.pool) else {
            return;
        };
        pool.breaker.probe_ended(id, self.now);
        if let Some(roll) = &mut pool.roll {
            roll.forget(id);
        }
        let asked = strength;
        let strength = match &mut worker.stage {
            Stage::Retired(retiree) => {
                if !retiree.escalate(strength, self.now, &pool.settings) {
                    return;
                }
                strength
            }
            // Nothing is in flight yet, so it has no more time than one that
            // stops. But it may have become ready this very moment: it is asked
            // as gently as any.
            Stage::Starting { .. } => strength.max(Strength::Stop),
            Stage::Serving { .. } => strength,
        };
        if !matches!(worker.stage, Stage::Retired(_)) {
            let cause = ExitReason::Requested;
            let retiree = Retiree::new(cause, strength, self.now, &pool.settings);
            worker.stage = Stage::Retired(retiree);
        }
        worker.since = self.now;
        out.push(ask(id, asked));
        if strength == Strength::Drain {
            out.push(Action::Record(worker.draining(id)));
        }
    }

    fn staying(&mut self, name: &PoolName) -> Option<&mut Pool> {
        let pool = self.pools.get_mut(name)?;
        (pool.presence == Presence::Staying).then_some(pool)
    }
}
