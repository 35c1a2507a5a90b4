//! What a child writes to its standard output and error, as its parent reads it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Our end of a pipe for what one child writes to its standard output and error.
///
/// Neither end ever waits, and each is an open file of its own: what the child
/// does to the flags of its end does nothing to ours.
#[derive(Debug)]
pub struct Output(File);

impl Output {
    /// A pipe: our end, and the child's for [`Spawn::output`](crate::Spawn::output).
    ///
    /// # Errors
    ///
    /// No descriptors left, in the process or in the system.
    pub fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok((Self(ours.into()), theirs))
    }

    /// Reads what is there; 0 once nobody can write any more.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl AsRawFd for Output {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn neither_end_waits_and_what_was_written_outlives_the_writer() {
        let (ours, theirs) = Output::pipe().unwrap();
        let mut piece = [0; 8];
        let nothing = ours.read(&mut piece).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let mut theirs = File::from(theirs);
        let full = loop {
            if let Err(error) = theirs.write(b"12345678") {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!(ours.read(&mut piece).unwrap(), 8);
        while ours.read(&mut piece).unwrap() > 0 {}
    }
}
