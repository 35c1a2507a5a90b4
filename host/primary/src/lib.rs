//! The primary process of skep: it owns the listening sockets, has components
//! compiled, starts and supervises workers, and answers the operator.
//!
//! One thread and one loop ([`run`]): receive, make an event, ask the
//! [`Supervisor`](skep_core::supervise::Supervisor), perform its actions. It
//! reads no byte of a request, parses no module, and links neither wasmtime nor
//! hyper. What can be refused is refused before anything is started; after that
//! nothing ends the primary but its operator.
#![forbid(unsafe_code)]

mod alert;
mod artifacts;
mod aside;
mod catalog;
mod channel_end;
mod client;
mod control;
mod figures;
mod fleet;
mod journal;
mod listeners;
mod log;
mod notices;
mod pool;
mod prepare;
mod process;
mod rejection;
mod rows;
mod running;
mod scribe;
mod shelf;
mod signals;
mod single;
mod socket_file;
mod start;
mod state_dir;
mod status;
mod store;
mod sweep;
mod told;
mod walls;
mod worker_ids;

pub use client::{Client, ClientError, Deployment, MAX_SOCKET_PATH};
pub use fleet::Reread;
pub use listeners::BindFailure;
pub use running::{Found, Running};
pub use start::{Options, StartError, check_components, is_vacant, run};
pub use sweep::{SweepError, sweep_alone};
