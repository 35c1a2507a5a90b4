//! What operators ask of a pool: to be there, its size, rolls, resets and the
//! end.

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, WorkerId};
use crate::supervise::breaker::Breaker;
use crate::supervise::crew::counted;
use crate::supervise::event::{Notice, Patience, RollFailure, Strength};
use crate::supervise::forks::{Fork, Forks};
use crate::supervise::pool::{Pool, Presence, Turn, bounded};
use crate::supervise::recycle::Recycling;
use crate::supervise::roll::Roll;

impl Pool {
    pub(super) fn add(
        &mut self,
        workers: u16,
        settings: &SupervisionSettings,
        generation: Generation,
        turn: &mut Turn<'_>,
    ) {
        match self.presence {
            // What is left of the old one are retirees.
            Presence::Leaving => {
                self.forget();
                self.presence = Presence::Staying;
                (self.spawns, self.restarts, self.last_exit) = (0, 0, None);
            }
            Presence::Staying if generation <= self.generation => return,
            // What is known of the old generation's crashes says nothing about
            // this one. It is asked for, and due at once.
            Presence::Staying => {
                self.breaker = Breaker::new();
                self.crew.wait_no_longer(Moment::ORIGIN, Some(Fork::Asked));
            }
            Presence::Ending => return,
        }
        self.settings = bounded(settings);
        self.generation = generation;
        self.scale(workers, turn);
    }

    pub(super) fn scale(&mut self, workers: u16, turn: &mut Turn<'_>) {
        if self.presence != Presence::Staying {
            return;
        }
        self.workers = workers;
        self.forks.forget_from(workers);
        if let Some(roll) = &mut self.roll {
            roll.resize(workers);
        }
        for worker in self.crew.resize(workers) {
            self.dismiss(worker, Strength::Drain, turn);
        }
    }

    pub(super) fn remove(&mut self, turn: &mut Turn<'_>) {
        if self.presence != Presence::Staying {
            return;
        }
        self.scale(0, turn);
        self.forget();
        self.presence = Presence::Leaving;
    }

    /// What it knew of its workers says nothing about those to come.
    fn forget(&mut self) {
        self.breaker = Breaker::new();
        self.forks = Forks::default();
        self.roll = None;
        self.recycling = Recycling::new();
    }

    /// Forgets crashes, forks and backoff; empty slots are due at once.
    pub(super) fn reset(&mut self, turn: &mut Turn<'_>) {
        if self.presence == Presence::Staying {
            self.breaker = Breaker::new();
            self.forks.clear();
            self.recover(turn);
        }
    }

    pub(super) fn roll(&mut self, workers: &[WorkerId], patience: Patience, turn: &mut Turn<'_>) {
        if self.presence != Presence::Staying {
            return;
        }
        let wanted = |worker: &WorkerId| workers.is_empty() || workers.contains(worker);
        if !self.is_admitting() {
            let left = self.crew.holders().filter(wanted).count();
            return turn.notice(Notice::RollFailed {
                pool: self.name.clone(),
                reason: RollFailure::Tripped,
                replaced: 0,
                left: counted(left),
            });
        }
        if self.roll.is_none() {
            // What a recycling has begun belongs to the old state.
            self.call_off(turn);
        }
        let old: Vec<WorkerId> = self.crew.holders().filter(wanted).collect();
        let roll = self.roll.get_or_insert_with(|| Roll::new(patience));
        roll.add(old, patience);
    }

    pub(super) fn cancel_roll(&mut self, turn: &mut Turn<'_>) {
        if self.roll.take().is_some() {
            self.call_off(turn);
        }
    }

    pub(super) fn shut_down(&mut self, strength: Strength, turn: &mut Turn<'_>) {
        if self.presence == Presence::Staying {
            self.presence = Presence::Ending;
        }
        self.crew.resize(0);
        self.roll = None;
        let workers: Vec<WorkerId> = self.crew.workers().map(|(id, _)| id).collect();
        for worker in workers {
            self.dismiss(worker, strength, turn);
        }
    }
}
