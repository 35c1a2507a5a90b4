//! Workers in their slots: spawned, heard, and told of to the supervisor.

use std::collections::BTreeSet;
use std::io;

use skep_core::converge::Convergence;
use skep_core::rollout::Input;
use skep_core::solo;
use skep_core::supervise::{EndStatus, Event, Notice, WorkerView};
use skep_core::{
    Generation, ListenerName, LogLevel, Moment, PlannedApp, PoolName, SlotIndex, WorkerId,
};
use skep_sys::{Cell, process};
use skep_wire::FromWorker;

use super::words::counted;
use super::{Consequence, Fleet, Worker, now};
use crate::figures::Registered;
use crate::log::Speaker;
use crate::notices::{self, Known};
use crate::pool::{Counts, Newborn};
use crate::process::{Birth, Command, Heard, News, Process};

/// Most lacks of the kernel that are told of: more than there are.
const MAX_LACKS: usize = 16;

impl Fleet {
    pub(super) fn spawn(
        &mut self,
        worker: WorkerId,
        name: &PoolName,
        slot: SlotIndex,
        generation: Generation,
    ) -> io::Result<()> {
        self.scribe.worker_given(worker);
        let mut introduction = self.introduction(name, true);
        let (quarantined, vital) = (self.excused(name), self.vital(name));
        let registered = Registered::create(now())?;
        let register = registered.fd()?;
        let pool = self
            .pools
            .get_mut(name)
            .expect("the supervisor knows our pools only");
        let cell = pool
            .claim_cell(worker)
            .ok_or_else(|| io::Error::other("too many workers of the pool are still going away"))?;
        pool.count_by(worker, registered);
        let newborn = Newborn {
            worker,
            pool: name,
            slot,
            cell,
            register,
            log: self.spec.server.log,
            sandbox: self.spec.server.sandbox,
            grace: pool.spec.supervision.start_timeout / 2,
            quarantined: &quarantined,
            vital: &vital,
        };
        let listeners = self.listeners.of(name);
        let words = std::mem::take(&mut introduction.words);
        let birth = Birth {
            id: worker,
            title: format!("skep: worker {name}/{slot}"),
            messages: pool.first_words(
                &newborn,
                pool.plan.clone(),
                &self.catalog,
                &listeners,
                words,
            ),
            grace: pool.spec.supervision.kill_timeout,
            wall: self
                .walls
                .around_worker(name, &format!("worker-{worker}"), &pool.spec),
            log: (
                self.journal.log().clone(),
                Speaker::worker(name, worker, self.spec.server.log.format),
            ),
        };
        match Process::start(birth, self.news.clone()) {
            Ok(process) => {
                pool.convergence.born(worker, slot);
                let pool = name.clone();
                let born = Worker {
                    process,
                    pool,
                    generation,
                    cut: 0,
                    late: Vec::new(),
                };
                self.workers.insert(worker, born);
                self.introduce(worker, name, introduction);
                self.untold.worker(worker);
                Ok(())
            }
            Err(error) => {
                pool.release_cell(worker, &mut self.books, now());
                Err(error)
            }
        }
    }

    pub(super) fn command(&self, worker: WorkerId, command: Command) {
        if let Some(worker) = self.workers.get(&worker) {
            worker.process.send(command);
        }
    }

    /// Tells a worker something, be it a canary worker.
    pub(super) fn command_any(&self, worker: WorkerId, command: Command) {
        match self.trials.get(&worker) {
            Some(trial) => trial.process.send(command),
            None => self.command(worker, command),
        }
    }

