//! The listening sockets of the fleet: each bound once, before any worker
//! exists, and handed to all workers of its pool.
//!
//! The primary never accepts from them. It holds them so that connections queue
//! while no worker is ready, and lets go of them when the fleet shuts down.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use skep_core::{FleetSpec, ListenAddress, ListenerName, PoolName};
use skep_sys::{BindError, LocalAddress};
use skep_wire::{ListenerRole, ListenerStatus};

use crate::socket_file::SocketFile;

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindFailure {
    /// The listener.
    pub listener: ListenerName,
    /// What was asked for.
    pub address: ListenAddress,
    /// Why not.
    pub source: BindError,
}

/// All listeners of a fleet.
#[derive(Debug)]
pub(crate) struct Listeners {
    statuses: Vec<ListenerStatus>,
    /// Empty once they were closed.
    sockets: BTreeMap<PoolName, Vec<(ListenerRole, Arc<OwnedFd>)>>,
    _files: Vec<SocketFile>,
}

impl Listeners {
    /// Binds every listener of a specification.
    ///
    /// # Errors
    ///
    /// All that could not be bound; nothing stays bound then.
    pub(crate) fn bind(spec: &FleetSpec) -> Result<Self, Vec<BindFailure>> {
        let mut listeners = Self {
            statuses: Vec::new(),
            sockets: BTreeMap::new(),
            _files: Vec::new(),
        };
        let mut failures = Vec::new();
        for (name, listener) in &spec.listeners {
            let bound = match &listener.address {
                ListenAddress::Tcp(address) => skep_sys::bind(*address),
                ListenAddress::Unix(path) => skep_sys::bind_unix(path),
                ListenAddress::Inherited(_) => Err(BindError::Other(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "socket activation is not available in this version",
                ))),
            };
            let adopted = bound.and_then(|bound| {
                if let LocalAddress::Unix(path) = &bound.local {
                    let file = SocketFile::adopt(path).map_err(BindError::Other)?;
                    listeners._files.push(file);
                }
                Ok(bound)
            });
            match adopted {
                Ok(bound) => {
                    listeners.statuses.push(ListenerStatus {
                        name: name.clone(),
                        address: Url(&bound.local).to_string(),
                        pool: listener.pool.clone(),
                    });
                    let role = ListenerRole {
                        name: name.clone(),
                        limits: listener.limits.clone(),
                    };
                    listeners
                        .sockets
                        .entry(listener.pool.clone())
                        .or_default()
                        .push((role, Arc::new(bound.socket)));
                }
                Err(source) => failures.push(BindFailure {
                    listener: name.clone(),
                    address: listener.address.clone(),
                    source,
                }),
            }
        }
        if failures.is_empty() {
            Ok(listeners)
        } else {
            Err(failures)
        }
    }

    /// What a pool's workers accept from.
    pub(crate) fn of(&self, pool: &PoolName) -> &[(ListenerRole, Arc<OwnedFd>)] {
        self.sockets.get(pool).map_or(&[], Vec::as_slice)
    }

    /// Where they listen.
    pub(crate) fn statuses(&self) -> &[ListenerStatus] {
        &self.statuses
    }

    /// Lets go of the sockets: once the workers have closed theirs, new
    /// connections are refused instead of queued for nobody.
    pub(crate) fn close(&mut self) {
        self.sockets.clear();
    }
}

/// An address as a client would write it.
struct Url<'a>(&'a LocalAddress);

impl fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LocalAddress::Tcp(address) => write!(f, "http://{address}"),
            LocalAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
