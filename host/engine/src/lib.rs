//! wasmtime, wrapped: compile a component, link it, limit it, and turn one
//! request into exactly one outcome.
//!
//! Nothing outside this crate names a wasmtime type, because wasmtime's
//! embedding API changes with every release. What is *not* here: sockets,
//! HTTP framing, routing, admission and configuration (`worker` and `config`).
//!
//! A worker has two engines: one without component-model concurrency for
//! components of WASI 0.2, whose stores are cheaper by about a third, and one
//! with it for 0.3.
#![deny(unsafe_code)]

mod blueprint;
mod body;
mod call;
mod compile;
mod early;
mod event_loop;
mod fault;
mod flow;
mod guest;
mod handler;
mod head;
mod held;
mod housekeeping;
mod instances;
mod io;
mod ledger;
mod link;
mod logging;
mod meter;
mod origin;
mod outbound;
mod p2;
mod p3;
mod places;
mod precompiled;
mod refusal;
mod run_queue;
mod runtime;
mod settings;
mod shared_instances;
mod slot;
mod startup;
mod stdio;
mod tenants;
mod watch;
mod weigh;
mod world;

pub use blueprint::HandlerSetup;
pub use body::{CutShort, GuestBody};
pub use call::{CallSetup, Ended, Witness};
pub use compile::{Compiled, compile, fingerprint};
pub use event_loop::sockets_are_looked_at;
pub use handler::{Handler, LoadError};
pub use instances::InstanceCounts;
pub use meter::{Clock, computing};
pub use outbound::{OutboundBody, OutboundError, OutboundHttp, OutboundReply, OutboundTimeouts};
pub use refusal::Refusal;
pub use runtime::{Capacity, EngineError, Runtime, pooling_available, tick};
pub use settings::Flavor;
pub use startup::{Phase, ValidateFault, Validation};
pub use stdio::{GuestLog, Stream};
pub use tenants::{ShareLimits, TenantShare, Tenants, Usage};

/// The body of a request on its way into a guest.
pub type RequestBody = wasmtime_wasi_http::WasiBody;

/// How reading a request's body can fail, in the terms that guests are told.
pub use wasmtime_wasi_http::Error as RequestBodyError;
