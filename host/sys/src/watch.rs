//! Waiting for a descriptor in tokio's event loop.
//!
//! tokio asks for a promise that a registered descriptor stays open and stays
//! the same for as long as it is registered, which no trait of the standard
//! library gives. Our own types give it, so the promise is made here for them
//! and for no others.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use crate::{Channel, Child, ExclusiveListener};

/// A type that owns one descriptor for all of its life and always names it.
pub trait Watched: AsRawFd + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! watched {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}
        impl Watched for $type {}
    )*};
}

watched!(Channel, Child, ExclusiveListener, OwnedFd);

/// Registers `inner` with the current runtime's event loop.
///
/// # Errors
///
/// The kernel cannot watch this kind of descriptor, or has no room.
///
/// # Panics
///
/// Outside of a tokio runtime with its I/O driver.
pub fn watch<T: Watched>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `register` demands that the descriptor is open and stays the
    // same while `inner` lives. `Watched` is sealed: its types own their
    // descriptor in a field that is set when they are made and closed when
    // they are dropped, and `as_raw_fd` reads that field.
    unsafe { AsyncFd::register(inner) }.map_err(io::Error::from)
}
