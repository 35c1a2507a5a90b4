//! A supervisor whose every step is checked against its laws. They hold for
//! any sequence of events: lost, late, repeated, about workers that never were.
//!
//! - Never two workers that are not ready, or two that serve, in one slot;
//!   never a worker in a slot that the pool does not have.
//! - A worker that failed before starts alone in its pool.
//! - Retries and recyclings stay within the fork budget, and so does whatever
//!   replaces workers that failed, however long they had served.
//! - No timer is lost: nothing is due before [`Supervisor::deadline`], tried on
//!   a copy of the supervisor; and none is left in the past by a timer.
//! - Every exit has one notice, and no notice is without an exit.
//! - A breaker raises one alert until it is reset.
//! - A roll or a recycling takes a serving worker away only if another serves
//!   in its slot, or if `max_unavailable` allows one less.
//! - No more replacements at a time than `surge`; one for recyclings. None in
//!   a slot to which three workers would belong without it.
//! - A roll begins when it is asked for and ends with one notice, unless it is
//!   cancelled or the pool or all ends. What it was for is then gone from its
//!   slots, or stays. With [`Patience::OneTry`] its first failure is its last.
//! - Recyclings wait for rolls and breakers, and `probe_interval` after one
//!   that failed.
//! - Where the world is fair ([`Checked::set_fair`]), a roll ends in bounded time.
//! - A removed pool spawns nothing and is there until its last worker is gone.
//! - After a shutdown nothing is spawned, and its end is the last exit.
//! - It can be written down and read back after any step: one that is, now and
//!   then, does what its twin does, which never is.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_core::supervise::{
    Action, BreakerState, Event, FailureKind, Notice, Patience, PoolView, RollFailure, Supervisor,
    WorkerState, WorkerView, fork_budget,
};
use skep_core::{Moment, PoolName, SlotIndex, SupervisionSettings, WorkerId};

/// Workers that may belong to one slot when a replacement was started.
const MAX_LIVE: usize = 3;

/// The shortest time after which the supervisor takes a worker for stable.
const SHORTEST: Duration = Duration::from_millis(100);

/// Longer than any setting.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// Steps between one writing and the next, on average.
const EVERY: u64 = 50;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Steps that were checked by this thread.
pub(crate) fn steps() -> u64 {
    STEPS.get()
}

/// A supervisor whose every step is checked and recorded.
pub(crate) struct Checked {
    /// Written down and read back at random steps.
    supervisor: Supervisor,
    /// Told the same.
    twin: Supervisor,
    dice: u64,
    view: View,
    pub(crate) now: Moment,
    pub(crate) log: Vec<(Moment, Action)>,
    /// Whether timers come at once, and the exits of those asked to go.
    fair: bool,
    settings: BTreeMap<PoolName, SupervisionSettings>,
    forks: BTreeMap<PoolName, Vec<(Moment, SlotIndex)>>,
    /// Those that replaced a worker which had failed.
    again: BTreeMap<PoolName, Vec<Moment>>,
    /// Slots that had a worker since the pool has them.
    filled: BTreeSet<(PoolName, SlotIndex)>,
    tripped: BTreeMap<PoolName, Vec<FailureKind>>,
    rolls: BTreeMap<PoolName, Roll>,
    /// When the next recycling may begin, after one that failed.
    recycles: BTreeMap<PoolName, Moment>,
    removed: BTreeSet<PoolName>,
    known: BTreeSet<WorkerId>,
    exited: BTreeSet<WorkerId>,
    ending: bool,
    finished: bool,
}

/// A roll as its observer knows it.
struct Roll {
    patience: Patience,
    workers: BTreeSet<WorkerId>,
    /// Slots whose worker was taken away, and that do not serve again yet.
    open: BTreeSet<SlotIndex>,
    /// When an operator last had a hand in it.
    since: Moment,
    most: u16,
}

