//! The listening sockets of the fleet: each bound once, before any worker
//! exists, and handed to all workers of its pool, or to its dispatcher.
//!
//! The primary never accepts from them. It holds them so that connections queue
//! while no worker is ready, and lets go of them when the fleet shuts down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use skep_core::{Dispatch, FleetSpec, ListenAddress, ListenerName, ListenerSpec, PoolName};
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
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    bound: BTreeMap<ListenerName, Bound>,
}

/// One listener, bound.
#[derive(Debug)]
pub(crate) struct Bound {
    /// What was asked for.
    asked: ListenAddress,
    status: ListenerStatus,
    role: ListenerRole,
    /// Whether a dispatcher hands its connections out.
    dispatched: bool,
    /// `None` once it was closed.
    socket: Option<Arc<OwnedFd>>,
    file: Option<SocketFile>,
}

impl Bound {
    /// Where it listens, if on TCP.
    fn local(&self) -> Option<SocketAddr> {
        self.tcp().map(|(_, local)| local)
    }

    fn tcp(&self) -> Option<(BorrowedFd<'_>, SocketAddr)> {
        let socket = self.socket.as_ref()?.as_fd();
        match skep_sys::local_of(socket) {
            Ok(LocalAddress::Tcp(address)) => Some((socket, address)),
            Ok(LocalAddress::Unix(_)) | Err(_) => None,
        }
    }

    /// The pools that serve it.
    pub(crate) fn pools(&self) -> &[PoolName] {
        &self.status.pools
    }

    /// Whether a dispatcher hands its connections out.
    pub(crate) const fn is_dispatched(&self) -> bool {
        self.dispatched
    }

    /// Its name and the limits of its connections.
    pub(crate) const fn role(&self) -> &ListenerRole {
        &self.role
    }

    /// The socket, unless it was closed.
    pub(crate) const fn socket(&self) -> Option<&Arc<OwnedFd>> {
        self.socket.as_ref()
    }

    /// Whether the workers of a pool accept from it themselves.
    pub(crate) fn is_accepted_by(&self, pool: &PoolName) -> bool {
        !self.dispatched && self.pools().contains(pool)
    }
}

/// Whether a listener needs a dispatcher: several pools serve it, or one whose
/// connections are handed out (DESIGN §5).
pub(crate) fn needs_dispatcher(spec: &FleetSpec, listener: &ListenerSpec) -> bool {
    let dispatch = |pool| spec.pools.get(pool).map(|pool| pool.dispatch);
    let balanced = |pool| dispatch(pool).is_none_or(|is| is == Dispatch::Balanced);
    listener.pools.len() > 1 || !listener.pools.iter().all(balanced)
}

impl Listeners {
    /// Binds every listener of a specification.
    ///
    /// # Errors
    ///
    /// All that could not be bound; nothing stays bound then.
    pub(crate) fn bind(spec: &FleetSpec) -> Result<Self, Vec<BindFailure>> {
        let names = spec.listeners.keys().cloned().collect();
        let bound = Self::default().bind_more(spec, &names)?;
        Ok(Self { bound })
    }

    /// Binds those of a specification that are `wanted`. A socket that is bound
    /// to the same address already, under whatever name, is used again: two
    /// sockets cannot be bound to it, and nobody who waits there is lost.
    ///
    /// # Errors
    ///
    /// All that could not be bound; nothing new stays bound then.
    pub(crate) fn bind_more(
        &self,
        spec: &FleetSpec,
        wanted: &BTreeSet<ListenerName>,
    ) -> Result<BTreeMap<ListenerName, Bound>, Vec<BindFailure>> {
        let mut bound = BTreeMap::new();
        let mut failures = Vec::new();
        for (name, listener) in &spec.listeners {
            if !wanted.contains(name) {
                continue;
            }
            match self.bind_one(name, listener, needs_dispatcher(spec, listener)) {
                Ok(one) => drop(bound.insert(name.clone(), one)),
                Err(source) => failures.push(BindFailure {
                    listener: name.clone(),
                    address: listener.address.clone(),
                    source,
                }),
            }
        }
        if failures.is_empty() {
            Ok(bound)
        } else {
            Err(failures)
        }
    }

