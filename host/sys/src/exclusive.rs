//! One process's share of a listening socket that several processes accept
//! from.
//!
//! Responsible for waking one process per connection, in turn. Whether to
//! accept is the worker's decision, and waiting is its async runtime's.
//!
//! Runtimes register sockets without `EPOLLEXCLUSIVE`, so each connection
//! would wake every process. Two arrangements avoid that:
//!
//! ```text
//! apart    runtime's epoll ──▶ our epoll ──exclusive──▶ socket
//! joined   runtime's epoll ─────────────────exclusive──▶ socket
//! ```
//!
//! A listener begins *apart*, which works with any runtime. But the kernel
//! counts an exclusive wake-up as spent only on a process that sleeps in the
//! very epoll that holds the socket; through a second one, all processes wake
//! after all, and the fastest wins instead of the next in turn. So, once it is
//! registered, the listener joins the runtime's own epoll, under the runtime's
//! own token: [`watch`](crate::watch()) sees to it.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

use crate::channel::socket_domain;
use crate::listener::socket_address;

pub(crate) mod registration;

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Tcp(SocketAddr),
    /// A process on this machine, through a socket file.
    Unix,
}

/// An accepted connection: non-blocking and close-on-exec, and over TCP without
/// Nagle's delay if its listener is, as those of [`bind`](crate::bind()) are.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: OwnedFd,
    /// Its other end.
    pub peer: Peer,
}

/// A listening socket that is shared with other processes.
///
/// As a descriptor it is what a runtime registers, edge-triggered or not: it is
/// readable while connections wait and the listener is not paused.
#[derive(Debug)]
pub struct ExclusiveListener {
    state: Mutex<State>,
    /// Our epoll while apart, and a duplicate of the socket once joined: the
    /// number stays the same, as the runtime knows us by it.
    watched: OwnedFd,
    socket: OwnedFd,
    unix: bool,
}

#[derive(Debug)]
struct State {
    place: Place,
    polling: Polling,
}

