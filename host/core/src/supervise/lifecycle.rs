//! What workers report and what is reported of them.

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::name::WorkerId;
use crate::supervise::backoff;
use crate::supervise::event::{Action, Record, Strength};
use crate::supervise::forks::Fork;
use crate::supervise::retiree::Retiree;
use crate::supervise::slot::{Loss, Slot};
use crate::supervise::supervisor::{Supervisor, kept};
use crate::supervise::view::LastExit;
use crate::supervise::worker::{Stage, Standing};

impl Supervisor {
    pub(super) fn spawned(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.spawned_at.is_none()
        {
            worker.spawned_at = Some(self.now);
            out.push(Action::Record(worker.spawned(id)));
        }
    }

    pub(super) fn ready(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Stage::Starting { ready_by } = worker.stage else {
            return;
        };
        if ready_by <= self.now {
            return self.fail(id, ExitReason::StartTimeout, Strength::Kill, self.now, out);
        }
        worker.ready_at = Some(self.now);
        worker.since = self.now;
        worker.stage = Stage::Serving {
            beat: self.now,
            standing: Standing::Unproven,
        };
        out.push(Action::Record(worker.ready(id)));
        let (name, index) = (worker.pool.clone(), worker.slot);
        let Some(pool) = self.pools.get_mut(&name) else {
            return;
        };
        let old = pool.slot(index).and_then(|slot| slot.succeed(id));
        if let Some(roll) = &mut pool.roll {
            roll.ready(index, old);
        } else if old.is_some() {
            pool.recycling.succeeded();
        }
        if let Some(old) = old {
            self.dismiss(old, Strength::Drain, out);
        }
    }

    pub(super) fn beat(
        &mut self,
        id: WorkerId,
        at: Moment,
        served: bool,
        (requests, memory): (u64, u64),
    ) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.served |= served;
            worker.wear.beat(requests, memory);
            if let Stage::Serving { beat, .. } = &mut worker.stage {
                *beat = at.min(self.now).max(*beat);
            }
        }
    }

    pub(super) fn drained(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(pool) = self.pools.get(&worker.pool)
            && let Stage::Retired(retiree) = &mut worker.stage
            && retiree.escalate(Strength::Stop, self.now, &pool.settings)
        {
            // No action: it goes by itself.
            worker.since = self.now;
        }
    }

    /// The process is gone, or never was.
    pub(super) fn gone(&mut self, id: WorkerId, unasked: ExitReason, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (name, slot) = (worker.pool.clone(), worker.slot);
        let (reason, crashed) = match &worker.stage {
            // It would be wrong to say that it was asked for or was late when
            // there was no process to ask or to wait for.
            Stage::Retired(_) if matches!(unasked, ExitReason::SpawnFailed { .. }) => {
                (unasked, None)
            }
            Stage::Retired(retiree) => (retiree.cause().clone(), None),
            Stage::Starting { .. } | Stage::Serving { .. } => (unasked.clone(), Some(unasked)),
        };
        let exit = LastExit {
            worker: id,
            slot,
            voluntary: reason.is_voluntary(),
            reason,
            at: self.now,
        };
        out.push(Action::Record(Record::Exited {
            worker: id,
            pool: name.clone(),
            slot,
            reason: exit.reason.clone(),
            voluntary: exit.voluntary,
        }));
        if let Some(pool) = self.pools.get_mut(&name) {
            pool.last_exit = Some(exit);
        }
        if let Some(reason) = crashed {
            self.crashed(id, reason, self.now, out);
        }
        self.workers.remove(&id);
        self.forget_pool(&name);
    }

    /// A worker in a slot is no good: it is made to go and counts as crashed.
    /// `last_seen` is when it was last known to work.
    pub(super) fn fail(
        &mut self,
        id: WorkerId,
        cause: ExitReason,
        strength: Strength,
        last_seen: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(pool) = self.pools.get(&worker.pool) else {
            return;
        };
        if matches!(worker.stage, Stage::Retired(_)) {
            return;
        }
        let retiree = Retiree::new(cause.clone(), strength, self.now, &pool.settings);
        if strength == Strength::Kill {
            out.push(Action::Kill { worker: id });
        }
        self.crashed(id, cause, last_seen, out);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stage = Stage::Retired(retiree);
            worker.since = self.now;
        }
    }

    /// Counts a crash and decides what becomes of the slot.
    pub(super) fn crashed(
        &mut self,
        id: WorkerId,
        reason: ExitReason,
        last_seen: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (name, index, attempt) = (worker.pool.clone(), worker.slot, worker.attempt);
        let Some(pool) = self.pools.get(&name) else {
            return;
        };
        let stable = worker.was_stable(last_seen, &pool.settings);
        if stable {
            // The timer may not have come yet.
            self.settle(id, out);
        }
        self.count(id, stable, reason.clone(), out);
        let Some(pool) = self.pools.get_mut(&name) else {
            return;
        };
        let loss = pool
            .slot(index)
            .map_or(Loss::Stranger, |slot| slot.lose(id));
        let next = match loss {
            Loss::Stranger => return,
            Loss::Old => None,
            Loss::New { old } => {
                out.push(kept(old, name.clone(), index));
                None
            }
            Loss::Empty
                if stable && pool.breaker.replaces_at_once() && pool.allowed_at() <= self.now =>
            {
                Some(Slot::Held {
                    worker: self.start(&name, index, 1, Fork::Again, out),
                })
            }
            Loss::Empty if stable => Some(Slot::Waiting {
                attempt: 1,
                until: self.now,
                fork: Fork::Again,
            }),
            Loss::Empty => Some(Slot::Waiting {
                attempt: attempt.saturating_add(1),
                until: self.now + backoff::delay(&pool.settings, attempt, &mut self.random),
                fork: Fork::Again,
            }),
        };
        if let Some(next) = next {
            self.put(&name, index, next);
        }
        self.set_back((&name, index, id), loss, reason, out);
    }

    /// Tells the breaker of its generation.
    pub(super) fn count(
        &mut self,
        id: WorkerId,
        stable: bool,
        last: ExitReason,
        out: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&worker.pool) else {
            return;
        };
        pool.breaker
            .probe_ended(id, self.now + pool.settings.probe_interval);
        if worker.generation != pool.generation {
            return;
        }
        let kind = worker.failure(stable);
        let tripped = pool
            .breaker
            .record(self.now, kind, self.next, &pool.settings);
        if let Some(crashes) = tripped {
            out.push(Action::Record(Record::Tripped {
                pool: worker.pool.clone(),
                kind,
                crashes,
                last,
            }));
        }
    }

    /// A worker is stable.
    pub(super) fn settle(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Stage::Serving { standing, .. } = &mut worker.stage else {
            return;
        };
        if *standing == Standing::Stable {
            return;
        }
        *standing = Standing::Stable;
        worker.attempt = 1;
        let (name, slot) = (worker.pool.clone(), worker.slot);
        let Some(pool) = self.pools.get_mut(&name) else {
            return;
        };
        pool.forks.settle(slot, worker.stable_at(&pool.settings));
        if pool.breaker.is_proved_by(id) {
            self.recover(&name, out);
        }
    }
}
