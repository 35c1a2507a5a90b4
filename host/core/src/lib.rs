//! skep's vocabulary and its decisions.
//!
//! Everything here is a value or a pure function: no clock, file, environment
//! variable, socket, random source or async. Time comes in as a [`Moment`],
//! randomness as an argument. The processes around this crate (primary,
//! worker, builder) turn the world into arguments and the results into effects.
#![forbid(unsafe_code)]

mod balance;
pub mod claims;
pub mod converge;
pub mod difference;
pub mod egress;
mod exit;
pub mod fair;
mod figures;
pub mod history;
pub mod identity;
mod latency;
mod limits;
mod moment;
mod name;
mod outcome;
pub mod pace;
pub mod permits;
mod plan;
mod rate;
mod record;
pub mod reload;
pub mod rollout;
pub mod route;
mod seats;
pub mod solo;
mod spec;
pub mod stock;
pub mod supervise;
pub mod sweep;
mod tally;

pub use balance::{Appetite, appetite};
pub use exit::ExitReason;
pub use figures::{
    AppCounts, AppGauges, Plausible, Recent, STATUS_CLASSES, WINDOW, status_class, window_at,
};
pub use latency::{BUCKETS, LatencyCounts, bucket_of};
pub use limits::{
    AppLimits, ConnectionLimits, InstancePolicy, MAX_LISTENERS, Rate, RateLimit, RatePer,
    SupervisionSettings, TenantLimits,
};
pub use moment::Moment;
pub use name::{
    AppName, Generation, HandlerId, InvalidName, ListenerName, PoolName, Revision, SlotIndex,
    TenantName, WorkerId,
};
pub use outcome::{Outcome, Refusal, Reply};
pub use plan::{Plan, PlannedApp, PlannedTenant};
pub use rate::{Allowance, OverRate, Window};
pub use record::{Record, is_record, timestamp};
pub use seats::Seats;
pub use spec::{
    AlertSpec, AppSpec, Dispatch, FleetSpec, HttpCheck, Isolation, ListenAddress, ListenerSpec,
    LogFormat, LogLevel, LogSpec, PoolSpec, Portion, RolloutSpec, Sandbox, ServerSpec, Strategy,
    TenantSpec,
};
pub use tally::{TALLY_BUCKETS, Tally, tally_bucket_of};
