//! The first half of a reload: read, built, and compared with what is in force.
//! Nothing of it changes anything that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_core::claims::Claim;
use skep_core::difference::Difference;
use skep_core::history::AtStart;
use skep_core::reload::Input;
use skep_core::{AppName, FleetSpec, Generation, ListenerName, Plan, PoolName};

use super::Fleet;
use super::material::{Material, Next, NextApp, Read};
use crate::artifacts::Artifact;
use crate::listeners::{Bound, needs_dispatcher};
use crate::pool::Pool;
use crate::prepare::{Excused, FirstApp, Preparation, Prepared};
use crate::rejection::Rejection;
use crate::scribe::unix_millis;
use crate::shelf::Folder;
use crate::told::Hosts;

impl Fleet {
    pub(super) fn read_done(&mut self, read: Result<FleetSpec, String>) {
        let read = read.map_err(Rejection::Problems);
        let input = read.and_then(|spec| self.compare(spec)).map(|read| {
            self.set_material(Material::Read(Box::new(read)));
        });
        self.step_reload(Input::Read(input));
    }

    /// Whether a configuration can follow the one that is in force.
    fn compare(&mut self, mut spec: FleetSpec) -> Result<Read, Rejection> {
        spec.generation = Generation(self.spec.generation.0 + 1);
        let difference = Difference::between(&self.spec, &spec);
        if !difference.server.refused.is_empty() {
            let reason = difference.server.refused.join("; ");
            return Err(Rejection::Problems(reason));
        }
        let shared = spec.listeners.iter().filter_map(|(name, listener)| {
            let error = Hosts::of(&spec, name).err()?;
            needs_dispatcher(&spec, listener).then(|| format!("listener {name}: {error}"))
        });
        let shared: Vec<_> = shared.collect();
        if !shared.is_empty() {
            return Err(Rejection::Problems(shared.join("; ")));
        }
        let admitted = self.walls.admit(&spec);
        admitted.map_err(|error| Rejection::Problems(error.to_string()))?;
        Ok(Read { spec, difference })
    }

    /// Where what apps begin with is prepared.
    pub(super) fn preparation(&self) -> Preparation {
        Preparation {
            workshop: Arc::clone(&self.workshop),
            scribe: self.scribe.clone(),
            shelf: self.shelf.clone(),
            journal: self.journal.clone(),
        }
    }

    /// Has the components of what was read built.
    pub(super) fn prepare_read(&mut self) {
        let Some(reloading) = &self.reloading else {
            return;
        };
        let Material::Read(read) = &reloading.material else {
            return;
        };
        let unbuilt: BTreeSet<AppName> = self.unbuilt.keys().cloned().collect();
        let mut new: BTreeSet<AppName> = read.difference.apps.added.iter().cloned().collect();
        new.extend(unbuilt.iter().cloned());
        let excused = if reloading.is_first() {
            Excused::LiveBefore
        } else {
            Excused::Unbuilt(unbuilt)
        };
        let preparation = self.preparation();
        let (spec, pools) = (read.spec.clone(), read.difference.pools.added.clone());
        let work = async move { preparation.prepare(&spec, &new, &pools, &excused).await };
        self.later(work, Self::prepared);
    }

    fn prepared(&mut self, prepared: Result<Prepared, Rejection>) {
        let input = prepared.map(|prepared| {
            if let Material::Read(read) = self.take_material() {
                self.set_material(Material::Prepared(read, prepared));
            }
        });
        self.step_reload(Input::Built(input));
    }

    /// Takes what is to be changed for itself, and goes on with it once nobody
    /// else works on that.
    pub(super) fn await_turn(&mut self) {
        let claim = match self.reloading.as_ref().map(|it| &it.material) {
            Some(Material::Prepared(read, prepared)) => self.claim_of_reload(read, prepared),
            _ => return,
        };
        if let Some(reloading) = &mut self.reloading {
            reloading.claim = claim;
        }
        self.go_on_if_its_turn();
    }

    /// Goes on with a reload that waits, if nobody is in its way any more.
    pub(super) fn go_on_if_its_turn(&mut self) {
        if self.in_the_way_of_reload().is_none() {
            self.step_reload(Input::Free);
        }
    }

    /// What is under way that a reload has to wait for.
    pub(super) fn in_the_way_of_reload(&self) -> Option<String> {
        let claim = self.claim_of_reloading()?;
        let mut others = self.operations_but_reload();
        let in_the_way = others.find(|(_, other)| other.conflicts(claim));
        in_the_way.map(|(what, _)| what)
    }

