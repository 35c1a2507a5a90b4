//! The handlers that plans name: one revision of an app under one set of
//! settings each, with everything that a worker needs to load it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_core::{AppName, AppSpec, HandlerId, Revision};
use skep_wire::LoadApp;

use crate::artifacts::{Artifact, Digest};

/// One handler.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What workers are told.
    pub(crate) load: Box<LoadApp>,
    /// The artifact, open.
    pub(crate) artifact: Arc<Artifact>,
}

/// All handlers that some plan, or some rollout, names.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    last: HandlerId,
    entries: BTreeMap<HandlerId, Entry>,
}

impl Catalog {
    /// Adds a handler. `patience` is how long its own validation may take.
    pub(crate) fn add(
        &mut self,
        app: &AppName,
        spec: &AppSpec,
        revision: Revision,
        artifact: Arc<Artifact>,
        patience: Duration,
    ) -> HandlerId {
        self.last = HandlerId(self.last.0 + 1);
        let load = LoadApp {
            handler: self.last,
            app: app.clone(),
            tenant: spec.tenant.clone(),
            revision,
            flavor: artifact.flavor,
            strip_prefix: spec.strip_prefix,
            limits: spec.limits.clone(),
            instance: spec.instance.clone(),
            env: spec.env.clone(),
            config: spec.config.clone(),
            require: spec.require.clone(),
            check: spec.validate.clone(),
            validate_timeout: patience,
            outbound: spec.outbound.clone(),
            quarantined: false,
            vital: false,
        };
        let load = Box::new(load);
        self.entries.insert(self.last, Entry { load, artifact });
        self.last
    }

    /// A handler that is known.
    pub(crate) fn get(&self, handler: HandlerId) -> Option<&Entry> {
        self.entries.get(&handler)
    }

    /// The handler of a plan or a rollout.
    pub(crate) fn entry(&self, handler: HandlerId) -> &Entry {
        self.get(handler).expect("handlers that are named are kept")
    }

    /// The components of these handlers.
    pub(crate) fn components_of<'a>(
        &self,
        handlers: impl Iterator<Item = &'a HandlerId>,
    ) -> BTreeSet<Digest> {
        let entries = handlers.filter_map(|handler| self.entries.get(handler));
        entries.map(|entry| entry.artifact.component).collect()
    }

    /// The apps of a component among these handlers.
    pub(crate) fn apps_of<'a>(
        &self,
        component: Digest,
        handlers: impl Iterator<Item = &'a HandlerId>,
    ) -> BTreeSet<AppName> {
        let entries = handlers.filter_map(|handler| self.entries.get(handler));
        let its = entries.filter(|entry| entry.artifact.component == component);
        its.map(|entry| entry.load.app.clone()).collect()
    }

    /// Has all handlers of this artifact's component open its file from now on.
    pub(crate) fn renew(&self, artifact: &Artifact) {
        for entry in self.entries.values() {
            if entry.artifact.component == artifact.component {
                entry.artifact.renew(artifact);
            }
        }
    }

    /// Forgets all but these.
    pub(crate) fn retain(&mut self, named: &BTreeSet<HandlerId>) {
        self.entries.retain(|handler, _| named.contains(handler));
    }
}
