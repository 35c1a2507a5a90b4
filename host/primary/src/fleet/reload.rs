//! From one generation to the next: read, build, try, apply, and back if the
//! workers do not come along.
//!
//! ```text
//! Reading ──▶ Building ──▶ Waiting ──▶ Trying{canary workers} ──▶ Applying{by} ──settled──▶ in force
//!    └────────────┴───────────┴──────────────┴─ rejected:             │ refused, failed, late
//!                                               nothing was changed   ▼
//!                                                                 Restoring{by} ──▶ rejected
//! ```
//! It waits for operations on what it changes, which nobody else may begin
//! meanwhile.
//!
//! What is added is there before workers are told of the new generation; what
//! is removed goes only once it is in force, so that going back brings nothing
//! into being.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_core::claims::Claim;
use skep_core::difference::Difference;
use skep_core::history::History;
use skep_core::supervise::{BreakerState, RollFailure};
use skep_core::{
    AppName, FleetSpec, HandlerId, ListenerName, LogLevel, Moment, PoolName, Revision, WorkerId,
};
use skep_wire::ControlReply;

use super::app::App;
use super::operation::{FAILED, REFUSED};
use super::trial::Whose;
use super::{Fleet, now};
use crate::artifacts::{Artifact, Artifacts};
use crate::aside::{Reading, aside};
use crate::control::Asker;
use crate::listeners::Bound;
use crate::pool::Pool;

/// Exit codes of SPEC §1: the configuration has problems; something is missing.
pub(super) const PROBLEMS: u8 = 3;
pub(super) const UNAVAILABLE: u8 = 69;

/// A reload that is under way.
#[derive(Debug)]
pub(super) struct Reloading {
    pub(super) asker: Option<Asker>,
    /// What it needs for itself.
    pub(super) claim: Claim,
    pub(super) stage: Stage,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one reload at a time, in a box"
)]
pub(super) enum Stage {
    /// Read, and built.
    Preparing,
    /// For others who work on what it changes.
    Waiting {
        built: Box<Built>,
        by: Moment,
    },
    Trying {
        next: Box<Next>,
        trials: BTreeSet<WorkerId>,
        by: Moment,
    },
    Applying {
        by: Moment,
        before: Box<Before>,
        rolls: BTreeSet<PoolName>,
        difference: Difference,
        /// Apps with a new revision, and the one before.
        renewed: BTreeMap<AppName, Old>,
        /// Listeners that their pools accept from once it is in force.
        moved: Vec<ListenerName>,
        failure: Option<String>,
    },
    Restoring {
        by: Moment,
        reason: String,
    },
}

/// What was read and built.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) spec: FleetSpec,
    pub(super) difference: Difference,
    pub(super) artifacts: Artifacts,
    /// Those of apps that are new.
    pub(super) histories: BTreeMap<AppName, History>,
}

/// The generation that shall be.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) spec: FleetSpec,
    pub(super) difference: Difference,
    pub(super) apps: BTreeMap<AppName, NextApp>,
    pub(super) bound: BTreeMap<ListenerName, Bound>,
}

#[derive(Debug)]
pub(super) struct NextApp {
    pub(super) history: History,
    pub(super) revision: Revision,
    pub(super) artifact: Arc<Artifact>,
    /// The one it has, or one that must be loaded.
    pub(super) handler: HandlerId,
    /// What of the history is on disk.
    pub(super) recorded: History,
    /// Whether it is what it is, and stays so.
    pub(super) kept: bool,
    /// Whether its revision is a new one.
    pub(super) renewed: bool,
}

/// What answered for an app before.
#[derive(Clone, Debug)]
pub(super) struct Old {
    pub(super) revision: Revision,
    pub(super) handler: HandlerId,
    pub(super) artifact: Arc<Artifact>,
}

/// What to go back to.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) spec: FleetSpec,
    pub(super) apps: BTreeMap<AppName, App>,
    /// Names that were bound anew or for the first time, with what they had.
    pub(super) listeners: BTreeMap<ListenerName, Option<Bound>>,
    pub(super) sizes: BTreeMap<PoolName, u16>,
}

impl Reloading {
    pub(super) fn deadline(&self) -> Option<Moment> {
        match &self.stage {
            // Reading and builders have their own.
            Stage::Preparing => None,
            Stage::Waiting { by, .. }
            | Stage::Trying { by, .. }
            | Stage::Applying { by, .. }
            | Stage::Restoring { by, .. } => Some(*by),
        }
    }

    pub(super) fn handlers(&self) -> Vec<HandlerId> {
        match &self.stage {
            Stage::Trying { next, .. } => next.apps.values().map(|app| app.handler).collect(),
            Stage::Applying {
                before, renewed, ..
            } => before
                .apps
                .values()
                .flat_map(App::handlers)
                .chain(renewed.values().map(|old| old.handler))
                .collect(),
            Stage::Preparing | Stage::Waiting { .. } | Stage::Restoring { .. } => Vec::new(),
        }
    }

