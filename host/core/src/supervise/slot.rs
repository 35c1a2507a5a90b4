//! The numbered places of a pool.

use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::name::WorkerId;
use crate::supervise::forks::Fork;

/// Who holds a place. Whether a holder is starting or serving is its own stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Slot {
    /// Nobody yet.
    Vacant,
    /// Nobody any more, and nobody before `until`.
    Waiting {
        attempt: u32,
        until: Moment,
        /// Why the next fork for this slot.
        fork: Fork,
    },
    /// One worker, which starts or serves.
    Held { worker: WorkerId },
    /// `old` serves until `new`, which starts, is ready.
    Replacing { old: WorkerId, new: WorkerId },
}

/// How a slot changes when one of its workers is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The slot is empty and wants another worker.
    Empty,
    /// The worker that was being replaced; its successor has the slot.
    Old,
    /// The successor; `old` keeps the slot.
    New { old: WorkerId },
    /// The worker was not in this slot.
    Stranger,
}

impl Slot {
    /// Takes a worker out; after [`Loss::Empty`] the caller says what the slot
    /// becomes.
    pub(super) fn lose(&mut self, gone: WorkerId) -> Loss {
        match *self {
            Self::Held { worker } if worker == gone => Loss::Empty,
            Self::Replacing { old, new } if old == gone => {
                *self = Self::Held { worker: new };
                Loss::Old
            }
            Self::Replacing { old, new } if new == gone => {
                *self = Self::Held { worker: old };
                Loss::New { old }
            }
            _ => Loss::Stranger,
        }
    }

    /// `ready` is ready. If it is a successor, it has the slot now, and whom it
    /// replaces is returned.
    pub(super) fn succeed(&mut self, ready: WorkerId) -> Option<WorkerId> {
        match *self {
            Self::Replacing { old, new } if new == ready => {
                *self = Self::Held { worker: new };
                Some(old)
            }
            _ => None,
        }
    }

    pub(super) fn workers(self) -> impl Iterator<Item = WorkerId> {
        let (one, two) = match self {
            Self::Vacant | Self::Waiting { .. } => (None, None),
            Self::Held { worker } => (Some(worker), None),
            Self::Replacing { old, new } => (Some(old), Some(new)),
        };
        one.into_iter().chain(two)
    }
}
