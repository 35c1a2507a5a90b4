//! Who may reach what, and how many connections each app has open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_core::egress::OutboundGrant;
use skep_core::{AppName, PoolName};
use skep_wire::AppGrants;

/// The ledger of the whole fleet. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    pools: BTreeMap<PoolName, BTreeMap<AppName, Entry>>,
    /// Connections that are open or on their way, of apps that have any. Not
    /// by pool: an app may move to another, and has its limit once.
    open: BTreeMap<AppName, u32>,
}

struct Entry {
    grants: Arc<[OutboundGrant]>,
    connections: u32,
}

/// The right to one connection, until it is dropped.
pub(crate) struct Permit {
    ledger: Ledger,
    app: AppName,
}

impl Ledger {
    /// Replaces what the apps of a pool may reach.
    pub(crate) fn grant(&self, pool: PoolName, apps: Vec<AppGrants>) {
        let apps = apps.into_iter().map(|app| {
            let entry = Entry {
                grants: app.grants.into(),
                connections: app.connections,
            };
            (app.app, entry)
        });
        self.entries().pools.insert(pool, apps.collect());
    }

    /// A pool is gone; nothing is granted to it any more.
    pub(crate) fn forget(&self, pool: &PoolName) {
        self.entries().pools.remove(pool);
    }

    /// What an app of this pool may reach: nothing if it has none of that name.
    pub(crate) fn grants(&self, pool: &PoolName, app: &AppName) -> Arc<[OutboundGrant]> {
        let entries = self.entries();
        let entry = entries.pools.get(pool).and_then(|apps| apps.get(app));
        entry.map_or_else(|| Arc::new([]) as _, |entry| Arc::clone(&entry.grants))
    }

    /// The right to one more connection of an app, if it has not as many as it
    /// may have.
    pub(crate) fn permit(&self, pool: &PoolName, app: &AppName) -> Option<Permit> {
        let mut entries = self.entries();
        let entry = entries.pools.get(pool).and_then(|apps| apps.get(app));
        let limit = entry.map_or(0, |entry| entry.connections);
        let open = entries.open.get(app).copied().unwrap_or(0);
        if open >= limit {
            return None;
        }
        entries.open.insert(app.clone(), open + 1);
        Some(Permit {
            ledger: self.clone(),
            app: app.clone(),
        })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut entries = self.ledger.entries();
        if let Some(open) = entries.open.get_mut(&self.app) {
            *open -= 1;
            if *open == 0 {
                entries.open.remove(&self.app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, connections: u32) -> AppGrants {
        AppGrants {
            app: AppName::new(name).unwrap(),
            grants: vec![OutboundGrant::new("http://a.example").unwrap()],
            connections,
        }
    }

    #[test]
    fn a_pool_has_what_it_was_granted_last() {
        let ledger = Ledger::default();
        let [pool, other] = ["one", "other"].map(|name| PoolName::new(name).unwrap());
        let [a, b] = ["a", "b"].map(|name| AppName::new(name).unwrap());
        ledger.grant(pool.clone(), vec![app("a", 1)]);
        ledger.grant(other.clone(), vec![app("b", 1)]);
        assert_eq!(ledger.grants(&pool, &a).len(), 1);
        assert!(ledger.grants(&pool, &b).is_empty());
        assert!(ledger.permit(&pool, &b).is_none());
        ledger.grant(pool.clone(), vec![app("b", 1)]);
        assert!(ledger.grants(&pool, &a).is_empty());
        ledger.forget(&other);
        assert!(ledger.grants(&other, &b).is_empty());
    }

    #[test]
    fn an_app_has_its_limit_once_over_all_pools() {
        let ledger = Ledger::default();
        let [pool, other] = ["one", "other"].map(|name| PoolName::new(name).unwrap());
        let a = AppName::new("a").unwrap();
        for pool in [&pool, &other] {
            ledger.grant(pool.clone(), vec![app("a", 2)]);
        }
        let first = ledger.permit(&pool, &a).unwrap();
        let second = ledger.permit(&other, &a).unwrap();
        assert!(ledger.permit(&pool, &a).is_none());
        drop(first);
        let third = ledger.permit(&other, &a).unwrap();
        // A lower limit takes nothing away from what is open.
        ledger.grant(other.clone(), vec![app("a", 1)]);
        drop(second);
        assert!(ledger.permit(&other, &a).is_none());
        drop(third);
        assert!(ledger.permit(&other, &a).is_some());
        assert!(ledger.entries().open.is_empty());
    }
}
