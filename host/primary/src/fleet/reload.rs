//! A reload, or the start, as the fleet carries it out: [`Reload`] decides what
//! comes next, `prepare` reads and builds, `compose` makes the next generation of
//! it, `apply` puts it into force or the one before back.
//!
//! What is added is there before workers are told of the new generation; what
//! is removed goes only once it is in force, so that going back brings nothing
//! into being.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_core::claims::Claim;
use skep_core::reload::{Input, Output, Progress, Rejected, Reload, Stage};
use skep_core::supervise::{BreakerState, RollFailure};
use skep_core::{AppName, FleetSpec, HandlerId, LogLevel, Moment, PoolName, WorkerId};
use skep_wire::ControlReply;
use tokio::sync::oneshot;

use super::material::Material;
use super::operation::{FAILED, REFUSED};
use super::trial::Whose;
use super::{Fleet, now};
use crate::aside::{Reading, aside};
use crate::control::Asker;
use crate::rejection::Rejection;

/// A reload that is under way, or the start.
#[derive(Debug)]
pub(super) struct Reloading {
    asker: Option<Wanting>,
    /// What it needs for itself.
    pub(super) claim: Claim,
    machine: Reload<Rejection>,
    pub(super) material: Material,
}

/// Who waits for its end.
#[derive(Debug)]
pub(super) enum Wanting {
    Operator(Asker),
    /// The start goes on once all is prepared.
    Start(oneshot::Sender<Result<(), Rejection>>),
}

impl Reloading {
    pub(super) const fn deadline(&self) -> Option<Moment> {
        self.machine.deadline()
    }

    pub(super) const fn stage(&self) -> Stage {
        self.machine.stage()
    }

    pub(super) const fn is_first(&self) -> bool {
        self.machine.is_first()
    }

    /// Tells whoever waits for it that it is in force.
    pub(super) fn answer(self, message: String) {
        if let Some(Wanting::Operator(asker)) = self.asker {
            asker.answer(ControlReply::Done {
                message: Some(message),
            });
        }
    }
}

impl Fleet {
    /// Begins with the first generation. Says when all that can be refused of it
    /// was not: then [`Self::serve_first`] may follow.
    pub(super) fn begin_first(
        &mut self,
        spec: FleetSpec,
    ) -> oneshot::Receiver<Result<(), Rejection>> {
        let (done, prepared) = oneshot::channel();
        self.reloading = Some(Box::new(Reloading {
            asker: Some(Wanting::Start(done)),
            claim: Claim::of_configuration(),
            machine: Reload::first(now()),
            material: Material::Nothing,
        }));
        self.read_done(Ok(spec));
        prepared
    }

    /// Whether a reload is under way.
    pub(super) const fn is_reloading(&self) -> bool {
        self.reloading.is_some()
    }

    /// What is being reloaded, with what it needs for itself.
    pub(super) fn claim_of_reloading(&self) -> Option<&Claim> {
        self.reloading.as_ref().map(|it| &it.claim)
    }

    /// The specification beside the one that is in force whose workers may run: of
    /// the next generation while it is tried, of the one before while workers
    /// follow.
    pub(super) fn other_spec(&self) -> Option<&FleetSpec> {
        match &self.reloading.as_ref()?.material {
            Material::Next(next) => Some(&next.spec),
            Material::Applied(applied) => Some(&applied.before.spec),
            Material::Nothing
            | Material::Read(_)
            | Material::Prepared(..)
            | Material::Restored(_) => None,
        }
    }

    /// Goes on with the first generation.
    pub(super) fn serve_first(&mut self) {
        self.step_reload(Input::Trying {
            trials: Ok(BTreeMap::new()),
            within: Duration::ZERO,
        });
    }

