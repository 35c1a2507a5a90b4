//! What a reload has to do: the difference between two generations.
//!
//! [`Difference::between`] compares two specifications and sorts what it finds
//! by what must be done about it, the least that does it: routes switch in
//! place, another environment needs another handler, only a pool's own
//! settings restart its workers. It does none of it (the primary does), and it
//! opens no file: that a component has other bytes under the same path is for
//! its digest to say.
//!
//! ```text
//! listener  added | removed | rebound: another address | changed: anything else
//! pool      added | removed | scaled: `workers`, and restarted: anything else
//! app       added | removed | moved: another pool, sourced: another path, and
//!                             changed: what a handler is made of
//!                           | rerouted: `routes`, and settled: `rollout`
//! ```
//! What `|` divides excludes each other. What `and` and commas join may hold
//! for the same name. An app that is moved, sourced or changed may have other
//! routes and rollout settings as well, without being among those: they come
//! with its handler.
//!
//! Every structure is taken apart without `..`, so that a new field of a
//! specification does not compile before somebody has said what it takes.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{AppName, ListenerName, PoolName, TenantName};
use crate::spec::{AppSpec, FleetSpec, ListenerSpec, PoolSpec, ServerSpec, TenantSpec};

/// What must be done to get from one generation to the next. All lists are in
/// the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Of listening addresses.
    pub listeners: ListenerChanges,
    /// Of sets of workers.
    pub pools: PoolChanges,
    /// Of owners of apps.
    pub tenants: TenantChanges,
    /// Of handlers.
    pub apps: AppChanges,
    /// Of the primary itself.
    pub server: ServerChanges,
}

/// What becomes of listeners. No name is in two of these lists. The address of
/// one that is added or rebound may be that of another that is removed or
/// rebound: its socket can be used again, and need not be bound twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerChanges {
    /// They are new.
    pub added: Vec<ListenerName>,
    /// They are not there any more.
    pub removed: Vec<ListenerName>,
    /// They keep their address and have other limits or another pool.
    pub changed: Vec<ListenerName>,
    /// They have another address, and maybe other limits or another pool.
    pub rebound: Vec<ListenerName>,
}

/// What becomes of pools. A pool that stays may be scaled and restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolChanges {
    /// They are new.
    pub added: Vec<PoolName>,
    /// They are not there any more.
    pub removed: Vec<PoolName>,
    /// They have so many workers from now on.
    pub scaled: Vec<(PoolName, u16)>,
    /// A setting other than the number of workers is another.
    pub restarted: Vec<PoolName>,
}

/// What becomes of apps. One that stays may be moved, sourced and changed at
/// the same time; if it is none of these it may be rerouted and settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppChanges {
    /// They are new.
    pub added: Vec<AppName>,
    /// They are not there any more.
    pub removed: Vec<AppName>,
    /// Another pool's workers load them.
    pub moved: Vec<AppName>,
    /// Their component is another file, maybe with the same bytes.
    pub sourced: Vec<AppName>,
    /// What a handler is made of is different, besides its component: its
    /// environment and configuration, its limits, how it is validated, its
    /// owner.
    pub changed: Vec<AppName>,
    /// They answer other routes, with the handler that they have.
    pub rerouted: Vec<AppName>,
    /// Their next rollout follows other rules; nothing else is to be done.
    pub settled: Vec<AppName>,
}

/// What becomes of tenants. What they are granted and where they are served
/// shows in their apps; the rest comes with the plans of their pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantChanges {
    /// They are new.
    pub added: Vec<TenantName>,
    /// They are not there any more.
    pub removed: Vec<TenantName>,
    /// They have other limits or another isolation.
    pub changed: Vec<TenantName>,
}

/// What becomes of the primary's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerChanges {
    /// Records are written in another way.
    pub log: bool,
    /// Somebody else is told of what needs a person, or nobody.
    pub alert: bool,
    /// What cannot change while skep runs, each with what to do instead. If
    /// there is any, nothing of the difference may be done.
    pub refused: Vec<String>,
}

