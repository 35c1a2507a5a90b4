//! A pool's step: one event in, actions out, and when it wants the next one.

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::supervise::event::{Action, Event, Notice, Strength};
use crate::supervise::forks::Fork;
use crate::supervise::pool::{Pool, Presence, Turn, WorkerIds};
use crate::supervise::recycle::{Candidate, can_wear_out};
use crate::supervise::roll::Move;
use crate::supervise::slot::Slot;
use crate::supervise::vacancy::Want;

impl Pool {
    /// Takes one event and returns what to do about it, in order. Events about
    /// workers that are not its own are ignored; whoever calls sees to it that
    /// those about pools are about this one.
    ///
    /// What is due by now is done only where the event asks for it; the rest
    /// waits for [`Event::Timer`]. Time that runs backwards stands still.
    #[must_use]
    pub fn step(&mut self, now: Moment, event: Event, ids: &mut WorkerIds) -> Vec<Action> {
        #[cfg(test)]
        super::visits::count();
        self.now = self.now.max(now);
        if self.only_moves_a_deadline(&event) {
            return Vec::new();
        }
        let mut turn = Turn {
            now: self.now,
            ids,
            out: Vec::new(),
        };
        self.take(event, &mut turn);
        if self.presence == Presence::Staying {
            self.fill(&mut turn);
        }
        self.due = self.next_due();
        turn.out
    }

    /// When [`Event::Timer`] must be delivered next; changes with every step.
    ///
    /// It may be early: a heartbeat looks for it anew only when it is near, or
    /// every heartbeat would be a look at all workers. A timer does.
    #[must_use]
    pub const fn deadline(&self) -> Option<Moment> {
        self.due
    }

    /// Takes a heartbeat. Returns whether that is all: whether there is no limit
    /// that the worker could have reached, so that nothing is due before the
    /// deadline that was.
    fn only_moves_a_deadline(&mut self, event: &Event) -> bool {
        let Event::Beat {
            worker,
            at,
            served,
            requests,
            memory,
        } = *event
        else {
            return false;
        };
        if let Some(worker) = self.crew.get_mut(worker) {
            worker.beat(self.now, at, served, (requests, memory));
        }
        if can_wear_out(&self.settings) {
            return false;
        }
        let near = self.now + self.settings.hang_timeout / 2;
        if self.due.is_some_and(|due| due < near) {
            self.due = self.next_due();
        }
        true
    }

    fn take(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Spawned { worker } => self.spawned(worker, turn),
            Event::SpawnFailed { worker, message } => {
                self.gone(worker, ExitReason::SpawnFailed { message }, turn);
            }
            Event::Ready { worker } => self.ready(worker, turn),
            Event::Unfit { worker, message } => self.unfit(worker, message, turn),
            // Taken already.
            Event::Beat { .. } => {}
            Event::Drained { worker } => self.drained(worker, turn),
            Event::Exited { worker, status } => self.gone(worker, status.unasked(), turn),
            Event::Timer => self.fire(turn),
            Event::Shutdown { strength } => self.shut_down(strength, turn),
            Event::PoolAdded {
                pool: _,
                workers,
                settings,
                generation,
            } => self.add(workers, &settings, generation, turn),
            Event::PoolRemoved { pool: _ } => self.remove(turn),
            Event::Roll {
                pool: _,
                workers,
                patience,
            } => self.roll(&workers, patience, turn),
            Event::RollCancelled { pool: _ } => self.cancel_roll(turn),
            Event::Scale { pool: _, workers } => self.scale(workers, turn),
            Event::Reset { pool: _ } => self.reset(turn),
        }
    }

    /// Fills slots, and then replaces workers, as far as may be now.
    fn fill(&mut self, turn: &mut Turn<'_>) {
        loop {
            match self.vacancies().want(turn.now) {
                // Slots that are empty come before workers that are old.
                Want::Nothing if self.advance_roll(turn) => {}
                Want::Nothing if self.recycle(turn) => {}
                Want::Nothing => return,
                Want::Recover => self.recover(turn),
                Want::Start {
                    slot,
                    attempt,
                    fork,
                } => {
                    let worker = self.start(slot, attempt, fork, turn);
                    self.crew.put(slot, Slot::Held { worker });
                }
                Want::Probe { slot, attempt } => {
                    turn.notice(Notice::Probing {
                        pool: self.name().clone(),
                    });
                    let worker = self.start(slot, attempt, Fork::Again, turn);
                    self.crew.put(slot, Slot::Held { worker });
                    self.breaker.probe(worker);
                }
            }
        }
    }

    /// Does one thing for the roll. Returns whether there was one.
    fn advance_roll(&mut self, turn: &mut Turn<'_>) -> bool {
        let next = self.next_move().filter(|(at, _)| *at <= turn.now);
        let Some(roll) = &mut self.roll else {
            return false;
        };
        if roll.is_complete() {
            let replaced = roll.replaced();
            self.roll = None;
            turn.notice(Notice::Rolled {
                pool: self.name().clone(),
                replaced,
            });
            return true;
        }
        let attempt = roll.attempt();
        match next {
            Some((_, Move::Replace { slot, old })) => self.replace(slot, old, attempt, turn),
            Some((_, Move::Vacate { slot, old })) => {
                roll.vacated(slot, old);
                let waiting = Slot::Waiting {
                    attempt,
                    until: turn.now,
                    fork: Fork::Asked,
                };
                self.crew.put(slot, waiting);
                self.dismiss(old, Strength::Drain, turn);
            }
            None => return false,
        }
        true
    }

    /// Begins a recycling if one is due. Returns whether it did.
    fn recycle(&mut self, turn: &mut Turn<'_>) -> bool {
        let next = self.next_recycling().filter(|next| next.at <= turn.now);
        let Some(next) = next else {
            return false;
        };
        turn.notice(Notice::Recycling {
            worker: next.worker,
            pool: self.name().clone(),
            slot: next.slot,
            cause: next.cause,
        });
        let attempt = self.recycling.attempt();
        self.replace(next.slot, next.worker, attempt, turn);
        true
    }

    fn next_move(&self) -> Option<(Moment, Move)> {
        let roll = self.roll.as_ref()?;
        roll.next(&self.crew, &self.settings, self.workers, self.allowed_at())
    }

    fn next_recycling(&self) -> Option<Candidate> {
        if self.roll.is_some() || !self.is_admitting() {
            return None;
        }
        let allowed_at = self.allowed_at();
        self.recycling.next(&self.crew, &self.settings, allowed_at)
    }

    fn next_due(&self) -> Option<Moment> {
        let workers = self.crew.workers();
        let workers = workers
            .map(|(_, worker)| worker.due(&self.settings).0)
            .min();
        if self.presence != Presence::Staying {
            return workers;
        }
        [
            workers,
            self.vacancies().deadline(),
            self.next_move().map(|(at, _)| at),
            self.next_recycling().map(|next| next.at),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
