//! Artifacts that are not what they were: verified again, and built again.
//!
//! Workers map artifacts. When somebody truncates or overwrites a file of the
//! cache, the workers that have it mapped die by a signal, and those that come
//! after them cannot load it: without this they would until skep is started
//! again. So a worker's end that may be of its artifacts is told to the
//! supervisor only once they were verified, and its successor gets what is good.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_core::supervise::{BreakerState, EndStatus, Event};
use skep_core::{HandlerId, LogLevel, PoolName, WorkerId};
use skep_wire::Refusal;
use tokio::time::sleep;

use super::{Continuation, Fleet, Phase};
use crate::artifacts::{Artifact, Digest};

/// Signals by which a process dies that runs, or reads, what is not there, as
/// Linux numbers them everywhere we run.
const OF_ARTIFACTS: [i32; 3] = [SIGILL, SIGBUS, SIGSEGV];
const SIGILL: i32 = 4;
const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

/// How long a worker's end is not told at most. To verify takes milliseconds; a
/// large component may take longer to be built, and then the pool is to be seen
/// as it is. Less than the default `hang_timeout`, or the end would be told as
/// that of a worker that hung.
const HOLD: Duration = Duration::from_secs(5);

/// What came of one component's artifact, and whether it was built again.
type Verified = (Digest, Result<(Arc<Artifact>, bool), Refusal>);

impl Fleet {
    /// A worker's process has ended.
    pub(super) fn worker_exited(&mut self, id: WorkerId, status: EndStatus) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let suspicious = match status {
            EndStatus::Signal(signal) => OF_ARTIFACTS.contains(&signal),
            EndStatus::Code(_) | EndStatus::OutOfMemory => false,
        };
        if !suspicious {
            return self.tell_exit(id, status);
        }
        let pool = worker.pool.clone();
        self.when_verified(&pool, move |fleet| fleet.tell_exit(id, status));
    }

    /// Verifies the artifacts of a pool, and goes on then, or when that takes
    /// long.
    pub(super) fn when_verified(
        &mut self,
        pool: &PoolName,
        then: impl FnOnce(&mut Self) + Send + 'static,
    ) {
        if self.phase != Phase::Running {
            return then(self);
        }
        let name = pool.clone();
        self.later(sleep(HOLD), move |fleet, ()| fleet.stop_holding(&name));
        let under_way = self.suspects.contains_key(pool);
        let held = self.suspects.entry(pool.clone()).or_default();
        held.push(Box::new(then));
        if !under_way {
            self.verify(pool.clone());
        }
    }

    /// Goes on without waiting any longer.
    fn stop_holding(&mut self, pool: &PoolName) {
        let held = self.suspects.get_mut(pool).map(std::mem::take);
        self.go_on(held.unwrap_or_default());
    }

    /// Goes on with everything that waits, for the fleet ends.
    pub(super) fn hold_nothing(&mut self) {
        for held in std::mem::take(&mut self.suspects).into_values() {
            self.go_on(held);
        }
    }

    fn go_on(&mut self, held: Vec<Continuation>) {
        for then in held {
            then(self);
        }
    }

    fn verify(&self, pool: PoolName) {
        let components: Vec<(Digest, Vec<PathBuf>)> = self
            .components_served(&pool)
            .map(|component| (component, self.sources_of(&pool, component)))
            .collect();
        let workshop = Arc::clone(&self.workshop);
        let work = async move {
            let mut verified: Vec<Verified> = Vec::new();
            for (component, sources) in components {
                let result = workshop.verify(component, sources).await;
                verified.push((component, result));
            }
            verified
        };
        self.later(work, move |fleet, verified| {
            fleet.verified(&pool, verified);
        });
    }

    fn components_served(&self, pool: &PoolName) -> impl Iterator<Item = Digest> + use<> {
        let handlers = self.pools.get(pool).map(|pool| pool.plan.handlers());
        let handlers = handlers.unwrap_or_default();
        self.catalog.components_of(handlers.iter()).into_iter()
    }

    fn handlers_of(&self, pool: &PoolName, component: Digest) -> BTreeSet<HandlerId> {
        let handlers = self.pools.get(pool).map(|pool| pool.plan.handlers());
        let mut handlers = handlers.unwrap_or_default();
        handlers.retain(|handler| {
            let entry = self.catalog.get(*handler);
            entry.is_some_and(|entry| entry.artifact.component == component)
        });
        handlers
    }

    /// Where a component may be had: where it is kept, and where it came from.
    fn sources_of(&self, pool: &PoolName, component: Digest) -> Vec<PathBuf> {
        let kept = self.scribe.component_path(&component.to_string());
        let apps = self.spec.apps.values().filter(|app| app.pool == *pool);
        kept.into_iter()
            .chain(apps.map(|app| app.component.clone()))
            .collect()
    }

    fn verified(&mut self, pool: &PoolName, verified: Vec<Verified>) {
        let mut rebuilt = false;
        for (component, result) in verified {
            match result {
                Ok((artifact, anew)) => {
                    self.catalog.renew(&artifact);
                    if anew {
                        rebuilt = true;
                        let handlers = self.handlers_of(pool, component);
                        self.try_again(pool, &handlers);
                        self.tell_artifact(
                            pool,
                            component,
                            LogLevel::Warn,
                            "artifact.rebuilt",
                            None,
                        );
                    }
                }
                Err(why) => {
                    let why = Some(why.problem);
                    self.tell_artifact(
                        pool,
                        component,
                        LogLevel::Error,
                        "artifact.lost",
                        why.as_deref(),
                    );
                }
            }
        }
        let held = self.suspects.remove(pool);
        self.go_on(held.unwrap_or_default());
        let tripped = self
            .supervisor
            .pools()
            .any(|view| view.name == *pool && view.breaker != BreakerState::Admitting);
        if rebuilt && tripped {
            // What it tripped for is mended.
            self.step(Event::Reset { pool: pool.clone() });
        }
    }

    fn tell_artifact(
        &self,
        pool: &PoolName,
        component: Digest,
        level: LogLevel,
        name: &str,
        reason: Option<&str>,
    ) {
        let handlers = self.pools.get(pool).map(|pool| pool.plan.handlers());
        let apps = self
            .catalog
            .apps_of(component, handlers.unwrap_or_default().iter());
        for app in apps {
            self.journal.event(level, name, |line| {
                let line = line.text("pool", pool.as_str()).text("app", app.as_str());
                match reason {
                    Some(reason) => line.text("reason", reason),
                    None => line,
                }
            });
        }
    }
}
