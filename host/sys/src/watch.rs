//! Waiting for a descriptor in tokio's event loop.
//!
//! tokio asks for a promise that a registered descriptor stays open and stays
//! the same for as long as it is registered, which no trait of the standard
//! library gives. Our own types give it, so the promise is made here for them
//! and for no others.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::unix::AsyncFd;

use crate::exclusive::registration;
use crate::{Channel, Child, ExclusiveListener, Output};

/// A type that owns one descriptor for all of its life and always names it.
pub trait Watched: AsRawFd + sealed::Sealed {}

impl<T: AsRawFd + sealed::Sealed> Watched for T {}

mod sealed {
    use std::io;

    pub trait Sealed {
        /// Called once the descriptor is registered, by nobody else.
        fn registered(&self) -> io::Result<()> {
            Ok(())
        }
    }
}

impl sealed::Sealed for Channel {}
impl sealed::Sealed for Child {}
impl sealed::Sealed for Output {}
impl sealed::Sealed for OwnedFd {}

impl sealed::Sealed for ExclusiveListener {
    fn registered(&self) -> io::Result<()> {
        self.join()
    }
}

/// Registers `inner` with the current runtime's event loop.
///
/// An [`ExclusiveListener`] joins that loop here, so that connections wake one
/// process each, in turn. It is found through `/proc`: a process that gives
/// that up [keeps](keep_event_loop) the loop before.
///
/// # Errors
///
/// The kernel cannot watch this kind of descriptor, or has no room; for a
/// listener, `/proc` is not there.
///
/// # Panics
///
/// Outside of a tokio runtime with its I/O driver.
pub fn watch<T: Watched>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `register` demands that the descriptor is open and stays the
    // same while `inner` lives. `Watched` is sealed: its types own their
    // descriptor in a field that is set when they are made and closed when
    // they are dropped, and `as_raw_fd` reads that field. (A listener lets the
    // number refer to another file when it joins, and registers that itself.)
    let watched = unsafe { AsyncFd::register(inner) }.map_err(io::Error::from)?;
    watched.get_ref().registered()?;
    Ok(watched)
}

/// Lets the listeners that the calling thread watches later join the current
/// runtime's event loop without `/proc`, which a confined process has not.
/// Called once, in the runtime, by the thread that is going to watch them.
///
/// # Errors
///
/// `/proc` is not there; no descriptors left.
///
/// # Panics
///
/// Outside of a tokio runtime with its I/O driver.
pub fn keep_event_loop() -> io::Result<()> {
    let probe = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let probe = watch(OwnedFd::from(probe))?;
    registration::keep(probe.as_raw_fd())
}
