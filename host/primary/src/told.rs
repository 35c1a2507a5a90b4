//! What a dispatcher and the connector have been told, and what they must be
//! told next.
//!
//! Level-triggered: what is wanted now is compared with what was told, so that
//! a process that follows another one, which was told nothing, is told all of
//! it. Decides only the order: a pool before its workers and before hosts that
//! name it; new hosts before anybody goes.

use std::collections::{BTreeMap, BTreeSet};

use skep_core::route::{HostRoute, HostTable, SharedHost};
use skep_core::{ConnectionLimits, Dispatch, FleetSpec, ListenerName, PoolName, WorkerId};
use skep_wire::AppGrants;

/// Which hosts belong to which pool of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// The hosts that routes name.
    pub(crate) hosts: Vec<HostRoute>,
    /// Who gets connections for other hosts.
    pub(crate) otherwise: PoolName,
}

impl Hosts {
    /// Those of a listener: of the routes of all apps of its pools. `None` if
    /// there is no such listener.
    ///
    /// # Errors
    ///
    /// A host that two of the pools serve.
    pub(crate) fn of(spec: &FleetSpec, name: &ListenerName) -> Result<Option<Self>, SharedHost> {
        let listener = spec.listeners.get(name);
        let Some((listener, otherwise)) = listener.and_then(|l| Some((l, l.pools.first()?))) else {
            return Ok(None);
        };
        let apps = spec.apps.values();
        let routes = apps
            .filter(|app| listener.pools.contains(&app.pool))
            .flat_map(|app| app.routes.iter().map(|route| (route, &app.pool)));
        Ok(Some(Self {
            hosts: HostTable::hosts(routes)?,
            otherwise: otherwise.clone(),
        }))
    }

    /// The pools that are named.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &PoolName> {
        let hosts = self.hosts.iter().map(|host| &host.pool);
        hosts.chain([&self.otherwise])
    }
}

/// What a dispatcher is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) limits: ConnectionLimits,
    pub(crate) pools: BTreeMap<PoolName, Dispatch>,
    /// Each with its pool and its cell in that pool's scoreboard.
    pub(crate) workers: BTreeMap<WorkerId, (PoolName, u16)>,
    /// `None` until it may accept.
    pub(crate) hosts: Option<Hosts>,
}

/// What a dispatcher was told.
#[derive(Debug)]
pub(crate) struct Told {
    limits: ConnectionLimits,
    pools: BTreeMap<PoolName, Dispatch>,
    workers: BTreeMap<WorkerId, PoolName>,
    hosts: Option<Hosts>,
}

/// One thing to tell a dispatcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Limits(ConnectionLimits),
    Pool(PoolName, Dispatch),
    Worker(WorkerId, PoolName, u16),
    Hosts(Hosts),
    WorkerGone(WorkerId),
    PoolGone(PoolName),
}

impl Told {
    /// Nothing but what it began with.
    pub(crate) const fn begun(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            hosts: None,
        }
    }

    /// Whether it knows a pool, so that it can be told of a worker of it.
    pub(crate) fn knows(&self, pool: &PoolName) -> bool {
        self.pools.contains_key(pool)
    }

    /// Whether it knows a worker.
    pub(crate) fn knows_worker(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    /// It was told of a worker.
    pub(crate) fn add_worker(&mut self, worker: WorkerId, pool: PoolName) {
        self.workers.insert(worker, pool);
    }

    /// The pool of a worker that it knows.
    pub(crate) fn pool_of(&self, worker: WorkerId) -> Option<&PoolName> {
        self.workers.get(&worker)
    }

    /// It was told that a worker is gone.
    pub(crate) fn forget_worker(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    /// The workers that it knows.
    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.keys().copied()
    }

    /// The pools whose workers it knows.
    pub(crate) fn pools_of_workers(&self) -> impl Iterator<Item = &PoolName> {
        self.workers.values()
    }

    /// What to tell it, in this order; takes it for told.
    pub(crate) fn catch_up(&mut self, wanted: Wanted) -> Vec<Word> {
        let mut words = Vec::new();
        if self.limits != wanted.limits {
            self.limits = wanted.limits.clone();
            words.push(Word::Limits(wanted.limits));
        }
        for (pool, dispatch) in &wanted.pools {
            if self.pools.insert(pool.clone(), *dispatch) != Some(*dispatch) {
                words.push(Word::Pool(pool.clone(), *dispatch));
            }
        }
        for (worker, (pool, cell)) in &wanted.workers {
            if !self.workers.contains_key(worker) {
                self.workers.insert(*worker, pool.clone());
                words.push(Word::Worker(*worker, pool.clone(), *cell));
            }
        }
        if let Some(hosts) = wanted.hosts
            && self.hosts.as_ref() != Some(&hosts)
        {
            self.hosts = Some(hosts.clone());
            words.push(Word::Hosts(hosts));
        }
        self.workers.retain(|worker, _| {
            let stays = wanted.workers.contains_key(worker);
            if !stays {
                words.push(Word::WorkerGone(*worker));
            }
            stays
        });
        self.pools.retain(|pool, _| {
            let stays = wanted.pools.contains_key(pool);
            if !stays {
                words.push(Word::PoolGone(pool.clone()));
            }
            stays
        });
        words
    }
}

/// What the connector is to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WantedGrants {
    pub(crate) pools: BTreeMap<PoolName, Vec<AppGrants>>,
    pub(crate) workers: BTreeMap<WorkerId, PoolName>,
}

