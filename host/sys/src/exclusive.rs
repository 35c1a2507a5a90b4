//! One process's share of a listening socket that several processes accept
//! from.
//!
//! Responsible for waking only who is asked to and for a fair order. Whether
//! to accept is the worker's decision. The listener sits in an epoll instance
//! of its own, whose descriptor an async runtime can watch.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{SockFlag, SockaddrStorage, accept4, getpeername, setsockopt, sockopt};

use crate::channel::socket_domain;
use crate::listener::socket_address;

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Tcp(SocketAddr),
    /// A process on this machine, through a socket file.
    Unix,
}

/// An accepted connection: non-blocking and close-on-exec, over TCP without
/// Nagle's delay.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: OwnedFd,
    /// Its other end.
    pub peer: Peer,
}

/// A listening socket that is shared with other processes.
///
/// As a descriptor it is readable while connections wait and it is not paused.
#[derive(Debug)]
pub struct ExclusiveListener {
    // Dropped before the socket, so that the registration ends first: other
    // processes keep the socket open, and it would stay registered.
    epoll: Epoll,
    polled: AtomicBool,
    socket: OwnedFd,
    unix: bool,
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
        let listener = Self {
            epoll,
            polled: AtomicBool::new(false),
            socket,
            unix,
        };
        listener.resume()?;
        Ok(listener)
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
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let stream = match accept4(self.socket.as_raw_fd(), flags) {
                // SAFETY: accept4 has just made this descriptor for us alone.
                Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
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
            // Both fail only for a connection that was reset meanwhile.
            let peer = getpeername::<SockaddrStorage>(stream.as_raw_fd())
                .ok()
                .and_then(|address| socket_address(&address));
            let prompt = setsockopt(&stream, sockopt::TcpNoDelay, &true);
            if let (Some(peer), Ok(())) = (peer, prompt) {
                return Ok(Some(Accepted {
                    stream,
                    peer: Peer::Tcp(peer),
                }));
            }
        }
    }

    /// Goes to the end of the socket's queue of waiting processes. Called after
    /// each accepted connection, it makes the kernel wake the processes in
    /// turn; without it, it wakes the same one for as long as that is idle. No
    /// connection is missed. Does nothing while paused.
    ///
    /// # Errors
    ///
    /// The kernel's memory for registrations is exhausted; the listener is
    /// then paused.
    pub fn rotate(&self) -> io::Result<()> {
        if self.pause()? {
            self.resume()?;
        }
        Ok(())
    }

    /// Stops waiting for connections; returns whether it did wait. They queue
    /// up for the other processes, or for [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// None that the kernel documents for a registered socket.
    pub fn pause(&self) -> io::Result<bool> {
        let polled = self.polled.swap(false, Ordering::Relaxed);
        if polled {
            self.epoll.delete(&self.socket)?;
        }
        Ok(polled)
    }

    /// Waits for connections again; those that wait already count. Returns
    /// whether it was paused.
    ///
    /// # Errors
    ///
    /// The kernel's memory for registrations is exhausted.
    pub fn resume(&self) -> io::Result<bool> {
        let polled = self.polled.swap(true, Ordering::Relaxed);
        if !polled {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, 0);
            if let Err(errno) = self.epoll.add(&self.socket, event) {
                self.polled.store(false, Ordering::Relaxed);
                return Err(errno.into());
            }
        }
        Ok(!polled)
    }

    /// Gives up this process's share. The connections that wait stay with the
    /// other processes that have the socket.
    pub fn close(self) {
        drop(self);
    }
}

impl AsFd for ExclusiveListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl AsRawFd for ExclusiveListener {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