/// Which epoll holds the socket.
#[derive(Debug)]
enum Place {
    /// Our own one, which is a duplicate of `watched`.
    Apart(Epoll),
    /// The runtime's, where the socket goes by this token.
    Joined { runtime: Epoll, token: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polling {
    /// In its turn.
    Active,
    /// Beside those whose turn it is.
    Beside,
    Paused,
}

impl ExclusiveListener {
    /// Takes a listening socket and starts to wait for its connections.
    ///
    /// # Errors
    ///
    /// The descriptor is no socket, or none are left.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let unix = socket_domain(socket.as_fd())? == libc::AF_UNIX;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watched = epoll.0.try_clone()?;
        let listener = Self {
            state: Mutex::new(State {
                place: Place::Apart(epoll),
                polling: Polling::Active,
            }),
            watched,
            socket,
            unix,
        };
        listener.add(&listener.lock().place, Polling::Active)?;
        Ok(listener)
    }

    /// Moves into the epoll in which this listener has just been registered,
    /// so that waking is exclusive and in turn.
    ///
    /// From then on it is used through that registration, for as long as that
    /// lives. After the runtime has given it up (`into_inner`), waiting is over
    /// until it is registered and joins again.
    ///
    /// # Errors
    ///
    /// `NotConnected` when it is registered nowhere; `/proc` is not there; no
    /// descriptors left.
    pub(crate) fn join(&self) -> io::Result<()> {
        let mut state = self.lock();
        let (runtime, token) = registration::find(self.watched.as_raw_fd())?;
        // Nothing is missed in between: adding tells of connections that wait.
        runtime.delete(&self.watched)?;
        registration::replace(&self.watched, &self.socket)?;
        state.place = Place::Joined { runtime, token };
        self.add(&state.place, state.polling)
    }

    /// Accepts one connection, or `None` when none waits (another process may
    /// have been faster). Works while paused, too.
    ///
    /// # Errors
    ///
    /// No descriptors or memory left: the connection still waits. Connections
    /// that ended while they waited are passed over.
    pub fn accept(&self) -> io::Result<Option<Accepted>> {
        loop {
            let (stream, address) = match self.accept_from() {
                Ok(accepted) => accepted,
                Err(Errno::EAGAIN) => return Ok(None),
                // accept(2): these are errors of the one connection.
                Err(
                    Errno::ECONNABORTED
                    | Errno::EINTR
                    | Errno::EPROTO
                    | Errno::ENETDOWN
                    | Errno::ENOPROTOOPT
                    | Errno::EHOSTDOWN
                    | Errno::ENONET
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH,
                ) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if self.unix {
                return Ok(Some(Accepted {
                    stream,
                    peer: Peer::Unix,
                }));
            }
            if let Some(peer) = address.and_then(|address| socket_address(&address)) {
                return Ok(Some(Accepted {
                    stream,
                    peer: Peer::Tcp(peer),
                }));
            }
        }
    }

    /// One connection, and the address of its other end if that has one.
    fn accept_from(&self) -> Result<(OwnedFd, Option<SockaddrStorage>), Errno> {
        // SAFETY: a zeroed sockaddr_storage is valid: of no family.
        let mut address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let room = libc::socklen_t::try_from(size_of_val(&address)).expect("128 bytes");
        let mut length = room;
        // SAFETY: accept4 writes at most `length` bytes to `address` and their number
        // to `length`, all of this frame.
        let fd = Errno::result(unsafe {
            libc::accept4(
                self.socket.as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
                libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            )
        })?;
        // SAFETY: accept4 has just made this descriptor for us alone.
        let stream = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: `address` has `length` bytes that the kernel wrote, and the rest is
        // zero.
        let address = unsafe {
            SockaddrStorage::from_raw((&raw const address).cast(), Some(length.min(room)))
        };
        Ok((stream, address))
    }

    /// Goes to the end of the socket's queue of waiting processes. Called after
    /// each accepted connection, it makes the kernel wake the processes in
    /// turn; without it, it wakes the same one for as long as that is idle. No
    /// connection is missed. Does nothing while paused.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the runtime has given the listener up; otherwise the
    /// kernel's memory for registrations is exhausted.
    pub fn rotate(&self) -> io::Result<()> {
        let state = self.lock();
        match state.polling {
            Polling::Active => self.register(&state.place, Polling::Active),
            Polling::Beside | Polling::Paused => Ok(()),
        }
    }

    /// Is woken by every connection from now on, besides the process whose turn
    /// it is: who has enough itself sees that one is there, and can take it if
    /// nobody does. It costs nobody a turn.
    ///
    /// # Errors
    ///
    /// As [`rotate`](Self::rotate).
    pub fn look_on(&self) -> io::Result<()> {
        self.change(Polling::Beside)
    }

    /// Stops waiting for connections; they queue up for the other processes,
    /// or for [`resume`](Self::resume). Does nothing while paused.
    ///
    /// # Errors
    ///
    /// As [`rotate`](Self::rotate).
    pub fn pause(&self) -> io::Result<()> {
        self.change(Polling::Paused)
    }

    /// Waits for connections again; those that wait already count. Does
    /// nothing unless paused.
    ///
    /// # Errors
    ///
    /// As [`rotate`](Self::rotate).
    pub fn resume(&self) -> io::Result<()> {
        self.change(Polling::Active)
    }

    /// Gives up this process's share. The connections that wait stay with the
    /// other processes that have the socket.
    pub fn close(self) {
        drop(self);
    }

    fn change(&self, polling: Polling) -> io::Result<()> {
        let mut state = self.lock();
        if state.polling != polling {
            self.register(&state.place, polling)?;
            state.polling = polling;
        }
        Ok(())
    }

    fn register(&self, place: &Place, polling: Polling) -> io::Result<()> {
        let deleted = match place {
            Place::Apart(epoll) => epoll.delete(&self.socket),
            Place::Joined { runtime, .. } => runtime.delete(&self.watched),
        };
        match deleted {
            Ok(()) => self.add(place, polling),
            // The runtime has deleted it, and with it the meaning of the token:
            // adding it again would hand the runtime a token that it has freed.
            Err(Errno::ENOENT) => Err(io::ErrorKind::NotConnected.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn add(&self, place: &Place, polling: Polling) -> io::Result<()> {
        let flags = match polling {
            Polling::Active => EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE,
            Polling::Beside => EpollFlags::EPOLLIN,
            // Registered for nothing, so that a deletion still tells whether
            // the registration lives.
            Polling::Paused => EpollFlags::empty(),
        };
        match place {
            Place::Apart(epoll) => epoll.add(&self.socket, EpollEvent::new(flags, 0))?,
            Place::Joined { runtime, token } => {
                // Runtimes expect edges.
                let flags = flags | EpollFlags::EPOLLET;
                runtime.add(&self.watched, EpollEvent::new(flags, *token))?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock panics, and the state is whole at
        // every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ExclusiveListener {
    fn drop(&mut self) {
        // Other processes keep the socket open, so closing our descriptors
        // does not end the registration. It may be gone already.
        let _ = match &self.lock().place {
            Place::Apart(epoll) => epoll.delete(&self.socket),
            Place::Joined { runtime, .. } => runtime.delete(&self.watched),
        };
    }
}

impl AsFd for ExclusiveListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

impl AsRawFd for ExclusiveListener {
    fn as_raw_fd(&self) -> RawFd {
        self.watched.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