/// What the connector was told.
#[derive(Debug, Default)]
pub(crate) struct ToldGrants {
    pools: BTreeMap<PoolName, Vec<AppGrants>>,
    workers: BTreeSet<WorkerId>,
}

/// One thing to tell the connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrantWord {
    Grants(PoolName, Vec<AppGrants>),
    Worker(WorkerId, PoolName),
    WorkerGone(WorkerId),
    PoolGone(PoolName),
}

impl ToldGrants {
    /// Whether it knows a pool, so that it can be told of a worker of it.
    pub(crate) fn knows(&self, pool: &PoolName) -> bool {
        self.pools.contains_key(pool)
    }

    /// It was told of a worker.
    pub(crate) fn add_worker(&mut self, worker: WorkerId) {
        self.workers.insert(worker);
    }

    /// Whether it knows a worker.
    pub(crate) fn knows_worker(&self, worker: WorkerId) -> bool {
        self.workers.contains(&worker)
    }

    /// It was told that a worker is gone. Returns whether it knew it.
    pub(crate) fn forget_worker(&mut self, worker: WorkerId) -> bool {
        self.workers.remove(&worker)
    }

    /// What to tell it, in this order; takes it for told.
    pub(crate) fn catch_up(&mut self, wanted: &WantedGrants) -> Vec<GrantWord> {
        let mut words = Vec::new();
        for (pool, apps) in &wanted.pools {
            if self.pools.get(pool) != Some(apps) {
                self.pools.insert(pool.clone(), apps.clone());
                words.push(GrantWord::Grants(pool.clone(), apps.clone()));
            }
        }
        for (worker, pool) in &wanted.workers {
            if self.workers.insert(*worker) {
                words.push(GrantWord::Worker(*worker, pool.clone()));
            }
        }
        self.workers.retain(|worker| {
            let stays = wanted.workers.contains_key(worker);
            if !stays {
                words.push(GrantWord::WorkerGone(*worker));
            }
            stays
        });
        self.pools.retain(|pool, _| {
            let stays = wanted.pools.contains_key(pool);
            if !stays {
                words.push(GrantWord::PoolGone(pool.clone()));
            }
            stays
        });
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> PoolName {
        PoolName::new(name).unwrap()
    }

    fn hosts(route: &str, of: &str, otherwise: &str) -> Hosts {
        Hosts {
            hosts: vec![HostRoute {
                host: route.parse().unwrap(),
                pool: pool(of),
            }],
            otherwise: pool(otherwise),
        }
    }

    fn wanted(pools: &[&str], workers: &[(u64, &str)], hosts: Option<Hosts>) -> Wanted {
        Wanted {
            limits: ConnectionLimits::default(),
            pools: pools
                .iter()
                .map(|name| (pool(name), Dispatch::Balanced))
                .collect(),
            workers: workers
                .iter()
                .map(|(worker, name)| (WorkerId(*worker), (pool(name), 0)))
                .collect(),
            hosts,
        }
    }

    #[test]
    fn pools_come_before_workers_and_hosts_before_anybody_goes() {
        let mut told = Told::begun(ConnectionLimits::default());
        let before = hosts("a.example/*", "a", "a");
        let first = wanted(&["a"], &[(1, "a")], Some(before.clone()));
        assert_eq!(
            told.catch_up(first.clone()),
            [
                Word::Pool(pool("a"), Dispatch::Balanced),
                Word::Worker(WorkerId(1), pool("a"), 0),
                Word::Hosts(before),
            ]
        );
        assert_eq!(told.catch_up(first), []);

        let after = hosts("a.example/*", "b", "b");
        assert_eq!(
            told.catch_up(wanted(&["b"], &[(2, "b")], Some(after.clone()))),
            [
                Word::Pool(pool("b"), Dispatch::Balanced),
                Word::Worker(WorkerId(2), pool("b"), 0),
                Word::Hosts(after.clone()),
                Word::WorkerGone(WorkerId(1)),
                Word::PoolGone(pool("a")),
            ]
        );

        let mut other = wanted(&["b"], &[(2, "b")], Some(after));
        other.limits.max_headers = 7;
        other.pools.insert(pool("b"), Dispatch::RoundRobin);
        assert_eq!(
            told.catch_up(other.clone()),
            [
                Word::Limits(other.limits),
                Word::Pool(pool("b"), Dispatch::RoundRobin),
            ]
        );
    }

    #[test]
    fn grants_come_before_workers() {
        let mut told = ToldGrants::default();
        let apps = |connections| {
            vec![AppGrants {
                app: skep_core::AppName::new("hello").unwrap(),
                grants: Vec::new(),
                connections,
            }]
        };
        let with = |connections, workers: &[u64]| WantedGrants {
            pools: BTreeMap::from([(pool("a"), apps(connections))]),
            workers: workers
                .iter()
                .map(|worker| (WorkerId(*worker), pool("a")))
                .collect(),
        };
        assert_eq!(
            told.catch_up(&with(1, &[1])),
            [
                GrantWord::Grants(pool("a"), apps(1)),
                GrantWord::Worker(WorkerId(1), pool("a")),
            ]
        );
        assert_eq!(
            told.catch_up(&with(2, &[2])),
            [
                GrantWord::Grants(pool("a"), apps(2)),
                GrantWord::Worker(WorkerId(2), pool("a")),
                GrantWord::WorkerGone(WorkerId(1)),
            ]
        );
        assert_eq!(
            told.catch_up(&WantedGrants::default()),
            [
                GrantWord::WorkerGone(WorkerId(2)),
                GrantWord::PoolGone(pool("a")),
            ]
        );
    }
}
