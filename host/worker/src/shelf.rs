//! The handlers that this worker has: those that may serve, and those that
//! drain.
//!
//! ```text
//!        keep                not in the plan               until passed
//! Valid ──────▶ on the shelf ───────────────▶ Draining ───────────────────▶ Cut
//!                                                │ nothing left              │ nothing left, or late
//!                                                ▼                           ▼
//!                                              retired                     retired
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use skep_core::{AppName, HandlerId};

use crate::admission::Admission;
use crate::app::App;
use crate::validate::Valid;

/// Handlers of one app that one worker holds at a time. Stable, canary or
/// standby, and one that drains; with more, an operator who deploys faster than
/// requests end would fill the worker's memory.
pub(crate) const MAX_LIVE: usize = 3;

/// How long calls that were cut may take to end. They end at once, except those
/// whose client takes no bytes.
const NOTICE: Duration = Duration::from_secs(1);

/// The handlers of one worker.
#[derive(Default)]
pub(crate) struct Shelf {
    ready: BTreeMap<HandlerId, Valid>,
    leaving: BTreeMap<HandlerId, Leaving>,
    /// Instances that were made by handlers that are gone.
    made: u64,
}

/// A handler that no plan names any more. Its requests keep it alive, nothing
/// else.
struct Leaving {
    name: AppName,
    app: Weak<App>,
    until: Instant,
    stage: Stage,
}

enum Stage {
    Draining,
    /// So many requests were cut.
    Cut(u32),
}

/// A handler that is gone, or was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) handler: HandlerId,
    pub(crate) app: AppName,
    /// Requests that were cut.
    pub(crate) cut: u32,
}

impl Shelf {
    /// Takes a handler that may serve.
    pub(crate) fn keep(&mut self, valid: Valid) {
        self.ready.insert(valid.id, valid);
    }

    pub(crate) fn find(&self, handler: HandlerId) -> Option<Valid> {
        self.ready.get(&handler).cloned()
    }

    pub(crate) fn ready(&self) -> impl Iterator<Item = &Valid> {
        self.ready.values()
    }

    /// Handlers of this app, those that leave included.
    pub(crate) fn live(&self, app: &AppName) -> usize {
        let ready = self.ready.values().filter(|valid| valid.name == *app);
        ready.count() + self.leaving_of(app).count()
    }

    /// Whether one of this app's handlers is about to be gone.
    pub(crate) fn leaves(&self, app: &AppName) -> bool {
        self.leaving_of(app).next().is_some()
    }

    fn leaving_of(&self, app: &AppName) -> impl Iterator<Item = &Leaving> {
        self.leaving
            .values()
            .filter(move |leaving| leaving.name == *app)
    }

    /// The permits that all handlers of this app share, if it has any.
    pub(crate) fn admission(&self, app: &AppName) -> Option<Arc<Admission>> {
        let ready = self.ready.values().find(|valid| valid.name == *app);
        match ready {
            Some(valid) => Some(Arc::clone(&valid.admission)),
            None => self
                .leaving_of(app)
                .find_map(|leaving| leaving.app.upgrade())
                .map(|app| Arc::clone(&app.admission)),
        }
    }

    /// Sends away what is not in `wanted`: until then, requests may finish.
    pub(crate) fn retire(&mut self, wanted: &BTreeSet<HandlerId>, until: Instant) {
        let unwanted = self
            .ready
            .extract_if(.., |handler, _| !wanted.contains(handler));
        for (handler, valid) in unwanted {
            valid.handler.retire();
            self.leaving.insert(
                handler,
                Leaving {
                    name: valid.name.clone(),
                    app: Arc::downgrade(&valid),
                    until,
                    stage: Stage::Draining,
                },
            );
        }
    }

    /// When [`pass`](Self::pass) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.leaving.values().map(|leaving| leaving.until).min()
    }

    /// Cuts handlers that have drained for too long, and gives up those that were
    /// cut and are still there: their clients keep them.
    pub(crate) fn pass(&mut self, now: Instant) -> Vec<Retired> {
        let mut retired = Vec::new();
        self.leaving.retain(|handler, leaving| {
            if leaving.until > now {
                return true;
            }
            match leaving.stage {
                Stage::Draining => {
                    let cut = leaving.app.upgrade().map_or(0, |app| app.cut());
                    leaving.stage = Stage::Cut(cut);
                    leaving.until = now + NOTICE;
                    true
                }
                Stage::Cut(cut) => {
                    retired.push(Retired {
                        handler: *handler,
                        app: leaving.name.clone(),
                        cut,
                    });
                    false
                }
            }
        });
        retired
    }

    /// Nothing of a handler is left.
    pub(crate) fn gone(&mut self, handler: HandlerId, made: u64) -> Option<Retired> {
        self.made += made;
        let leaving = self.leaving.remove(&handler)?;
        let cut = match leaving.stage {
            Stage::Draining => 0,
            Stage::Cut(cut) => cut,
        };
        Some(Retired {
            handler,
            app: leaving.name,
            cut,
        })
    }

    /// Brings the register up to date with what all handlers use.
    pub(crate) fn tell_use(&self) {
        let leaving = self.leaving.values().filter_map(|one| one.app.upgrade());
        for valid in self.ready.values() {
            valid.tell_use();
        }
        for app in leaving {
            app.tell_use();
        }
    }

    /// Instances that were ever made, and those that wait now.
    pub(crate) fn instances(&self) -> (u64, usize) {
        let leaving = self.leaving.values().filter_map(|one| one.app.upgrade());
        let ready = self.ready.values().map(|valid| Arc::clone(valid));
        let counts = ready.chain(leaving).map(|app| app.handler.instances());
        counts.fold((self.made, 0), |(made, idle), counts| {
            (made + counts.made, idle + counts.idle)
        })
    }
}
