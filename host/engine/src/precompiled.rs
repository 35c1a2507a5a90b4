//! Uses unsafe code, once: to load native code that a builder of ours made.
#![expect(unsafe_code, reason = "native code can only be trusted, not checked")]

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::PathBuf;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Maps an artifact. Its pages are shared with every other worker that maps
/// the same file.
///
/// wasmtime maps components only by path; the descriptor's path in `/proc`
/// names the very file that the primary opened and verified, whatever has
/// happened to its name since.
pub(crate) fn map(engine: &Engine, artifact: BorrowedFd<'_>) -> wasmtime::Result<Component> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", artifact.as_raw_fd()));
    // SAFETY: `deserialize_file` demands that the bytes are wasmtime's own
    // output, unmodified, and stay so while mapped. They are: the primary
    // compared the file with the digest that our builder reported before it
    // passed the descriptor, the cache is writable by the primary's user
    // alone, entries are replaced by renaming and never written in place, and
    // wasmtime itself refuses another version's or configuration's output.
    unsafe { Component::deserialize_file(engine, path) }
}
