//! Children that were not made here.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process;

/// The processes that were made here and are not reaped yet.
pub(crate) fn ours() -> MutexGuard<'static, BTreeSet<libc::pid_t>> {
    static OURS: Mutex<BTreeSet<libc::pid_t>> = Mutex::new(BTreeSet::new());
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaps the children that have ended and were not made here: those that a
/// process inherits which is the first of its namespace, as in a container, when
/// their parents end. Returns how many those were.
pub fn reap_strangers() -> usize {
    let ours = ours();
    let children = process::children(std::process::id());
    let strangers = children.into_iter().filter_map(|pid| {
        let pid = libc::pid_t::try_from(pid).ok()?;
        (!ours.contains(&pid)).then(|| Pid::from_raw(pid))
    });
    let reaped = strangers.filter(|pid| {
        let ended = waitpid(*pid, Some(WaitPidFlag::WNOHANG));
        matches!(ended, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
    });
    reaped.count()
}
