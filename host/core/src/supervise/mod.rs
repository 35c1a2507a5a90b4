//! The supervisor: which workers run, and what is done about those that do not.
//!
//! [`Supervisor::step`] takes the time and one [`Event`] and returns
//! [`Action`]s; [`Supervisor::deadline`] says when it wants [`Event::Timer`].
//! It reads no clock and starts no process: the primary does, and reports back.
//!
//! ```text
//! Slot
//!  Vacant ──fill──▶ Starting{worker, attempt, ready_by} ──ready──▶ Serving{worker, since}
//!                      ▲   │ exit or late                              │ exit     │ replace
//!         until passed │   ▼                                           ▼          ▼
//!                   Waiting{attempt, until} ◀──────────────────────────┘   Replacing{old, new}
//!                      │ too many crashes                                  │ new ready      → Serving{new}; old is a retiree
//!                      ▼                                                   │ new exits/late → Serving{old}; Kept is recorded
//!                   Tripped{until} ──probe with one worker──▶ Starting     │ old exits      → Starting{new}
//! Retiree   Draining{by} ──drained or late──▶ Stopping{kill_at} ──late──▶ Killed ──exit──▶ gone
//! ```
//!
//! How this is laid out: a `slot` says who holds a place (`Held` is Starting
//! or Serving, whichever the worker's own stage is, so that there is one truth);
//! a worker's stage owns its timers; a worker that left its slot is a
//! `retiree`; `Tripped` belongs to the whole pool and lives in its
//! `breaker`, while its vacant slots wait.
//!
//! Rules, beside those of the diagram:
//!
//! - A crash counts when it happens, in the pool's window for its generation:
//!   for a worker that we kill (hung, late), that is when we kill it.
//! - A worker that was stable (served for `min_uptime`) is replaced in the same
//!   step, unless the runtime breaker is tripped. All others wait for their
//!   backoff, and then for each other: a pool has one starting worker at a time
//!   among those that failed before, and its forks have a budget ([`fork_budget`]).
//! - A crash of a worker that neither served a good request nor was stable is a
//!   startup failure, any other a runtime failure. Each kind has its own
//!   window. The startup breaker stops retries only; the runtime breaker stops
//!   the replacement of stable workers too.
//! - A tripped pool is probed with one worker every `probe_interval`. Other
//!   slots are filled once a worker that started after the trip is *stable*,
//!   for both kinds of failure: a worker that is merely ready has proved
//!   nothing that its predecessors had not.
//! - What a stable worker settles: the backoff, the counted crashes and the
//!   counted forks of its own slot, no others.
//! - An exit is voluntary if we asked for it, whatever its code. A worker that
//!   had to be forced at a deadline has the reason `drain-timeout`.
//! - After [`Event::Shutdown`] nothing is spawned.

mod backoff;
mod breaker;
mod event;
mod forks;
mod lifecycle;
mod operator;
mod pool;
mod recycle;
mod retiree;
mod roll;
mod slot;
mod supervisor;
mod timers;
mod view;
mod window;
mod worker;

pub use breaker::BreakerState;
pub use event::{
    Action, EndStatus, Event, FailureKind, Patience, Record, RecycleCause, RollFailure, Strength,
};
pub use forks::fork_budget;
pub use supervisor::Supervisor;
pub use view::{LastExit, PoolView, WorkerState, WorkerView};
