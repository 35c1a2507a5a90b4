//! Canary workers: processes that load and validate handlers and take no
//! traffic.
//!
//! The supervisor knows nothing of them: they hold no slot, there is one for
//! each rollout or reload that validates, and each is gone when its verdict is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use skep_core::rollout::Input;
use skep_core::supervise::EndStatus;
use skep_core::{
    AppName, ExitReason, HandlerId, LogLevel, Plan, PlannedApp, PoolName, SlotIndex, WorkerId,
};
use skep_wire::FromWorker;

use super::{Consequence, Fleet, now};
use crate::figures::Registered;
use crate::log::Speaker;
use crate::notices::reason_of;
use crate::pool::Newborn;
use crate::process::{Birth, Command, Mute, News, Process};

/// The place that a canary worker says it has.
const CANARY_SLOT: SlotIndex = SlotIndex(0);

/// A canary worker.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) process: Process,
    pub(super) pool: PoolName,
    whose: Whose,
    handlers: BTreeMap<AppName, HandlerId>,
    /// How long it waits for them.
    grace: Duration,
    /// Which of them are not valid, and why.
    refused: BTreeMap<AppName, String>,
    /// Whether it has said, or cannot say any more, how it went.
    told: bool,
    asked_to_go: bool,
}

/// For whom something is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The rollout of this app.
    App(AppName),
    /// The reload that is under way.
    Reload,
}

impl Fleet {
    /// Tries handlers in a canary worker of a pool.
    ///
    /// # Errors
    ///
    /// No process can be made.
    pub(super) fn try_out(
        &mut self,
        name: &PoolName,
        handlers: &BTreeMap<AppName, HandlerId>,
        whose: Whose,
    ) -> io::Result<WorkerId> {
        let worker = self.supervisor.claim_worker_id();
        self.scribe.worker_given(worker);
        let plan = Plan {
            number: 1,
            generation: self.spec.generation,
            workers: 1,
            apps: handlers
                .iter()
                .map(|(app, handler)| PlannedApp {
                    app: app.clone(),
                    tenant: self.catalog.entry(*handler).load.tenant.clone(),
                    // Nothing of it is counted.
                    row: u32::MAX,
                    routes: Vec::new(),
                    paused: false,
                    stable: Some(*handler),
                    canary: None,
                    standby: None,
                    observed: false,
                })
                .collect(),
            // A canary worker has no budgets to share.
            tenants: Vec::new(),
        };
        // It takes no traffic, but its validation may reach something.
        let mut introduction = self.introduction(name, false);
        // Nobody reads it.
        let register = Registered::create(now())?.fd()?;
        let pool = self
            .pools
            .get_mut(name)
            .ok_or_else(|| io::Error::other("the pool is gone"))?;
        let cell = pool
            .claim_cell(worker)
            .ok_or_else(|| io::Error::other("too many workers of the pool are still going away"))?;
        // Who is late is to be known before the canary worker is.
        let grace = pool.spec.supervision.start_timeout * 9 / 10;
        let newborn = Newborn {
            worker,
            pool: name,
            slot: CANARY_SLOT,
            cell,
            register,
            log: self.spec.server.log,
            sandbox: self.spec.server.sandbox,
            grace,
            quarantined: &BTreeSet::new(),
            vital: &BTreeSet::new(),
        };
        let words = std::mem::take(&mut introduction.words);
        let birth = Birth {
            id: worker,
            title: format!("skep: canary worker {name}"),
            messages: pool.first_words(&newborn, Box::new(plan), &self.catalog, &[], words),
            grace: pool.spec.supervision.kill_timeout,
            wall: self
                .walls
                .around_worker(name, &format!("worker-{worker}"), &pool.spec)
                .in_background(),
            log: (
                self.journal.log().clone(),
                Speaker::worker(name, worker, self.spec.server.log.format),
            ),
        };
        let process = match Process::start(birth, self.news.clone()) {
            Ok(process) => process,
            Err(error) => {
                pool.release_cell(worker, &mut self.books, now());
                return Err(error);
            }
        };
        let pid = process.pid();
        self.journal
            .event(LogLevel::Info, "worker.spawned", |line| {
                line.text("pool", name.as_str())
                    .number("worker", worker)
                    .number("pid", pid)
                    .text("role", "canary")
            });
        let trial = Trial {
            process,
            pool: name.clone(),
            whose,
            handlers: handlers.clone(),
            grace,
            refused: BTreeMap::new(),
            told: false,
            asked_to_go: false,
        };
        self.trials.insert(worker, trial);
        self.introduce(worker, name, introduction);
        self.untold.worker(worker);
        Ok(worker)
    }

