//! What workers report, what is reported of them, and what time alone brings
//! about.

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::name::{SlotIndex, WorkerId};
use crate::supervise::backoff;
use crate::supervise::event::{Action, Notice, RollFailure, Strength};
use crate::supervise::forks::Fork;
use crate::supervise::pool::{Pool, Turn};
use crate::supervise::retiree::Retiree;
use crate::supervise::slot::{Loss, Slot};
use crate::supervise::view::LastExit;
use crate::supervise::worker::{Due, Stage, Standing, Worker};

/// What workers report.
impl Pool {
    pub(super) fn spawned(&mut self, id: WorkerId, turn: &mut Turn<'_>) {
        if let Some(worker) = self.crew.get_mut(id)
            && worker.spawned_at.is_none()
        {
            worker.spawned_at = Some(turn.now);
            turn.notice(Notice::Spawned {
                worker: id,
                pool: self.name.clone(),
                slot: worker.slot,
                generation: worker.generation,
            });
        }
    }

    pub(super) fn ready(&mut self, id: WorkerId, turn: &mut Turn<'_>) {
        let Some(worker) = self.crew.get_mut(id) else {
            return;
        };
        let Stage::Starting { ready_by } = worker.stage else {
            return;
        };
        if ready_by <= turn.now {
            return self.late(id, turn);
        }
        worker.ready_at = Some(turn.now);
        worker.since = turn.now;
        worker.stage = Stage::Serving {
            beat: turn.now,
            standing: Standing::Unproven,
        };
        let slot = worker.slot;
        turn.notice(Notice::Ready {
            worker: id,
            pool: self.name.clone(),
            slot,
        });
        let old = self.crew.succeed(slot, id);
        if let Some(roll) = &mut self.roll {
            roll.ready(slot, old);
        } else if old.is_some() {
            self.recycling.succeeded();
        }
        if let Some(old) = old {
            self.dismiss(old, Strength::Drain, turn);
        }
    }

    pub(super) fn drained(&mut self, id: WorkerId, turn: &Turn<'_>) {
        if let Some(worker) = self.crew.get_mut(id)
            && let Stage::Retired(retiree) = &mut worker.stage
            && retiree.escalate(Strength::Stop, turn.now, &self.settings)
        {
            // No action: it goes by itself.
            worker.since = turn.now;
        }
    }

    pub(super) fn unfit(&mut self, id: WorkerId, message: String, turn: &mut Turn<'_>) {
        let cause = ExitReason::ValidationFailed { message };
        self.fail(id, cause, Strength::Stop, turn.now, turn);
    }

    /// The process is gone, or never was.
    pub(super) fn gone(&mut self, id: WorkerId, unasked: ExitReason, turn: &mut Turn<'_>) {
        let Some(worker) = self.crew.get(id) else {
            return;
        };
        let slot = worker.slot;
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
            at: turn.now,
        };
        turn.notice(Notice::Exited {
            worker: id,
            pool: self.name.clone(),
            slot,
            reason: exit.reason.clone(),
            voluntary: exit.voluntary,
        });
        self.last_exit = Some(exit);
        if let Some(reason) = crashed {
            self.crashed(id, reason, turn.now, turn);
        }
        self.crew.remove(id);
    }
}

/// What time alone brings about.
impl Pool {
    pub(super) fn fire(&mut self, turn: &mut Turn<'_>) {
        let due: Vec<(WorkerId, Due)> = self
            .crew
            .workers()
            .filter_map(|(id, worker)| {
                let (at, due) = worker.due(&self.settings);
                (at <= turn.now).then_some((id, due))
            })
            .collect();
        for (worker, due) in due {
            match due {
                Due::Late => self.late(worker, turn),
                Due::Hung => self.hung(worker, turn),
                Due::Stable => {
                    self.settle(worker, turn);
                    // A driver that slept may owe it a kill by now.
                    if self.is_hung(worker, turn.now) {
                        self.hung(worker, turn);
                    }
                }
                Due::Lingering => self.press(worker, turn),
            }
        }
    }

    fn late(&mut self, id: WorkerId, turn: &mut Turn<'_>) {
        self.fail(id, ExitReason::StartTimeout, Strength::Kill, turn.now, turn);
    }

    fn is_hung(&self, id: WorkerId, now: Moment) -> bool {
        let due = self.crew.get(id).map(|worker| worker.due(&self.settings));
        due.is_some_and(|(at, due)| due == Due::Hung && at <= now)
    }

    fn hung(&mut self, id: WorkerId, turn: &mut Turn<'_>) {
        if let Some(Stage::Serving { beat, .. }) = self.crew.get(id).map(|worker| &worker.stage) {
            let last_seen = *beat;
            self.fail(id, ExitReason::Hung, Strength::Kill, last_seen, turn);
        }
    }

