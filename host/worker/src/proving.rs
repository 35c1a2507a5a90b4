//! Handlers on their way to be valid, and those that could not be loaded or
//! validated: in *quarantine*.
//!
//! ```text
//!            begin                      valid
//! Load ───────────────▶ Trying ───────────────────────▶ on the shelf
//!                        ▲  │ refused
//!      the delay is over │  ▼
//!                       Failed{retry}   no plan names it ──▶ forgotten
//! ```
//! A handler that failed is tried again, with a delay that grows, for as long as
//! the plan that is served names it: it may have failed because of something
//! outside it, such as a database that was away. What one handler does or fails
//! to do keeps no other from being tried.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_core::{AppName, HandlerId};
use skep_wire::LoadApp;
use tokio::sync::Semaphore;

use crate::admission::Share;
use crate::desk::Desk;
use crate::load::Loader;
use crate::news::News;

/// How many are validated at a time of those that nobody asked for just now: a
/// worker with a thousand apps has no thousand instances to spare at its start.
const AT_ONCE: usize = 16;

/// How long one has its turn for. Most need a millisecond.
const TURN: Duration = Duration::from_millis(100);

/// The delay before a handler is tried again that failed once, which doubles
/// with every failure.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The handlers of one worker that are not valid (yet). See the module's
/// documentation.
pub(crate) struct Proving {
    entries: BTreeMap<HandlerId, Entry>,
    turns: Arc<Semaphore>,
}

struct Entry {
    load: Box<LoadApp>,
    artifact: OwnedFd,
    failures: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Trying,
    Failed {
        /// `None` while no plan that is served names it.
        retry: Option<Instant>,
    },
}

/// How urgent it is that a handler is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for this one.
    Now,
    /// It waits for its turn.
    InTurn,
}

impl Proving {
    pub(crate) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Loads a handler and begins to validate it; the verdict is news.
    ///
    /// # Errors
    ///
    /// Why it cannot be loaded. It is in quarantine then.
    pub(crate) fn begin(
        &mut self,
        loader: &Loader,
        desk: &Arc<Desk>,
        (load, artifact): (Box<LoadApp>, OwnedFd),
        workers: u16,
        urgency: Urgency,
    ) -> Result<(), String> {
        let handler = load.handler;
        let entry = Entry {
            load,
            artifact,
            failures: 0,
            stage: Stage::Trying,
        };
        self.entries.insert(handler, entry);
        self.attempt(loader, desk, handler, workers, urgency)
    }

    fn attempt(
        &mut self,
        loader: &Loader,
        desk: &Arc<Desk>,
        handler: HandlerId,
        workers: u16,
        urgency: Urgency,
    ) -> Result<(), String> {
        let Some(entry) = self.entries.get_mut(&handler) else {
            return Ok(());
        };
        entry.stage = Stage::Trying;
        let share = Share::of(&entry.load.limits, workers);
        let loaded = loader.load(desk, (*entry.load).clone(), &entry.artifact, share);
        let unproven = match loaded {
            Ok(unproven) => unproven,
            Err(message) => {
                entry.fail(false, Instant::now());
                return Err(message);
            }
        };
        let app = entry.load.app.clone();
        let (desk, news, turns) = (Arc::clone(desk), loader.news(), Arc::clone(&self.turns));
        tokio::spawn(async move {
            let turn = match urgency {
                // Never closed.
                Urgency::InTurn => turns.acquire_owned().await.ok(),
                Urgency::Now => None,
            };
            let validation = unproven.validate(desk.ticker());
            tokio::pin!(validation);
            let validated = tokio::select! {
                validated = &mut validation => validated,
                () = tokio::time::sleep(TURN) => {
                    // A handler that hangs keeps no other from its turn.
                    drop(turn);
                    validation.await
                }
            };
            // Fails when the worker has ended.
            let _ = news.send(match validated {
                Ok(valid) => News::Valid(valid),
                Err(message) => News::Refused {
                    handler,
                    app,
                    message,
                },
            });
        });
        Ok(())
    }