impl Difference {
    /// What leads from `old` to `new`. Their numbers play no part.
    #[must_use]
    pub fn between(old: &FleetSpec, new: &FleetSpec) -> Self {
        let FleetSpec {
            generation: _,
            server,
            listeners,
            pools,
            tenants,
            apps,
        } = old;
        Self {
            tenants: TenantChanges::between(tenants, &new.tenants),
            listeners: ListenerChanges::between(listeners, &new.listeners),
            pools: PoolChanges::between(pools, &new.pools),
            apps: AppChanges::between(apps, &new.apps),
            server: ServerChanges::between(server, &new.server),
        }
    }

    /// Whether there is nothing to do, and nothing was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All of it on one line, for operators: `2 apps changed, listener web
    /// added, pool default restarted`.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self {
            listeners,
            pools,
            tenants,
            apps,
            server,
        } = self;
        let mut parts = Vec::new();
        apps.tell(&mut parts);
        tenants.tell(&mut parts);
        listeners.tell(&mut parts);
        pools.tell(&mut parts);
        server.tell(&mut parts);
        if parts.is_empty() {
            return "nothing changed".to_owned();
        }
        parts.join(", ")
    }
}

impl fmt::Display for Difference {
    /// As [`Difference::summary`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.summary())
    }
}

impl ListenerChanges {
    /// Those that workers must be given, for the first time or again: added,
    /// changed and rebound.
    pub fn to_bind(&self) -> impl Iterator<Item = &ListenerName> {
        self.added.iter().chain(&self.changed).chain(&self.rebound)
    }

    fn between(
        old: &BTreeMap<ListenerName, ListenerSpec>,
        new: &BTreeMap<ListenerName, ListenerSpec>,
    ) -> Self {
        let mut changed = Vec::new();
        let mut rebound = Vec::new();
        for (name, old, new) in kept(old, new) {
            let ListenerSpec {
                address,
                pools,
                limits,
            } = old;
            if *address != new.address {
                rebound.push(name.clone());
            } else if *pools != new.pools || *limits != new.limits {
                changed.push(name.clone());
            }
        }
        Self {
            added: missing(new, old),
            removed: missing(old, new),
            changed,
            rebound,
        }
    }

    fn tell(&self, parts: &mut Vec<String>) {
        let Self {
            added,
            removed,
            changed,
            rebound,
        } = self;
        tell(parts, "listener", added, "added");
        tell(parts, "listener", removed, "removed");
        tell(parts, "listener", rebound, "given another address");
        tell(parts, "listener", changed, "changed");
    }
}

impl PoolChanges {
    fn between(old: &BTreeMap<PoolName, PoolSpec>, new: &BTreeMap<PoolName, PoolSpec>) -> Self {
        let mut scaled = Vec::new();
        let mut restarted = Vec::new();
        for (name, old, new) in kept(old, new) {
            let PoolSpec {
                workers,
                dispatch,
                supervision,
                user,
            } = old;
            if *workers != new.workers {
                scaled.push((name.clone(), new.workers));
            }
            if *dispatch != new.dispatch || *supervision != new.supervision || *user != new.user {
                restarted.push(name.clone());
            }
        }
        Self {
            added: missing(new, old),
            removed: missing(old, new),
            scaled,
            restarted,
        }
    }

    fn tell(&self, parts: &mut Vec<String>) {
        let Self {
            added,
            removed,
            scaled,
            restarted,
        } = self;
        tell(parts, "pool", added, "added");
        tell(parts, "pool", removed, "removed");
        // Each with its number: that is what an operator wants to see again.
        for (name, workers) in scaled {
            parts.push(format!("pool {name} scaled to {workers}"));
        }
        tell(parts, "pool", restarted, "restarted");
    }
}

impl TenantChanges {
    fn between(
        old: &BTreeMap<TenantName, TenantSpec>,
        new: &BTreeMap<TenantName, TenantSpec>,
    ) -> Self {
        let mut changed = Vec::new();
        for (name, old, new) in kept(old, new) {
            let TenantSpec { isolation, limits } = old;
            if *isolation != new.isolation || *limits != new.limits {
                changed.push(name.clone());
            }
        }
        Self {
            added: missing(new, old),
            removed: missing(old, new),
            changed,
        }
    }

    fn tell(&self, parts: &mut Vec<String>) {
        let Self {
            added,
            removed,
            changed,
        } = self;
        tell(parts, "tenant", added, "added");
        tell(parts, "tenant", removed, "removed");
        tell(parts, "tenant", changed, "changed");
    }
}

