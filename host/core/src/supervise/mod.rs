//! The supervisor: which workers run, and what is done about those that do not.
//!
//! [`Supervisor::step`] takes the time and one [`Event`] and returns
//! [`Action`]s; [`Supervisor::deadline`] says when it wants [`Event::Timer`].
//! It reads no clock and starts no process: the primary does, and reports back.
//!
//! ```text
//! Slot
//!  Vacant ──fill──▶ Starting{worker, attempt, ready_by} ──ready──▶ Serving{worker, since}
//!                      ▲   │ exit or late                              │ exit,    │ roll or
//!         until passed │   ▼                                           ▼ vacated  ▼ recycling
//!                   Waiting{attempt, until} ◀──────────────────────────┘   Replacing{old, new}
//!                      │ too many crashes                                  │ new ready      → Serving{new}; old is a retiree
//!                      ▼                                                   │ new exits/late → Serving{old}; Kept is recorded
//!                   Tripped{until} ──probe with one worker──▶ Starting     │ called off     → Serving{old}; new is a retiree
//!                                                                          │ old exits      → Starting{new}
//! Retiree   Draining{by} ──drained or late──▶ Stopping{kill_at} ──late──▶ Killed ──exit──▶ gone
//! Pool      Staying ──removed──▶ Leaving ──last worker gone──▶ forgotten
//! Roll      asked for ──▶ under way{left} ──none left──▶ Rolled
//!               │             │   └──cancelled, pool removed, shutdown──▶ over
//!               └─tripped─────┴──no patience left──▶ RollFailed
//! ```
//!
//! How this is laid out: a [`Pool`] steps alone and owns its slots, its workers,
//! its breaker and all else that decides about them; the [`Supervisor`] leads
//! each event to the pool that it is about and keeps the pools' deadlines in
//! order, so that an event costs the same however many pools there are. A `slot`
//! says who holds a place (`Held` is Starting or Serving, whichever the worker's
//! own stage is, so that there is one truth); a worker's stage owns its timers;
//! a worker that left its slot is a `retiree`; `Tripped` belongs to the whole
//! pool and lives in its `breaker`, while its vacant slots wait.
//!
//! No module needs one that needs it. Each needs only some of those below it:
//!
//! ```text
//! supervisor                 routes by worker and by pool ──▶ agenda
//! step                       event ──▶ deed; fills slots; the deadline
//! lifecycle   operator       what workers and time bring; what people ask for
//! pool                       one pool, and the deeds that all comes down to
//! roll  recycle  vacancy     who is replaced next; which slot is filled next
//! crew           view        who holds which slot
//! worker   slot   breaker
//! wear  retiree  forks  window  backoff
//! event
//! ```
//!
//! Rules, beside those of the diagram:
//!
//! - A crash counts when it happens, in the pool's window for its generation:
//!   for a worker that we kill (hung, late), that is when we kill it.
//! - A worker that was stable (served for `min_uptime`) is replaced in the same
//!   step, unless the runtime breaker is tripped or the forks of the pool have
//!   used up their budget ([`fork_budget`]). All others wait for their backoff,
//!   for the budget, and for each other: a pool has one starting worker at a
//!   time among those that failed before.
//! - A crash of a worker that neither served a good request nor was stable is a
//!   startup failure, any other a runtime failure. Each kind has its own
//!   window. The startup breaker stops retries only; the runtime breaker stops
//!   the replacement of stable workers too.
//! - A tripped pool is probed with one worker every `probe_interval`. Other
//!   slots are filled once a worker that started after the trip is *stable*,
//!   for both kinds of failure: a worker that is merely ready has proved
//!   nothing that its predecessors had not.
//! - What a stable worker settles: the backoff of its own slot, and the fork
//!   that somebody asked for. Crashes count for their time, whoever serves since,
//!   and so do the forks that they cost: a loop of any period is bounded.
//! - An exit is voluntary if we asked for it, whatever its code. A worker that
//!   had to be forced at a deadline has the reason `drain-timeout`.
//! - A roll goes in the order of the slots: up to `surge` successors start
//!   beside their predecessors, and beyond that old workers drain first as long
//!   as `workers - max_unavailable` serve. With neither, one surges. Workers
//!   that start are replaced when they are ready.
//! - A worker that ends by itself during a roll counts as replaced when its
//!   slot serves again.
//! - A successor that fails ends a roll of [`Patience::OneTry`]. Otherwise the
//!   roll goes on after a backoff, alone among what starts and within the fork
//!   budget. It ends when a breaker trips, or with the crash that is the
//!   `max_crashes`th since it last got on, so that every roll ends: failures
//!   may be too slow for the breaker's window. Where breakers are not
//!   admitting no roll begins.
//! - A roll that ends early, and one that begins, call off what starts beside a
//!   serving worker: the former its own, the latter a recycling.
//! - Recycling waits for rolls, breakers, starting workers and the fork budget,
//!   is one at a time in a pool, and after a failure waits for a backoff of at
//!   least `probe_interval`. Only stable workers are recycled, or a limit that
//!   is reached at once would be a fork bomb.
//! - Neither starts a successor in a slot to which three live workers belong.
//! - After [`Event::Shutdown`] nothing is spawned.

mod agenda;
mod backoff;
mod breaker;
mod crew;
mod event;
mod forks;
mod lifecycle;
mod operator;
mod pool;
mod recycle;
mod retiree;
mod roll;
mod slot;
mod step;
mod supervisor;
#[cfg(test)]
mod tests;
mod vacancy;
mod view;
#[cfg(test)]
mod visits;
mod wear;
mod window;
mod worker;

pub(crate) use backoff::{SplitMix64, jittered};
pub use breaker::BreakerState;
pub use event::{
    Action, EndStatus, Event, FailureKind, Notice, Patience, RecycleCause, RollFailure, Strength,
};
pub use forks::fork_budget;
pub use pool::{Pool, WorkerIds};
pub use supervisor::Supervisor;
pub use view::{LastExit, PoolView, WorkerState, WorkerView};