    /// A handler was found valid. Whether it is still wanted: one that was
    /// forgotten meanwhile is not.
    pub(crate) fn valid(&mut self, handler: HandlerId) -> bool {
        self.entries.remove(&handler).is_some()
    }

    /// A handler was found not to be valid; `served` says whether the plan that
    /// is served names it. Whether it is still wanted.
    pub(crate) fn refused(&mut self, handler: HandlerId, served: bool) -> bool {
        match self.entries.get_mut(&handler) {
            Some(entry) => {
                entry.fail(served, Instant::now());
                true
            }
            None => false,
        }
    }

    /// A plan with these handlers is served from now on: those of them that
    /// failed are tried again, and others that failed are forgotten.
    pub(crate) fn serve(&mut self, handlers: &BTreeSet<HandlerId>) {
        let now = Instant::now();
        self.entries.retain(|handler, entry| {
            let served = handlers.contains(handler);
            if served && let Stage::Failed { retry } = &mut entry.stage {
                retry.get_or_insert(now + delay(entry.failures));
            }
            // What is loaded for the next plan has not failed yet.
            served || (entry.failures == 0 && entry.stage == Stage::Trying)
        });
    }

    /// Whether a plan may be served without this handler.
    pub(crate) fn has(&self, handler: HandlerId) -> bool {
        self.entries.contains_key(&handler)
    }

    /// Handlers that are being validated.
    pub(crate) fn trying(&self) -> impl Iterator<Item = HandlerId> {
        let trying = |(_, entry): &(_, &Entry)| entry.stage == Stage::Trying;
        self.entries.iter().filter(trying).map(|(id, _)| *id)
    }

    /// Whether a worker that starts has to wait for one of them.
    pub(crate) fn is_waited_for(&self) -> bool {
        let mut entries = self.entries.values();
        entries.any(|entry| entry.stage == Stage::Trying && !entry.load.quarantined)
    }

    /// Whether one of them is needed: a worker does not serve without it.
    pub(crate) fn is_needed(&self) -> bool {
        let mut entries = self.entries.values();
        entries.any(|entry| entry.stage == Stage::Trying && entry.load.vital)
    }

    /// Whether this handler failed and a worker does not serve without it.
    pub(crate) fn is_vital(&self, handler: HandlerId) -> bool {
        let entry = self.entries.get(&handler);
        entry.is_some_and(|entry| entry.load.vital)
    }

    /// How many handlers of an app are being validated.
    pub(crate) fn trying_of(&self, app: &AppName) -> usize {
        let entries = self.entries.values();
        entries
            .filter(|entry| entry.stage == Stage::Trying && entry.load.app == *app)
            .count()
    }

    /// When [`retry`](Self::retry) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let retries = self.entries.values().filter_map(|entry| match entry.stage {
            Stage::Failed { retry } => retry,
            Stage::Trying => None,
        });
        retries.min()
    }

    /// Tries those again whose delay is over. Says which of them cannot even be
    /// loaded.
    pub(crate) fn retry(
        &mut self,
        loader: &Loader,
        desk: &Arc<Desk>,
        workers: u16,
    ) -> Vec<(HandlerId, String)> {
        let now = Instant::now();
        let due =
            |entry: &Entry| matches!(entry.stage, Stage::Failed { retry: Some(at) } if at <= now);
        let due: Vec<HandlerId> = self
            .entries
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(handler, _)| *handler)
            .collect();
        let mut failed = Vec::new();
        for handler in due {
            if let Err(why) = self.attempt(loader, desk, handler, workers, Urgency::InTurn) {
                if let Some(entry) = self.entries.get_mut(&handler) {
                    entry.plan_retry(now);
                }
                failed.push((handler, why));
            }
        }
        failed
    }
}

impl Entry {
    fn fail(&mut self, served: bool, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.stage = Stage::Failed { retry: None };
        if served {
            self.plan_retry(now);
        }
    }

    fn plan_retry(&mut self, now: Instant) {
        let retry = Some(now + delay(self.failures));
        self.stage = Stage::Failed { retry };
    }
}

/// How long a handler waits that has failed so often, at least once.
fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_longest() {
        let seconds: Vec<u64> = (1..=7).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }
}
