//! What is written down of apps: before a rollout, when it is live, when it is
//! taken back, and what is too old.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_core::converge::Pace;
use skep_core::history::History;
use skep_core::rollout::{Input, Output};
use skep_core::{AppName, LogLevel, PoolName, Revision};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Fleet;
use super::app::Purpose;
use crate::artifacts::{Artifact, Digest};
use crate::scribe::Writing;

/// How long a bad revision may stay in traffic for it to be written down first
/// that it is taken back.
const REVERT_PATIENCE: Duration = Duration::from_secs(1);

impl Fleet {
    /// Has a history written, and then takes it over.
    pub(super) fn write(
        &mut self,
        name: &AppName,
        history: History,
        component: Option<(PathBuf, Digest)>,
        then: impl FnOnce(&mut Self, &AppName, Result<History, String>) + Send + 'static,
    ) {
        let writing = Writing {
            app: name.clone(),
            history: history.clone(),
            component,
        };
        let written = self.scribe.write(writing);
        let name = name.clone();
        // At once, so that what is decided next is decided upon it.
        if let Some(app) = self.apps.get_mut(&name) {
            app.saved.write(history.clone());
        }
        self.later(written, move |fleet, written| {
            if let Some(app) = fleet.apps.get_mut(&name) {
                app.saved.written(&history, written.is_ok());
            }
            then(fleet, &name, written.map(|()| history));
        });
    }

    /// Forgets revisions that are too old to be returned to.
    pub(super) fn prune_revisions(&mut self, name: &AppName) {
        let Some(app) = self.apps.get(name) else {
            return;
        };
        let keep = usize::from(self.spec.apps[name].rollout.keep);
        let mut history = app.saved.history().clone();
        history.prune(keep, &BTreeSet::from([app.revision]));
        if history == *app.saved.history() {
            return;
        }
        self.write(name, history, None, |fleet, name, written| {
            if written.is_ok() {
                fleet.sweep();
            }
            fleet.complain_unwritten(name, written.err());
        });
    }

