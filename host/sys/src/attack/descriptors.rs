//! Attacks by means of the descriptors that a process has.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use super::Target;
use super::attempts::{call, of};

/// Every descriptor that an attacker may try.
const NUMBERS: std::ops::Range<libc::c_int> = 3..256;

/// Lets whoever has it open, too, wait for ever at one of our sockets.
pub(super) fn block(_: &Target) -> io::Result<String> {
    for number in NUMBERS {
        // SAFETY: F_SETFL takes integers; a closed number gives EBADF.
        if unsafe { libc::fcntl(number, libc::F_SETFL, 0) } == 0 {
            return Ok(format!("descriptor {number} blocks"));
        }
    }
    Err(io::Error::last_os_error())
}

pub(super) fn block_ioctl(_: &Target) -> io::Result<String> {
    let off: libc::c_int = 0;
    for number in NUMBERS {
        // SAFETY: FIONBIO reads one integer, which lives in this frame.
        if unsafe { libc::ioctl(number, libc::FIONBIO, &raw const off) } == 0 {
            return Ok(format!("descriptor {number} blocks"));
        }
    }
    Err(io::Error::last_os_error())
}

/// Has all connections to come of a listener cut at their ends.
pub(super) fn linger(_: &Target) -> io::Result<String> {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let (level, option) = (of(libc::SOL_SOCKET), of(libc::SO_LINGER));
    let length = size_of_val(&now);
    let mut last = Err(io::ErrorKind::NotFound.into());
    for number in NUMBERS {
        let pointer = (&raw const now) as usize;
        last = call(
            libc::SYS_setsockopt,
            &[of(number), level, option, pointer, length],
        );
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Keeps workers to come from mapping their scoreboard.
pub(super) fn seal(_: &Target) -> io::Result<String> {
    for number in NUMBERS {
        // SAFETY: F_ADD_SEALS takes integers; what is no memory gives EINVAL.
        let sealed = unsafe { libc::fcntl(number, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
        if sealed == 0 {
            return Ok(format!("descriptor {number} is sealed"));
        }
    }
    Err(io::Error::last_os_error())
}

/// Gives descriptors to everybody whom this process has a socket to.
pub(super) fn send_descriptors(_: &Target) -> io::Result<String> {
    let mut sent = 0;
    for number in NUMBERS {
        // SAFETY: a copy of a number that may be closed: F_DUPFD_CLOEXEC says so.
        let Ok(copy) = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })
        else {
            continue;
        };
        // SAFETY: the duplicate is ours alone.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        let Ok(channel) = crate::Channel::from_fd(copy) else {
            continue;
        };
        let stderr = io::stderr();
        let stderr = std::os::fd::AsFd::as_fd(&stderr);
        if channel.send(b"x", &[stderr, stderr]).is_ok() {
            sent += 1;
        }
    }
    Ok(format!("to {sent}"))
}

/// Succeeds if there was no end to it.
pub(super) fn exhaust_descriptors(_: &Target) -> io::Result<String> {
    const MANY: usize = 2 << 20;
    let mut held: Vec<OwnedFd> = Vec::new();
    while held.len() < MANY {
        // SAFETY: F_DUPFD_CLOEXEC takes an open descriptor and a number.
        let copy = Errno::result(unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 3) })?;
        // SAFETY: the duplicate is ours alone.
        held.push(unsafe { OwnedFd::from_raw_fd(copy) });
    }
    Ok(format!("{} descriptors", held.len()))
}

/// Says what is open: never fails, and is judged by what it says.
pub(super) fn descriptors(_: &Target) -> io::Result<String> {
    let mut open = Vec::new();
    for number in 0..4096 {
        // SAFETY: fstat writes one stat, which is ours; a closed number gives
        // EBADF.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        if unsafe { libc::fstat(number, &raw mut stat) } == 0 {
            let kind = match stat.st_mode & libc::S_IFMT {
                libc::S_IFSOCK => "socket",
                libc::S_IFREG => "file",
                libc::S_IFDIR => "folder",
                libc::S_IFCHR => "device",
                libc::S_IFIFO => "pipe",
                _ => "other",
            };
            open.push(format!("{number}:{kind}"));
        }
    }
    let standard = io::stderr().as_raw_fd();
    Ok(format!("stderr {standard}; {}", open.join(" ")))
}