    /// Tells a worker to stop, and notes what that cuts: by the time that it is
    /// gone it works on nothing.
    pub(super) fn stop(&mut self, id: WorkerId) {
        let in_flight = self.known(id).in_flight;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.cut = in_flight;
        }
        self.command(id, Command::stop());
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Worker(id, news) => self.hear_worker(id, news),
            Heard::Dispatcher(name, news) => self.hear_dispatcher(&name, news),
            Heard::Connector(news) => self.hear_connector(news),
        }
    }

    fn hear_worker(&mut self, id: WorkerId, news: News) {
        if self.trials.contains_key(&id) {
            return self.hear_trial(id, news);
        }
        match news {
            News::Said(words) => self.listen_to(id, words),
            News::Mute(mute) => {
                self.journal.event(LogLevel::Error, "worker.mute", |line| {
                    line.number("worker", id).text("message", &mute.reason())
                });
            }
            News::Exited(status) => {
                // The last beat may hold the first good request.
                self.read_beat(id);
                self.worker_exited(id, status);
            }
        }
    }

    /// Tells the supervisor that a worker is gone.
    pub(super) fn tell_exit(&mut self, id: WorkerId, status: EndStatus) {
        self.step(Event::Exited { worker: id, status });
        self.forget(id);
    }

    fn listen_to(&mut self, id: WorkerId, words: FromWorker) {
        match words {
            FromWorker::Ready { late } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.late = late;
                }
                self.step(Event::Ready { worker: id });
            }
            FromWorker::Drained => self.step(Event::Drained { worker: id }),
            FromWorker::Unfit { message } => {
                self.step(Event::Unfit {
                    worker: id,
                    message,
                });
            }
            FromWorker::Loaded { handler } => {
                self.converge(id, |convergence| convergence.loaded(id, handler));
                self.check_quarantine();
            }
            FromWorker::Refused { handler, message } => self.refused(id, handler, message),
            FromWorker::Serving { plan } => {
                self.converge(id, |convergence| convergence.serving(id, plan));
            }
            FromWorker::Tallies(mut tallies) => {
                tallies.retain(|tally| {
                    tally.is_sound() && self.speaks_of(id, |its| its.may_have(id, tally.handler))
                });
                self.tally(id, &tallies);
            }
            FromWorker::Retired { handler, app, cut } => self.retired(id, handler, &app, cut),
            // One record for a lack of the kernel that all workers meet.
            FromWorker::Confined { missing } => {
                self.confined(&missing, |line| line.number("worker", id));
            }
            // Listeners are told, not asked back for: the socket is the proof.
            FromWorker::Listening { .. } => {}
        }
    }

    /// Whether a worker's pool knows that what it speaks of is its own: one that
    /// was taken over may name the handlers of others.
    fn speaks_of(&self, id: WorkerId, knows: impl FnOnce(&Convergence) -> bool) -> bool {
        let pool = self.workers.get(&id).map(|worker| &worker.pool);
        pool.and_then(|pool| self.pools.get(pool))
            .is_some_and(|pool| knows(&pool.convergence))
    }

    /// Tells what the kernel could not do to confine our processes. All of them
    /// meet the same kernel, so each lack is told once, of the first.
    pub(super) fn confined(
        &mut self,
        missing: &[String],
        about: impl Fn(skep_core::Record) -> skep_core::Record,
    ) {
        for lack in missing {
            if self.lacks.len() < MAX_LACKS && self.lacks.insert(lack.clone()) {
                self.journal
                    .event(LogLevel::Warn, "sandbox.incomplete", |line| {
                        about(line).text("message", lack)
                    });
            }
        }
    }

    /// Gives back what a reaped worker had.
    fn forget(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            pool.release_cell(id, &mut self.books, now());
            pool.remember_gone(id, worker.process.pid());
        }
        self.untold.worker(id);
        if !self.spec.pools.contains_key(&worker.pool) {
            self.untold.all();
            self.drop_ended_pools();
        }
    }

    pub(super) fn read_beats(&mut self) {
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            self.read_beat(worker);
        }
        let solos: Vec<_> = self.solos().map(|(name, _)| name.cloned()).collect();
        for name in solos {
            self.read_solo_beat(name.as_ref());
        }
    }

    /// Reads the heartbeats of the workers about whom something is due.
    pub(super) fn read_due_beats(&mut self, now: Moment) {
        let due = self.supervisor.due(now);
        let workers: Vec<WorkerId> = due
            .flat_map(|pool| self.supervisor.workers_of(pool))
            .map(|worker| worker.id)
            .collect();
        for worker in workers {
            self.read_beat(worker);
        }
    }

    /// Reads the heartbeat of a listener's dispatcher, or of the connector.
    pub(super) fn read_solo_beat(&mut self, listener: Option<&ListenerName>) {
        let beat = match listener {
            Some(name) => self.dispatchers.get(name).and_then(|is| is.single.beat()),
            None => self.connector.single.beat(),
        };
        if let Some(beat) = beat {
            self.step_solo(listener, beat);
        }
    }

    pub(super) fn step_solo(&mut self, listener: Option<&ListenerName>, event: solo::Event) {
        match listener {
            Some(name) => self.step_dispatcher(name, event),
            None => self.step_connector(event),
        }
    }

    fn read_beat(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(pool) = self.pools.get(&worker.pool) else {
            return;
        };
        let Some(cell) = pool.cell_of(id) else { return };
        let heartbeat = cell.heartbeat();
        if heartbeat.is_zero() {
            return;
        }
        // Asking the system costs more than all the rest.
        let watched = pool.spec.supervision.soft_memory().is_some();
        let memory = watched
            .then(|| process::memory(worker.process.pid()))
            .flatten()
            .map_or(0, |memory| memory.rss_bytes);
        let event = Event::Beat {
            worker: id,
            at: Moment::after_origin(heartbeat),
            served: cell.good() > 0,
            requests: cell.requests(),
            memory,
        };
        self.step(event);
    }

    pub(super) fn notice(&mut self, notice: &Notice) {
        let known = notices::subject(notice).map(|worker| self.known(worker));
        notices::write(&self.journal, notice, &known.unwrap_or_default());
        if let Some(message) = notices::progress(notice) {
            self.waiting.retain(|asker| !asker.is_gone());
            for asker in &self.waiting {
                asker.progress(message.clone());
            }
        }
        match notice {
            Notice::Ready { worker, pool, .. } => {
                self.ready(*worker);
                self.complete(pool);
                self.announce_served();
            }
            // One that drains still answers, so it comes along.
            Notice::Exited { worker, .. } => {
                let id = *worker;
                self.converge(id, |convergence| convergence.leaving(id));
                self.check_quarantine();
            }
            Notice::Tripped { pool, last, .. } => {
                let reason = format!("pool {pool} has tripped: {last}");
                let passing = self.passing(pool);
                self.consequences.extend(passing.into_iter().map(|app| {
                    let reason = reason.clone();
                    Consequence::Feed(app, Input::Tripped { reason })
                }));
            }
            Notice::Rolled { pool, replaced } => {
                let ended = Consequence::RollEnded(pool.clone(), Ok(*replaced));
                self.consequences.push_back(ended);
            }
            Notice::RollFailed { pool, reason, .. } => {
                let ended = Consequence::RollEnded(pool.clone(), Err(reason.clone()));
                self.consequences.push_back(ended);
            }
            Notice::Spawned { .. }
            | Notice::Draining { .. }
            | Notice::Kept { .. }
            | Notice::Probing { .. }
            | Notice::Recycling { .. }
            | Notice::Reset { .. } => {}
        }
    }

    fn known(&self, id: WorkerId) -> Known {
        let Some(worker) = self.workers.get(&id) else {
            return Known::default();
        };
        let view = self.supervisor.worker(id);
        let ready_after = |view: WorkerView| Some(view.ready_at?.since(view.spawned_at));
        let cell = self
            .pools
            .get(&worker.pool)
            .and_then(|pool| pool.cell_of(id));
        Known {
            pid: Some(worker.process.pid()),
            generation: Some(worker.generation),
            ready_after: view.and_then(ready_after),
            counts: cell.map(Counts::of),
            in_flight: cell.map_or(0, Cell::in_flight).max(worker.cut),
        }
    }

    /// Says once of each listener that it is served, when all of its pools are
    /// complete for the first time: one that never is does not keep others from
    /// saying so.
    pub(super) fn announce(&mut self) {
        let pools: Vec<PoolName> = self.pools.keys().cloned().collect();
        for pool in &pools {
            self.complete(pool);
        }
        self.announce_served();
    }

    /// Takes note of a pool that is complete for the first time.
    fn complete(&mut self, pool: &PoolName) {
        if self.completed.contains(pool) {
            return;
        }
        let view = self.supervisor.pool(pool);
        if view.is_some_and(|view| view.serving >= view.workers) {
            self.completed.insert(pool.clone());
            self.first_served(pool);
        }
    }

    fn announce_served(&mut self) {
        // What a reload adds is told of when it is in force.
        if self.is_reloading() {
            return;
        }
        for listener in self.listeners.statuses() {
            let name = &listener.name;
            if self.announced.contains(name) {
                continue;
            }
            let is_served = listener
                .pools
                .iter()
                .all(|pool| self.completed.contains(pool))
                && self.is_handed_out(name);
            if !is_served {
                continue;
            }
            self.announced.insert(name.clone());
            let pools = listener
                .pools
                .iter()
                .filter_map(|name| self.pools.get(name));
            let (mut workers, mut apps, mut quarantined) = (0, 0, 0);
            for pool in pools {
                workers += usize::from(pool.spec.workers);
                apps += pool.plan.apps.len();
                let fail =
                    |app: &&PlannedApp| app.stable.is_none() || self.is_quarantined(&app.app);
                quarantined += pool.plan.apps.iter().filter(fail).count();
            }
            let quarantined = match quarantined {
                0 => String::new(),
                count => format!(", {count} of them in quarantine"),
            };
            self.journal.log().plain(&format!(
                "skep: serving {} ({}, {}{quarantined})",
                listener.address,
                counted(workers, "worker"),
                counted(apps, "app"),
            ));
        }
    }

    /// Forgets pools whose last worker is gone.
    pub(super) fn drop_ended_pools(&mut self) {
        let known: BTreeSet<_> = self.supervisor.pools().map(|pool| pool.name).collect();
        let used: BTreeSet<_> = self
            .workers
            .values()
            .map(|worker| worker.pool.clone())
            .collect();
        if self.is_reloading() {
            return;
        }
        let spec = &self.spec;
        self.pools.retain(|name, _| {
            known.contains(name) || used.contains(name) || spec.pools.contains_key(name)
        });
    }
}