    pub(super) fn hear_trial(&mut self, id: WorkerId, news: News) {
        // Whose verdict is known has nothing more to say.
        let told = self.trials.get(&id).is_some_and(|trial| trial.told);
        if told && !matches!(news, News::Exited(_)) {
            return;
        }
        let verdict = match news {
            News::Said(FromWorker::Refused { handler, message }) => {
                self.refused_in_trial(id, handler, message);
                None
            }
            News::Said(FromWorker::Ready { late }) => {
                let grace = self.trials.get(&id).map(|trial| trial.grace);
                for handler in late {
                    let grace = grace.unwrap_or_default();
                    let message = format!("its validation had not ended after {grace:?}");
                    self.refused_in_trial(id, handler, message);
                }
                let trial = self.trials.get_mut(&id);
                let refused = trial.map(|trial| std::mem::take(&mut trial.refused));
                Some(Ok(refused.unwrap_or_default()))
            }
            News::Said(FromWorker::Unfit { message }) => Some(Err(message)),
            News::Said(_) => None,
            News::Mute(Mute::HungUp) => None,
            News::Mute(Mute::Garbled(error)) => {
                Some(Err(format!("its words make no sense: {error}")))
            }
            News::Exited(status) => {
                self.conclude(
                    id,
                    Err(format!("the canary worker died: {}", status.unasked())),
                );
                self.bury_trial(id, status);
                return;
            }
        };
        if let Some(verdict) = verdict {
            self.conclude(id, verdict);
            self.end_trial(id);
        }
    }

    fn refused_in_trial(&mut self, id: WorkerId, handler: HandlerId, message: String) {
        if let Some(trial) = self.trials.get_mut(&id)
            && let Some((app, _)) = trial.handlers.iter().find(|(_, its)| **its == handler)
        {
            trial.refused.insert(app.clone(), message);
        }
    }

    /// A canary worker has tried all it was to try: the apps that are not valid
    /// are named with the reason. Or it could not.
    fn conclude(&mut self, id: WorkerId, verdict: Result<BTreeMap<AppName, String>, String>) {
        let Some(trial) = self.trials.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut trial.told, true) {
            return;
        }
        match trial.whose.clone() {
            Whose::App(app) => {
                let verdict = verdict.and_then(|mut refused| match refused.remove(&app) {
                    Some(reason) => Err(reason),
                    None => Ok(()),
                });
                let input = match verdict {
                    Ok(()) => Input::Validated,
                    Err(reason) => Input::ValidationFailed { reason },
                };
                self.consequences.push_back(Consequence::Feed(app, input));
            }
            Whose::Reload => self.tried_for_reload(id, verdict),
        }
    }

    /// Makes a canary worker go; whatever it still says is not heard.
    pub(super) fn end_trial(&mut self, id: WorkerId) {
        if let Some(trial) = self.trials.get_mut(&id) {
            trial.told = true;
            trial.asked_to_go = true;
            trial.process.send(Command::End);
        }
    }

    /// Makes the canary workers of a reload go that is over.
    pub(super) fn end_trials_of_reload(&mut self) {
        let of_reload = |(_, trial): &(_, &Trial)| trial.whose == Whose::Reload;
        let trials = self.trials.iter().filter(of_reload).map(|(id, _)| *id);
        for id in trials.collect::<Vec<_>>() {
            self.end_trial(id);
        }
    }

    fn bury_trial(&mut self, id: WorkerId, status: EndStatus) {
        let Some(trial) = self.trials.remove(&id) else {
            return;
        };
        if let Some(pool) = self.pools.get_mut(&trial.pool) {
            pool.release_cell(id, &mut self.books, now());
        }
        self.untold.worker(id);
        // What we asked for is what happened, whatever the code says.
        let reason = if trial.asked_to_go {
            ExitReason::Requested
        } else {
            status.unasked()
        };
        self.journal.event(LogLevel::Info, "worker.exited", |line| {
            let line = line
                .text("pool", trial.pool.as_str())
                .number("worker", id)
                .number("pid", trial.process.pid())
                .text("role", "canary")
                .number("voluntary", reason.is_voluntary());
            reason_of(line, &reason)
        });
    }
}
