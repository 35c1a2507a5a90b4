//! One pool: what it consists of, and the few deeds that all that happens to it
//! comes down to.
//!
//! What happens is in the modules that need this one: `lifecycle` (what workers
//! report and what time brings about), `operator` (what people ask for) and
//! `step`, which leads from an event to one of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit::ExitReason;
use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::{Generation, PoolName, SlotIndex, WorkerId};
use crate::supervise::backoff::SplitMix64;
use crate::supervise::breaker::{Breaker, BreakerState};
use crate::supervise::crew::Crew;
use crate::supervise::event::{Action, Notice, Strength};
use crate::supervise::forks::{Fork, Forks};
use crate::supervise::recycle::Recycling;
use crate::supervise::retiree::Retiree;
use crate::supervise::roll::Roll;
use crate::supervise::slot::Slot;
use crate::supervise::vacancy::Vacancies;
use crate::supervise::view::{LastExit, PoolView, WorkerView};
use crate::supervise::wear::Wear;
use crate::supervise::worker::{Stage, Worker};

/// The shortest `min_uptime`, `crash_window` and `probe_interval`. Shorter ones
/// would make every worker stable or every crash forgotten: with them a
/// configuration could ask for a fork bomb.
const SHORTEST: Duration = Duration::from_millis(100);

/// One pool and all its workers: a state machine that steps alone.
///
/// It knows nothing of other pools. It can be written down between any two steps
/// and read back, as long as moments keep their origin (`CLOCK_MONOTONIC` does for
/// one boot of the machine).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pool {
    pub(super) name: PoolName,
    pub(super) presence: Presence,
    pub(super) settings: SupervisionSettings,
    pub(super) generation: Generation,
    pub(super) workers: u16,
    pub(super) crew: Crew,
    pub(super) breaker: Breaker,
    pub(super) forks: Forks,
    pub(super) roll: Option<Roll>,
    pub(super) recycling: Recycling,
    pub(super) random: SplitMix64,
    pub(super) spawns: u64,
    pub(super) restarts: u64,
    pub(super) last_exit: Option<LastExit>,
    pub(super) now: Moment,
    /// The deadline as it was when something last changed that it depends on.
    /// Heartbeats move it only further away.
    pub(super) due: Option<Moment>,
}

/// Whether a pool is to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Presence {
    Staying,
    /// Not, or not yet. It is forgotten with its last worker.
    Leaving,
    /// All pools end. Nothing is filled any more.
    Ending,
}

/// The numbers of workers, which are unique in the whole fleet: the one thing
/// that pools share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerIds {
    next: WorkerId,
}

impl Default for WorkerIds {
    fn default() -> Self {
        Self { next: WorkerId(1) }
    }
}

impl WorkerIds {
    /// The next number, which is not given again.
    pub fn claim(&mut self) -> WorkerId {
        let id = self.next;
        self.next = WorkerId(id.0 + 1);
        id
    }

    /// Gives no number below this one any more.
    pub fn begin_at(&mut self, first: WorkerId) {
        self.next = self.next.max(first);
    }

    /// The number that the next worker will have.
    #[must_use]
    pub const fn next(&self) -> WorkerId {
        self.next
    }
}

/// One step of a pool: when, and what comes of it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) now: Moment,
    pub(super) ids: &'a mut WorkerIds,
    pub(super) out: Vec<Action>,
}

impl Turn<'_> {
    pub(super) fn notice(&mut self, notice: Notice) {
        self.out.push(Action::Notice(notice));
    }
}

impl Pool {
    /// A pool that is not asked for yet; `Event::PoolAdded` fills it. `seed` is
    /// that of its jitter.
    #[must_use]
    pub fn new(name: PoolName, seed: u64) -> Self {
        Self {
            name,
            presence: Presence::Leaving,
            settings: SupervisionSettings::default(),
            generation: Generation::default(),
            workers: 0,
            crew: Crew::default(),
            breaker: Breaker::new(),
            forks: Forks::default(),
            roll: None,
            recycling: Recycling::new(),
            random: SplitMix64::new(seed),
            spawns: 0,
            restarts: 0,
            last_exit: None,
            now: Moment::ORIGIN,
            due: None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &PoolName {
        &self.name
    }

    /// Whether it is not to exist and has no worker left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.presence == Presence::Leaving && self.crew.is_empty()
    }

    /// Whether it has workers, be they retirees.
    #[must_use]
    pub fn has_workers(&self) -> bool {
        !self.crew.is_empty()
    }

    /// What `status` shows of it.
    #[must_use]
    pub fn view(&self, now: Moment) -> PoolView {
        PoolView {
            name: self.name.clone(),
            generation: self.generation,
            workers: self.workers,
            serving: self.crew.serving(),
            breaker: self.breaker.view(),
            rolling: self.roll.as_ref().map(Roll::left),
            spawns: self.spawns,
            restarts: self.restarts,
            crashes_in_window: self.breaker.crashes(now, &self.settings),
            last_exit: self.last_exit.clone(),
        }
    }

    /// Its workers that have not exited, oldest first.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.crew
            .workers()
            .map(|(id, worker)| WorkerView::of(&self.name, id, worker))
    }

