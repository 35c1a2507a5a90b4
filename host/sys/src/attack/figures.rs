//! What a process that was taken over may write into its register.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Target;
use crate::register::Register;

/// How long it goes on.
const TIME: Duration = Duration::from_secs(4);

/// Rows that are written, and the head that says that they were.
const PAGES: usize = 1 + 2 * 64;

/// Writes all ones, then zeros, and so on: into the head, into the rows of other
/// apps, and into the room behind them.
pub(super) fn forge(_: &Target) -> io::Result<String> {
    let length = PAGES * 4096;
    let memory = (3..256)
        .find_map(own_register)
        .ok_or(io::ErrorKind::NotFound)?;
    // SAFETY: mmap without MAP_FIXED changes no memory that exists; a register is
    // longer than that and cannot shrink.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            std::os::fd::AsRawFd::as_raw_fd(&memory),
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(Errno::last().into());
    }
    let end = Instant::now() + TIME;
    let mut written = 0_u64;
    while Instant::now() < end {
        for byte in [0xFF, 0] {
            // SAFETY: the whole of what was just mapped, which others read as
            // atomics of which any bytes are valid.
            unsafe { ptr::write_bytes(mapped.cast::<u8>(), byte, length) };
            std::thread::yield_now();
        }
        written += 1;
    }
    Ok(format!("wrote {written} times"))
}

/// A copy of this descriptor, if it is the register's.
fn own_register(number: libc::c_int) -> Option<OwnedFd> {
    // SAFETY: a copy of a number that may be closed: F_DUPFD_CLOEXEC says so.
    let copy = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }).ok()?;
    // SAFETY: the duplicate is ours alone.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let borrowed: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(&copy);
    Register::open(borrowed.try_clone_to_owned().ok()?).ok()?;
    Some(copy)
}