    /// A retiree did not go in time.
    fn press(&mut self, id: WorkerId, turn: &mut Turn<'_>) {
        if let Some(worker) = self.crew.get_mut(id)
            && let Stage::Retired(retiree) = &mut worker.stage
        {
            worker.since = turn.now;
            let strength = retiree.late(turn.now, &self.settings);
            turn.out.push(Action::ask(id, strength));
        }
    }

    /// A worker is stable.
    fn settle(&mut self, id: WorkerId, turn: &mut Turn<'_>) {
        let Some(worker) = self.crew.get_mut(id) else {
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
        let stable_at = worker.stable_at(&self.settings);
        self.forks.settle(worker.slot, stable_at);
        if self.breaker.is_proved_by(id) {
            self.recover(turn);
        }
    }
}

/// Failures.
impl Pool {
    /// A worker in a slot is no good: it is made to go and counts as crashed.
    /// `last_seen` is when it was last known to work.
    fn fail(
        &mut self,
        id: WorkerId,
        cause: ExitReason,
        strength: Strength,
        last_seen: Moment,
        turn: &mut Turn<'_>,
    ) {
        if self.crew.get(id).is_none_or(Worker::is_retired) {
            return;
        }
        let retiree = Retiree::new(cause.clone(), strength, turn.now, &self.settings);
        if strength == Strength::Kill {
            turn.out.push(Action::Kill { worker: id });
        }
        self.crashed(id, cause, last_seen, turn);
        if let Some(worker) = self.crew.get_mut(id) {
            worker.stage = Stage::Retired(retiree);
            worker.since = turn.now;
        }
    }

    /// Counts a crash and decides what becomes of the slot.
    fn crashed(
        &mut self,
        id: WorkerId,
        reason: ExitReason,
        last_seen: Moment,
        turn: &mut Turn<'_>,
    ) {
        let Some(worker) = self.crew.get(id) else {
            return;
        };
        let (slot, attempt) = (worker.slot, worker.attempt);
        let stable = worker.was_stable(last_seen, &self.settings);
        if stable {
            // The timer may not have come yet.
            self.settle(id, turn);
        }
        self.count(id, stable, reason.clone(), turn);
        let loss = self.crew.lose(slot, id);
        match loss {
            Loss::Stranger => return,
            Loss::Old => {}
            Loss::New { old } => self.keep(old, slot, turn),
            Loss::Empty => self.refill(slot, attempt, stable, turn),
        }
        self.set_back((slot, id, loss), reason, turn);
    }

    /// A slot has lost its worker, at this attempt: another one
    /// follows at once, or later.
    fn refill(&mut self, slot: SlotIndex, attempt: u32, stable: bool, turn: &mut Turn<'_>) {
        let fork = Fork::Again;
        let at_once = self.breaker.replaces_at_once() && self.allowed_at() <= turn.now;
        let next = if stable && at_once {
            Slot::Held {
                worker: self.start(slot, 1, fork, turn),
            }
        } else if stable {
            Slot::Waiting {
                attempt: 1,
                until: turn.now,
                fork,
            }
        } else {
            let delay = backoff::delay(&self.settings, attempt, &mut self.random);
            Slot::Waiting {
                attempt: attempt.saturating_add(1),
                until: turn.now + delay,
                fork,
            }
        };
        self.crew.put(slot, next);
    }

    /// Tells the breaker of its generation.
    fn count(&mut self, id: WorkerId, stable: bool, last: ExitReason, turn: &mut Turn<'_>) {
        let Some(worker) = self.crew.get(id) else {
            return;
        };
        self.breaker
            .probe_ended(id, turn.now + self.settings.probe_interval);
        if worker.generation != self.generation {
            return;
        }
        let kind = worker.failure(stable);
        let tripped = self
            .breaker
            .record(turn.now, kind, turn.ids.next(), &self.settings);
        if let Some(crashes) = tripped {
            turn.notice(Notice::Tripped {
                pool: self.name.clone(),
                kind,
                crashes,
                last,
            });
        }
    }

    /// A worker in a slot has crashed, and the slot is already what it becomes:
    /// what that means to what replaces workers.
    fn set_back(
        &mut self,
        (slot, worker, loss): (SlotIndex, WorkerId, Loss),
        reason: ExitReason,
        turn: &mut Turn<'_>,
    ) {
        let Some(roll) = &mut self.roll else {
            if matches!(loss, Loss::New { .. }) {
                self.recycling
                    .failed(turn.now, &self.settings, &mut self.random);
            }
            return;
        };
        let crash = (slot, worker, loss);
        let given_up = roll.set_back(turn.now, crash, &self.settings, &mut self.random);
        let (replaced, left) = (roll.replaced(), roll.left());
        if given_up || !self.is_admitting() {
            self.roll = None;
            self.call_off(turn);
            turn.notice(Notice::RollFailed {
                pool: self.name.clone(),
                reason: RollFailure::Worker { worker, reason },
                replaced,
                left,
            });
        }
    }
}
