//! What operators are shown: the state of everything, and an app's revisions.

use std::collections::{BTreeMap, BTreeSet};

use skep_core::rollout::{Rollout, Stage};
use skep_core::solo::State;
use skep_core::{AppSpec, Moment, Revision, TenantName, timestamp};
use skep_wire::{
    AppHistory, AppState, AppStatus, ControlReply, DispatcherStatus, FleetStatus, RevisionStatus,
    TenantStatus,
};

use super::app::App;
use super::figures::{Figures, app_limits, grants, tenant_limits};
use super::{Fleet, Phase, now};
use crate::control::Asker;
use crate::status;

impl Fleet {
    pub(super) fn status(&mut self) -> FleetStatus {
        let now = now();
        let figures = self.figures(now);
        let pools = self.supervisor.pools().map(|view| {
            let pid = view.last_exit.as_ref().and_then(|exit| {
                self.pools
                    .get(&view.name)
                    .and_then(|pool| pool.pid_of_gone(exit.worker))
            });
            status::of_pool(view, pid, now)
        });
        let workers = self.supervisor.workers().filter_map(|view| {
            let view_id = view.id;
            let worker = self.workers.get(&view_id)?;
            let pool = self.pools.get(&worker.pool)?;
            Some(status::of_worker(
                view,
                worker.process.pid(),
                pool.cell_of(view_id),
                now,
            ))
        });
        FleetStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: now.since(self.started).as_secs_f64(),
            generation: self.spec.generation,
            stopping: self.phase != Phase::Running,
            operations: self.operations().map(|(what, _)| what).collect(),
            listeners: self.listeners.statuses().cloned().collect(),
            pools: pools.collect(),
            workers: workers.collect(),
            apps: self.app_statuses(&figures, now),
            dispatchers: self.dispatcher_statuses(),
            connector: Some(self.connector.single.status())
                .filter(|connector| connector.state != State::Absent.name()),
            tenants: self.tenant_statuses(&figures, now),
            left_out: None,
        }
    }

    fn dispatcher_statuses(&self) -> Vec<DispatcherStatus> {
        let dispatchers = self.dispatchers.iter();
        dispatchers
            .map(|(listener, dispatcher)| DispatcherStatus {
                listener: listener.clone(),
                process: dispatcher.single.status(),
                counts: dispatcher.counts(),
            })
            .collect()
    }

    fn tenant_statuses(&self, figures: &Figures, now: Moment) -> Vec<TenantStatus> {
        let of = |name: &TenantName| {
            let apps = self.spec.apps.values().filter(|app| app.tenant == *name);
            let pools: BTreeSet<_> = apps.clone().map(|app| app.pool.clone()).collect();
            (pools.into_iter().collect(), apps.count())
        };
        let tenants = self.spec.tenants.iter();
        tenants
            .map(|(name, spec)| {
                let (pools, apps) = of(name);
                TenantStatus {
                    name: name.clone(),
                    isolation: spec.isolation,
                    pools,
                    apps,
                    figures: figures.of_tenant(name, now),
                    limits: tenant_limits(&spec.limits),
                }
            })
            .collect()
    }

    fn app_statuses(&self, figures: &Figures, now: Moment) -> Vec<AppStatus> {
        let pools = self.supervisor.pools();
        let serving: BTreeMap<_, _> = pools.map(|pool| (pool.name, pool.serving)).collect();
        let unbuilt = self.unbuilt.iter().filter_map(|(name, unbuilt)| {
            let spec = self.spec.apps.get(name)?;
            Some(AppStatus {
                name: name.clone(),
                tenant: spec.tenant.clone(),
                pool: spec.pool.clone(),
                state: AppState::Quarantined,
                reason: Some(unbuilt.reason.clone()),
                // None yet.
                revision: Revision(0),
                canary: None,
                paused: false,
                rollout: None,
                digest: String::new(),
                source: spec.component.display().to_string(),
                wasi: String::new(),
                routes: spec.routes.iter().map(ToString::to_string).collect(),
                figures: figures.of_app(name, now),
                limits: app_limits(&spec.limits, &spec.instance),
                grants: grants(spec),
            })
        });
        self.apps
            .iter()
            .filter_map(|(name, app)| {
                let spec = self.spec.apps.get(name)?;
                let rollout = app.passage.as_ref().map(|passage| &passage.rollout);
                let canary = app
                    .canary
                    .zip(app.passage.as_ref())
                    .map(|((_, share), passage)| (passage.to, share.0));
                let source = app.saved.history().get(app.revision).map_or_else(
                    || spec.component.display().to_string(),
                    |record| record.source.display().to_string(),
                );
                let paused = app.saved.history().paused();
                let serving = serving.get(&spec.pool).copied().unwrap_or(0);
                Some(AppStatus {
                    name: name.clone(),
                    tenant: spec.tenant.clone(),
                    pool: spec.pool.clone(),
                    state: AppState::of(paused, app.quarantine.is_some(), serving),
                    reason: self.why_quarantined(spec, app),
                    revision: app.revision,
                    canary,
                    paused,
                    rollout: rollout
                        .filter(|rollout| rollout.stage() != Stage::Ended)
                        .map(words_of),
                    digest: format!("sha256:{}", app.artifact.component),
                    source,
                    wasi: status::wasi(app.artifact.flavor).to_owned(),
                    routes: spec.routes.iter().map(ToString::to_string).collect(),
                    figures: figures.of_app(name, now),
                    limits: app_limits(&spec.limits, &spec.instance),
                    grants: grants(spec),
                })
            })
            .chain(unbuilt)
            .collect()
    }

    /// Why an app is in quarantine, and where, if some workers serve it.
    fn why_quarantined(&self, spec: &AppSpec, app: &App) -> Option<String> {
        let why = app.quarantine.as_ref()?;
        let Some(pool) = self.pools.get(&spec.pool) else {
            return Some(why.clone());
        };
        let lacking = pool.convergence.lacking(app.stable).count();
        let serving = self
            .supervisor
            .pool(&spec.pool)
            .map_or(0, |pool| pool.serving);
        if lacking == 0 || lacking >= usize::from(serving) {
            return Some(why.clone());
        }
        Some(format!("in {lacking} of {serving} workers: {why}"))
    }

    pub(super) fn history(&self, app: &str, asker: Asker) {
        let name = match self.find_app(app) {
            Ok(name) => name,
            Err(reply) => return asker.answer(reply),
        };
        let app = &self.apps[&name];
        let canary = app
            .canary
            .and(app.passage.as_ref())
            .map(|passage| passage.to);
        let revisions = app.saved.history().revisions().iter().rev();
        asker.answer(ControlReply::History(AppHistory {
            app: name,
            active: app.saved.history().active(),
            canary,
            revisions: revisions
                .map(|record| RevisionStatus {
                    revision: record.revision,
                    digest: (!record.digest.is_empty())
                        .then(|| format!("sha256:{}", record.digest)),
                    source: record.source.display().to_string(),
                    time: timestamp(record.unix_millis),
                    outcome: record.outcome.name().to_owned(),
                    reason: match &app.quarantine {
                        Some(why) if record.revision == app.revision => {
                            Some(format!("in quarantine: {why}"))
                        }
                        _ => record.reason.clone(),
                    },
                })
                .collect(),
            left_out: None,
        }));
    }
}

/// Where a rollout is, and what there is to say of it.
fn words_of(rollout: &Rollout) -> String {
    let stage = rollout.stage().name();
    match rollout.remark() {
        Some(remark) => format!("{stage}, {remark}"),
        None => stage.to_owned(),
    }
}
