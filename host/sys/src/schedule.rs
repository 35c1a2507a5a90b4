//! How soon and how long the kernel lets a process run among others.
//!
//! Responsible for what is set before a process does anything; it is inherited by
//! its threads. Nothing here needs a privilege, and nothing fails: a kernel that
//! does not know a setting goes on as it did.
//!
//! A process that has become ready waits for the slice of the one that runs. Since
//! Linux 6.12 a process may ask for another slice than the system's of some
//! milliseconds: a shorter one puts it ahead of those with longer ones when it
//! becomes ready, and it has no more CPU time for it in all (EEVDF,
//! `sched_setattr(2)`).

use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// What a process is for, as far as the scheduler is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// As this process.
    #[default]
    Usual,
    /// It answers requests: slices of [`SHORT`].
    Serving,
    /// It works while others serve: slices of [`LONG`], never ahead of another
    /// one that becomes ready, and a third of the CPU where a serving process
    /// wants it too ([`NICER`]).
    Background,
}

/// Slices of processes that serve: long enough for some ten requests.
pub const SHORT: Duration = Duration::from_micros(400);
/// Slices of those in the background.
pub const LONG: Duration = Duration::from_millis(20);
/// By how much they are nicer. Of nineteen: they have deadlines to meet on a busy
/// machine.
pub const NICER: i32 = 5;

/// `struct sched_attr` of Linux 4.12; later kernels take the shorter one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = 48;
const _: () = assert!(size_of::<Attributes>() == 48);

impl Schedule {
    /// Sets it for the calling thread, and for what it starts from now on.
    ///
    /// Two system calls, and nothing else: for a child between fork and exec.
    pub(crate) fn take_up(self) {
        let (slice, policy, nicer) = match self {
            Self::Usual => return,
            Self::Serving => (SHORT, libc::SCHED_OTHER, 0),
            Self::Background => (LONG, libc::SCHED_BATCH, NICER),
        };
        let Ok(mut attributes) = get() else { return };
        if i32::try_from(attributes.policy) != Ok(libc::SCHED_OTHER) {
            // Whoever started us has chosen something else for all of us.
            return;
        }
        attributes.policy = policy.unsigned_abs();
        attributes.nice = (attributes.nice + nicer).min(19);
        attributes.runtime = nanos(slice);
        let _ = set(&attributes);
    }
}

/// Whether this kernel knows slices of a process's own. To be sure, the calling
/// thread asks for one, and has its own again afterwards.
///
/// # Errors
///
/// The kernel does not say.
pub fn has_slices() -> io::Result<bool> {
    let before = get()?;
    let mut asked = before;
    asked.runtime = nanos(SHORT);
    set(&asked)?;
    let after = get();
    // Zero asks for the system's own.
    let restored = Attributes {
        runtime: 0,
        ..before
    };
    set(&restored)?;
    Ok(after?.runtime == nanos(SHORT))
}

fn nanos(slice: Duration) -> u64 {
    u64::from(slice.subsec_nanos())
}

fn get() -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: sched_getattr fills at most `SIZE` bytes of a structure that lives
    // in this frame and is as large; zero is the calling thread, and there are no
    // flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    Errno::result(result).map(|_| attributes)
}

fn set(attributes: &Attributes) -> Result<(), Errno> {
    let attributes = Attributes {
        size: SIZE,
        ..*attributes
    };
    // SAFETY: sched_setattr reads `size` bytes of a structure that lives in this
    // frame and is as large; zero is the calling thread, and there are no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, of which nothing else is.
    fn after(schedule: Schedule) -> (Attributes, Attributes) {
        let thread = std::thread::spawn(move || {
            let before = get().unwrap();
            schedule.take_up();
            (before, get().unwrap())
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_process_that_serves_asks_for_short_slices_and_no_more_time() {
        let (before, now) = after(Schedule::Serving);
        assert_eq!((now.policy, now.nice), (before.policy, before.nice));
        if has_slices().unwrap() {
            assert_eq!(now.runtime, 400_000);
            // It has asked for itself only, for a moment.
            assert_ne!(get().unwrap().runtime, 400_000);
        }
    }

    #[test]
    fn one_in_the_background_is_nicer_and_asks_for_long_ones() {
        let (before, now) = after(Schedule::Background);
        assert_eq!(i32::try_from(now.policy).unwrap(), libc::SCHED_BATCH);
        assert_eq!(now.nice, (before.nice + NICER).min(19));
        if has_slices().unwrap() {
            assert_eq!(now.runtime, 20_000_000);
        }
        let (before, now) = after(Schedule::Usual);
        assert_eq!((now.policy, now.nice), (before.policy, before.nice));
        assert_eq!(now.runtime, before.runtime);
    }
}
