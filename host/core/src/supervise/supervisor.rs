//! The machine itself: events in, actions out.

use std::collections::BTreeMap;

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::name::{PoolName, SlotIndex, WorkerId};
use crate::supervise::backoff::SplitMix64;
use crate::supervise::event::{Action, Event, Record, Strength};
use crate::supervise::forks::Fork;
use crate::supervise::pool::{Pool, Starts, Want};
use crate::supervise::recycle::Wear;
use crate::supervise::roll::Roll;
use crate::supervise::slot::Slot;
use crate::supervise::view::{PoolView, WorkerView};
use crate::supervise::worker::{Stage, Worker};

/// Decides which workers run. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) random: SplitMix64,
    pub(super) phase: Phase,
    pub(super) pools: BTreeMap<PoolName, Pool>,
    /// Those in slots and retirees, until their exit.
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) next: WorkerId,
    pub(super) now: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    ShuttingDown { strength: Strength },
    Finished,
}

impl Supervisor {
    /// A supervisor without pools; `seed` is that of the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: SplitMix64::new(seed),
            phase: Phase::Running,
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            next: WorkerId(1),
            now: Moment::ORIGIN,
        }
    }

    /// Takes one event and returns what to do about it, in order.
    ///
    /// Of what time alone brings about, only what the event asks for happens
    /// here; the rest waits for [`Event::Timer`]. Time that runs backwards
    /// stands still.
    #[must_use]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        self.take(event, &mut out);
        match self.phase {
            Phase::Running => self.fill(&mut out),
            Phase::ShuttingDown { .. } if self.workers.is_empty() => {
                self.phase = Phase::Finished;
                out.push(Action::Finished);
            }
            Phase::ShuttingDown { .. } | Phase::Finished => {}
        }
        out
    }

    /// When [`Event::Timer`] must be delivered next; changes with every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let workers = self
            .workers
            .values()
            .filter_map(|worker| Some(worker.due(&self.pools.get(&worker.pool)?.settings).0));
        let pools = self
            .pools
            .iter()
            .filter(|_| self.phase == Phase::Running)
            .flat_map(|(name, pool)| {
                [
                    pool.deadline(self.starts(name)),
                    self.roll_deadline(name),
                    self.recycling_deadline(name),
                ]
            })
            .flatten();
        workers.chain(pools).min()
    }

    /// Numbers workers from this number on, or from the next if that is higher.
    pub fn number_from(&mut self, first: WorkerId) {
        self.next = self.next.max(first);
    }

    /// The next worker's number, for a process that is not supervised here.
    /// Events about it are ignored.
    #[must_use]
    pub fn claim_worker_id(&mut self) -> WorkerId {
        let id = self.next;
        self.next = WorkerId(id.0 + 1);
        id
    }

    /// All pools, by name.
    pub fn pools(&self) -> impl Iterator<Item = PoolView> {
        self.pools.iter().map(|(name, pool)| PoolView {
            name: name.clone(),
            generation: pool.generation,
            workers: pool.workers,
            serving: self.serving(name),
            breaker: pool.breaker.view(),
            rolling: pool.roll.as_ref().map(Roll::left),
            spawns: pool.spawns,
            restarts: pool.restarts,
            crashes_in_window: pool.breaker.crashes(self.now, &pool.settings),
            last_exit: pool.last_exit.clone(),
        })
    }

    /// All workers that have not exited, oldest first.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers
            .iter()
            .map(|(id, worker)| WorkerView::of(*id, worker))
    }

    fn take(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Spawned { worker } => self.spawned(worker, out),
            Event::SpawnFailed { worker, message } => {
                self.gone(worker, ExitReason::SpawnFailed { message }, out);
            }
            Event::Ready { worker } => self.ready(worker, out),
            Event::Unfit { worker, message } => {
                let cause = ExitReason::ValidationFailed { message };
                self.fail(worker, cause, Strength::Stop, self.now, out);
            }
            Event::Beat {
                worker,
                at,
                served,
                requests,
                memory,
            } => self.beat(worker, at, served, (requests, memory)),
            Event::Drained { worker } => self.drained(worker),
            Event::Exited { worker, status } => self.gone(worker, status.unasked(), out),
            Event::Timer => self.fire(out),
            Event::Shutdown { strength } => self.shut_down(strength, out),
            Event::PoolAdded { .. }
            | Event::PoolRemoved { .. }
            | Event::Roll { .. }
            | Event::RollCancelled { .. }
            | Event::Scale { .. }
            | Event::Reset { .. }
                if self.phase != Phase::Running => {}
            Event::PoolAdded {
                pool,
                workers,
                settings,
                generation,
            } => self.add_pool(&pool, workers, &settings, generation, out),
            Event::PoolRemoved { pool } => self.remove_pool(&pool, out),
            Event::Roll {
                pool,
                workers,
                patience,
            } => self.roll(&pool, &workers, patience, out),
            Event::RollCancelled { pool } => self.cancel_roll(&pool, out),
            Event::Scale { pool, workers } => self.scale(&pool, workers, out),
            Event::Reset { pool } => self.reset(&pool, out),
        }
    }
}

