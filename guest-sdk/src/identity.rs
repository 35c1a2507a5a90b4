//! Who this handler is, in skep's terms.

use std::env;

/// What skep tells a handler about itself, in environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The app (`SKEP_APP`).
    pub app: String,
    /// The app's revision (`SKEP_REVISION`).
    pub revision: String,
    /// The pool of the worker (`SKEP_POOL`).
    pub pool: String,
    /// The worker process (`SKEP_WORKER`): no two ever have the same.
    pub worker: String,
    /// The worker's place in its pool (`SKEP_WORKER_SLOT`): from 0 to the
    /// number of workers less one; a worker's successor has the same.
    pub worker_slot: u32,
}

impl Identity {
    /// The identity of the running handler; none where skep is not the host.
    #[must_use]
    pub fn current() -> Option<Self> {
        Some(Self {
            app: env::var("SKEP_APP").ok()?,
            revision: env::var("SKEP_REVISION").ok()?,
            pool: env::var("SKEP_POOL").ok()?,
            worker: env::var("SKEP_WORKER").ok()?,
            worker_slot: env::var("SKEP_WORKER_SLOT").ok()?.parse().ok()?,
        })
    }
}