    pub(super) fn rolled(&mut self, pool: &PoolName, result: &Result<u16, RollFailure>) {
        if let Stage::Applying { rolls, failure, .. } = &mut self.stage
            && rolls.remove(pool)
            && let Err(reason) = result
        {
            failure.get_or_insert_with(|| format!("pool {pool}: {reason}"));
        }
    }
}

impl Fleet {
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
            asker,
            claim,
            stage: Stage::Preparing,
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
        self.later(work, Self::reread_done);
    }

    /// Does what a signal asked for while something else was under way.
    pub(super) fn reload_if_wanted(&mut self) {
        if self.reload_wanted && self.conflict(&Claim::of_configuration()).is_none() {
            self.reload_wanted = false;
            self.reload(None);
        }
    }

    /// Has every new handler tried in a canary worker of its pool.
    pub(super) fn try_next(&mut self, next: Next) {
        let mut by_pool: BTreeMap<PoolName, BTreeMap<AppName, HandlerId>> = BTreeMap::new();
        for (name, app) in &next.apps {
            if self
                .apps
                .get(name)
                .is_none_or(|now| now.stable != app.handler)
            {
                let pool = next.spec.apps[name].pool.clone();
                by_pool
                    .entry(pool)
                    .or_default()
                    .insert(name.clone(), app.handler);
            }
        }
        for name in &next.difference.pools.added {
            let plan = skep_core::Plan {
                number: 0,
                ..skep_core::Plan::default()
            };
            if let Some(pool) = self.pools.get_mut(name) {
                // One of this name is still going away.
                pool.spec = next.spec.pools[name].clone();
                continue;
            }
            let pool = self
                .walls
                .folder(name)
                .and_then(|folder| Pool::new(next.spec.pools[name].clone(), plan, folder));
            match pool {
                Ok(pool) => drop(self.pools.insert(name.clone(), pool)),
                Err(error) => {
                    return self.reject_reload(format!("pool {name}: {error}"), FAILED);
                }
            }
        }
        let patience = next
            .spec
            .pools
            .values()
            .map(|pool| pool.supervision.start_timeout);
        let by = now() + patience.max().unwrap_or_default();
        if let Some(reloading) = &mut self.reloading {
            reloading.stage = Stage::Trying {
                next: Box::new(next),
                trials: BTreeSet::new(),
                by,
            };
        }
        // What validates may reach what it shall reach.
        self.tell_connector();
        let mut failure = None;
        for (pool, handlers) in by_pool {
            match self.try_out(&pool, &handlers, Whose::Reload) {
                Ok(worker) => self.await_trial(worker),
                Err(error) => failure = Some(format!("no canary worker can be started: {error}")),
            }
        }
        match failure {
            Some(reason) => self.reject_reload(reason, FAILED),
            None => self.apply_if_tried(),
        }
    }

    fn await_trial(&mut self, worker: WorkerId) {
        if let Some(reloading) = &mut self.reloading
            && let Stage::Trying { trials, .. } = &mut reloading.stage
        {
            trials.insert(worker);
        }
    }

    /// A canary worker of the reload has said how it went.
    pub(super) fn tried_for_reload(
        &mut self,
        worker: WorkerId,
        verdict: Result<BTreeMap<AppName, String>, String>,
    ) {
        // What did not work before keeps nobody else from being reloaded.
        let next = match &self.reloading {
            Some(reloading) => match &reloading.stage {
                Stage::Trying { next, .. } => Some(&next.apps),
                _ => None,
            },
            None => None,
        };
        let worse = |name: &AppName| {
            let renewed = next
                .and_then(|apps| apps.get(name))
                .is_some_and(|app| app.renewed && app.history.active().is_some());
            renewed || !self.quarantined.contains(name)
        };
        let verdict = verdict.and_then(|mut refused| {
            refused.retain(|app, _| worse(app));
            let reasons = refused.iter().map(|(app, why)| format!("app {app}: {why}"));
            let reasons: Vec<_> = reasons.collect();
            if reasons.is_empty() {
                Ok(())
            } else {
                Err(reasons.join("; "))
            }
        });
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        let Stage::Trying { trials, .. } = &mut reloading.stage else {
            return;
        };
        trials.remove(&worker);
        match verdict {
            Ok(()) => self.apply_if_tried(),
            Err(reason) => self.reject_reload(format!("validate: {reason}"), FAILED),
        }
    }

    fn apply_if_tried(&mut self) {
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        match std::mem::replace(&mut reloading.stage, Stage::Preparing) {
            Stage::Trying { next, trials, .. } if trials.is_empty() => self.apply(*next),
            stage => reloading.stage = stage,
        }
    }

    /// A worker could not load what a reload wants. Whether that was for us.
    pub(super) fn refuse_reload(&mut self, app: &AppName, handler: HandlerId, why: &str) -> bool {
        let ours = self
            .apps
            .get(app)
            .is_some_and(|app| app.stable == handler && app.passage.is_none());
        match &mut self.reloading {
            Some(reloading) if ours => {
                if let Stage::Applying { failure, .. } = &mut reloading.stage {
                    failure.get_or_insert_with(|| format!("app {app}: {why}"));
                }
                true
            }
            _ => false,
        }
    }

    /// Whether the workers have followed, to the new generation or back.
    pub(super) fn check_reload(&mut self) {
        let Some(reloading) = &self.reloading else {
            return;
        };
        if matches!(reloading.stage, Stage::Waiting { .. }) {
            return self.go_on_if_its_turn();
        }
        let claim = &reloading.claim;
        let mut pools = claim.plans.iter().chain(&claim.workers);
        let all_settled = pools.all(|pool| self.is_settled(pool));
        // A pool that the reload does not touch is as well, or as ill, as it was.
        let touched = self.touched_pools();
        let mut ill = None;
        let mut full = true;
        for pool in touched.iter().filter_map(|pool| self.supervisor.pool(pool)) {
            full &= pool.serving >= pool.workers;
            if pool.breaker != BreakerState::Admitting {
                ill = Some(format!("pool {} has tripped", pool.name));
            }
        }
        let handed_out = self.is_reload_handed_out();
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        match &mut reloading.stage {
            Stage::Applying {
                failure: failure @ Some(_),
                ..
            } => {
                let reason = failure.take().unwrap_or_default();
                self.restore(reason);
            }
            Stage::Applying { .. } if ill.is_some() => {
                self.restore(ill.unwrap_or_default());
            }
            Stage::Applying { rolls, .. }
                if rolls.is_empty() && all_settled && full && handed_out =>
            {
                self.in_force();
            }
            Stage::Restoring { reason, .. } if all_settled => {
                let reason = std::mem::take(reason);
                self.reject_reload(reason, FAILED);
            }
            _ => {}
        }
    }

    /// Whether the listeners of the reload have the dispatchers that they need.
    fn is_reload_handed_out(&self) -> bool {
        match &self.reloading {
            Some(reloading) => match &reloading.stage {
                Stage::Applying { before, .. } => {
                    let mut names = before.listeners.keys();
                    names.all(|name| self.is_handed_out(name))
                }
                _ => true,
            },
            _ => true,
        }
    }

    /// Pools that a reload starts workers in.
    fn touched_pools(&self) -> BTreeSet<PoolName> {
        let Some(reloading) = &self.reloading else {
            return BTreeSet::new();
        };
        let Stage::Applying { difference, .. } = &reloading.stage else {
            return BTreeSet::new();
        };
        let pools = &difference.pools;
        let scaled = pools.scaled.iter().map(|(name, _)| name);
        let names = pools.added.iter().chain(&pools.restarted).chain(scaled);
        names.cloned().collect()
    }

    pub(super) fn late_reload(&mut self) {
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        match &mut reloading.stage {
            Stage::Applying { .. } => {
                self.restore("the workers did not follow in time".to_owned());
            }
            Stage::Restoring { reason, .. } => {
                let reason = format!("{reason}; not all workers are back yet");
                self.reject_reload(reason, FAILED);
            }
            Stage::Trying { .. } => {
                let reason = "validate: the canary worker was not ready in time".to_owned();
                self.reject_reload(reason, FAILED);
            }
            Stage::Waiting { .. } => {
                let what = self.in_the_way_of_reload().unwrap_or_default();
                let reason = format!("{what} is under way still, on what it changes");
                self.reject_reload(reason, REFUSED);
            }
            Stage::Preparing => {}
        }
    }

    /// Says why the configuration that was read is not in force.
    pub(super) fn reject_reload(&mut self, reason: impl Into<String>, code: u8) {
        let reason = reason.into();
        let Some(reloading) = self.reloading.take() else {
            return;
        };
        if let Stage::Trying { next, trials, .. } = reloading.stage {
            for trial in trials {
                self.end_trial(trial);
            }
            drop(next);
        }
        // Users were found for these at least once.
        let _ = self.walls.admit(&self.spec);
        self.drop_ended_pools();
        self.journal
            .event(LogLevel::Error, "config.rejected", |line| {
                line.number("generation", self.spec.generation)
                    .text("reason", &reason)
            });
        self.prune_catalog();
        self.sweep();
        if let Some(asker) = reloading.asker {
            asker.answer(ControlReply::Refused {
                message: format!("the configuration was rejected: {reason}"),
                code,
            });
        }
    }
}
