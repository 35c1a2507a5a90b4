//! Plans: made of the specification and of how far each app is, and brought to
//! the workers.

use std::collections::BTreeSet;

use skep_core::converge::{Convergence, Pace, Step};
use skep_core::rollout::Input;
use skep_core::{
    AppName, HandlerId, LogLevel, Plan, PlannedApp, PlannedTenant, PoolName, WorkerId,
};
use skep_wire::ToWorker;

use super::app::App;
use super::{Fleet, now};
use crate::process::Command;

impl Fleet {
    /// What a pool's workers are to serve, as things are.
    pub(super) fn compose(&mut self, name: &PoolName) -> Plan {
        self.last_plan += 1;
        let workers = match self.pools.get(name) {
            Some(pool) => pool.spec.workers,
            None => self.spec.pools.get(name).map_or(1, |pool| pool.workers),
        };
        let planned = self
            .spec
            .apps
            .iter()
            .filter(|(_, spec)| spec.pool == *name)
            .filter_map(|(name, spec)| {
                let Some(app) = self.apps.get(name) else {
                    return self.planned_unbuilt(name, spec);
                };
                Some(PlannedApp {
                    app: name.clone(),
                    tenant: spec.tenant.clone(),
                    // Its pool knows.
                    row: 0,
                    routes: spec.routes.clone(),
                    paused: app.saved.history().paused(),
                    stable: Some(app.stable),
                    canary: app.canary,
                    standby: app.standby,
                    observed: app.observed,
                })
            });
        let mut apps: Vec<_> = planned.collect();
        self.lingering.add_to(name, &mut apps);
        let owners: BTreeSet<_> = apps.iter().map(|app| app.tenant.clone()).collect();
        let tenants = owners.into_iter().map(|tenant| PlannedTenant {
            limits: self
                .spec
                .tenants
                .get(&tenant)
                .map(|spec| spec.limits.clone())
                .unwrap_or_default(),
            tenant,
            row: 0,
        });
        Plan {
            number: self.last_plan,
            generation: self.spec.generation,
            workers,
            tenants: tenants.collect(),
            apps,
        }
    }

    /// Makes a pool's plan anew and brings its workers to it.
    pub(super) fn replan(&mut self, name: &PoolName, pace: Pace) {
        self.replan_only(name, pace);
        self.prune_catalog();
        self.prune_books();
    }

    /// The same for the pools that a reload has to do with. What no plan names any
    /// more is looked for once.
    pub(super) fn replan_touched(&mut self, pace: Pace) {
        let claim = self.claim_of_reloading().cloned().unwrap_or_default();
        for name in claim.plans.union(&claim.workers) {
            self.replan_only(name, pace);
        }
        self.prune_catalog();
        self.prune_books();
    }

    /// A pool that is not in the specification keeps the plan that it has until
    /// its workers have gone.
    fn replan_only(&mut self, name: &PoolName, pace: Pace) {
        if !self.spec.pools.contains_key(name) {
            return;
        }
        let plan = self.compose(name);
        let by_birth = self
            .passing(name)
            .iter()
            .any(|app| self.passage(app).is_some_and(|passage| passage.by_birth));
        let excused = self.excused(name);
        let Some(pool) = self.pools.get_mut(name) else {
            return;
        };
        // A revision that is to reach workers as they are born must not reach
        // others because of something else that changes.
        let pace = if by_birth { Pace::AtBirth } else { pace };
        pool.convergence.excuse(excused);
        let steps = pool.come_to(plan, pace, (&mut self.books, now()));
        self.take(name, steps);
    }

    /// Tells a worker's pool how far it is.
    pub(super) fn converge(
        &mut self,
        worker: WorkerId,
        tell: impl FnOnce(&mut Convergence) -> Vec<Step>,
    ) {
        let Some(name) = self.workers.get(&worker).map(|worker| worker.pool.clone()) else {
            return;
        };
        if let Some(pool) = self.pools.get_mut(&name) {
            let steps = tell(&mut pool.convergence);
            self.take(&name, steps);
            self.tell_spread(&name);
        }
    }

    pub(super) fn take(&mut self, name: &PoolName, steps: Vec<Step>) {
        for step in steps {
            let Some(pool) = self.pools.get_mut(name) else {
                return;
            };
            let (worker, (message, fds)) = match step {
                Step::Load { worker, handler } => (worker, pool.load(self.catalog.entry(handler))),
                Step::Serve { worker } => {
                    let message = ToWorker::Serve(pool.plan.clone());
                    (worker, (message, Vec::new()))
                }
            };
            self.command(worker, Command::Say(message, fds));
        }
    }

    /// Whether all workers of a pool serve what they are to serve.
    pub(super) fn is_settled(&self, name: &PoolName) -> bool {
        self.pools
            .get(name)
            .is_none_or(|pool| pool.convergence.is_settled())
    }

    /// Tells the rollouts of pools that have come to rest.
    pub(super) fn feed_settled(&mut self) {
        let settled = self.passages().filter(|(name, passage)| {
            let spec = self.spec.apps.get(*name);
            passage.backlog.is_none() && spec.is_some_and(|spec| self.is_settled(&spec.pool))
        });
        let settled: Vec<AppName> = settled.map(|(name, _)| name.clone()).collect();
        for app in settled {
            self.feed(&app, Input::Settled);
        }
    }

    /// A handler is gone from a worker.
    pub(super) fn retired(&self, worker: WorkerId, handler: HandlerId, app: &AppName, cut: u32) {
        let level = if cut > 0 {
            LogLevel::Warn
        } else {
            LogLevel::Debug
        };
        self.journal.event(level, "handler.retired", |line| {
            line.number("worker", worker)
                .number("handler", handler)
                .text("app", app.as_str())
                .number("cut", cut)
        });
    }

    /// Forgets handlers that nothing names any more.
    pub(super) fn prune_catalog(&mut self) {
        let mut named: BTreeSet<HandlerId> = self
            .pools
            .values()
            .flat_map(|pool| pool.plan.handlers())
            .collect();
        named.extend(self.apps.values().flat_map(App::handlers));
        named.extend(self.handlers_under_way());
        self.catalog.retain(&named);
        // What no plan names yet may be on trial in any pool.
        for pool in self.pools.values() {
            for handler in pool.plan.handlers() {
                named.remove(&handler);
            }
        }
        for pool in self.pools.values_mut() {
            let handlers = pool.plan.handlers();
            let components = self.catalog.components_of(handlers.union(&named));
            pool.forget_artifacts(&components);
        }
    }
}
