//! Finding out where a descriptor was registered.
//!
//! Runtimes do not tell their epoll nor their tokens. The kernel does, in
//! `/proc/self/fdinfo` of the epoll, one line per registration (proc(5)):
//!
//! ```text
//! tfd:        9 events: 80002001 data:     55d0c4a7e2c0  pos:0 ino:4d2 sdev:8
//! ```

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::epoll::Epoll;

thread_local! {
    /// Event loops belong to threads.
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Bytes of those lines that are read at a time: some fifty registrations.
const PIECE: usize = 4 << 10;

/// An event loop, and the kernel's lines about it, which can be read again and
/// again once they are open.
struct Kept {
    epoll: Epoll,
    lines: File,
}

/// Keeps the event loop in which a descriptor is registered, so that what is
/// registered there later is found without `/proc`.
pub(crate) fn keep(watched: RawFd) -> io::Result<()> {
    let (epoll, _) = search(watched)?;
    let lines = File::open(lines_about(epoll.0.as_raw_fd()))?;
    KEPT.set(Some(Kept { epoll, lines }));
    Ok(())
}

/// The epoll in which a descriptor of this process is registered, and its
/// token there.
pub(super) fn find(watched: RawFd) -> io::Result<(Epoll, u64)> {
    match KEPT.with_borrow(|kept| kept.as_ref().map(|kept| kept.find(watched))) {
        Some(Ok(Some(found))) => Ok(found),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => search(watched),
    }
}

impl Kept {
    fn find(&self, watched: RawFd) -> io::Result<Option<(Epoll, u64)>> {
        // From the start, without moving the file's position: a confined
        // process may not.
        let mut registrations = Vec::new();
        let mut piece = [0; PIECE];
        loop {
            let count = self.lines.read_at(&mut piece, registrations.len() as u64)?;
            if count == 0 {
                break;
            }
            registrations.extend_from_slice(&piece[..count]);
        }
        let registrations = String::from_utf8_lossy(&registrations);
        let Some(token) = parse(&registrations, watched) else {
            return Ok(None);
        };
        Ok(Some((Epoll(self.epoll.0.try_clone()?), token)))
    }
}

fn search(watched: RawFd) -> io::Result<(Epoll, u64)> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let is_epoll = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]");
        let Some(number) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if !is_epoll {
            continue;
        }
        let Some(token) = token_in(number, watched) else {
            continue;
        };
        // SAFETY: F_DUPFD_CLOEXEC takes two integers. Were the number closed
        // meanwhile, it would fail; were it another file, deleting from it
        // would fail next.
        let ours = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) })?;
        // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor for us alone.
        return Ok((Epoll(unsafe { OwnedFd::from_raw_fd(ours) }), token));
    }
    Err(io::ErrorKind::NotConnected.into())
}

fn token_in(epoll: RawFd, watched: RawFd) -> Option<u64> {
    let registrations = fs::read_to_string(lines_about(epoll)).ok()?;
    parse(&registrations, watched)
}

fn lines_about(epoll: RawFd) -> String {
    format!("/proc/self/fdinfo/{epoll}")
}

fn parse(registrations: &str, watched: RawFd) -> Option<u64> {
    registrations.lines().find_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let descriptor: RawFd = words.next()?.parse().ok()?;
        let token = words.skip_while(|word| *word != "data:").nth(1)?;
        (descriptor == watched).then(|| u64::from_str_radix(token, 16).ok())?
    })
}

/// Lets the descriptor `at` refer to what `file` does, under its old number.
pub(super) fn replace(at: &OwnedFd, file: &impl AsFd) -> io::Result<()> {
    // SAFETY: dup3 takes integers, both of them open descriptors that are
    // borrowed here. `at` goes on to own its number; what it referred to is
    // closed, and nobody relies on that: it is private to the listener.
    let result = unsafe { libc::dup3(file.as_fd().as_raw_fd(), at.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_from_the_kernels_lines() {
        let lines = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1035\n\
            tfd:        9 events: 80002001 data:     55d0c4a7e2c0  pos:0 ino:4d2 sdev:8\n\
            tfd:       12 events:       19 data: ffffffffffffffff  pos:0 ino:4d3 sdev:8\n";
        assert_eq!(parse(lines, 9), Some(0x55d0_c4a7_e2c0));
        assert_eq!(parse(lines, 12), Some(u64::MAX));
        assert_eq!(parse(lines, 1), None);
        assert_eq!(parse("tfd: x", 1), None);
    }
}