    /// One of its workers.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        let worker = self.crew.get(id)?;
        Some(WorkerView::of(&self.name, id, worker))
    }
}

/// What it is about to do.
impl Pool {
    pub(super) fn is_admitting(&self) -> bool {
        self.breaker.view() == BreakerState::Admitting
    }

    /// When one more fork is within the budget: a moment that may have passed.
    pub(super) fn allowed_at(&self) -> Moment {
        self.forks.allowed_at(&self.settings, self.workers)
    }

    pub(super) fn vacancies(&self) -> Vacancies<'_> {
        Vacancies {
            crew: &self.crew,
            breaker: self.breaker.view(),
            starts: self.crew.starts(),
            allowed_at: self.allowed_at(),
        }
    }
}

/// What it does.
impl Pool {
    /// Creates a worker; the caller gives it the slot.
    pub(super) fn start(
        &mut self,
        slot: SlotIndex,
        attempt: u32,
        fork: Fork,
        turn: &mut Turn<'_>,
    ) -> WorkerId {
        let id = turn.ids.claim();
        self.forks.record(turn.now, slot, fork, &self.settings);
        self.spawns += 1;
        if !self.crew.is_vacant(slot) {
            self.restarts += 1;
        }
        let worker = Worker {
            slot,
            generation: self.generation,
            attempt,
            asked_at: turn.now,
            spawned_at: None,
            ready_at: None,
            served: false,
            wear: Wear::new(&mut self.random),
            stage: Stage::Starting {
                ready_by: turn.now + self.settings.start_timeout,
            },
            since: turn.now,
        };
        self.crew.insert(id, worker);
        turn.out.push(Action::Spawn {
            worker: id,
            pool: self.name.clone(),
            slot,
            generation: self.generation,
            attempt,
        });
        id
    }

    /// Makes a worker a retiree because we want so, or presses one that is.
    /// Whoever calls has taken it out of its slot.
    pub(super) fn dismiss(&mut self, id: WorkerId, strength: Strength, turn: &mut Turn<'_>) {
        let Some(worker) = self.crew.get_mut(id) else {
            return;
        };
        self.breaker.probe_ended(id, turn.now);
        if let Some(roll) = &mut self.roll {
            roll.forget(id);
        }
        let asked = strength;
        let strength = match &mut worker.stage {
            Stage::Retired(retiree) => {
                if !retiree.escalate(strength, turn.now, &self.settings) {
                    return;
                }
                strength
            }
            // Nothing is in flight yet, so it has no more time than one that
            // stops. But it may have become ready this very moment: it is asked
            // as gently as any.
            Stage::Starting { .. } => strength.max(Strength::Stop),
            Stage::Serving { .. } => strength,
        };
        if !worker.is_retired() {
            let cause = ExitReason::Requested;
            let retiree = Retiree::new(cause, strength, turn.now, &self.settings);
            worker.stage = Stage::Retired(retiree);
        }
        worker.since = turn.now;
        let slot = worker.slot;
        turn.out.push(Action::ask(id, asked));
        if strength == Strength::Drain {
            turn.notice(Notice::Draining {
                worker: id,
                pool: self.name.clone(),
                slot,
            });
        }
    }

    /// Ends what replaces workers; the old ones stay.
    pub(super) fn call_off(&mut self, turn: &mut Turn<'_>) {
        for (slot, old, new) in self.crew.keep_old() {
            self.dismiss(new, Strength::Stop, turn);
            self.keep(old, slot, turn);
        }
    }

    /// A worker that was to be replaced stays.
    pub(super) fn keep(&self, worker: WorkerId, slot: SlotIndex, turn: &mut Turn<'_>) {
        turn.notice(Notice::Kept {
            worker,
            pool: self.name.clone(),
            slot,
        });
    }

    /// A successor takes the slot of `old`, which serves until it is ready.
    pub(super) fn replace(
        &mut self,
        slot: SlotIndex,
        old: WorkerId,
        attempt: u32,
        turn: &mut Turn<'_>,
    ) {
        let new = self.start(slot, attempt, Fork::Asked, turn);
        self.crew.put(slot, Slot::Replacing { old, new });
    }

    /// It works again, as far as can be seen: empty slots are due, within the
    /// budget of forks.
    pub(super) fn recover(&mut self, turn: &mut Turn<'_>) {
        self.breaker.admit();
        if let Some(roll) = &mut self.roll {
            roll.reset();
        }
        self.crew.wait_no_longer(turn.now, None);
        turn.notice(Notice::Reset {
            pool: self.name.clone(),
        });
    }
}

/// The settings as they can be honoured.
pub(super) fn bounded(settings: &SupervisionSettings) -> SupervisionSettings {
    // With neither a roll would not get on.
    let surge = match settings.max_unavailable {
        0 => settings.surge.max(1),
        _ => settings.surge,
    };
    SupervisionSettings {
        surge,
        min_uptime: settings.min_uptime.max(SHORTEST),
        crash_window: settings.crash_window.max(SHORTEST),
        probe_interval: settings.probe_interval.max(SHORTEST),
        max_crashes: settings.max_crashes.max(1),
        ..settings.clone()
    }
}
