//! Putting a generation into force, and putting the one before back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_core::converge::Pace;
use skep_core::difference::{Difference, PoolChanges};
use skep_core::reload::Input;
use skep_core::supervise::{Event, Patience};
use skep_core::{AppName, FleetSpec, Generation, ListenerName, LogLevel, PoolName};
use skep_wire::ToWorker;

use super::Fleet;
use super::app::App;
use super::lingering::Lingering;
use super::material::{Applied, Attempt, Attempts, Before, Material, Next, NextApp, Old};
use crate::listeners::Bound;
use crate::process::Command;
use crate::told::Hosts;

impl Fleet {
    /// Makes the next generation the one in force, as far as that is ours to
    /// do; the workers follow.
    pub(super) fn apply(&mut self) {
        let Material::Next(next) = self.take_material() else {
            return;
        };
        let Next {
            spec,
            difference,
            apps,
            unbuilt,
            bound,
        } = *next;
        let before_spec = std::mem::replace(&mut self.spec, spec);
        let (before_apps, renewed) = self.adopt_apps(apps);
        self.begin_unbuilt(unbuilt);
        let names: Vec<_> = bound.keys().cloned().collect();
        let replaced = self.listeners.adopt(bound);
        let moved = self.elsewhere(&names, &replaced);
        let mut sizes = BTreeMap::new();
        for (name, workers) in &difference.pools.scaled {
            if let Some(pool) = self.pools.get_mut(name) {
                sizes.insert(
                    name.clone(),
                    std::mem::replace(&mut pool.spec.workers, *workers),
                );
            }
        }
        self.lingering = Lingering::between(&before_spec, &self.spec, |name| {
            let app = before_apps.get(name).or_else(|| self.apps.get(name));
            app.map(|app| app.stable)
        });
        for name in &moved {
            // Until it is in force a new dispatcher hands out as its pools
            // accepted themselves. One of a new listener waits.
            if !self.hosts.contains_key(name)
                && let Ok(Some(hosts)) = Hosts::of(&before_spec, name)
            {
                self.hosts.insert(name.clone(), hosts);
            }
        }
        // Workers that are born from now on are to know them.
        self.want_dispatchers(true);
        self.tell_dispatchers();
        // A pool that did not have a listener before may not have its apps yet.
        let here: Vec<_> = names
            .into_iter()
            .filter(|name| !moved.contains(name))
            .collect();
        self.listen_anew(&here, &replaced);
        self.adopt_pools(&difference);
        let rolls: BTreeSet<PoolName> = difference.pools.restarted.iter().cloned().collect();
        let before = Before {
            spec: before_spec,
            apps: before_apps,
            listeners: replaced,
            sizes,
        };
        self.set_material(Material::Applied(Box::new(Applied {
            before,
            difference,
            renewed,
            moved,
        })));
        self.replan_touched(Pace::OneByOne);
        for pool in &rolls {
            self.step(Event::Roll {
                pool: pool.clone(),
                workers: Vec::new(),
                patience: Patience::OneTry,
            });
        }
        let within = self.patience();
        self.step_reload(Input::Applied { rolls, within });
    }

    /// Returns what the apps were, and those with a new revision.
    fn adopt_apps(
        &mut self,
        apps: BTreeMap<AppName, NextApp>,
    ) -> (BTreeMap<AppName, App>, BTreeMap<AppName, Old>) {
        let mut before = std::mem::take(&mut self.apps);
        let mut renewed = BTreeMap::new();
        for (name, next) in apps {
            if next.kept {
                // As it is now, and not as it was when the reload began.
                if let Some(app) = before.remove(&name) {
                    self.apps.insert(name, app);
                }
                continue;
            }
            let mut saved = next.saved;
            if let Some(app) = before.get(&name) {
                let mut history = saved.history().clone();
                history.set_paused(app.saved.history().paused());
                if app.unrecorded && next.renewed {
                    let reason = "it was never valid, and its component is another now";
                    history.rejected(app.revision, reason.to_owned());
                }
                saved = app.saved.become_later(history);
            }
            let old = before.get(&name).map(|app| Old {
                revision: app.revision,
                handler: app.stable,
                artifact: Arc::clone(&app.artifact),
            });
            let observe = !self.spec.apps[&name].rollout.observe.is_zero();
            // What did not work is nothing to be compared with, or to go back to.
            let worked = before
                .get(&name)
                .is_some_and(|app| app.quarantine.is_none());
            let watched = old.clone().filter(|_| next.renewed && observe && worked);
            let app = App {
                saved,
                revision: next.revision,
                artifact: next.artifact,
                stable: next.handler,
                canary: None,
                standby: watched.as_ref().map(|old| old.handler),
                observed: watched.is_some(),
                passage: None,
                unrecorded: !next.renewed && before.get(&name).is_some_and(|app| app.unrecorded),
                // It is found out anew whether it still is.
                quarantine: before.get(&name).and_then(|app| app.quarantine.clone()),
            };
            if next.renewed {
                // The first revision of an app has nothing to be compared with.
                let old = old.unwrap_or_else(|| Old {
                    revision: next.revision,
                    handler: next.handler,
                    artifact: Arc::clone(&app.artifact),
                });
                renewed.insert(name.clone(), old);
            }
            self.apps.insert(name, app);
        }
        (before, renewed)
    }

