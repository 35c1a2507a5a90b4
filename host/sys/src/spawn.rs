//! How the program makes processes, and the processes that come of it.
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
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::dup3;

use crate::channel::CHANNEL_FD;
use crate::child::Child;
use crate::identity::Identity;
use crate::schedule::Schedule;
use crate::strangers::ours;

/// The child's stack until it executes, in bytes: its deepest call needs 1 KiB.
const STACK: usize = 64 << 10;

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

    let output = match spawn.output {
        Some(output) => output,
        None => io::stderr().as_fd().try_clone_to_owned()?,
    };
    let mut doors = doors();
    let doors = match &mut *doors {
        Some(doors) => doors,
        none => none.insert(Doors::reserve()?),
    };
    let doors = doors.open(spawn.channel.as_fd(), output.as_fd())?;
    let mut birth = Birth {
        argv: &argv,
        doors: doors.0,
        identity,
        schedule: spawn.schedule,
        failure: None,
    };

    // No handler of ours may run in the child, which has our memory but none of
    // our threads.
    let mut mask = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut mask),
    )?;
    let mut ours = ours();
    let born = bear(&mut birth);
    let failure = birth.failure;
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    debug_assert!(restored.is_ok(), "a mask that was in force is valid");
    // From here on nobody but the child has what it was given.
    drop((doors, spawn.channel, output));

    let pid = born?;
    ours.insert(pid);
    drop(ours);
    let mut child = adopt(pid).inspect_err(|_| {
        crate::strangers::ours().remove(&pid);
    })?;
    match failure {
        None => Ok(child),
        Some(failure) => {
            child.wait(WaitPidFlag::WEXITED)?;
            Err(failure.explained(identity))
        }
    }
}

/// What the child needs, and what it says before exec.
struct Birth<'a> {
    argv: &'a [*const libc::c_char; 3],
    doors: &'a Doors,
    identity: Option<Identity>,
    schedule: Schedule,
    /// Why there is no new program, if there is none.
    failure: Option<Failure>,
}

/// Makes the child, and returns once it has its new program or has ended: until
/// then it uses our memory. A copy of that would cost the more the more there is,
/// and with hundreds of pools most of what a crash costs.
fn bear(birth: &mut Birth<'_>) -> Result<libc::pid_t, Errno> {
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    // SAFETY: the child runs `become_child` on a stack of its own, which lives until
    // clone returns, as does `birth`: CLONE_VFORK has this thread wait until the
    // child has executed or ended. It has our descriptors until it has copied what
    // it needs, and a copy of our signal dispositions and of our mask, which blocks
    // all signals.
    Errno::result(unsafe {
        libc::clone(
            become_child,
            stack.spare_capacity_mut().as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD,
            (&raw mut *birth).cast(),
        )
    })
}

/// Descriptors with low numbers, through which children get theirs. A child keeps
/// the descriptors up to these alone: to copy all, of which there are thousands
/// where there are hundreds of pools, was most of what it cost to make one.
struct Doors {
    null: OwnedFd,
    /// These two are the null device while no child is born.
    channel: OwnedFd,
    output: OwnedFd,
}

/// Those of this process. Who has them makes a child, one at a time.
fn doors() -> MutexGuard<'static, Option<Doors>> {
    static DOORS: Mutex<Option<Doors>> = Mutex::new(None);
    DOORS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Doors {
    /// The lowest numbers that are vacant, above those of the places that a child
    /// moves them to, so that none is overwritten before its turn.
    fn reserve() -> io::Result<Self> {
        let null = above_channel(File::open("/dev/null")?.into())?;
        Ok(Self {
            channel: null.try_clone()?,
            output: null.try_clone()?,
            null,
        })
    }

    /// They are these descriptors, until what is returned is dropped.
    fn open(
        &mut self,
        channel: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> io::Result<OpenDoors<'_>> {
        let open = OpenDoors(self);
        dup3(channel, &mut open.0.channel, OFlag::O_CLOEXEC)?;
        dup3(output, &mut open.0.output, OFlag::O_CLOEXEC)?;
        Ok(open)
    }

    /// The highest of them.
    fn highest(&self) -> BorrowedFd<'_> {
        let mut highest = self.null.as_fd();
        for door in [&self.channel, &self.output] {
            if door.as_raw_fd() > highest.as_raw_fd() {
                highest = door.as_fd();
            }
        }
        highest
    }
}

/// Doors while a child is born.
struct OpenDoors<'a>(&'a mut Doors);

impl Drop for OpenDoors<'_> {
    fn drop(&mut self) {
        let Doors {
            null,
            channel,
            output,
        } = &mut *self.0;
        for door in [channel, output] {
            let closed = dup3(&*null, door, OFlag::O_CLOEXEC);
            debug_assert!(closed.is_ok(), "both descriptors are open");
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
enum Step {
    /// While it arranged what it inherits.
    Arranging,
    /// While it became another user.
    ChangingUser,
    /// At the exec.
    Executing,
}

/// What the child says before exec.
#[derive(Clone, Copy, Debug)]
struct Failure {
    step: Step,
    errno: Errno,
}

impl Failure {
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

/// The child's side: system calls only, no allocation, no lock, no panic. Never
/// returns.
extern "C" fn become_child(birth: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `bear` passes a `Birth` that nobody else uses until this child has
    // executed or ended.
    let birth = unsafe { &mut *birth.cast::<Birth<'_>>() };
    birth.schedule.take_up();
    let failed = match arrange(birth.doors) {
        Err(errno) => Failure::from((Step::Arranging, errno)),
        Ok(()) => match birth.identity.map_or(Ok(()), become_user) {
            Err(errno) => Failure::from((Step::ChangingUser, errno)),
            Ok(()) => Failure::from((Step::Executing, exec(birth.argv))),
        },
    };
    birth.failure = Some(failed);
    // SAFETY: _exit ends the process without running what the parent's exit would
    // run.
    unsafe { libc::_exit(127) }
}

/// Descriptors, signals and the process group.
fn arrange(doors: &Doors) -> Result<(), Errno> {
    let (channel, null, output) = (&doors.channel, &doors.null, &doors.output);
    // SAFETY: all of these are async-signal-safe system calls. The first close_range
    // gives this process a table of its own, with the descriptors up to the doors,
    // and changes nothing of the parent's. dup2 and setpgid
    // take integers; the sources are open and lie above every target, so no
    // dup2 closes what a later one needs. The second close_range only marks
    // descriptors close-on-exec. sigaction reads a zeroed sigaction, which is SIG_DFL with
    // an empty mask, and writes nothing; sigemptyset and sigprocmask work on a
    // set in this frame.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_close_range,
            doors.highest().as_raw_fd() + 1,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        ))?;
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
    // They are made directly because the libc's functions would stop the threads
    // that it sees in our memory, which are not this process's.
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
    // arrays that end in null, all owned by the parent's frame, or by this
    // one.
    unsafe {
        libc::execve(
            c"/proc/self/exe".as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
        );
    }
    Errno::last()
}
