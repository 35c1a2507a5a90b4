//! The passage of one app to another revision (DESIGN §7).
//!
//! [`Rollout::begin`] takes an [`Order`]; [`Rollout::step`] takes the time and
//! one [`Input`] and returns [`Output`]s; [`Rollout::deadline`] says when it
//! wants [`Input::Timer`]. It builds, loads and counts nothing: the primary
//! does, and reports back. How single workers come to the plan that a rollout
//! wants is decided by [`converge`](crate::converge), which of them run by
//! [`supervise`](crate::supervise).
//!
//! ```text
//! Building ──built──▶ Validating ──valid──▶ RollingOut{canary} ──settled──▶ Canary{hold}
//!    │                 │     │  │                 │                         │      │
//!    │ failed or late  │     │  │ no canary,      │                         │      │ promoted
//!    ▼                 │     │  │ or forced       │                         │      │
//! Ended(Rejected) ◀────┘     │  └────────▶ RollingOut{swap or restart} ◀────────────┘
//!                            │ dry run            │     │ settled or rolled │
//!                            ▼                    │     ▼                   │
//!                    Ended(Checked)               │  Committing             │
//!                                                 │     │   │ recorded      │
//!                       refused, late or tripped, │     │   ▼               │ unhealthy or tripped
//!                       or not recorded           │     │  Observing        │
//!                                                 │     │   │   │ `observe` has passed, or promoted
//!                                                 ▼     ▼   ▼   └───────────│────▶ Ended(Done)
//! Ended(RolledBack) ◀──settled or late──── Restoring ◀──────────────────────┘
//! ```
//!
//! Rules, beside those of the diagram:
//!
//! - Every step but a canary that holds has a deadline, and its own words for
//!   having missed it.
//! - Nothing is rolled out that was not validated. `force` overrules a
//!   validation that failed: then workers are replaced, patiently, whatever the
//!   strategy and the canary. Each refuses the revision by itself, and the
//!   breaker of the pool bounds the tries.
//! - The revision is written down as the active one when all workers serve it,
//!   and is live once that is done. If it goes back after that, that is written
//!   down before the workers are told: whatever is killed in between, the
//!   revision that comes up is the one that was meant.
//! - A first revision (`from` is `None`) has nothing to go back to. One that is
//!   live stays: answering some requests is better than answering none, so it
//!   has no canary and is not observed. One that fails before it is live is
//!   taken out again, which is what [`Wanted::Old`] means then, because workers
//!   that are born could not load it.
//! - Latencies that were counted before and after it came to the workers only
//!   make it suspect. Then both revisions answer half of the requests each for a
//!   while, and it goes back if it is slower side by side, whatever the machine
//!   does meanwhile. That may prolong the observation by [`COMPARE_LIMIT`] at
//!   most; what cannot be told then is said, and the new revision stays. A
//!   canary is compared like that as long as it holds.
//! - An operator may call it off at any time before it ended; before the
//!   roll-out that is a rejection.
//! - Inputs that do not belong to the state are ignored: they were under way
//!   when it changed.

mod compare;
mod health;
mod machine;
mod order;
mod state;
mod watch;
mod words;

pub use health::{Health, Rules, judge};
pub use machine::{RECORD_DEADLINE, Rollout};
pub use order::{By, Deadlines, Ending, FailedStep, Input, Order, Output, Stage, Wanted};
pub use watch::COMPARE_LIMIT;