    /// A pool serves for the first time: the revisions that it began with are
    /// live.
    pub(super) fn first_served(&mut self, pool: &PoolName) {
        let unrecorded: Vec<AppName> = self
            .apps
            .iter()
            .filter(|(name, app)| {
                // What nobody has found valid yet is not live.
                let valid = app.quarantine.is_none();
                valid && app.unrecorded && self.spec.apps[*name].pool == *pool
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in unrecorded {
            let Some(app) = self.apps.get_mut(&name) else {
                continue;
            };
            app.unrecorded = false;
            let mut history = app.saved.history().clone();
            history.live(app.revision);
            self.write(&name, history, None, |fleet, name, written| {
                fleet.complain_unwritten(name, written.err());
            });
        }
    }

    /// A worker could not serve the revision that an app began with. If another
    /// one was active when skep ended last, that one answers again: whatever
    /// happened to the component's file in the meantime, the app is not gone.
    /// Says whether that is so.
    pub(super) fn fall_back(&mut self, name: &AppName, why: &str) -> bool {
        let Some(app) = self.apps.get_mut(name) else {
            return false;
        };
        let to = app.revision;
        let active = app.saved.recorded().active().filter(|active| *active != to);
        let Some(active) = active.filter(|_| app.unrecorded && app.passage.is_none()) else {
            return false;
        };
        // Once: if that one cannot be served either, it is not its component.
        app.unrecorded = false;
        let kept = app
            .saved
            .recorded()
            .get(active)
            .and_then(|record| self.scribe.component_path(&record.digest));
        let Some(kept) = kept else { return false };
        self.journal.event(LogLevel::Error, "app.rejected", |line| {
            line.text("app", name.as_str())
                .number("revision", to)
                .text("step", "validate")
                .text("reason", why)
        });
        let (why, workshop) = (why.to_owned(), Arc::clone(&self.workshop));
        let name = name.clone();
        self.later(
            async move { workshop.make(kept).await },
            move |fleet, made| match made {
                Ok(artifact) => fleet.fell_back(&name, (to, why), active, artifact),
                Err(refusal) => fleet.complain_unwritten(&name, Some(refusal.problem)),
            },
        );
        true
    }

    fn fell_back(
        &mut self,
        name: &AppName,
        (from, why): (Revision, String),
        to: Revision,
        artifact: Arc<Artifact>,
    ) {
        let (Some(spec), Some(app)) = (self.spec.apps.get(name), self.apps.get_mut(name)) else {
            return;
        };
        if app.revision != from || app.passage.is_some() {
            return;
        }
        let pool = spec.pool.clone();
        let patience = self.pools[&pool].spec.supervision.start_timeout;
        let known = Arc::clone(&artifact);
        let handler = self.catalog.add(name, spec, to, known, patience);
        app.answer_with(to, handler, artifact);
        let mut history = app.saved.history().clone();
        history.rejected(from, format!("validate: {why}"));
        self.write(name, history, None, |fleet, name, written| {
            fleet.complain_unwritten(name, written.err());
        });
        self.sweep();
        self.release(name);
        self.replan(&pool, Pace::OneByOne);
        self.journal.event(LogLevel::Warn, "app.live", |line| {
            line.text("pool", pool.as_str())
                .text("app", name.as_str())
                .number("revision", to)
                .text("reason", "the newer revision cannot be served")
        });
    }

    pub(super) fn commit(&mut self, name: &AppName) {
        let app = &self.apps[name];
        let Some(passage) = &app.passage else { return };
        let (to, purpose, number) = (passage.to, passage.purpose, passage.number);
        let mut history = app.saved.history().clone();
        match (purpose, history.active()) {
            (Purpose::Return, Some(from)) if from != to => {
                let reason = format!("an operator returned to revision {to}");
                history.rolled_back(from, Some(to), reason, false);
            }
            _ => {
                history.live(to);
                let deployed = history.get(to).map(|record| record.source.as_path());
                let configured = self.spec.apps.get(name).map(|app| app.component.as_path());
                if deployed.zip(configured).is_some_and(is_same_path) {
                    history.was_read(to);
                }
            }
        }
        self.write(name, history, None, move |fleet, name, written| {
            let input = match written {
                Ok(_) => Input::Recorded,
                Err(reason) => Input::RecordFailed { reason },
            };
            if fleet.passage(name).is_some_and(|one| one.number == number) {
                fleet.feed(name, input);
            }
        });
    }

    /// Writes down that the revision before is the active one after all.
    /// `then` follows once that is done, so that whatever is killed in between,
    /// the revision that comes up is the one that was meant; but a disk that
    /// takes long does not keep a bad revision in traffic.
    pub(super) fn revert(&mut self, name: &AppName, then: Vec<Output>) {
        let Some(app) = self.apps.get_mut(name) else {
            return;
        };
        let Some(passage) = &mut app.passage else {
            return;
        };
        let (to, from) = (passage.to, passage.rollout.order().from);
        let number = passage.number;
        passage.backlog = Some(then);
        let mut history = app.saved.history().clone();
        // Its reason and its author are told in the end.
        history.rolled_back(to, from, "its roll-out failed".to_owned(), false);
        let (done, written) = oneshot::channel();
        self.write(name, history, None, |fleet, name, written| {
            fleet.complain_unwritten(name, written.err());
            let _ = done.send(());
        });
        let name = name.clone();
        self.later(timeout(REVERT_PATIENCE, written), move |fleet, _| {
            let passage = fleet
                .apps
                .get_mut(&name)
                .and_then(|app| app.passage.as_mut());
            let backlog = passage
                .filter(|passage| passage.number == number)
                .and_then(|passage| passage.backlog.take());
            fleet.carry_out(&name, backlog.unwrap_or_default());
        });
    }

    pub(super) fn complain_unwritten(&self, name: &AppName, why: Option<String>) {
        if let Some(why) = why {
            self.journal
                .event(LogLevel::Error, "app.unrecorded", |line| {
                    line.text("app", name.as_str()).text("reason", &why)
                });
        }
    }
}

/// Whether two paths name one place. What they lead to does not matter.
fn is_same_path((one, other): (&Path, &Path)) -> bool {
    match (std::path::absolute(one), std::path::absolute(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}