    fn adopt_pools(&mut self, difference: &Difference) {
        let touched = difference
            .pools
            .restarted
            .iter()
            .chain(difference.pools.scaled.iter().map(|(name, _)| name))
            .chain(&difference.pools.added)
            .cloned()
            .collect::<BTreeSet<_>>();
        for name in touched {
            let Some(pool) = self.pools.get_mut(&name) else {
                continue;
            };
            let workers = pool.spec.workers;
            pool.spec = self.spec.pools[&name].clone();
            if !difference.pools.added.contains(&name) {
                // What an operator made of the size stays, where the
                // configuration did not change it.
                pool.spec.workers = workers;
            }
            if difference.pools.added.contains(&name) {
                self.fill_later(name);
            } else {
                self.tell_supervisor(&name);
            }
        }
    }

    /// Listeners that a pool gets which did not have them, or gets in another
    /// way.
    fn elsewhere(
        &self,
        names: &[ListenerName],
        replaced: &BTreeMap<ListenerName, Option<Bound>>,
    ) -> Vec<ListenerName> {
        let moved = |name: &&ListenerName| {
            let before = replaced.get(*name).and_then(Option::as_ref);
            let both = before.zip(self.listeners.get(name));
            both.is_none_or(|(before, now)| {
                now.pools() != before.pools() || now.is_dispatched() != before.is_dispatched()
            })
        };
        names.iter().filter(moved).cloned().collect()
    }

    /// Tells workers of listeners that are new to them, and of those that
    /// another pool has now.
    fn listen_anew(
        &self,
        names: &[ListenerName],
        replaced: &BTreeMap<ListenerName, Option<Bound>>,
    ) {
        for (id, worker) in &self.workers {
            let ours: Vec<_> = self
                .listeners
                .of(&worker.pool)
                .into_iter()
                .filter(|(role, _)| names.contains(&role.name))
                .collect();
            let gone: Vec<_> = replaced
                .iter()
                .filter(|(name, before)| {
                    let was = before.as_ref().filter(|b| b.is_accepted_by(&worker.pool));
                    was.is_some_and(|before| {
                        let still = ours.iter().any(|(role, _)| role.name == **name);
                        let now = self.listeners.get(name);
                        let elsewhere = !now.is_some_and(|now| now.is_accepted_by(&worker.pool));
                        elsewhere || (still && self.listeners.is_rebound(name, before))
                    })
                })
                .map(|(name, _)| name.clone())
                .collect();
            if !gone.is_empty() {
                let message = ToWorker::Unlisten { listeners: gone };
                self.command(*id, Command::Say(message, Vec::new()));
            }
            if !ours.is_empty() {
                let ours = ours.into_iter().map(|(role, fd)| (role, fd.into()));
                let (listeners, sockets) = ours.unzip();
                let message = ToWorker::Listen { listeners };
                self.command(*id, Command::Say(message, sockets));
            }
        }
    }

    /// How long workers may take to follow: each starts, or loads, in turn.
    fn patience(&self) -> Duration {
        self.pools
            .values()
            .map(|pool| {
                let settings = &pool.spec.supervision;
                settings.start_timeout * u32::from(pool.spec.workers.saturating_add(1))
                    + settings.drain_timeout
            })
            .max()
            .unwrap_or_default()
    }