    /// Reads the configuration again and rolls the difference out.
    pub(super) fn reload(&mut self, asker: Option<Asker>) {
        let claim = Claim::of_configuration();
        if let Some(reply) = self.conflict(&claim) {
            match asker {
                Some(asker) => asker.answer(reply),
                // A signal cannot be told to come again.
                None => self.reload_wanted = true,
            }
            return;
        }
        self.reloading = Some(Box::new(Reloading {
            asker: asker.map(Wanting::Operator),
            claim,
            machine: Reload::next(now()),
            material: Material::Nothing,
        }));
        let (reread, users) = (Arc::clone(&self.reread), self.walls.users());
        let missing = self.unbuilt_components();
        let work = async move {
            let read = aside(Reading::Configuration, move || {
                let spec = reread(&missing)?;
                users.look_up(&spec);
                Ok(spec)
            })
            .await;
            read.unwrap_or_else(|stuck| Err(format!("the configuration: {stuck}")))
        };
        self.later(work, Self::read_done);
    }

    /// Does what a signal asked for while something else was under way.
    pub(super) fn reload_if_wanted(&mut self) {
        if self.reload_wanted && self.conflict(&Claim::of_configuration()).is_none() {
            self.reload_wanted = false;
            self.reload(None);
        }
    }

    /// Tells the reload something, and does what it says.
    pub(super) fn step_reload(&mut self, input: Input<Rejection>) {
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        let Some(output) = reloading.machine.step(now(), input) else {
            return;
        };
        match output {
            Output::Build => self.prepare_read(),
            Output::AwaitTurn => self.await_turn(),
            Output::Compose => {
                let composed = self.compose_next();
                self.step_reload(Input::Composed(composed));
            }
            Output::Try => self.try_next(),
            Output::Apply => self.apply(),
            Output::Restore => self.restore(),
            Output::InForce => self.in_force(),
            Output::Rejected(why) => self.reject_reload(why),
        }
    }

    /// What was made so far, for a step that makes something else of it.
    pub(super) fn take_material(&mut self) -> Material {
        let reloading = self.reloading.as_mut();
        reloading.map_or(Material::Nothing, |it| std::mem::take(&mut it.material))
    }

    pub(super) fn set_material(&mut self, material: Material) {
        if let Some(reloading) = &mut self.reloading {
            reloading.material = material;
        }
    }

    /// Has every new handler tried in a canary worker of its pool.
    fn try_next(&mut self) {
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        if let Some(Wanting::Start(prepared)) = reloading
            .asker
            .take_if(|it| matches!(it, Wanting::Start(_)))
        {
            // Fails if the start was given up.
            let _ = prepared.send(Ok(()));
            return;
        }
        let Material::Next(next) = &reloading.material else {
            return;
        };
        let mut by_pool: BTreeMap<PoolName, BTreeMap<AppName, HandlerId>> = BTreeMap::new();
        for (name, app) in &next.apps {
            let current = self.apps.get(name);
            if current.is_none_or(|now| now.stable != app.handler) {
                let pool = next.spec.apps[name].pool.clone();
                let handlers = by_pool.entry(pool).or_default();
                handlers.insert(name.clone(), app.handler);
            }
        }
        let pools = next.spec.pools.values();
        let patience = pools.map(|pool| pool.supervision.start_timeout).max();
        // Canary workers say themselves who is late, well before this.
        let within = patience.unwrap_or_default() * 3 / 2;
        // What validates may reach what it shall reach.
        self.tell_connector();
        let mut trials = Ok(BTreeMap::new());
        for (pool, handlers) in by_pool {
            let tried = self.try_out(&pool, &handlers, Whose::Reload);
            match (&mut trials, tried) {
                (Ok(trials), Ok(worker)) => {
                    trials.insert(worker, handlers.into_keys().collect());
                }
                (trials, Err(source)) => {
                    let doing = "start a canary worker".to_owned();
                    *trials = Err(Rejection::System { doing, source });
                }
                (Err(_), Ok(_)) => {}
            }
        }
        self.step_reload(Input::Trying { trials, within });
    }

    /// A canary worker of the reload has said how it went.
    pub(super) fn tried_for_reload(
        &mut self,
        worker: WorkerId,
        verdict: Result<BTreeMap<AppName, String>, String>,
    ) {
        let next = match self.reloading.as_ref().map(|it| &it.material) {
            Some(Material::Next(next)) => &next.apps,
            _ => return,
        };
        // What did not work before keeps nobody else from being reloaded.
        let replaces = |name: &AppName| {
            let app = next.get(name);
            app.is_some_and(|app| app.renewed && app.saved.history().active().is_some())
        };
        let excused = self.quarantined_but(replaces);
        self.step_reload(Input::Tried {
            worker,
            verdict,
            excused,
        });
    }

