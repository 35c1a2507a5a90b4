//! The slots of a pool and its workers: who holds which place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::name::{SlotIndex, WorkerId};
use crate::supervise::forks::Fork;
use crate::supervise::slot::{Loss, Slot};
use crate::supervise::worker::Worker;

/// Workers that live at a time and belong to one slot, retirees included, when
/// a replacement has been started: DESIGN's "live generations at most".
const MAX_LIVE: usize = 3;

/// The slots of a pool, and its workers until their exit: holders of slots and
/// retirees.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Crew {
    slots: Vec<Slot>,
    workers: BTreeMap<WorkerId, Worker>,
}

/// A slot without a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Empty {
    pub(super) slot: SlotIndex,
    pub(super) attempt: u32,
    pub(super) until: Moment,
    pub(super) fork: Fork,
}

/// Whether a worker of the pool is starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    Idle,
    Busy,
}

/// Workers.
impl Crew {
    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    /// All workers, oldest first.
    pub(super) fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    pub(super) fn insert(&mut self, id: WorkerId, worker: Worker) {
        self.workers.insert(id, worker);
    }

    /// The process of a worker is gone. Whoever calls has taken it out of its
    /// slot.
    pub(super) fn remove(&mut self, id: WorkerId) {
        self.workers.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn starts(&self) -> Starts {
        match self.workers.values().find(|worker| worker.is_starting()) {
            Some(_) => Starts::Busy,
            None => Starts::Idle,
        }
    }

    pub(super) fn serves(&self, id: WorkerId) -> bool {
        self.get(id).is_some_and(Worker::is_serving)
    }

    /// How many workers serve.
    pub(super) fn serving(&self) -> u16 {
        counted(
            self.workers
                .values()
                .filter(|worker| worker.is_serving())
                .count(),
        )
    }

    /// Whether one more worker may belong to a slot.
    pub(super) fn has_room(&self, slot: SlotIndex) -> bool {
        let of_slot = |worker: &&Worker| worker.slot == slot;
        self.workers.values().filter(of_slot).count() < MAX_LIVE
    }
}

/// Slots.
impl Crew {
    /// Sets the number of slots. Returns the holders of those that are no more.
    pub(super) fn resize(&mut self, slots: u16) -> Vec<WorkerId> {
        let slots = usize::from(slots);
        self.slots.resize(self.slots.len().max(slots), Slot::Vacant);
        let surplus = self.slots.split_off(slots);
        surplus.into_iter().flat_map(Slot::workers).collect()
    }

    pub(super) fn is_vacant(&self, index: SlotIndex) -> bool {
        self.slots.get(usize::from(index.0)) == Some(&Slot::Vacant)
    }

    pub(super) fn put(&mut self, index: SlotIndex, slot: Slot) {
        if let Some(place) = self.slot(index) {
            *place = slot;
        }
    }

    /// Takes a worker out of its slot; see [`Slot::lose`].
    pub(super) fn lose(&mut self, index: SlotIndex, worker: WorkerId) -> Loss {
        self.slot(index)
            .map_or(Loss::Stranger, |slot| slot.lose(worker))
    }

    /// A worker is ready; see [`Slot::succeed`].
    pub(super) fn succeed(&mut self, index: SlotIndex, ready: WorkerId) -> Option<WorkerId> {
        self.slot(index)?.succeed(ready)
    }

    /// All workers in slots, in the order of the slots.
    pub(super) fn holders(&self) -> impl Iterator<Item = WorkerId> {
        self.slots.iter().copied().flat_map(Slot::workers)
    }

    /// Slots with one worker.
    pub(super) fn held(&self) -> impl Iterator<Item = (SlotIndex, WorkerId)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| match slot {
                Slot::Held { worker } => Some((SlotIndex(index), *worker)),
                Slot::Vacant | Slot::Waiting { .. } | Slot::Replacing { .. } => None,
            })
    }

    /// How many slots have a worker whose successor starts.
    pub(super) fn replacing(&self) -> usize {
        let replacing = |slot: &&Slot| matches!(slot, Slot::Replacing { .. });
        self.slots.iter().filter(replacing).count()
    }

    /// Gives every slot back to the worker that serves in it. Returns each with
    /// that worker and the successor, which is in no slot any more.
    pub(super) fn keep_old(&mut self) -> Vec<(SlotIndex, WorkerId, WorkerId)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(index, slot)| match *slot {
                Slot::Replacing { old, new } => {
                    *slot = Slot::Held { worker: old };
                    Some((SlotIndex(index), old, new))
                }
                Slot::Vacant | Slot::Waiting { .. } | Slot::Held { .. } => None,
            })
            .collect()
    }

    /// Slots without a worker.
    pub(super) fn empty(&self) -> impl Iterator<Item = Empty> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| {
            let (attempt, until, fork) = match *slot {
                Slot::Vacant => (1, Moment::ORIGIN, Fork::Asked),
                Slot::Waiting {
                    attempt,
                    until,
                    fork,
                } => (attempt, until, fork),
                Slot::Held { .. } | Slot::Replacing { .. } => return None,
            };
            Some(Empty {
                slot: SlotIndex(index),
                attempt,
                until,
                fork,
            })
        })
    }

    /// Slots that wait are due at `until`, as if nothing had failed. With
    /// another reason for the fork, if there is one.
    pub(super) fn wait_no_longer(&mut self, until: Moment, fork: Option<Fork>) {
        for slot in &mut self.slots {
            if let Slot::Waiting {
                attempt,
                until: waits_until,
                fork: reason,
            } = slot
            {
                (*attempt, *waits_until) = (1, until);
                *reason = fork.unwrap_or(*reason);
            }
        }
    }

    fn slot(&mut self, index: SlotIndex) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index.0))
    }
}

pub(super) fn counted(workers: usize) -> u16 {
    u16::try_from(workers).unwrap_or(u16::MAX)
}