    fn claim_of_reload(&self, read: &Read, prepared: &Prepared) -> Claim {
        let mut claim = Claim::of_configuration();
        let Difference {
            listeners,
            pools,
            tenants,
            apps,
            server: _,
        } = &read.difference;
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
        claim.apps.extend(prepared.first.keys().cloned());
        for (name, artifact) in &prepared.artifacts {
            let current = self.apps.get(name).map(|app| app.artifact.component);
            if current != Some(artifact.component) || apps.needs_handler(name) {
                claim.apps.insert(name.clone());
            }
        }
        let specs = [&self.spec, &read.spec];
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
    pub(super) fn compose_next(&mut self) -> Result<(), Rejection> {
        let Material::Prepared(read, prepared) = self.take_material() else {
            return Ok(());
        };
        let Read { spec, difference } = *read;
        let Prepared {
            artifacts,
            first,
            unbuilt,
            folders,
        } = prepared;
        let removed = &difference.apps.removed;
        if let Some(name) = removed.iter().find(|name| self.passage(name).is_some()) {
            return Err(on_its_way(name));
        }
        let mut apps = BTreeMap::new();
        for (name, artifact) in artifacts {
            let next = self.compose_known(&name, artifact, &spec, &difference)?;
            apps.insert(name, next);
        }
        for (name, first) in first {
            let next = self.compose_first(&name, first, &spec);
            apps.insert(name, next);
        }
        let bound = self.bind_next(&spec, &difference)?;
        self.add_pools(&spec, folders)?;
        self.set_material(Material::Next(Box::new(Next {
            spec,
            difference,
            apps,
            unbuilt,
            bound,
        })));
        Ok(())
    }

    /// What becomes of an app that has a handler.
    fn compose_known(
        &mut self,
        name: &AppName,
        artifact: Arc<Artifact>,
        spec: &FleetSpec,
        difference: &Difference,
    ) -> Result<NextApp, Rejection> {
        let app = &spec.apps[name];
        let current = &self.apps[name];
        if current.artifact.component == artifact.component {
            // It was verified just now, and perhaps built again.
            current.artifact.renew(&artifact);
        }
        let mut history = current.saved.history().clone();
        let digest = artifact.component.to_string();
        let at = if current.is_untried(&artifact) {
            // It was never live, and is tried still.
            AtStart::Active(current.revision)
        } else {
            history.on_reading(&digest, app.component.clone(), unix_millis())
        };
        let (revision, artifact, renewed) = match at {
            AtStart::New(revision) => (revision, artifact, true),
            AtStart::Active(_) | AtStart::Refused { .. } => {
                (current.revision, Arc::clone(&current.artifact), false)
            }
        };
        let anew = renewed || difference.apps.needs_handler(name);
        if current.passage.is_some() && anew {
            return Err(on_its_way(name));
        }
        let handler = if anew {
            let patience = spec.pools[&app.pool].supervision.start_timeout;
            let artifact = Arc::clone(&artifact);
            self.catalog.add(name, app, revision, artifact, patience)
        } else {
            current.stable
        };
        Ok(NextApp {
            saved: current.saved.become_later(history),
            kept: !anew,
            revision,
            artifact,
            handler,
            renewed,
        })
    }

    /// What an app is that has no handler yet.
    fn compose_first(&mut self, name: &AppName, first: FirstApp, spec: &FleetSpec) -> NextApp {
        let app = &spec.apps[name];
        let patience = spec.pools[&app.pool].supervision.start_timeout;
        let artifact = Arc::clone(&first.artifact);
        let handler = self
            .catalog
            .add(name, app, first.revision, artifact, patience);
        NextApp {
            saved: first.saved,
            kept: false,
            revision: first.revision,
            artifact: first.artifact,
            handler,
            renewed: first.unrecorded,
        }
    }

    /// Binds the listeners that are not bound as they are to be.
    fn bind_next(
        &self,
        spec: &FleetSpec,
        difference: &Difference,
    ) -> Result<BTreeMap<ListenerName, Bound>, Rejection> {
        let mut names: BTreeSet<ListenerName> = difference.listeners.to_bind().cloned().collect();
        for (name, listener) in &spec.listeners {
            let dispatched = needs_dispatcher(spec, listener);
            let now = self.listeners.get(name);
            if now.is_some_and(|now| now.is_dispatched() != dispatched) {
                names.insert(name.clone());
            }
        }
        let bound = self.listeners.bind_more(spec, &names);
        bound.map_err(Rejection::Listeners)
    }

    /// Prepares for the workers of pools that are new.
    fn add_pools(
        &mut self,
        spec: &FleetSpec,
        folders: BTreeMap<PoolName, Folder>,
    ) -> Result<(), Rejection> {
        for (name, folder) in folders {
            let settings = spec.pools[&name].clone();
            if let Some(pool) = self.pools.get_mut(&name) {
                // One of this name is still going away.
                pool.spec = settings;
                continue;
            }
            let plan = Plan {
                number: 0,
                ..Plan::default()
            };
            let pool = Pool::new(settings, plan, folder);
            let pool = pool.map_err(|source| Rejection::System {
                doing: format!("make a scoreboard for pool {name}"),
                source,
            })?;
            self.pools.insert(name, pool);
        }
        Ok(())
    }
}

fn on_its_way(app: &AppName) -> Rejection {
    Rejection::Busy(format!(
        "app {app} is on its way to another revision; promote or roll that back first"
    ))
}
