//! The one fork of the program, and the processes that come of it.
//!
//! Responsible for a child that inherits nothing but what is named here, and
//! that is reaped whatever happens. When to fork and what an exit means is the
//! supervisor's.
//!
//! The child is this executable again, told apart by `argv[1]`. It gets
//! descriptor 3 as its channel, `/dev/null` to read, one descriptor as both of
//! its outputs (what is written to standard output by mistake is no data of the
//! parent's), no environment, default signal dispositions, an empty signal mask
//! and a process group of its own, so that a terminal's ^C reaches the parent
//! alone. It gets no parent-death signal: a worker may outlive its primary. Root
//! can give it to another user, for ever: then it has that user's group and no
//! other, and no capability.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::pipe2;

use crate::channel::CHANNEL_FD;
use crate::child::Child;
use crate::identity::Identity;
use crate::schedule::Schedule;
use crate::strangers::ours;

/// Signals are numbered from 1 to this on every Linux that we run on.
const LAST_SIGNAL: libc::c_int = 64;

/// What to spawn.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The hidden subcommand: `argv[1]`.
    pub role: &'a str,
    /// What `ps` shows: `argv[0]`.
    pub title: &'a str,
    /// The child's end of a channel.
    pub channel: OwnedFd,
    /// What becomes the child's standard output and error: its end of an
    /// [`Output`](crate::Output)'s pipe. `None` is this process's own standard error, of which
    /// the child then shares the position and the flags.
    pub output: Option<OwnedFd>,
    /// Who the child runs as, if not as this process does. Not root.
    pub identity: Option<Identity>,
    /// How it runs among others.
    pub schedule: Schedule,
}

/// Starts a process of ours. Returns once the new program runs, or with the
/// reason why it does not.
///
/// # Errors
///
/// No processes, memory or descriptors left; a title or role with a NUL; the
/// executable may not be run. `PermissionDenied` when the child cannot become
/// the user that was named, or that user may not run this executable;
/// `InvalidInput` when that user is root. Those say so in their text.
pub fn spawn(spawn: Spawn<'_>) -> io::Result<Child> {
    let identity = spawn.identity;
    if identity.is_some_and(|identity| identity.uid == 0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a process cannot be given to root",
        ));
    }
    let title = CString::new(spawn.title)?;
    let role = CString::new(spawn.role)?;
    let argv = [title.as_ptr(), role.as_ptr(), ptr::null()];

    // The child moves these to their places with dup2; from above those places
    // none can be overwritten before its turn.
    let channel = above_channel(spawn.channel)?;
    let null = above_channel(File::open("/dev/null")?.into())?;
    let output = match spawn.output {
        Some(output) => output,
        None => io::stderr().as_fd().try_clone_to_owned()?,
    };
    let output = above_channel(output)?;
    let (report, failure) = pipe2(OFlag::O_CLOEXEC)?;
    let failure = above_channel(failure)?;

    // No handler of ours may run in the child, which shares our memory's
    // image but not our threads.
    let mut mask = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut mask),
    )?;
    let mut ours = ours();
    // SAFETY: fork has no conditions of its own; in a process with threads the
    // child may only make async-signal-safe calls until it execs. `become_child`
    // makes nothing but system calls, never returns, and all memory that it
    // reads was prepared above and lives in this frame.
    let forked = Errno::result(unsafe { libc::fork() });
    if let Ok(0) = forked {
        spawn.schedule.take_up();
        become_child(
            &argv,
            channel.as_fd(),
            null.as_fd(),
            output.as_fd(),
            failure.as_fd(),
            identity,
        );
    }
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    debug_assert!(restored.is_ok(), "a mask that was in force is valid");
    drop((channel, output, failure));

    let pid = forked?;
    ours.insert(pid);
    drop(ours);
    let mut child = adopt(pid).inspect_err(|_| {
        crate::strangers::ours().remove(&pid);
    })?;
    match read_failure(report)? {
        None => Ok(child),
        Some(failure) => {
            child.wait(WaitPidFlag::WEXITED)?;
            Err(failure.explained(identity))
        }
    }
}

fn above_channel(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > CHANNEL_FD {
        return Ok(fd);
    }
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(CHANNEL_FD + 1))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// The pidfd of a child that nobody has reaped yet, so that its number cannot
/// mean another process.
fn adopt(pid: libc::pid_t) -> io::Result<Child> {
    // SAFETY: pidfd_open takes two integers and touches no memory.
    let pidfd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) });
    match pidfd {
        Ok(pidfd) => Ok(Child {
            pid: pid.unsigned_abs(),
            // SAFETY: pidfd_open has just made this descriptor for us alone,
            // close-on-exec.
            pidfd: unsafe {
                OwnedFd::from_raw_fd(RawFd::try_from(pidfd).expect("descriptors are ints"))
            },
            ended: None,
        }),
        Err(errno) => {
            // Without a pidfd it cannot be supervised: do not leave it behind.
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(errno.into())
        }
    }
}

/// Where the child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    /// While it arranged what it inherits.
    Arranging,
    /// While it became another user.
    ChangingUser,
    /// At the exec.
    Executing,
}

/// What the child reports before exec.
#[derive(Clone, Copy, Debug)]
struct Failure {
    step: Step,
    errno: Errno,
}

/// A step and an error number, as they go through the pipe.
type Report = [u8; 5];

