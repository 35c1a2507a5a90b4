//! The primary's loop: receive, make an event, step the supervisor, perform its
//! actions. What is to be done is decided in `skep-core`; how is known to the
//! modules beside this one.

mod operator;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use skep_core::supervise::{Action, Event, Record, Strength, Supervisor, WorkerView};
use skep_core::{FleetSpec, Generation, LogLevel, Moment, PoolName, SlotIndex, WorkerId};
use skep_sys::clock;
use skep_wire::FromWorker;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::artifacts::Artifacts;
use crate::control::{Asked, Asker};
use crate::listeners::Listeners;
use crate::log::Log;
use crate::pool::{Counts, Pool};
use crate::records::{self, Known};
use crate::signals::Signals;
use crate::worker_link::{Birth, Mute, News, Order, WorkerLink};

/// How often heartbeats are read: a tenth of the default `hang_timeout`.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// News that may wait for the loop; workers' tasks wait when it is full.
const NEWS: usize = 256;

/// Everything that the primary runs.
#[derive(Debug)]
pub(crate) struct Fleet {
    spec: FleetSpec,
    artifacts: Artifacts,
    supervisor: Supervisor,
    pools: BTreeMap<PoolName, Pool>,
    workers: BTreeMap<WorkerId, Worker>,
    listeners: Listeners,
    log: Log,
    news: mpsc::Sender<(WorkerId, News)>,
    inbox: Option<mpsc::Receiver<(WorkerId, News)>>,
    started: Moment,
    /// Pools of which it was said on standard error that they serve.
    announced: BTreeSet<PoolName>,
    phase: Phase,
    /// Operators who wait for the end.
    waiting: Vec<Asker>,
}

/// A worker that has a process.
#[derive(Debug)]
struct Worker {
    link: WorkerLink,
    pool: PoolName,
    generation: Generation,
}

/// What the fleet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Ending(Strength),
    Ended,
}

impl Fleet {
    /// A fleet that has everything but workers.
    ///
    /// # Errors
    ///
    /// No memory or descriptors left for the scoreboards.
    pub(crate) fn new(
        spec: FleetSpec,
        artifacts: Artifacts,
        listeners: Listeners,
        log: Log,
        seed: u64,
    ) -> io::Result<Self> {
        let pools = spec
            .pools
            .keys()
            .map(|name| Ok((name.clone(), Pool::new(&spec, name, &artifacts)?)))
            .collect::<io::Result<_>>()?;
        let (news, inbox) = mpsc::channel(NEWS);
        Ok(Self {
            spec,
            artifacts,
            supervisor: Supervisor::new(seed),
            pools,
            workers: BTreeMap::new(),
            listeners,
            log,
            news,
            inbox: Some(inbox),
            started: now(),
            announced: BTreeSet::new(),
            phase: Phase::Running,
            waiting: Vec::new(),
        })
    }

    /// Runs until every worker is gone after a shutdown.
    pub(crate) async fn run(&mut self, signals: &mut Signals, mut asked: mpsc::Receiver<Asked>) {
        let mut inbox = self.inbox.take().expect("a fleet runs once");
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.fill();
        while self.phase != Phase::Ended {
            select! {
                Some((worker, news)) = inbox.recv() => self.hear(worker, news),
                wish = signals.next() => self.grant(wish),
                Some(asked) = asked.recv() => self.answer(asked),
                () = tick(&mut beats, self.workers.is_empty()) => self.read_beats(),
                () = until(self.supervisor.deadline()) => {
                    // Heartbeats that are there go first, or a primary that was
                    // held up would have its workers killed for it.
                    self.read_beats();
                    self.step(Event::Timer);
                }
            }
        }
        self.farewell();
    }

    fn fill(&mut self) {
        let generation = self.spec.generation;
        let pools: Vec<_> = self
            .pools
            .iter()
            .map(|(name, pool)| Event::PoolAdded {
                pool: name.clone(),
                workers: pool.spec().workers,
                settings: pool.spec().supervision.clone(),
                generation,
            })
            .collect();
        for event in pools {
            self.step(event);
        }
        // A fleet without workers is complete as it is.
        self.announce();
    }

    fn step(&mut self, event: Event) {
        let mut actions: VecDeque<_> = self.supervisor.step(now(), event).into();
        while let Some(action) = actions.pop_front() {
            actions.extend(self.perform(action));
        }
    }

    /// Performs one action; returns those that follow from its result.
    fn perform(&mut self, action: Action) -> Vec<Action> {
        match action {
            Action::Spawn {
                worker,
                pool,
                slot,
                generation,
                attempt: _,
            } => {
                let event = match self.spawn(worker, &pool, slot, generation) {
                    Ok(()) => Event::Spawned { worker },
                    Err(error) => Event::SpawnFailed {
                        worker,
                        message: error.to_string(),
                    },
                };
                return self.supervisor.step(now(), event);
            }
            Action::Drain { worker } => self.order(worker, Order::Drain),
            Action::Stop { worker } => self.order(worker, Order::Stop),
            Action::Kill { worker } => self.order(worker, Order::Kill),
            Action::Record(record) => self.record(&record),
            Action::Finished => self.phase = Phase::Ended,
        }
        Vec::new()
    }

