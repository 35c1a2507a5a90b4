//! The connector, where any app may reach something: whether there shall be
//! one, and what it is told.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use skep_core::egress::OutboundGrant;
use skep_core::identity::Role;
use skep_core::solo::Event;
use skep_core::{AppName, FleetSpec, LogLevel, PoolName, WorkerId};
use skep_wire::{AppGrants, FromConnector, ToConnector};

use super::{Fleet, Phase, now};
use crate::log::Speaker;
use crate::process::{Birth, ConnectorRole, News, Process};
use crate::single::{GRACE, Single};
use crate::told::{GrantWord, ToldGrants, WantedGrants};
use crate::walls::Walls;

/// The connector.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) single: Single<ConnectorRole>,
    pub(super) told: ToldGrants,
}

impl Connector {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            single: Single::new(seed, None),
            told: ToldGrants::default(),
        }
    }
}

impl Fleet {
    /// Has a connector where some app has grants, and tells it what it does not
    /// know yet. Returns whether that was anything.
    pub(super) fn tell_connector(&mut self) -> bool {
        let wanted = self.wanted_grants();
        if self.phase == Phase::Running {
            self.step_connector(if wanted.pools.is_empty() {
                // It has nothing to finish: what it opened is the workers'.
                Event::Ended
            } else {
                Event::Wanted
            });
        }
        if !self.connector.single.hears() {
            return false;
        }
        let words = self.connector.told.catch_up(&wanted);
        let any = !words.is_empty();
        for word in words {
            let words = match word {
                GrantWord::Grants(pool, apps) => (ToConnector::Grants { pool, apps }, Vec::new()),
                GrantWord::Worker(worker, pool) => {
                    let Some(theirs) = self.meet_connector(worker) else {
                        continue;
                    };
                    (ToConnector::Worker { worker, pool }, vec![theirs.into()])
                }
                GrantWord::WorkerGone(worker) => (ToConnector::WorkerGone { worker }, Vec::new()),
                GrantWord::PoolGone(pool) => (ToConnector::PoolGone { pool }, Vec::new()),
            };
            self.connector.single.say(words);
        }
        any
    }

    /// Whether the connector can be told of workers of this pool.
    pub(super) fn connector_knows(&self, pool: &PoolName) -> bool {
        self.connector.single.hears() && self.connector.told.knows(pool)
    }

    /// Tells the connector of a worker that was born with a channel to it.
    pub(super) fn connect_newborn(
        &mut self,
        worker: WorkerId,
        pool: &PoolName,
        theirs: Arc<OwnedFd>,
    ) {
        self.connector.told.add_worker(worker);
        let pool = pool.clone();
        let word = ToConnector::Worker { worker, pool };
        self.connector.single.say((word, vec![theirs.into()]));
    }

    pub(super) fn hear_connector(&mut self, news: News<FromConnector>) {
        match news {
            News::Said(FromConnector::Ready { missing }) => {
                self.confined(&missing, |line| line.text("role", "connector"));
                self.step_connector(Event::Ready);
            }
            News::Said(FromConnector::Unfit { message }) => {
                self.step_connector(Event::Unfit { message });
            }
            News::Mute(mute) => {
                self.journal
                    .event(LogLevel::Error, "connector.mute", |line| {
                        line.text("message", &mute.reason())
                    });
            }
            News::Exited(status) => self.step_connector(Event::Exited(status)),
        }
    }

    pub(super) fn step_connector(&mut self, event: Event) {
        let start = |board: Arc<OwnedFd>| {
            let begin = ToConnector::Begin {
                sandbox: self.spec.server.sandbox,
            };
            let birth = Birth {
                id: (),
                title: "skep: connector".to_owned(),
                messages: vec![(begin, vec![board.into()])],
                grace: GRACE,
                wall: Walls::around(Role::Connector),
                log: (self.journal.log().clone(), Speaker::role("connector", None)),
            };
            Process::<ConnectorRole>::start(birth, self.news.clone())
        };
        let single = &mut self.connector.single;
        let heard = single.hears();
        let other = single.step(now(), event, &self.journal, start);
        if other {
            self.connector.told = ToldGrants::default();
        }
        if other || single.hears() != heard {
            self.untold.all();
        }
    }

    /// While a reload is on its way apps may reach what they may before and
    /// after it: those of both generations run.
    fn wanted_grants(&self) -> WantedGrants {
        let mut pools = BTreeMap::new();
        gather(&mut pools, &self.spec);
        if let Some(other) = self.other_spec() {
            gather(&mut pools, other);
        }
        let pools: BTreeMap<PoolName, Vec<AppGrants>> = pools
            .into_iter()
            .filter(|(pool, _)| self.pools.contains_key(pool))
            .map(|(pool, apps)| {
                let apps = apps
                    .into_iter()
                    .map(|(app, (grants, connections))| AppGrants {
                        app,
                        grants,
                        connections,
                    });
                (pool, apps.collect())
            })
            .collect();
        let trials = self.trials.iter().map(|(id, trial)| (id, &trial.pool));
        let workers = self.workers.iter().map(|(id, worker)| (id, &worker.pool));
        let workers = workers
            .chain(trials)
            .filter(|(_, pool)| pools.contains_key(*pool))
            .map(|(id, pool)| (*id, pool.clone()))
            .collect();
        WantedGrants { pools, workers }
    }
}

type Gathered = BTreeMap<PoolName, BTreeMap<AppName, (Vec<OutboundGrant>, u32)>>;

fn gather(pools: &mut Gathered, spec: &FleetSpec) {
    for (name, app) in spec.apps.iter().filter(|(_, app)| !app.outbound.is_empty()) {
        let apps = pools.entry(app.pool.clone()).or_default();
        let (grants, connections) = apps.entry(name.clone()).or_default();
        for grant in &app.outbound {
            if !grants.contains(grant) {
                grants.push(grant.clone());
            }
        }
        *connections = (*connections).max(app.limits.outbound_connections);
    }
}
