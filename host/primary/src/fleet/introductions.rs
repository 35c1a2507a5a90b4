//! When dispatchers and the connector are told what they do not know yet.
//!
//! What they are to know follows from the specification, the listeners and all
//! workers: to compare it with what they were told is to look at every pool. So
//! that is done only if anything but a worker has changed; of a worker that came
//! or went they are told alone.

use std::collections::BTreeSet;

use skep_core::reload::Stage;
use skep_core::{Generation, WorkerId};
use skep_wire::{ToConnector, ToDispatcher};

use super::Fleet;

/// What dispatchers and the connector may not know.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Anything may have changed.
    all: bool,
    /// Workers and canary workers that came or went.
    workers: BTreeSet<WorkerId>,
    /// What they were told last belongs to this generation, and to this stage of
    /// a reload if one was under way.
    of: Option<(Generation, Option<Stage>)>,
}

impl Untold {
    /// Something has changed that may concern all of them.
    pub(super) const fn all(&mut self) {
        self.all = true;
    }

    /// A worker came or went.
    pub(super) fn worker(&mut self, worker: WorkerId) {
        self.workers.insert(worker);
    }
}

impl Fleet {
    /// Tells dispatchers and the connector what they do not know yet.
    pub(super) fn introduce_all(&mut self) {
        let stage = self.reloading.as_ref().map(|it| it.stage());
        let of = Some((self.spec.generation, stage));
        if self.untold.of != of {
            self.untold.of = of;
            self.untold.all();
        }
        for worker in std::mem::take(&mut self.untold.workers) {
            if !self.untold.all {
                self.tell_dispatchers_of(worker);
                self.tell_connector_of(worker);
            }
        }
        // Whose last worker they were told to forget is forgotten after it.
        while std::mem::take(&mut self.untold.all) {
            let dispatchers = self.tell_dispatchers();
            let connector = self.tell_connector();
            self.untold.all |= dispatchers || connector;
        }
    }

    /// Tells the dispatchers of a worker that came or went.
    fn tell_dispatchers_of(&mut self, worker: WorkerId) {
        let pool = self.workers.get(&worker).map(|worker| &worker.pool);
        for dispatcher in self.dispatchers.values_mut() {
            if !dispatcher.single.hears() {
                continue;
            }
            let known = dispatcher.told.pool_of(worker);
            match (pool, known) {
                // It was told when the worker was born, as far as it heard.
                (Some(_), Some(_)) | (None, None) => {}
                (Some(pool), None) => {
                    if dispatcher.serving.contains(pool) {
                        self.untold.all();
                    }
                }
                (None, Some(known)) if dispatcher.serving.contains(known) => {
                    dispatcher.told.forget_worker(worker);
                    let word = ToDispatcher::WorkerGone { worker };
                    dispatcher.single.say((word, Vec::new()));
                }
                // It may have been the last one of a pool that goes, too.
                (None, Some(_)) => self.untold.all(),
            }
        }
    }

    /// Tells the connector of a worker that came or went.
    fn tell_connector_of(&mut self, worker: WorkerId) {
        let of_slot = self.workers.get(&worker).map(|worker| &worker.pool);
        let pool = of_slot.or_else(|| self.trials.get(&worker).map(|trial| &trial.pool));
        match pool {
            // It was told when the worker was born, as far as it heard.
            Some(pool) => {
                if self.connector_knows(pool) && !self.connector.told.knows_worker(worker) {
                    self.untold.all();
                }
            }
            None => {
                if self.connector.single.hears() && self.connector.told.forget_worker(worker) {
                    let word = ToConnector::WorkerGone { worker };
                    self.connector.single.say((word, Vec::new()));
                }
            }
        }
    }
}
