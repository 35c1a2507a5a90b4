//! All pools: leads each event to the pool that it is about, and knows which
//! pool is due next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::name::{PoolName, WorkerId};
use crate::supervise::agenda::Agenda;
use crate::supervise::backoff::SplitMix64;
use crate::supervise::event::{Action, Event, Notice, Strength};
use crate::supervise::pool::{Pool, WorkerIds};
use crate::supervise::view::{PoolView, WorkerView};

/// Decides which workers run. See the module's documentation.
///
/// The pools do not know of each other. What is theirs together is explicit:
/// the numbers of workers, the time, and whether all end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Supervisor {
    pools: BTreeMap<PoolName, Pool>,
    ids: WorkerIds,
    /// Seeds pools.
    random: SplitMix64,
    phase: Phase,
    now: Moment,
    /// The pool of each worker that has not exited.
    #[serde(skip)]
    homes: BTreeMap<WorkerId, PoolName>,
    #[serde(skip)]
    agenda: Agenda,
}

/// A supervisor as it is written down: what follows from the pools is not.
#[derive(Deserialize)]
struct Written {
    pools: BTreeMap<PoolName, Pool>,
    ids: WorkerIds,
    random: SplitMix64,
    phase: Phase,
    now: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Running,
    ShuttingDown { strength: Strength },
    Finished,
}

/// Whom an event is about.
enum Addressee<'a> {
    Worker(WorkerId),
    Pool(&'a PoolName),
    NewPool(&'a PoolName),
    /// The pools that are due.
    Due,
    Everybody(Strength),
}

impl Supervisor {
    /// A supervisor without pools; `seed` is that of the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::from(Written {
            pools: BTreeMap::new(),
            ids: WorkerIds::default(),
            random: SplitMix64::new(seed),
            phase: Phase::Running,
            now: Moment::ORIGIN,
        })
    }

    /// Takes one event and returns what to do about it, in order. What it costs
    /// does not depend on the number of pools that it is not about.
    ///
    /// Of what time alone brings about, only what the event asks for happens
    /// here; the rest waits for [`Event::Timer`]. Time that runs backwards
    /// stands still.
    #[must_use]
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        match addressee(&event) {
            Addressee::Worker(worker) => {
                if let Some(pool) = self.homes.get(&worker).cloned() {
                    self.deliver(&pool, event, &mut out);
                }
            }
            Addressee::Due => {
                let due: Vec<PoolName> = self.agenda.due(self.now).cloned().collect();
                for pool in due {
                    self.deliver(&pool, Event::Timer, &mut out);
                }
            }
            Addressee::Everybody(strength) => self.shut_down(strength, &mut out),
            Addressee::Pool(_) | Addressee::NewPool(_) if self.phase != Phase::Running => {}
            Addressee::Pool(pool) => {
                let pool = pool.clone();
                self.deliver(&pool, event, &mut out);
            }
            Addressee::NewPool(pool) => {
                let pool = pool.clone();
                if !self.pools.contains_key(&pool) {
                    let new = Pool::new(pool.clone(), self.random.next());
                    self.pools.insert(pool.clone(), new);
                }
                self.deliver(&pool, event, &mut out);
            }
        }
        if matches!(self.phase, Phase::ShuttingDown { .. }) && self.homes.is_empty() {
            self.phase = Phase::Finished;
            out.push(Action::Finished);
        }
        out
    }

    /// When [`Event::Timer`] must be delivered next; changes with every step.
    /// It may be early, see [`Pool::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.agenda.first()
    }

    /// The pools to which a timer would be delivered now. The heartbeats of
    /// their workers go in before it.
    pub fn due(&self, now: Moment) -> impl Iterator<Item = &PoolName> {
        self.agenda.due(now)
    }

    /// Numbers workers from this number on, or from the next if that is higher.
    pub fn number_from(&mut self, first: WorkerId) {
        self.ids.begin_at(first);
    }

    /// The next worker's number, for a process that is not supervised here.
    /// Events about it are ignored.
    #[must_use]
    pub fn claim_worker_id(&mut self) -> WorkerId {
        self.ids.claim()
    }

    /// All pools, by name.
    pub fn pools(&self) -> impl Iterator<Item = PoolView> {
        self.pools.values().map(|pool| pool.view(self.now))
    }

    /// One pool.
    #[must_use]
    pub fn pool(&self, name: &PoolName) -> Option<PoolView> {
        Some(self.pools.get(name)?.view(self.now))
    }

    /// All workers that have not exited, oldest first.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.homes.keys().filter_map(|id| self.worker(*id))
    }

    /// One worker that has not exited.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        self.pools.get(self.homes.get(&id)?)?.worker(id)
    }

    /// The workers of one pool that have not exited, oldest first.
    pub fn workers_of(&self, pool: &PoolName) -> impl Iterator<Item = WorkerView> {
        self.pools.get(pool).into_iter().flat_map(Pool::workers)
    }

    /// Steps one pool, and takes note of its workers and of its deadline.
    fn deliver(&mut self, name: &PoolName, event: Event, out: &mut Vec<Action>) {
        let Some(pool) = self.pools.get_mut(name) else {
            return;
        };
        let before = pool.deadline();
        let actions = pool.step(self.now, event, &mut self.ids);
        let due = pool.deadline();
        if pool.is_over() {
            self.pools.remove(name);
        }
        if before != due {
            self.agenda.set(name, before, due);
        }
        for action in &actions {
            match action {
                Action::Spawn { worker, pool, .. } => {
                    self.homes.insert(*worker, pool.clone());
                }
                Action::Notice(Notice::Exited { worker, .. }) => {
                    self.homes.remove(worker);
                }
                _ => {}
            }
        }
        out.extend(actions);
    }

    fn shut_down(&mut self, strength: Strength, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Finished => return,
            Phase::ShuttingDown { strength: so_far } if strength <= so_far => return,
            Phase::Running | Phase::ShuttingDown { .. } => {}
        }
        self.phase = Phase::ShuttingDown { strength };
        let names: Vec<PoolName> = self.pools.keys().cloned().collect();
        for name in names {
            self.deliver(&name, Event::Shutdown { strength }, out);
        }
    }
}

impl From<Written> for Supervisor {
    fn from(written: Written) -> Self {
        let Written {
            pools,
            ids,
            random,
            phase,
            now,
        } = written;
        let (mut homes, mut agenda) = (BTreeMap::new(), Agenda::default());
        for (name, pool) in &pools {
            agenda.set(name, None, pool.deadline());
            homes.extend(pool.workers().map(|worker| (worker.id, name.clone())));
        }
        Self {
            pools,
            ids,
            random,
            phase,
            now,
            homes,
            agenda,
        }
    }
}

const fn addressee(event: &Event) -> Addressee<'_> {
    match event {
        Event::Spawned { worker }
        | Event::SpawnFailed { worker, .. }
        | Event::Ready { worker }
        | Event::Unfit { worker, .. }
        | Event::Beat { worker, .. }
        | Event::Drained { worker }
        | Event::Exited { worker, .. } => Addressee::Worker(*worker),
        Event::PoolAdded { pool, .. } => Addressee::NewPool(pool),
        Event::PoolRemoved { pool }
        | Event::Roll { pool, .. }
        | Event::RollCancelled { pool }
        | Event::Scale { pool, .. }
        | Event::Reset { pool } => Addressee::Pool(pool),
        Event::Timer => Addressee::Due,
        Event::Shutdown { strength } => Addressee::Everybody(*strength),
    }
}