    fn spawn(
        &mut self,
        worker: WorkerId,
        name: &PoolName,
        slot: SlotIndex,
        generation: Generation,
    ) -> io::Result<()> {
        let pool = self
            .pools
            .get_mut(name)
            .expect("the supervisor knows our pools only");
        let cell = pool
            .claim_cell(worker)
            .ok_or_else(|| io::Error::other("too many workers of the pool are still going away"))?;
        let birth = Birth {
            worker,
            title: format!("skep: worker {name}/{slot}"),
            messages: pool.first_words(worker, name, slot, cell, self.listeners.of(name)),
            grace: pool.spec().supervision.kill_timeout,
        };
        match WorkerLink::start(birth, self.news.clone()) {
            Ok(link) => {
                let pool = name.clone();
                let born = Worker {
                    link,
                    pool,
                    generation,
                };
                self.workers.insert(worker, born);
                Ok(())
            }
            Err(error) => {
                pool.release_cell(worker);
                Err(error)
            }
        }
    }

    fn order(&self, worker: WorkerId, order: Order) {
        if let Some(worker) = self.workers.get(&worker) {
            worker.link.order(order);
        }
    }

    fn hear(&mut self, id: WorkerId, news: News) {
        match news {
            News::Said(FromWorker::Ready) => self.step(Event::Ready { worker: id }),
            News::Said(FromWorker::Drained) => self.step(Event::Drained { worker: id }),
            News::Said(FromWorker::Unfit { app, message }) => {
                let message = match app {
                    Some(app) => format!("app {app}: {message}"),
                    None => message,
                };
                self.step(Event::Unfit {
                    worker: id,
                    message,
                });
            }
            News::Mute(mute) => {
                let why = match mute {
                    Mute::HungUp => "it closed its channel and did not exit".to_owned(),
                    Mute::Garbled(error) => error.to_string(),
                };
                self.log.record(LogLevel::Error, "worker.mute", |line| {
                    line.number("worker", id).text("message", &why)
                });
            }
            News::Exited(status) => {
                // The last beat may hold the first good request.
                self.read_beat(id);
                self.step(Event::Exited { worker: id, status });
                self.forget(id);
            }
        }
    }

    /// Gives back what a reaped worker had.
    fn forget(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        let pool = self
            .pools
            .get_mut(&worker.pool)
            .expect("pools outlive workers");
        pool.release_cell(id);
        pool.remember_gone(id, worker.link.pid());
    }

    fn read_beats(&mut self) {
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            self.read_beat(worker);
        }
    }

    fn read_beat(&mut self, id: WorkerId) {
        let cell = self
            .workers
            .get(&id)
            .and_then(|worker| self.pools.get(&worker.pool)?.cell_of(id));
        let Some(cell) = cell else { return };
        let heartbeat = cell.heartbeat();
        if !heartbeat.is_zero() {
            let event = Event::Beat {
                worker: id,
                at: Moment::after_origin(heartbeat),
                served: cell.good() > 0,
            };
            self.step(event);
        }
    }

    fn record(&mut self, record: &Record) {
        let known = records::subject(record).map(|worker| self.known(worker));
        records::write(&self.log, record, &known.unwrap_or_default());
        if let Some(message) = records::progress(record) {
            self.waiting.retain(|asker| !asker.is_gone());
            for asker in &self.waiting {
                asker.progress(message.clone());
            }
        }
        if matches!(record, Record::Ready { .. }) {
            self.announce();
        }
    }

    fn known(&self, id: WorkerId) -> Known {
        let Some(worker) = self.workers.get(&id) else {
            return Known::default();
        };
        let view = self.supervisor.workers().find(|view| view.id == id);
        let ready_after = |view: WorkerView| Some(view.ready_at?.since(view.spawned_at));
        Known {
            pid: Some(worker.link.pid()),
            generation: Some(worker.generation),
            ready_after: view.and_then(ready_after),
            counts: self.pools[&worker.pool].cell_of(id).map(Counts::of),
        }
    }

    /// Says once of each pool where it serves, when it is complete for the
    /// first time: one that never is does not keep the others from saying so.
    fn announce(&mut self) {
        let complete: Vec<_> = self
            .supervisor
            .pools()
            .filter(|pool| pool.serving >= pool.workers && !self.announced.contains(&pool.name))
            .map(|pool| pool.name)
            .collect();
        self.announced.extend(complete.iter().cloned());
        for listener in self.listeners.statuses() {
            if !complete.contains(&listener.pool) {
                continue;
            }
            let pool = &self.pools[&listener.pool];
            self.log.plain(&format!(
                "skep: serving {} ({}, {})",
                listener.address,
                counted(usize::from(pool.spec().workers), "worker"),
                counted(pool.apps(), "app"),
            ));
        }
    }
}

/// The primary's time; its origin is that of `CLOCK_MONOTONIC`, as in the
/// scoreboard.
fn now() -> Moment {
    Moment::after_origin(clock::monotonic())
}

async fn until(deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => sleep(deadline.since(now())).await,
        None => std::future::pending().await,
    }
}

/// Without workers there is nothing to look at.
async fn tick(beats: &mut Interval, idle: bool) {
    if idle {
        std::future::pending::<()>().await;
    }
    beats.tick().await;
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
