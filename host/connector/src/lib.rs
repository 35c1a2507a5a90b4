//! The connector: one unprivileged process per fleet that opens outbound
//! connections for workers, which cannot make sockets.
//!
//! It holds the grants, as the primary tells them. A worker asks in the name of
//! an app; the connector checks the grants of that worker's pool, resolves the
//! name, checks each address, connects to exactly the address that it checked,
//! and passes the socket. So a worker that was taken over reaches nothing that
//! the apps of its pool may not reach, and a name that leads elsewhere a moment
//! later leads nowhere.
//!
//! It sees no byte of what is sent. What is allowed is decided by
//! `skep_core::egress`; what this process may do is `skep-sys`'s policy, applied
//! by the role in `cli`.
//!
//! | module | |
//! |---|---|
//! | `primary` | the conversation with the primary, and the workers that it brings |
//! | `worker` | the conversation with one worker |
//! | `ledger` | grants, and how many connections each app has open |
//! | `names` | names to addresses |
//! | `connect` | addresses to sockets |
#![forbid(unsafe_code)]

mod connect;
mod ledger;
mod names;
mod primary;
mod worker;

pub use names::{NameFiles, Names};
pub use primary::{Ended, serve};
