//! Which hosts are at home in this worker, on connections that were handed out
//! by their host.
//!
//! A worker does not know which hosts other pools serve. It takes as its own the
//! host that a connection was handed out for, and hosts that its own routes name
//! exactly, because no other pool may name the same. With a request for any other
//! host the connection goes back to the dispatcher, which decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use skep_core::route::same_host;

use crate::desk::Desk;

/// What the connections from one dispatcher share.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    matter: AtomicBool,
    /// How often they have changed.
    changes: AtomicU64,
}

impl Hosts {
    /// Hosts have changed: the host that an earlier connection was handed out for
    /// may belong to another pool now.
    pub(crate) fn change(&self, matter: bool) {
        self.matter.store(matter, Relaxed);
        self.changes.fetch_add(1, Relaxed);
    }
}

/// What is at home on one connection.
pub(crate) struct Home {
    desk: Arc<Desk>,
    hosts: Arc<Hosts>,
    /// For which it was handed out, if hosts mattered then.
    host: Option<String>,
    /// How often hosts had changed then.
    changes: u64,
}

impl Home {
    pub(crate) fn new(desk: &Arc<Desk>, hosts: &Arc<Hosts>, host: Option<String>) -> Self {
        if host.is_some() {
            hosts.matter.store(true, Relaxed);
        }
        Self {
            desk: Arc::clone(desk),
            changes: hosts.changes.load(Relaxed),
            hosts: Arc::clone(hosts),
            host,
        }
    }

    /// Whether a request for this host is certainly ours. It is as it was
    /// received, and empty for a request without one.
    pub(crate) fn owns(&self, host: &[u8]) -> bool {
        if !self.hosts.matter.load(Relaxed) {
            return true;
        }
        let Ok(host) = std::str::from_utf8(host) else {
            return false;
        };
        let unchanged = self.hosts.changes.load(Relaxed) == self.changes;
        let handed_out = self.host.as_ref().filter(|_| unchanged);
        handed_out.is_some_and(|own| same_host(own, host)) || self.desk.names(host)
    }
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Home")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
