//! A process that was started here: signalled, awaited, and reaped whatever
//! happens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::strangers::ours;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// What a parent says to its child by signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`: finish.
    Term,
    /// `SIGQUIT`: finish now.
    Quit,
    /// `SIGKILL`: be gone.
    Kill,
}

impl Signal {
    const fn number(self) -> libc::c_int {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Quit => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
        }
    }
}

/// A process that this one has started and not yet reaped.
///
/// As a descriptor it is a pidfd: readable once the process has ended.
/// Dropping it before that kills the process, and has it reaped without waiting
/// for its end: one that the kernel cannot end yet, as it waits for a disk, holds
/// nobody up.
#[derive(Debug)]
pub struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) ended: Option<Ended>,
}

impl Child {
    /// The process's number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// How the process ended, or `None` while it runs. The first call after
    /// the end reaps it, later ones repeat the answer.
    ///
    /// # Errors
    ///
    /// Somebody else has reaped it, which nothing in skep does.
    pub fn try_wait(&mut self) -> io::Result<Option<Ended>> {
        self.wait(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
    }

    /// Sends a signal to exactly this process, never to one that got its
    /// number later. Succeeds for one that has ended and is not yet reaped.
    ///
    /// # Errors
    ///
    /// `NotFound` once it was reaped; `PermissionDenied` when it runs as
    /// somebody whom we may not signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.ended.is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        // SAFETY: pidfd_send_signal takes an open pidfd, a signal number, and
        // for "as kill(2) does" a null siginfo and no flags; it touches no
        // memory of ours.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal.number(),
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) => Ok(()),
            Err(Errno::ESRCH) => Err(io::ErrorKind::NotFound.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn wait(&mut self, flags: WaitPidFlag) -> io::Result<Option<Ended>> {
        if self.ended.is_none() {
            self.ended = reap(self.pid, self.pidfd.as_fd(), flags)?;
        }
        Ok(self.ended)
    }
}

fn reap(pid: u32, pidfd: BorrowedFd<'_>, flags: WaitPidFlag) -> io::Result<Option<Ended>> {
    let ended = loop {
        match waitid(Id::PIDFd(pidfd), flags) {
            Ok(WaitStatus::Exited(_, code)) => break Some(Ended::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => break Some(Ended::Signal(signal as i32)),
            Ok(_) => break None,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if ended.is_some() {
        ours().remove(&pid.cast_signed());
    }
    Ok(ended)
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_some() || self.signal(Signal::Kill).is_err() {
            return;
        }
        if matches!(self.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        let (pid, pidfd) = (self.pid, self.pidfd.try_clone());
        let Ok(pidfd) = pidfd else { return };
        // Where there is no thread for it, it stays a zombie until this process
        // ends.
        let _ = std::thread::Builder::new()
            .name("skep-reap".to_owned())
            // The kernel's own time to take a process down is the deadline.
            .spawn(move || reap(pid, pidfd.as_fd(), WaitPidFlag::WEXITED));
    }
}