    /// Goes back to what was before.
    pub(super) fn restore(&mut self) {
        let Material::Applied(applied) = self.take_material() else {
            return;
        };
        let attempts = self.attempted(applied.renewed.keys());
        self.set_material(Material::Restored(attempts));
        let Applied {
            before, difference, ..
        } = *applied;
        let Before {
            spec,
            apps,
            listeners,
            sizes,
        } = before;
        // A number is never given twice, so going back is a generation as well.
        let generation = Generation(self.spec.generation.0 + 1);
        self.spec = FleetSpec { generation, ..spec };
        // Those that the reload did not touch are as they are now.
        let known = &self.spec.apps;
        self.apps.retain(|name, _| known.contains_key(name));
        for (name, mut app) in apps {
            if let Some(tried) = self.apps.get(&name) {
                app.saved.go_on_after(&tried.saved);
            }
            self.apps.insert(name, app);
        }
        for (name, workers) in sizes {
            if let Some(pool) = self.pools.get_mut(&name) {
                pool.spec.workers = workers;
            }
        }
        let names: Vec<_> = listeners.keys().cloned().collect();
        let mut tried = BTreeMap::new();
        for (name, before) in listeners {
            match before {
                Some(bound) => tried.extend(self.listeners.adopt(BTreeMap::from([(name, bound)]))),
                None => drop(tried.insert(name.clone(), self.listeners.remove(&name))),
            }
        }
        self.lingering = Lingering::default();
        self.switch_hosts();
        self.want_dispatchers(false);
        self.tell_dispatchers();
        self.listen_anew(&names, &tried);
        for pool in &difference.pools.restarted {
            self.step(Event::RollCancelled { pool: pool.clone() });
        }
        for pool in &difference.pools.added {
            self.fill_no_more(pool);
            self.step(Event::PoolRemoved { pool: pool.clone() });
        }
        let back = Difference {
            pools: PoolChanges {
                added: Vec::new(),
                ..difference.pools
            },
            ..difference
        };
        self.adopt_pools(&back);
        self.replan_touched(Pace::AllAtOnce);
        let within = self.patience();
        self.step_reload(Input::Restored { within });
    }

    /// Revisions that are to be live now and were not before.
    fn attempted<'a>(&self, names: impl Iterator<Item = &'a AppName>) -> Attempts {
        let attempt = |name: &AppName| {
            let app = self.apps.get(name)?;
            let attempt = Attempt {
                revision: app.revision,
                component: app.artifact.component,
                source: self.spec.apps.get(name)?.component.clone(),
            };
            Some((name.clone(), attempt))
        };
        names.filter_map(attempt).collect()
    }

    /// The new generation is in force: what it does not have any more goes.
    pub(super) fn in_force(&mut self) {
        let Material::Applied(applied) = self.take_material() else {
            return;
        };
        let Some(reloading) = self.reloading.take() else {
            return;
        };
        let Applied {
            difference,
            renewed,
            moved,
            before,
        } = *applied;
        for name in &difference.listeners.removed {
            let gone = BTreeMap::from([(name.clone(), self.listeners.remove(name))]);
            self.listen_anew(std::slice::from_ref(name), &gone);
        }
        self.hand_out_anew();
        self.listen_anew(&moved, &before.listeners);
        let said_again = [&difference.listeners.removed, &difference.listeners.rebound];
        for name in said_again.into_iter().flatten() {
            self.announced.remove(name);
        }
        self.announce();
        for pool in &difference.pools.removed {
            self.step(Event::PoolRemoved { pool: pool.clone() });
        }
        self.drop_ended_pools();
        if difference.server.log {
            self.journal.log().reconfigure(self.spec.server.log);
        }
        if difference.server.alert {
            self.alerts.reconfigure(self.spec.server.alert.clone());
        }
        drop(before);
        self.forget_unbuilt();
        if reloading.is_first() {
            self.tell_unbuilt();
            // What apps begin with is live once a worker serves it.
            for name in renewed.into_keys() {
                if let Some(app) = self.apps.get_mut(&name) {
                    app.unrecorded = true;
                }
            }
            return;
        }
        let mut changes = Vec::new();
        if !difference.is_empty() || renewed.is_empty() {
            changes.push(difference.summary());
        }
        let revisions = renewed.keys().map(|name| {
            let revision = self.apps[name].revision;
            format!("{name} is at revision {revision}")
        });
        let revisions: Vec<_> = revisions.collect();
        if !revisions.is_empty() {
            changes.push(revisions.join(", "));
        }
        let changes = changes.join("; ");
        self.check_quarantine();
        for (name, old) in renewed {
            self.observe_renewed(&name, &old);
        }
        let generation = self.spec.generation;
        self.journal
            .event(LogLevel::Info, "config.reloaded", |line| {
                line.number("generation", generation)
                    .text("changes", &changes)
            });
        self.prune_catalog();
        self.sweep();
        reloading.answer(format!("generation {generation} is in force: {changes}"));
    }

    /// Dispatchers go by the hosts of the new generation; what pools do not
    /// have any more they forget once nobody sends it to them.
    fn hand_out_anew(&mut self) {
        let before = self.hosts.clone();
        self.switch_hosts();
        let switched = self.hosts.iter().filter(|(name, hosts)| {
            let changed = before.get(*name) != Some(*hosts);
            changed
                && self
                    .dispatchers
                    .get(*name)
                    .is_some_and(|is| is.single.hears())
        });
        let switched = switched.map(|(name, _)| name.clone()).collect();
        self.want_dispatchers(false);
        self.tell_dispatchers();
        self.linger_for(switched);
    }
}
