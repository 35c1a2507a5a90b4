//! Handlers that workers cannot load or validate.
//!
//! A worker serves without such a handler and tries it again (`worker/proving.rs`);
//! its app answers 503 there. Here is what that means for the app: whether an
//! earlier revision answers instead, who is told, and when it is over.

use std::collections::BTreeSet;

use skep_core::converge::{Refused, Step};
use skep_core::rollout::Input;
use skep_core::{AppName, HandlerId, LogLevel, PoolName, WorkerId};

use super::{Consequence, Fleet};

/// Why a handler is in quarantine that has not said yes or no.
const LATE: &str = "its validation has not ended; the worker serves without it meanwhile";

impl Fleet {
    /// A worker serves, but for what it still tries.
    pub(super) fn ready(&mut self, id: WorkerId) {
        let late = match self.workers.get_mut(&id) {
            Some(worker) => std::mem::take(&mut worker.late),
            None => Vec::new(),
        };
        self.converge(id, |convergence| convergence.ready(id, &late));
        for handler in late {
            if self.lacks(id, handler) {
                self.lacking(handler, LATE);
            }
        }
        self.check_quarantine();
    }

    fn lacks(&self, id: WorkerId, handler: HandlerId) -> bool {
        let pool = self.workers.get(&id).map(|worker| &worker.pool);
        pool.and_then(|pool| self.pools.get(pool))
            .is_some_and(|pool| pool.convergence.lacking(handler).any(|one| one == id))
    }