/// What is there between two steps.
#[derive(Debug, Default, PartialEq)]
struct View {
    pools: BTreeMap<PoolName, PoolView>,
    workers: BTreeMap<WorkerId, WorkerView>,
}

impl View {
    fn of(supervisor: &Supervisor) -> Self {
        Self {
            pools: supervisor
                .pools()
                .map(|pool| (pool.name.clone(), pool))
                .collect(),
            workers: supervisor
                .workers()
                .map(|worker| (worker.id, worker))
                .collect(),
        }
    }
}

impl Checked {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            supervisor: Supervisor::new(seed),
            twin: Supervisor::new(seed),
            dice: seed,
            view: View::default(),
            now: Moment::ORIGIN,
            log: Vec::new(),
            fair: false,
            settings: BTreeMap::new(),
            forks: BTreeMap::new(),
            again: BTreeMap::new(),
            filled: BTreeSet::new(),
            tripped: BTreeMap::new(),
            rolls: BTreeMap::new(),
            recycles: BTreeMap::new(),
            removed: BTreeSet::new(),
            known: BTreeSet::new(),
            exited: BTreeSet::new(),
            ending: false,
            finished: false,
        }
    }

    /// Whether timers come at once from now on, and the exits of those that are
    /// asked to go: then rolls end.
    pub(crate) fn set_fair(&mut self, fair: bool) {
        self.fair = fair;
        for roll in self.rolls.values_mut() {
            roll.since = self.now;
        }
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.supervisor.deadline()
    }

    pub(crate) fn find_pool(&self, pool: &str) -> Option<&PoolView> {
        let mut pools = self.view.pools.values();
        pools.find(|view| view.name.as_str() == pool)
    }

    pub(crate) fn pool(&self, pool: &str) -> PoolView {
        self.find_pool(pool).unwrap().clone()
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &PoolView> {
        self.view.pools.values()
    }

    pub(crate) fn workers(&self) -> Vec<WorkerView> {
        self.view.workers.values().cloned().collect()
    }

    pub(crate) fn worker(&self, id: WorkerId) -> Option<&WorkerView> {
        self.view.workers.get(&id)
    }

    pub(crate) fn claim(&mut self) -> WorkerId {
        let id = self.supervisor.claim_worker_id();
        assert_eq!(self.twin.claim_worker_id(), id);
        assert!(self.known.insert(id), "{id} was used before");
        id
    }

    pub(crate) fn notices(&self) -> impl Iterator<Item = (Moment, &Notice)> {
        self.log.iter().filter_map(|(at, action)| match action {
            Action::Notice(notice) => Some((*at, notice)),
            _ => None,
        })
    }

    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        STEPS.set(STEPS.get() + 1);
        self.settle();
        self.expect(&event);
        self.prune();
        let actions = self.supervisor.step(self.now, event.clone());
        self.check_twin(&event, &actions);
        let before = std::mem::replace(&mut self.view, View::of(&self.supervisor));
        assert!(
            !self.finished || actions.is_empty(),
            "{actions:?} after the end"
        );
        // What was asked for in slots that are no more is not waited for.
        for (pool, forks) in &mut self.forks {
            let workers = self.view.pools.get(pool).map_or(0, |view| view.workers);
            forks.retain(|(_, slot)| slot.0 < workers);
        }
        for action in &actions {
            self.check_action(action, &event, &before);
            self.log.push((self.now, action.clone()));
        }
        self.check_exits(&event, &actions, &before);
        self.check_state();
        if !actions.is_empty() {
            self.check_capacity(&event, &before);
            self.check_replacements(&actions);
        }
        self.check_rolls(&event, &actions, &before);
        self.check_timers(&event, &actions);
        actions
    }

    /// Steps the one that is never written down.
    fn check_twin(&mut self, event: &Event, actions: &[Action]) {
        assert_eq!(self.twin.step(self.now, event.clone()), actions);
        assert_eq!(self.twin.deadline(), self.supervisor.deadline());
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if (self.dice >> 33).is_multiple_of(EVERY) {
            let written = serde_json::to_string(&self.supervisor).unwrap();
            self.supervisor = serde_json::from_str(&written).unwrap();
            assert_eq!(self.supervisor.deadline(), self.twin.deadline());
            let (view, twin) = (View::of(&self.supervisor), View::of(&self.twin));
            assert_eq!(view, twin, "not what was written down: {written}");
        }
    }

    /// Takes note of what an event asks for.
    fn expect(&mut self, event: &Event) {
        self.ending |= matches!(event, Event::Shutdown { .. });
        if self.ending {
            return;
        }
        match event {
            Event::PoolAdded {
                pool,
                settings,
                generation,
                ..
            } => {
                let known = self.view.pools.get(pool);
                let again = self.removed.remove(pool);
                self.filled.retain(|(of, _)| of != pool);
                if again {
                    self.forks.remove(pool);
                    self.again.remove(pool);
                    self.recycles.remove(pool);
                }
                if again || known.is_none_or(|view| view.generation < *generation) {
                    self.settings.insert(pool.clone(), settings.clone());
                    self.tripped.remove(pool);
                }
                self.touch(pool);
            }
            Event::PoolRemoved { pool } if self.view.pools.contains_key(pool) => {
                self.removed.insert(pool.clone());
            }
            Event::Scale { pool, .. } => {
                // Those that go may come back.
                self.filled.retain(|(of, _)| of != pool);
                self.touch(pool);
            }
            Event::Reset { pool } => self.touch(pool),
            Event::Roll {
                pool,
                workers,
                patience,
            } => {
                let view = self.view.pools.get(pool);
                if self.removed.contains(pool)
                    || view.is_none_or(|view| view.breaker != BreakerState::Admitting)
                {
                    return;
                }
                let roll = self.rolls.entry(pool.clone()).or_insert_with(|| Roll {
                    patience: *patience,
                    workers: BTreeSet::new(),
                    open: BTreeSet::new(),
                    since: self.now,
                    most: 0,
                });
                roll.patience = roll.patience.min(*patience);
                roll.since = self.now;
                // The successor that a recycling had begun is called off.
                let rolling = view.is_some_and(|view| view.rolling.is_some());
                let held = in_slots(&self.view, pool).filter(|worker| {
                    (workers.is_empty() || workers.contains(&worker.id))
                        && (rolling || !is_successor(worker, &self.view))
                });
                roll.workers.extend(held.map(|worker| worker.id));
            }
            _ => {}
        }
    }

    fn touch(&mut self, pool: &PoolName) {
        if let Some(roll) = self.rolls.get_mut(pool) {
            roll.since = self.now;
        }
    }

    /// Forks of a slot with a stable worker are no longer those of a crash
    /// loop, unless they came after it was stable.
    fn settle(&mut self) {
        self.prune();
        for worker in self.view.workers.values() {
            let min_uptime = self.settings[&worker.pool].min_uptime.max(SHORTEST);
            if worker.state == WorkerState::Serving
                && let Some(stable) = worker.ready_at.map(|ready| ready + min_uptime)
                && stable <= self.now
                && let Some(forks) = self.forks.get_mut(&worker.pool)
            {
                forks.retain(|(at, slot)| *slot != worker.slot || *at > stable);
            }
        }
    }

    /// Forgets what is too long ago by the settings of now.
    fn prune(&mut self) {
        for (pool, forks) in &mut self.forks {
            let span = self.settings[pool].crash_window * 2;
            forks.retain(|(at, _)| self.now.since(*at) < span);
        }
        // A generation with a longer window does not know what was forgotten.
        for (pool, again) in &mut self.again {
            let span = self.settings[pool].crash_window * 2;
            again.retain(|at| self.now.since(*at) < span);
        }
    }

    fn check_action(&mut self, action: &Action, event: &Event, before: &View) {
        match action {
            Action::Spawn {
                worker,
                pool,
                slot,
                attempt,
                ..
            } => {
                assert!(!self.ending, "a spawn after the shutdown");
                assert!(!self.removed.contains(pool), "a spawn for a removed pool");
                assert!(self.known.insert(*worker), "{worker} was used before");
                let recycles = matches!(
                    self.log.last(),
                    Some((_, Action::Notice(Notice::Recycling { .. })))
                );
                // Who asks is answered; a loop is bounded, whoever serves between.
                let filled = !self.filled.insert((pool.clone(), *slot));
                let views = [before, &self.view];
                let rolls = views.iter().any(|view| {
                    let pool = view.pools.get(pool);
                    pool.is_some_and(|pool| pool.rolling.is_some())
                });
                if filled && !recycles && !rolls {
                    let span = self.settings[pool].crash_window * 2;
                    let again = self.again.entry(pool.clone()).or_default();
                    again.retain(|at| self.now.since(*at) < span);
                    again.push(self.now);
                    let recent = again.len();
                    let workers = self.pool(pool.as_str()).workers;
                    let budget = fork_budget(&self.settings[pool], workers);
                    assert!(recent <= budget, "{recent} forks again, {budget} allowed");
                }
                let forks = self.forks.entry(pool.clone()).or_default();
                forks.push((self.now, *slot));
                if *attempt > 1 || recycles {
                    let recent = forks.len();
                    let workers = self.pool(pool.as_str()).workers;
                    let budget = fork_budget(&self.settings[pool], workers);
                    assert!(recent <= budget, "{recent} forks, {budget} allowed");
                }
            }
            // A roll takes it away before the next one is there.
            Action::Drain { worker } => {
                let gone = &self.view.workers[worker];
                let mut others = before.workers.values();
                if !others.any(|other| {
                    let same = (&other.pool, other.slot) == (&gone.pool, gone.slot);
                    same && other.id != gone.id && is_in_slot(other.state)
                }) {
                    self.filled.remove(&(gone.pool.clone(), gone.slot));
                }
            }
            Action::Notice(Notice::Exited {
                worker,
                reason,
                voluntary,
                ..
            }) => {
                assert!(self.exited.insert(*worker), "{worker} exited twice");
                assert_eq!(*voluntary, reason.is_voluntary());
            }
            Action::Notice(Notice::Ready { pool, slot, .. }) => {
                if let Some(roll) = self.rolls.get_mut(pool) {
                    roll.open.remove(slot);
                }
            }
            Action::Notice(Notice::Tripped { pool, kind, .. }) => {
                let kinds = self.tripped.entry(pool.clone()).or_default();
                assert!(!kinds.contains(kind), "a second alert for {kind:?}");
                kinds.push(*kind);
            }
            Action::Notice(Notice::Reset { pool }) => {
                self.tripped.remove(pool);
                if matches!(event, Event::Reset { .. }) {
                    self.forks.remove(pool);
                    self.again.remove(pool);
                }
            }
            // A recycling failed; one that a roll calls off has not.
            Action::Notice(Notice::Kept { pool, .. })
                if before.pools[pool].rolling.is_none() && !matches!(event, Event::Roll { .. }) =>
            {
                let pause = self.settings[pool].probe_interval;
                self.recycles.insert(pool.clone(), self.now + pause);
            }
            Action::Notice(Notice::Recycling { worker, pool, .. }) => {
                let view = self.pool(pool.as_str());
                assert_eq!(view.rolling, None, "a recycling within a roll");
                assert_eq!(view.breaker, BreakerState::Admitting);
                assert_eq!(before.workers[worker].state, WorkerState::Serving);
                let from = self.recycles.get(pool).copied().unwrap_or_default();
                assert!(from <= self.now, "a recycling too soon after a failure");
            }
            Action::Finished => self.finished = true,
            _ => {}
        }
    }

    fn check_exits(&self, event: &Event, actions: &[Action], before: &View) {
        if let Event::Exited { worker, .. } | Event::SpawnFailed { worker, .. } = event {
            assert_eq!(
                before.workers.contains_key(worker),
                actions
                    .iter()
                    .any(|action| exit_of(action) == Some(*worker)),
                "one notice for every exit"
            );
            // It may be the number of one that is created in this very step.
            assert!(!before.workers.contains_key(worker) || self.worker(*worker).is_none());
        } else {
            assert!(
                actions.iter().all(|action| exit_of(action).is_none()),
                "no exit, no notice"
            );
        }
    }

    fn check_state(&self) {
        let workers = &self.view.workers;
        for pool in self.pools() {
            let held: Vec<&WorkerView> = workers
                .values()
                .filter(|worker| worker.pool == pool.name && worker.state.is_in_slot())
                .collect();
            let in_slot = |slot| held.iter().filter(move |worker| worker.slot.0 == slot);
            for slot in 0..pool.workers {
                let serving = in_slot(slot)
                    .filter(|w| w.state == WorkerState::Serving)
                    .count();
                assert!(serving <= 1, "two serve in slot {slot}");
                assert!(
                    in_slot(slot).count() - serving <= 1,
                    "two start in slot {slot}"
                );
            }
            assert!(
                held.iter().all(|worker| worker.slot.0 < pool.workers),
                "a slot too many"
            );
            assert!(
                held.iter()
                    .filter(|w| w.attempt > 1 && w.state == WorkerState::Starting)
                    .count()
                    <= 1,
                "two retries at a time"
            );
            let full = (0..pool.workers).all(|slot| in_slot(slot).next().is_some());
            assert!(
                full || self.ending || self.deadline().is_some(),
                "an empty slot without a deadline"
            );
            if let BreakerState::Probing { worker, .. } = pool.breaker {
                assert!(
                    self.ending || held.iter().any(|held| held.id == worker),
                    "no probe"
                );
            }
            if self.removed.contains(&pool.name) {
                assert_eq!((pool.workers, held.len()), (0, 0));
                assert!(
                    workers.values().any(|worker| worker.pool == pool.name),
                    "a removed pool without workers"
                );
            }
        }
        for worker in workers.values() {
            assert!(
                self.find_pool(worker.pool.as_str()).is_some(),
                "a worker without a pool"
            );
        }
        assert_eq!(
            self.finished,
            self.ending && workers.is_empty(),
            "the end is the last exit"
        );
        assert!(
            workers.is_empty() || self.deadline().is_some(),
            "a worker without a deadline"
        );
    }

    /// Nobody who served was taken away without one in his place, beyond what
    /// an operator or `max_unavailable` allows.
    fn check_capacity(&mut self, event: &Event, before: &View) {
        let mut open = Vec::new();
        for old in before.workers.values() {
            let (Some(now), Some(pool)) = (
                self.worker(old.id),
                self.find_pool(old.pool.as_str()).filter(|_| !self.ending),
            ) else {
                continue;
            };
            if old.state != WorkerState::Serving
                || !matches!(now.state, WorkerState::Draining | WorkerState::Stopping)
                || matches!(event, Event::Unfit { worker, .. } if *worker == old.id)
                || old.slot.0 >= pool.workers
                || self.removed.contains(&pool.name)
            {
                continue;
            }
            let alone = !self.view.workers.values().any(|other| {
                other.pool == old.pool
                    && other.slot == old.slot
                    && other.state == WorkerState::Serving
            });
            if alone {
                let allowed = self.settings[&pool.name].max_unavailable;
                assert!(allowed > 0, "{} was taken away", old.id);
                assert!(
                    before.pools[&pool.name].rolling.is_some()
                        || matches!(event, Event::Roll { .. }),
                    "no roll takes {} away",
                    old.id
                );
                assert!(
                    pool.serving >= pool.workers.saturating_sub(allowed),
                    "{} of {} serve after {} was taken away",
                    pool.serving,
                    pool.workers,
                    old.id
                );
                assert!(self.live(&pool.name, old.slot) <= MAX_LIVE, "too many live");
                open.push((old.pool.clone(), old.slot));
            }
        }
        for (pool, slot) in open {
            if let Some(roll) = self.rolls.get_mut(&pool) {
                roll.open.insert(slot);
            }
        }
        for (pool, roll) in &mut self.rolls {
            // A slot that was scaled away is none of the roll's any more, also if one
            // of its number is there again.
            let workers = self.view.pools.get(pool).map_or(0, |pool| pool.workers);
            roll.open.retain(|slot| slot.0 < workers);
        }
    }

    fn live(&self, pool: &PoolName, slot: SlotIndex) -> usize {
        let workers = self.view.workers.values();
        workers
            .filter(|worker| worker.pool == *pool && worker.slot == slot)
            .count()
    }

    fn check_replacements(&self, actions: &[Action]) {
        for action in actions {
            let Action::Spawn { pool, slot, .. } = action else {
                continue;
            };
            let workers = &self.view.workers;
            let replacing = |slot: SlotIndex| {
                let states: Vec<WorkerState> = workers
                    .values()
                    .filter(|worker| worker.pool == *pool && worker.slot == slot)
                    .map(|worker| worker.state)
                    .collect();
                states.contains(&WorkerState::Serving) && states.contains(&WorkerState::Starting)
            };
            if !replacing(*slot) {
                continue;
            }
            assert!(self.live(pool, *slot) <= MAX_LIVE, "too many live");
            let view = self.pool(pool.as_str());
            let settings = &self.settings[pool];
            let most = match (view.rolling, settings.surge, settings.max_unavailable) {
                (Some(_), 0, 0) | (None, ..) => 1,
                (Some(_), surge, _) => usize::from(surge),
            };
            let count = (0..view.workers)
                .filter(|slot| replacing(SlotIndex(*slot)))
                .count();
            assert!(count <= most, "{count} replacements, {most} allowed");
        }
    }

    fn check_rolls(&mut self, event: &Event, actions: &[Action], before: &View) {
        if self.ending {
            assert!(self.pools().all(|pool| pool.rolling.is_none()));
            return self.rolls.clear();
        }
        let mut names: BTreeSet<PoolName> = before.pools.keys().cloned().collect();
        names.extend(self.pools().map(|pool| pool.name.clone()));
        for name in names {
            let was = before.pools.get(&name).and_then(|pool| pool.rolling);
            let view = self.view.pools.get(&name);
            let is = view.and_then(|pool| pool.rolling);
            let asked = matches!(event, Event::Roll { pool, .. } if *pool == name);
            let ends: Vec<&Notice> = actions
                .iter()
                .filter_map(|action| match action {
                    Action::Notice(
                        notice @ (Notice::Rolled { pool, .. } | Notice::RollFailed { pool, .. }),
                    ) if *pool == name => Some(notice),
                    _ => None,
                })
                .collect();
            let lost = actions
                .iter()
                .any(|action| matches!(action, Action::Notice(Notice::Kept { pool, .. }) if *pool == name));
            assert!(is.is_none() || was.is_some() || asked, "an unasked roll");
            assert!(
                asked || is.is_none() || is <= was,
                "more are left than were"
            );
            let Some(roll) = self.rolls.get_mut(&name) else {
                // Refused at once, or never begun.
                assert!(ends.iter().all(|end| asked
                    && matches!(
                        end,
                        Notice::RollFailed {
                            reason: RollFailure::Tripped,
                            replaced: 0,
                            ..
                        }
                    )));
                continue;
            };
            roll.most = roll.most.max(is.unwrap_or(0));
            if is.is_some() {
                assert!(ends.is_empty(), "{ends:?} of a roll that goes on");
                assert!(
                    !lost || asked || roll.patience == Patience::UntilTripped,
                    "one try was not the last"
                );
                let bound = bound(
                    &self.settings[&name],
                    view.map_or(0, |view| view.workers),
                    roll.most,
                );
                assert!(
                    !self.fair || self.now.since(roll.since) <= bound,
                    "a roll that does not end within {bound:?}"
                );
                continue;
            }
            let cancelled = matches!(event,
                Event::RollCancelled { pool } | Event::PoolRemoved { pool } if *pool == name);
            assert_eq!(ends.len(), usize::from(!cancelled), "{ends:?} of a roll");
            if let [Notice::Rolled { .. }] = ends[..] {
                let left =
                    self.view.workers.values().find(|worker| {
                        worker.state.is_in_slot() && roll.workers.contains(&worker.id)
                    });
                assert!(left.is_none(), "not replaced: {left:?}");
                let workers = view.map_or(0, |view| view.workers);
                let mut open = roll.open.iter().filter(|slot| slot.0 < workers);
                assert_eq!(open.next(), None, "not filled again");
            } else if !self.removed.contains(&name) {
                for worker in self.view.workers.values().filter(|w| w.pool == name) {
                    assert!(
                        worker.state != WorkerState::Draining
                            || before.workers[&worker.id].state == WorkerState::Draining,
                        "{} is replaced after the end",
                        worker.id
                    );
                    assert!(
                        !is_successor(worker, &self.view)
                            || !before.workers.contains_key(&worker.id),
                        "{} was not called off",
                        worker.id
                    );
                }
            }
            self.rolls.remove(&name);
        }
    }

    /// Nothing is due before the deadline, and a timer serves what is due.
    fn check_timers(&self, event: &Event, actions: &[Action]) {
        let deadline = self.deadline();
        if *event == Event::Timer
            && let Some(deadline) = deadline
        {
            assert!(
                deadline > self.now || deadline == self.now && !actions.is_empty(),
                "a deadline in the past was not served"
            );
        }
        let until = match deadline {
            Some(deadline) if deadline <= self.now => return,
            Some(deadline) => {
                let just_before = deadline.since_origin() - Duration::from_nanos(1);
                Moment::after_origin(just_before)
            }
            None => self.now + FOR_EVER,
        };
        let early = self.supervisor.clone().step(until, Event::Timer);
        assert_eq!(early, [], "due before the deadline {deadline:?}");
    }
}