impl Failure {
    fn report(self) -> Report {
        let [a, b, c, d] = (self.errno as i32).to_ne_bytes();
        [self.step as u8, a, b, c, d]
    }

    fn reported([step, a, b, c, d]: Report) -> Self {
        Self {
            step: match step {
                0 => Step::Arranging,
                1 => Step::ChangingUser,
                _ => Step::Executing,
            },
            errno: Errno::from_raw(i32::from_ne_bytes([a, b, c, d])),
        }
    }

    fn explained(self, identity: Option<Identity>) -> io::Error {
        let error = io::Error::from(self.errno);
        let Some(Identity { uid, gid }) = identity else {
            return error;
        };
        let kind = error.kind();
        match (self.step, self.errno) {
            (Step::ChangingUser, _) => io::Error::new(
                kind,
                format!("cannot become user {uid} of group {gid}, which takes root: {error}"),
            ),
            (Step::Executing, Errno::EACCES) => io::Error::new(
                kind,
                format!(
                    "user {uid} of group {gid} may not run the skep executable: give it the mode 0755, \
                     on a file system that is not mounted noexec"
                ),
            ),
            // A user can have too many processes.
            _ => error,
        }
    }
}

impl From<(Step, Errno)> for Failure {
    fn from((step, errno): (Step, Errno)) -> Self {
        Self { step, errno }
    }
}

/// The child's report, or `None` when the exec closed its end of the pipe. The
/// child makes a fixed number of system calls before either, none of which
/// waits, so neither does this.
fn read_failure(report: OwnedFd) -> io::Result<Option<Failure>> {
    let mut bytes = Report::default();
    match File::from(report).read_exact(&mut bytes) {
        Ok(()) => Ok(Some(Failure::reported(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The child's side of the fork: system calls only, no allocation, no lock,
/// no panic.
fn become_child(
    argv: &[*const libc::c_char; 3],
    channel: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    failure: BorrowedFd<'_>,
    identity: Option<Identity>,
) -> ! {
    let failed = match arrange(channel, null, output) {
        Err(errno) => Failure::from((Step::Arranging, errno)),
        Ok(()) => match identity.map_or(Ok(()), become_user) {
            Err(errno) => Failure::from((Step::ChangingUser, errno)),
            Ok(()) => Failure::from((Step::Executing, exec(argv))),
        },
    };
    let report = failed.report();
    // SAFETY: write reads the bytes of `report`, which live in this frame.
    // _exit ends the process without running what the parent's exit would run.
    unsafe {
        libc::write(failure.as_raw_fd(), report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Descriptors, signals and the process group.
fn arrange(
    channel: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
) -> Result<(), Errno> {
    // SAFETY: all of these are async-signal-safe system calls. dup2 and setpgid
    // take integers; the sources are open and lie above every target, so no
    // dup2 closes what a later one needs. close_range only marks descriptors
    // close-on-exec. sigaction reads a zeroed sigaction, which is SIG_DFL with
    // an empty mask, and writes nothing; sigemptyset and sigprocmask work on a
    // set in this frame.
    unsafe {
        Errno::result(libc::setpgid(0, 0))?;
        Errno::result(libc::dup2(null.as_raw_fd(), 0))?;
        Errno::result(libc::dup2(output.as_raw_fd(), 1))?;
        Errno::result(libc::dup2(output.as_raw_fd(), 2))?;
        Errno::result(libc::dup2(channel.as_raw_fd(), CHANNEL_FD))?;
        Errno::result(libc::syscall(
            libc::SYS_close_range,
            CHANNEL_FD + 1,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        ))?;
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=LAST_SIGNAL {
            // Fails for SIGKILL, SIGSTOP and the libc's own: they are default.
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        Errno::result(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut(),
        ))?;
    }
    Ok(())
}

/// Becomes another user, without a way back.
fn become_user(Identity { uid, gid }: Identity) -> Result<(), Errno> {
    const KEEP: libc::uid_t = libc::uid_t::MAX;
    let (mut real, mut effective, mut saved) = (KEEP, KEEP, KEEP);
    let is = |wanted, ids: [u32; 3]| ids == [wanted; 3];
    // SAFETY: system calls with integers, and with pointers to integers of this
    // frame: setgroups reads one, getresuid and getresgid write three each.
    // They are made directly because the libc's functions would stop threads
    // that this process, fresh from fork, has not.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setgroups, 1, &raw const gid))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        Errno::result(libc::syscall(
            libc::SYS_getresgid,
            &raw mut real,
            &raw mut effective,
            &raw mut saved,
        ))?;
        if !is(gid, [real, effective, saved]) {
            return Err(Errno::EPERM);
        }
        Errno::result(libc::syscall(
            libc::SYS_getresuid,
            &raw mut real,
            &raw mut effective,
            &raw mut saved,
        ))?;
        if !is(uid, [real, effective, saved]) {
            return Err(Errno::EPERM);
        }
        // Capabilities that survived the change would allow the way back.
        if libc::syscall(libc::SYS_setresuid, KEEP, 0, KEEP) == 0 {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// Returns only when it fails.
fn exec(argv: &[*const libc::c_char; 3]) -> Errno {
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: execve is async-signal-safe, and gets NUL-terminated strings in
    // arrays that end in null, all owned by the parent's frame, of which this
    // is a copy, or by this one.
    unsafe {
        libc::execve(
            c"/proc/self/exe".as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
        );
    }
    Errno::last()
}