/// How slots are filled.
impl Supervisor {
    fn fill(&mut self, out: &mut Vec<Action>) {
        let names: Vec<PoolName> = self.pools.keys().cloned().collect();
        for name in &names {
            loop {
                let starts = self.starts(name);
                let Some(pool) = self.pools.get_mut(name) else {
                    break;
                };
                match pool.want(self.now, starts) {
                    // Slots that are empty come before workers that are old.
                    Want::Nothing if self.advance_roll(name, out) => {}
                    Want::Nothing if self.recycle(name, out) => {}
                    Want::Nothing => break,
                    Want::Recover => self.recover(name, out),
                    Want::Start {
                        slot,
                        attempt,
                        fork,
                    } => {
                        let worker = self.start(name, slot, attempt, fork, out);
                        self.put(name, slot, Slot::Held { worker });
                    }
                    Want::Probe { slot, attempt } => {
                        let pool = name.clone();
                        out.push(Action::Record(Record::Probing { pool }));
                        let worker = self.start(name, slot, attempt, Fork::Again, out);
                        self.put(name, slot, Slot::Held { worker });
                        if let Some(pool) = self.pools.get_mut(name) {
                            pool.breaker.probe(worker);
                        }
                    }
                }
            }
        }
    }

    /// Creates a worker; the caller gives it the slot.
    pub(super) fn start(
        &mut self,
        name: &PoolName,
        slot: SlotIndex,
        attempt: u32,
        fork: Fork,
        out: &mut Vec<Action>,
    ) -> WorkerId {
        let id = self.claim_worker_id();
        let wear = Wear::new(&mut self.random);
        let pool = self
            .pools
            .get_mut(name)
            .expect("callers start workers of pools they hold");
        pool.forked(self.now, slot, fork);
        let generation = pool.generation;
        self.workers.insert(
            id,
            Worker {
                pool: name.clone(),
                slot,
                generation,
                attempt,
                asked_at: self.now,
                spawned_at: None,
                ready_at: None,
                served: false,
                wear,
                stage: Stage::Starting {
                    ready_by: self.now + pool.settings.start_timeout,
                },
                since: self.now,
            },
        );
        out.push(Action::Spawn {
            worker: id,
            pool: name.clone(),
            slot,
            generation,
            attempt,
        });
        id
    }

    pub(super) fn put(&mut self, name: &PoolName, index: SlotIndex, slot: Slot) {
        if let Some(place) = self.pools.get_mut(name).and_then(|pool| pool.slot(index)) {
            *place = slot;
        }
    }

    pub(super) fn starts(&self, name: &PoolName) -> Starts {
        let starting = |worker: &&Worker| matches!(worker.stage, Stage::Starting { .. });
        match self.of(name).find(starting) {
            Some(_) => Starts::Busy,
            None => Starts::Idle,
        }
    }

    pub(super) fn serves(&self, id: WorkerId) -> bool {
        let worker = self.workers.get(&id);
        worker.is_some_and(|worker| matches!(worker.stage, Stage::Serving { .. }))
    }

    pub(super) fn serving(&self, name: &PoolName) -> u16 {
        let serving = self
            .of(name)
            .filter(|worker| matches!(worker.stage, Stage::Serving { .. }));
        u16::try_from(serving.count()).unwrap_or(u16::MAX)
    }

    pub(super) fn of<'a>(&'a self, name: &'a PoolName) -> impl Iterator<Item = &'a Worker> {
        self.workers
            .values()
            .filter(move |worker| worker.pool == *name)
    }
}

pub(super) const fn ask(worker: WorkerId, strength: Strength) -> Action {
    match strength {
        Strength::Drain => Action::Drain { worker },
        Strength::Stop => Action::Stop { worker },
        Strength::Kill => Action::Kill { worker },
    }
}

pub(super) const fn kept(worker: WorkerId, pool: PoolName, slot: SlotIndex) -> Action {
    Action::Record(Record::Kept { worker, pool, slot })
}