    fn bind_one(
        &self,
        name: &ListenerName,
        listener: &ListenerSpec,
        dispatched: bool,
    ) -> Result<Bound, BindError> {
        let role = ListenerRole {
            name: name.clone(),
            limits: listener.limits.clone(),
        };
        let same = |(other, bound): &(&ListenerName, &Bound)| {
            // Port 0 is another port for everybody who asks.
            let any =
                matches!(listener.address, ListenAddress::Tcp(address) if address.port() == 0);
            // Who asked for any port may ask for the one that it has.
            let is_it = bound.asked == listener.address
                || bound.local().map(ListenAddress::Tcp).as_ref() == Some(&listener.address);
            is_it && bound.socket.is_some() && (!any || *other == name)
        };
        if let Some((_, same)) = self.bound.iter().find(same) {
            return Ok(Bound {
                asked: listener.address.clone(),
                status: ListenerStatus {
                    name: name.clone(),
                    address: same.status.address.clone(),
                    pools: listener.pools.clone(),
                },
                role,
                dispatched,
                socket: same.socket.clone(),
                file: None,
            });
        }
        let bound = match &listener.address {
            ListenAddress::Tcp(address) => skep_sys::bind(*address, &self.beside(*address)),
            ListenAddress::Unix(path) => skep_sys::bind_unix(path),
            ListenAddress::Inherited(_) => Err(BindError::Other(io::Error::new(
                io::ErrorKind::Unsupported,
                "socket activation is not available in this version",
            ))),
        }?;
        let file = match &bound.local {
            LocalAddress::Unix(path) => Some(SocketFile::adopt(path).map_err(BindError::Other)?),
            LocalAddress::Tcp(_) => None,
        };
        Ok(Bound {
            asked: listener.address.clone(),
            status: ListenerStatus {
                name: name.clone(),
                address: Url(&bound.local).to_string(),
                pools: listener.pools.clone(),
            },
            role,
            dispatched,
            socket: Some(Arc::new(bound.socket)),
            file,
        })
    }

    /// Sockets of ours on the same port that a socket of this address would be in
    /// the way of: a listener may go from one address of a port to all of them,
    /// and back, and nobody who waits at the old one is lost.
    fn beside(&self, address: SocketAddr) -> Vec<BorrowedFd<'_>> {
        let overlaps = |other: SocketAddr| {
            other.port() == address.port()
                && other.is_ipv4() == address.is_ipv4()
                && (other.ip().is_unspecified() || address.ip().is_unspecified())
        };
        let sockets = self.bound.values();
        let beside = sockets.filter(|bound| bound.local().is_some_and(overlaps));
        beside
            .filter_map(|bound| Some(bound.socket.as_ref()?.as_fd()))
            .collect()
    }

    /// Has these from now on, in place of those of the same name, which are
    /// returned.
    pub(crate) fn adopt(
        &mut self,
        bound: BTreeMap<ListenerName, Bound>,
    ) -> BTreeMap<ListenerName, Option<Bound>> {
        let mut replaced = BTreeMap::new();
        for (name, mut one) in bound {
            let mut before = self.bound.remove(&name);
            if let Some(before) = &mut before
                && before.asked == one.asked
            {
                // The socket's file is removed with its last owner.
                one.file = one.file.take().or_else(|| before.file.take());
            }
            self.bound.insert(name.clone(), one);
            replaced.insert(name, before);
        }
        // Whichever socket is used again, under whatever name, takes them.
        for (socket, _) in self.bound.values().filter_map(Bound::tcp) {
            let _ = skep_sys::take_new(socket, true);
        }
        for gone in replaced.values().flatten() {
            self.let_go(gone);
        }
        replaced
    }

    /// Has whoever connects from now on reach another socket of the same port, if
    /// there is one, so that nobody waits at this one when it closes.
    fn let_go(&self, gone: &Bound) {
        let Some((socket, local)) = gone.tcp() else {
            return;
        };
        let mut others = self.bound.values().filter_map(Bound::local);
        let is_used = others.clone().any(|other| other == local);
        if !is_used && others.any(|other| other.port() == local.port()) {
            // Fails for want of memory, and then a client may be reset.
            let _ = skep_sys::take_new(socket, false);
        }
    }

    /// Lets go of one. Its socket file stays if another has the same address.
    pub(crate) fn remove(&mut self, name: &ListenerName) -> Option<Bound> {
        let mut gone = self.bound.remove(name)?;
        let same = |bound: &&mut Bound| bound.asked == gone.asked;
        if let Some(heir) = self.bound.values_mut().find(same) {
            heir.file = heir.file.take().or_else(|| gone.file.take());
        }
        self.let_go(&gone);
        Some(gone)
    }

    /// Whether a listener has another address than it had.
    pub(crate) fn is_rebound(&self, name: &ListenerName, before: &Bound) -> bool {
        self.bound
            .get(name)
            .is_some_and(|now| now.asked != before.asked)
    }

    /// One of them.
    pub(crate) fn get(&self, name: &ListenerName) -> Option<&Bound> {
        self.bound.get(name)
    }

    /// Those that a dispatcher hands out.
    pub(crate) fn dispatched(&self) -> impl Iterator<Item = (&ListenerName, &Bound)> {
        self.bound.iter().filter(|(_, bound)| bound.dispatched)
    }

    /// What a pool's workers accept from themselves.
    pub(crate) fn of(&self, pool: &PoolName) -> Vec<(ListenerRole, Arc<OwnedFd>)> {
        self.bound
            .values()
            .filter(|bound| bound.is_accepted_by(pool))
            .filter_map(|bound| Some((bound.role.clone(), Arc::clone(bound.socket.as_ref()?))))
            .collect()
    }

    /// Where they listen.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = &ListenerStatus> {
        self.bound.values().map(|bound| &bound.status)
    }

    /// Lets go of the sockets: once the workers have closed theirs, new
    /// connections are refused instead of queued for nobody.
    pub(crate) fn close(&mut self) {
        for bound in self.bound.values_mut() {
            bound.socket = None;
        }
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
