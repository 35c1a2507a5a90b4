//! What a worker may do: accept connections and run guests.
//!
//! A worker has one thread that does everything. The primary and other roles
//! open things for it and pass them: listeners, connections, artifacts. It
//! opens nothing itself but what it was passed, a second time and to read. What
//! it was passed others have open, too, so it changes nothing of it: not whether
//! it blocks, not its position, not its options.

use crate::policy::basics::{
    ANSWERED, LIVING, Limit, MEMORY, NEW_CODE, NO_SEEKING, NO_THREADS, READING, SERVING, TALKING,
    WAITING, command, lasting, request,
};
use crate::policy::seccomp::{Answer, Policy, Refused, Rule, When};

/// Folders that guests of this worker may use.
#[derive(Clone, Copy)]
pub(crate) enum Mounts {
    None,
    Read,
    Write,
}

pub(crate) fn resource_limits(descriptors: u64) -> [Limit; 5] {
    lasting(descriptors)
}

pub(crate) fn policy(mounts: Mounts) -> Policy {
    let mut policy = Policy {
        allowed: vec![
            LIVING, MEMORY, NEW_CODE, WAITING, TALKING, SERVING, READING, GUESTS,
        ],
        answered: vec![ANSWERED, NO_THREADS, NO_MEMORY_FILES, NO_SEEKING],
    };
    match mounts {
        Mounts::None => policy.answered.push(NO_LINKS),
        Mounts::Read => policy.allowed.push(READ_MOUNTS),
        Mounts::Write => policy.allowed.extend([READ_MOUNTS, WRITE_MOUNTS]),
    }
    policy
}

/// `PAGEMAP_SCAN` of linux/fs.h: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u32 = 0xC060_6610;

/// This process, in place of a pidfd (linux/pidfd.h).
const PIDFD_SELF: u32 = (-10_000_i32).cast_unsigned();

/// Running guests.
const GUESTS: &[Rule] = &[
    // Resetting an instance asks which pages it has written: its own pagemap
    // is open since before confinement.
    Rule::allow_when(libc::SYS_ioctl, request(PAGEMAP_SCAN)),
    // …and gives many of them back at once.
    Rule::allow_when(
        libc::SYS_process_madvise,
        When::Is {
            argument: 0,
            value: PIDFD_SELF,
        },
    ),
    // Barriers after code was mapped, on AArch64.
    Rule::allow(libc::SYS_membarrier),
    // The ticks of running guests: signals to this very thread.
    Rule::allow(libc::SYS_timer_create),
    Rule::allow(libc::SYS_timer_settime),
    Rule::allow(libc::SYS_timer_gettime),
    Rule::allow(libc::SYS_timer_delete),
];

/// Reading a mount. What `openat2` opens, and how, cannot be seen by a filter:
/// Landlock says which folders, and that nothing is written.
const READ_MOUNTS: &[Rule] = &[
    Rule::allow(libc::SYS_openat2),
    Rule::allow(libc::SYS_getdents64),
    Rule::allow(libc::SYS_readlinkat),
    Rule::allow(libc::SYS_preadv),
    Rule::allow(libc::SYS_fadvise64),
    // Whether guests may share a file.
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_OFD_GETLK)),
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_OFD_SETLK)),
];

/// Writing to a mount: Landlock says to which.
const WRITE_MOUNTS: &[Rule] = &[
    Rule::allow(libc::SYS_openat),
    Rule::allow(libc::SYS_pwrite64),
    Rule::allow(libc::SYS_pwritev),
    Rule::allow(libc::SYS_ftruncate),
    Rule::allow(libc::SYS_fallocate),
    Rule::allow(libc::SYS_fsync),
    Rule::allow(libc::SYS_fdatasync),
    Rule::allow(libc::SYS_mkdirat),
    Rule::allow(libc::SYS_unlinkat),
    Rule::allow(libc::SYS_renameat),
    Rule::allow(libc::SYS_renameat2),
    Rule::allow(libc::SYS_linkat),
    Rule::allow(libc::SYS_symlinkat),
    Rule::allow(libc::SYS_utimensat),
];

/// wasmtime would make files in memory for initial memories that no artifact
/// holds, and goes on without. With `ftruncate`, which those need, a worker
/// could cut what it was passed open to write, a mount's files among it.
const NO_MEMORY_FILES: &[Refused] = &[Refused::answer(libc::SYS_memfd_create, Answer::Missing)];

/// Without mounts nothing reads links but libraries that go on without.
const NO_LINKS: &[Refused] = &[
    Refused::answer(libc::SYS_readlinkat, Answer::Denied),
    Refused::answer(libc::SYS_openat2, Answer::Missing),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_readlink, Answer::Denied),
];
