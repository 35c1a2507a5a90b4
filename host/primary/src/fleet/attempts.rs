//! Attempts: what is listed of a deploy or a reload in an app's history, however
//! early it fails, so that its number means nothing else ever after.

use skep_core::AppName;
use skep_core::history::History;

use super::Fleet;
use super::app::{Passage, Purpose};
use super::material::Attempts;
use crate::scribe::unix_millis;

impl Fleet {
    /// Writes down that a deploy has begun. It goes on meanwhile: what cannot be
    /// written down now cannot be later, and is rejected for it then.
    pub(super) fn list_attempt(&mut self, name: &AppName) {
        let Some(app) = self.apps.get(name) else {
            return;
        };
        let mut history = app.saved.history().clone();
        if let Some(passage) = &app.passage {
            passage.take_up(&mut history);
        }
        if history != *app.saved.history() {
            self.write(name, history, None, |fleet, name, written| {
                fleet.complain_unwritten(name, written.err());
            });
        }
    }
}

impl Fleet {
    /// Lists the revisions of a reload that was rejected.
    pub(super) fn list_rejected(&mut self, attempts: Attempts, reason: &str) {
        for (name, attempt) in attempts {
            // An app that was to be new has no history yet.
            let Some(app) = self.apps.get(&name) else {
                continue;
            };
            let mut history = app.saved.history().clone();
            if history.next() != attempt.revision {
                continue;
            }
            let digest = attempt.component.to_string();
            let listed = history.begin(digest, attempt.source, unix_millis());
            history.rejected(listed, format!("reload: {reason}"));
            self.write(&name, history, None, |fleet, name, written| {
                fleet.complain_unwritten(name, written.err());
            });
        }
    }
}

impl Passage {
    /// Lists its revision in a history, as far as it is known, if it gets a
    /// number: a dry run changes nothing, and a return has one.
    pub(super) fn take_up(&self, history: &mut History) {
        if self.purpose != Purpose::Deploy || self.rollout.order().dry_run {
            return;
        }
        if history.get(self.to).is_none() && history.next() == self.to {
            let begun = history.begin(String::new(), self.source.clone(), unix_millis());
            debug_assert_eq!(begun, self.to, "it was the next");
        }
        if let Some(component) = self.component {
            history.built(self.to, component.to_string());
        }
    }
}