    /// A worker cannot load a handler, or found it not to be valid.
    pub(super) fn refused(&mut self, id: WorkerId, handler: HandlerId, message: String) {
        let Some(name) = self.workers.get(&id).map(|worker| worker.pool.clone()) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&name) else {
            return;
        };
        // What it says of handlers that are not its own is not heard.
        let (refused, steps) = pool.convergence.refused(id, handler);
        self.take(&name, steps);
        let Some(entry) = self
            .catalog
            .get(handler)
            .filter(|_| refused != Refused::Unasked)
        else {
            return;
        };
        let (app, revision) = (entry.load.app.clone(), entry.load.revision);
        self.journal
            .event(LogLevel::Warn, "worker.refused", |line| {
                line.number("worker", id)
                    .text("app", app.as_str())
                    .number("revision", revision)
                    .text("reason", &message)
            });
        if refused == Refused::Lacking {
            self.lacking(handler, &message);
        } else if self.refuse_reload(&app, handler, &message) {
            return;
        }
        if refused != Refused::Lacking || self.is_new(&app, handler) {
            let reason = message;
            let input = Input::Refused { worker: id, reason };
            self.consequences.push_back(Consequence::Feed(app, input));
        }
    }

    /// Whether a handler is what a rollout of its app brings.
    fn is_new(&self, app: &AppName, handler: HandlerId) -> bool {
        let passage = self.passage(app);
        let new = passage.and_then(|passage| passage.new.as_ref());
        new.is_some_and(|(new, _)| *new == handler)
    }

    /// Some worker serves without this handler.
    fn lacking(&mut self, handler: HandlerId, why: &str) {
        let Some(entry) = self.catalog.get(handler) else {
            return;
        };
        let (name, revision) = (entry.load.app.clone(), entry.load.revision);
        if self.is_new(&name, handler) {
            // Its rollout decides what that means.
            return;
        }
        if self.apps.get(&name).is_none_or(|app| app.stable != handler) {
            return;
        }
        let known = self.quarantine(&name, why);
        if why != LATE && self.fall_back(&name, why) {
            return;
        }
        let Some(pool) = self.spec.apps.get(&name).map(|spec| spec.pool.clone()) else {
            return;
        };
        if known {
            return;
        }
        self.journal
            .event(LogLevel::Error, "app.quarantined", |line| {
                line.text("pool", pool.as_str())
                    .text("app", name.as_str())
                    .number("revision", revision)
                    .text("reason", why)
            });
        if why != LATE {
            // Its artifact may have been damaged.
            self.when_verified(&pool.clone(), |_| ());
        }
    }

    /// Has the workers that lack a component's handlers try them again, now.
    pub(super) fn try_again(&mut self, name: &PoolName, handlers: &BTreeSet<HandlerId>) {
        let Some(pool) = self.pools.get(name) else {
            return;
        };
        let load = |handler: &HandlerId| {
            let handler = *handler;
            let lacking = pool.convergence.lacking(handler);
            lacking.map(move |worker| Step::Load { worker, handler })
        };
        let known = handlers
            .iter()
            .filter(|id| self.catalog.get(**id).is_some());
        let steps = known.flat_map(load).collect();
        self.take(name, steps);
    }

    /// What rollouts bring to a pool: no worker serves without it, for the old
    /// revision is there.
    pub(super) fn vital(&self, pool: &PoolName) -> BTreeSet<HandlerId> {
        let passing = self.passing(pool);
        let new = passing
            .iter()
            .filter_map(|app| self.passage(app)?.new.as_ref());
        new.map(|(handler, _)| *handler).collect()
    }

    /// Handlers of a pool that hold up no plan, because they do not work anyway.
    pub(super) fn excused(&self, pool: &PoolName) -> BTreeSet<HandlerId> {
        let quarantined = self.quarantined.iter().filter(|name| {
            let spec = self.spec.apps.get(*name);
            spec.is_some_and(|spec| spec.pool == *pool)
        });
        let apps = quarantined.filter_map(|name| self.apps.get(name));
        // What comes in the place of one is not excused: its rollout decides.
        let settled = apps.filter(|app| app.passage.is_none());
        settled.map(|app| app.stable).collect()
    }

    /// Puts an app into quarantine. Says whether it was there already.
    pub(super) fn quarantine(&mut self, name: &AppName, why: &str) -> bool {
        let Some(app) = self.apps.get_mut(name) else {
            return false;
        };
        let before = app.quarantine.replace(why.to_owned());
        self.quarantined.insert(name.clone());
        before.is_some()
    }

    /// Lets an app out of quarantine.
    pub(super) fn release(&mut self, name: &AppName) {
        self.quarantined.remove(name);
        if let Some(app) = self.apps.get_mut(name) {
            app.quarantine = None;
        }
    }

    /// Whether some worker lacks an app's handler, or all do.
    pub(super) fn is_quarantined(&self, name: &AppName) -> bool {
        self.quarantined.contains(name)
    }

    /// Apps of which a handler is in quarantine and that a reload makes no worse.
    pub(super) fn quarantined_but(&self, replaced: impl Fn(&AppName) -> bool) -> BTreeSet<AppName> {
        let names = self.quarantined.iter();
        names.filter(|name| !replaced(name)).cloned().collect()
    }

    /// Says of which apps no worker lacks the handler any more.
    pub(super) fn check_quarantine(&mut self) {
        let mut over = Vec::new();
        for name in &self.quarantined {
            let (spec, app) = (self.spec.apps.get(name), self.apps.get(name));
            let Some((spec, app)) = spec.zip(app) else {
                over.push((name.clone(), None));
                continue;
            };
            let convergence = self.pools.get(&spec.pool).map(|pool| &pool.convergence);
            let released = convergence.is_some_and(|its| {
                its.lacking(app.stable).next().is_none() && its.is_served(app.stable)
            });
            if released {
                over.push((name.clone(), Some((spec.pool.clone(), app.revision))));
            }
        }
        for (name, served) in over {
            self.release(&name);
            if let Some((pool, revision)) = served {
                self.journal.event(LogLevel::Info, "app.released", |line| {
                    line.text("pool", pool.as_str())
                        .text("app", name.as_str())
                        .number("revision", revision)
                });
                if self.completed.contains(&pool) {
                    self.first_served(&pool);
                }
            }
        }
    }
}