impl AppChanges {
    /// Whether the app needs another handler than the one it has, if any. One
    /// that is only sourced needs it if its component has other bytes.
    #[must_use]
    pub fn needs_handler(&self, app: &AppName) -> bool {
        [&self.added, &self.moved, &self.changed]
            .into_iter()
            .any(|list| list.contains(app))
    }

    fn between(old: &BTreeMap<AppName, AppSpec>, new: &BTreeMap<AppName, AppSpec>) -> Self {
        let mut changes = Self {
            added: missing(new, old),
            removed: missing(old, new),
            ..Self::default()
        };
        for (name, old, new) in kept(old, new) {
            changes.compare(name, old, new);
        }
        changes
    }

    fn compare(&mut self, name: &AppName, old: &AppSpec, new: &AppSpec) {
        let AppSpec {
            component,
            tenant,
            pool,
            routes,
            strip_prefix,
            limits,
            instance,
            env,
            require,
            config,
            validate,
            rollout,
            outbound,
        } = old;
        let moved = *pool != new.pool;
        let sourced = *component != new.component;
        let changed = *tenant != new.tenant
            || *strip_prefix != new.strip_prefix
            || *limits != new.limits
            || *instance != new.instance
            || *env != new.env
            || *require != new.require
            || *config != new.config
            || *validate != new.validate
            || *outbound != new.outbound;
        let handled = moved || sourced || changed;
        for (holds, list) in [
            (moved, &mut self.moved),
            (sourced, &mut self.sourced),
            (changed, &mut self.changed),
            (!handled && *routes != new.routes, &mut self.rerouted),
            (!handled && *rollout != new.rollout, &mut self.settled),
        ] {
            if holds {
                list.push(name.clone());
            }
        }
    }

    fn tell(&self, parts: &mut Vec<String>) {
        let Self {
            added,
            removed,
            moved,
            sourced,
            changed,
            rerouted,
            settled,
        } = self;
        tell(parts, "app", added, "added");
        tell(parts, "app", removed, "removed");
        tell(parts, "app", moved, "moved to another pool");
        tell(parts, "app", sourced, "given another component");
        tell(parts, "app", changed, "changed");
        tell(parts, "app", rerouted, "given other routes");
        tell(parts, "app", settled, "given other rollout settings");
    }
}

impl ServerChanges {
    fn between(old: &ServerSpec, new: &ServerSpec) -> Self {
        let ServerSpec {
            state_dir,
            log,
            alert,
            sandbox,
        } = old;
        let mut refused = Vec::new();
        if *sandbox != new.sandbox {
            refused.push(
                "`sandbox` cannot change while skep runs; change it back, or stop skep and start \
                 it again"
                    .to_owned(),
            );
        }
        if *state_dir != new.state_dir {
            refused.push(format!(
                "`state_dir` cannot change from `{}` to `{}` while skep runs; change it back, or \
                 stop skep and start it again",
                state_dir.display(),
                new.state_dir.display(),
            ));
        }
        Self {
            log: *log != new.log,
            alert: *alert != new.alert,
            refused,
        }
    }

    fn tell(&self, parts: &mut Vec<String>) {
        let Self {
            log,
            alert,
            refused,
        } = self;
        if *log {
            parts.push("log settings changed".to_owned());
        }
        // Without the address: it may be a secret.
        if *alert {
            parts.push("alert settings changed".to_owned());
        }
        parts.extend(refused.iter().map(|reason| format!("refused: {reason}")));
    }
}

/// What both have.
fn kept<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V, &'a V)> {
    old.iter()
        .filter_map(|(name, old)| Some((name, old, new.get(name)?)))
}

/// The names that are `here` and not `there`.
fn missing<K: Ord + Clone, V>(here: &BTreeMap<K, V>, there: &BTreeMap<K, V>) -> Vec<K> {
    here.keys()
        .filter(|name| !there.contains_key(*name))
        .cloned()
        .collect()
}

/// One name is told, several are counted.
fn tell(parts: &mut Vec<String>, noun: &str, names: &[impl fmt::Display], what: &str) {
    match names {
        [] => {}
        [name] => parts.push(format!("{noun} {name} {what}")),
        names => parts.push(format!("{} {noun}s {what}", names.len())),
    }
}

#[cfg(test)]
mod tests;
