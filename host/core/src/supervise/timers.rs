//! What time alone brings about.

use crate::exit::ExitReason;
use crate::name::WorkerId;
use crate::supervise::event::{Action, Strength};
use crate::supervise::supervisor::{Supervisor, ask};
use crate::supervise::worker::{Due, Stage};

impl Supervisor {
    pub(super) fn fire(&mut self, out: &mut Vec<Action>) {
        let due: Vec<(WorkerId, Due)> = self
            .workers
            .iter()
            .filter_map(|(id, worker)| {
                let (at, due) = worker.due(&self.pools.get(&worker.pool)?.settings);
                (at <= self.now).then_some((*id, due))
            })
            .collect();
        for (worker, due) in due {
            match due {
                Due::Late => {
                    self.fail(
                        worker,
                        ExitReason::StartTimeout,
                        Strength::Kill,
                        self.now,
                        out,
                    );
                }
                Due::Hung => self.hung(worker, out),
                Due::Stable => {
                    self.settle(worker, out);
                    // A driver that slept may owe it a kill by now.
                    if self.is_hung(worker) {
                        self.hung(worker, out);
                    }
                }
                Due::Lingering => self.press(worker, out),
            }
        }
    }

    pub(super) fn is_hung(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            let settings = self.pools.get(&worker.pool).map(|pool| &pool.settings);
            settings
                .map(|settings| worker.due(settings))
                .is_some_and(|(at, due)| due == Due::Hung && at <= self.now)
        })
    }

    pub(super) fn hung(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        if let Some(Stage::Serving { beat, .. }) = self.workers.get(&id).map(|w| &w.stage) {
            self.fail(id, ExitReason::Hung, Strength::Kill, *beat, out);
        }
    }

    /// A retiree did not go in time.
    pub(super) fn press(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(pool) = self.pools.get(&worker.pool)
            && let Stage::Retired(retiree) = &mut worker.stage
        {
            worker.since = self.now;
            out.push(ask(id, retiree.late(self.now, &pool.settings)));
        }
    }
}
