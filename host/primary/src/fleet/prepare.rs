//! The first half of a reload: read, built, and compared with what is in force.
//! Nothing of it changes anything that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_core::claims::Claim;
use skep_core::difference::Difference;
use skep_core::history::{AtStart, History};
use skep_core::{AppName, FleetSpec, Generation, ListenerName};
use skep_wire::Refusal;

use super::operation::{FAILED, REFUSED};
use super::reload::{Built, Next, NextApp, PROBLEMS, Stage, UNAVAILABLE};
use super::words::worded;
use super::{Fleet, now};
use crate::artifacts::{Artifacts, Made, components_of};
use crate::listeners::needs_dispatcher;
use crate::scribe::{Scribe, unix_millis};
use crate::told::Hosts;

/// How long a reload waits for others who work on what it changes: longer than a
/// large component takes to be built and rolled out.
const TURN_DEADLINE: Duration = Duration::from_secs(600);

impl Fleet {
    pub(super) fn reread_done(&mut self, read: Result<FleetSpec, String>) {
        if self.reloading.is_none() {
            return;
        }
        let mut spec = match read {
            Ok(spec) => spec,
            Err(problems) => return self.reject_reload(problems, PROBLEMS),
        };
        spec.generation = Generation(self.spec.generation.0 + 1);
        let difference = Difference::between(&self.spec, &spec);
        if !difference.server.refused.is_empty() {
            let reason = difference.server.refused.join("; ");
            return self.reject_reload(reason, PROBLEMS);
        }
        if let Err(error) = self.walls.admit(&spec) {
            return self.reject_reload(error.to_string(), PROBLEMS);
        }
        let workshop = Arc::clone(&self.workshop);
        let wanted = components_of(&spec);
        let unbuilt: BTreeSet<AppName> = self.unbuilt.keys().cloned().collect();
        let mut added: BTreeSet<AppName> = difference.apps.added.iter().cloned().collect();
        added.extend(unbuilt.iter().cloned());
        let scribe = self.scribe.clone();
        let work = async move {
            let Made {
                artifacts,
                mut refused,
            } = workshop.make_all(&wanted).await;
            // What could not be built before keeps nobody else from being reloaded.
            refused.retain(|app, _| !unbuilt.contains(app));
            let artifacts = if refused.is_empty() {
                keep(&scribe, &wanted, artifacts).await
            } else {
                Err(unservable(refused, &wanted))
            };
            let mut histories = BTreeMap::new();
            for app in added {
                let history = scribe.read(app.clone()).await;
                histories.insert(app, history);
            }
            (artifacts, histories)
        };
        self.later(work, move |fleet, (artifacts, histories)| {
            fleet.rebuilt(spec, difference, artifacts, histories);
        });
    }

    fn rebuilt(
        &mut self,
        spec: FleetSpec,
        difference: Difference,
        artifacts: Result<Artifacts, (String, u8)>,
        histories: BTreeMap<AppName, History>,
    ) {
        if self.reloading.is_none() {
            return;
        }
        let artifacts = match artifacts {
            Ok(artifacts) => artifacts,
            Err((reason, code)) => return self.reject_reload(reason, code),
        };
        self.take_turn(Built {
            spec,
            difference,
            artifacts,
            histories,
        });
    }

    /// Takes what is to be changed for itself, and goes on with it once nobody
    /// else works on that.
    fn take_turn(&mut self, built: Built) {
        let claim = self.claim_of_reload(&built);
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        reloading.claim = claim;
        reloading.stage = Stage::Waiting {
            built: Box::new(built),
            by: now() + TURN_DEADLINE,
        };
        self.go_on_if_its_turn();
    }

    /// Goes on with a reload that waits, if nobody is in its way any more.
    pub(super) fn go_on_if_its_turn(&mut self) {
        if self.in_the_way_of_reload().is_some() {
            return;
        }
        let Some(reloading) = &mut self.reloading else {
            return;
        };
        match std::mem::replace(&mut reloading.stage, Stage::Preparing) {
            Stage::Waiting { built, .. } => self.compose_next(*built),
            stage => reloading.stage = stage,
        }
    }

    /// What is under way that a reload has to wait for.
    pub(super) fn in_the_way_of_reload(&self) -> Option<String> {
        let claim = &self.reloading.as_ref()?.claim;
        let mut others = self.operations_but_reload();
        let in_the_way = others.find(|(_, other)| other.conflicts(claim));
        in_the_way.map(|(what, _)| what)
    }

    fn claim_of_reload(&self, built: &Built) -> Claim {
        let mut claim = Claim::of_configuration();
        let Difference {
            listeners,
            pools,
            tenants,
            apps,
            server: _,
        } = &built.difference;
        let scaled = pools.scaled.iter().map(|(name, _)| name);
        let workers = [&pools.added, &pools.removed, &pools.restarted];
        claim.workers = workers
            .into_iter()
            .flatten()
            .chain(scaled)
            .cloned()
            .collect();
        claim.apps = [&apps.added, &apps.removed]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for (name, artifact) in &built.artifacts {
            let current = self.apps.get(name).map(|app| app.artifact.component);
            if current != Some(artifact.component) || apps.needs_handler(name) {
                claim.apps.insert(name.clone());
            }
        }
        let specs = [&self.spec, &built.spec];
        for spec in specs {
            let touched = spec.apps.iter().filter(|(name, app)| {
                claim.apps.contains(*name)
                    || apps.rerouted.contains(name)
                    || tenants.changed.contains(&app.tenant)
            });
            claim.plans.extend(touched.map(|(_, app)| app.pool.clone()));
            let changed = [
                &listeners.added,
                &listeners.removed,
                &listeners.changed,
                &listeners.rebound,
            ];
            for name in changed.into_iter().flatten() {
                let listener = spec.listeners.get(name);
                let pools = listener.map(|listener| &listener.pools);
                claim.plans.extend(pools.into_iter().flatten().cloned());
            }
        }
        claim
    }