    /// A worker could not load what a reload wants. Whether that was for us.
    pub(super) fn refuse_reload(&mut self, name: &AppName, handler: HandlerId, why: &str) -> bool {
        let app = self.apps.get(name);
        let ours = app.is_some_and(|app| app.stable == handler && app.passage.is_none());
        if !ours || self.reloading.is_none() {
            return false;
        }
        self.step_reload(Input::Refused {
            app: name.clone(),
            reason: why.to_owned(),
        });
        true
    }

    /// A pool's rolling replacement has ended, perhaps one of the reload.
    pub(super) fn rolled_for_reload(&mut self, pool: &PoolName, result: &Result<u16, RollFailure>) {
        self.step_reload(Input::RollEnded {
            pool: pool.clone(),
            result: result.clone().map(drop),
        });
    }

    /// Tells the reload how far the others are, and the workers.
    pub(super) fn check_reload(&mut self) {
        match self.reloading.as_ref().map(|it| it.stage()) {
            Some(Stage::Waiting) => self.go_on_if_its_turn(),
            Some(Stage::Applying | Stage::Restoring) => {
                let progress = self.progress_of_reload();
                self.step_reload(Input::Progress(progress));
            }
            _ => {}
        }
    }

    fn progress_of_reload(&self) -> Progress {
        let Some(reloading) = &self.reloading else {
            return Progress::default();
        };
        let claim = &reloading.claim;
        let mut pools = claim.plans.iter().chain(&claim.workers);
        let mut progress = Progress {
            settled: pools.all(|pool| self.is_settled(pool)),
            full: true,
            handed_out: true,
            tripped: None,
        };
        let Material::Applied(applied) = &reloading.material else {
            return progress;
        };
        // A pool that the reload does not touch is as well, or as ill, as it was.
        let pools = &applied.difference.pools;
        let scaled = pools.scaled.iter().map(|(name, _)| name);
        for name in pools.added.iter().chain(&pools.restarted).chain(scaled) {
            let Some(pool) = self.supervisor.pool(name) else {
                // It is still to be filled.
                progress.full = false;
                continue;
            };
            progress.full &= pool.serving >= pool.workers;
            if pool.breaker != BreakerState::Admitting {
                progress.tripped = Some(pool.name);
            }
        }
        let mut listeners = applied.before.listeners.keys();
        progress.handed_out = listeners.all(|name| self.is_handed_out(name));
        progress
    }

    /// Says why the configuration that was read is not in force.
    fn reject_reload(&mut self, why: Rejected<Rejection>) {
        let in_the_way = self.in_the_way_of_reload();
        let Some(reloading) = self.reloading.take() else {
            return;
        };
        let attempts = reloading.material.attempts();
        let (reason, code) = match (why, in_the_way) {
            (Rejected::Busy, Some(what)) => {
                let reason = format!("{what} is under way still, on what it changes");
                (reason, REFUSED)
            }
            (Rejected::Step(why), _) => match reloading.asker {
                Some(Wanting::Start(prepared)) => {
                    // Fails if the start was given up.
                    let _ = prepared.send(Err(why));
                    return;
                }
                _ => (why.to_string(), why.code()),
            },
            (why, _) => (why.to_string(), FAILED),
        };
        self.end_trials_of_reload();
        // Users were found for these at least once.
        let _ = self.walls.admit(&self.spec);
        self.drop_ended_pools();
        self.journal
            .event(LogLevel::Error, "config.rejected", |line| {
                line.number("generation", self.spec.generation)
                    .text("reason", &reason)
            });
        self.list_rejected(attempts, &reason);
        self.prune_catalog();
        self.sweep();
        if let Some(Wanting::Operator(asker)) = reloading.asker {
            asker.answer(ControlReply::Refused {
                message: format!("the configuration was rejected: {reason}"),
                code,
            });
        }
    }
}