/// How long a roll may take in a fair world: `max_crashes` failures for every
/// worker, each after all workers have started one after the other, the
/// longest backoff, a whole span of the fork budget and the longest retirement.
fn bound(settings: &SupervisionSettings, workers: u16, left: u16) -> Duration {
    let retirement = settings.drain_timeout + settings.kill_timeout * 2 + Duration::from_secs(5);
    let failure = settings.start_timeout * (u32::from(workers) + 1)
        + settings.backoff_max
        + settings.crash_window * 2
        + retirement;
    failure * settings.max_crashes * (u32::from(left) + 1)
}

fn in_slots<'a>(before: &'a View, pool: &'a PoolName) -> impl Iterator<Item = &'a WorkerView> {
    before
        .workers
        .values()
        .filter(move |worker| worker.pool == *pool && worker.state.is_in_slot())
}

/// Whether it starts beside one that serves.
fn is_successor(worker: &WorkerView, before: &View) -> bool {
    worker.state == WorkerState::Starting
        && in_slots(before, &worker.pool)
            .any(|other| other.slot == worker.slot && other.state == WorkerState::Serving)
}

fn exit_of(action: &Action) -> Option<WorkerId> {
    match action {
        Action::Notice(Notice::Exited { worker, .. }) => Some(*worker),
        _ => None,
    }
}

fn is_in_slot(state: WorkerState) -> bool {
    matches!(state, WorkerState::Starting | WorkerState::Serving)
}