    /// Makes the next generation of what was read and built.
    fn compose_next(&mut self, built: Built) {
        let Built {
            spec,
            difference,
            artifacts,
            mut histories,
        } = built;
        let removed = difference.apps.removed.iter();
        if let Some(name) = removed.clone().find(|name| self.passage(name).is_some()) {
            let reason = on_its_way(name);
            return self.reject_reload(reason, REFUSED);
        }
        let mut apps = BTreeMap::new();
        for (name, artifact) in artifacts {
            let app = &spec.apps[&name];
            let digest = artifact.component.to_string();
            let source = app.component.clone();
            let current = self.apps.get(&name);
            if let Some(current) = current
                && current.artifact.component == artifact.component
            {
                // It was verified just now, and perhaps built again.
                current.artifact.renew(&artifact);
            }
            let mut history = match current {
                Some(current) => current.history.clone(),
                None => histories.remove(&name).unwrap_or_default(),
            };
            let recorded = current.map_or_else(|| history.clone(), |app| app.recorded.clone());
            let at = match current {
                // It was never live, and is tried still.
                Some(current) if current.is_untried(&artifact) => AtStart::Active(current.revision),
                Some(_) => history.on_reading(&digest, source.clone(), unix_millis()),
                None => history.at_start(&digest, source.clone(), unix_millis()),
            };
            let (revision, artifact, renewed) = match (at, current) {
                (AtStart::New(revision), _) => (revision, artifact, true),
                (_, Some(current)) => (current.revision, Arc::clone(&current.artifact), false),
                // An app that comes back is what its source is now.
                (AtStart::Active(_) | AtStart::Refused { .. }, None) => {
                    let revision = history.begin(digest, source.clone(), unix_millis());
                    (revision, artifact, true)
                }
            };
            let passing = current.is_some_and(|current| current.passage.is_some());
            let anew = renewed || difference.apps.needs_handler(&name);
            if passing && anew {
                let reason = on_its_way(&name);
                return self.reject_reload(reason, REFUSED);
            }
            let handler = match current {
                Some(current) if !anew => current.stable,
                _ => {
                    let patience = spec.pools[&app.pool].supervision.start_timeout;
                    let artifact = Arc::clone(&artifact);
                    self.catalog.add(&name, app, revision, artifact, patience)
                }
            };
            let next = NextApp {
                history,
                recorded,
                kept: current.is_some() && !anew,
                revision,
                artifact,
                handler,
                renewed,
            };
            apps.insert(name, next);
        }
        let mut names: BTreeSet<ListenerName> = difference.listeners.to_bind().cloned().collect();
        for (name, listener) in &spec.listeners {
            let dispatched = needs_dispatcher(&spec, listener);
            if dispatched && let Err(error) = Hosts::of(&spec, name) {
                return self.reject_reload(format!("listener {name}: {error}"), PROBLEMS);
            }
            let now = self.listeners.get(name);
            if now.is_some_and(|now| now.is_dispatched() != dispatched) {
                names.insert(name.clone());
            }
        }
        let bound = match self.listeners.bind_more(&spec, &names) {
            Ok(bound) => bound,
            Err(failures) => {
                let reasons: Vec<_> = failures
                    .iter()
                    .map(|failure| format!("{failure}: {}", failure.source))
                    .collect();
                return self.reject_reload(reasons.join("; "), UNAVAILABLE);
            }
        };
        self.try_next(Next {
            spec,
            difference,
            apps,
            bound,
        });
    }
}

/// Keeps the components of what was built, so that whatever happens to their
/// files, what is served can be served again.
async fn keep(
    scribe: &Scribe,
    components: &BTreeMap<AppName, PathBuf>,
    artifacts: Artifacts,
) -> Result<Artifacts, (String, u8)> {
    for (name, artifact) in &artifacts {
        let kept = scribe.keep(components[name].clone(), artifact.component);
        kept.await
            .map_err(|reason| (format!("app {name}: record: {reason}"), FAILED))?;
    }
    Ok(artifacts)
}

fn unservable(
    refused: BTreeMap<AppName, Refusal>,
    components: &BTreeMap<AppName, PathBuf>,
) -> (String, u8) {
    let reasons: Vec<_> = refused
        .into_iter()
        .map(|(app, refusal)| {
            let component = components[&app].display();
            format!("app {app}: {component}: {}", worded(refusal))
        })
        .collect();
    (reasons.join("; "), PROBLEMS)
}

fn on_its_way(app: &AppName) -> String {
    format!("app {app} is on its way to another revision; promote or roll that back first")
}
