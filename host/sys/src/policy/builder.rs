//! What a builder may do: compile one component that nobody trusts.
//!
//! A builder has one thread, its channel, the component and the artifact, all
//! open. It computes, allocates, reads and writes those, and ends.

use nix::sys::resource::Resource;

use crate::confine::BuilderLimits;
use crate::policy::seccomp::{Answer, Policy, Refused, Rule, When};

/// Numbers for descriptors: standard ones, channel, polling, and what comes
/// over the channel.
const DESCRIPTORS: u64 = 32;

/// Limits with their soft and hard values, and why.
pub(crate) fn resource_limits(limits: &BuilderLimits) -> [(&'static str, Resource, u64, u64); 6] {
    let cpu = limits.cpu.as_secs() + u64::from(limits.cpu.subsec_nanos() > 0);
    [
        // A component can be made to take for ever to compile. The second
        // value kills what ignores SIGXCPU.
        ("cpu", Resource::RLIMIT_CPU, cpu, cpu + 1),
        // …or all memory there is.
        ("memory", Resource::RLIMIT_AS, limits.memory, limits.memory),
        // …or fill the disk with its artifact.
        (
            "file size",
            Resource::RLIMIT_FSIZE,
            limits.file_size,
            limits.file_size,
        ),
        // It needs few descriptors.
        (
            "descriptors",
            Resource::RLIMIT_NOFILE,
            DESCRIPTORS,
            DESCRIPTORS,
        ),
        // It starts nothing (root is not held by this one; seccomp holds it).
        ("processes", Resource::RLIMIT_NPROC, 0, 0),
        // A tenant's component is nobody else's to read in a core file.
        ("core size", Resource::RLIMIT_CORE, 0, 0),
    ]
}

pub(crate) fn policy() -> Policy {
    Policy {
        allowed: vec![ALLOWED],
        answered: vec![ANSWERED],
    }
}

const ALLOWED: &[Rule] = &[
    // Its channel, the component and the artifact, all open already.
    Rule::allow(libc::SYS_read),
    Rule::allow(libc::SYS_readv),
    Rule::allow(libc::SYS_pread64),
    Rule::allow(libc::SYS_write),
    Rule::allow(libc::SYS_writev),
    Rule::allow(libc::SYS_pwrite64),
    // The position in the component's copy and in the artifact, which nobody
    // else reads before the builder's end.
    Rule::allow(libc::SYS_lseek),
    Rule::allow(libc::SYS_ftruncate),
    Rule::allow(libc::SYS_fsync),
    Rule::allow(libc::SYS_fdatasync),
    Rule::allow(libc::SYS_close),
    Rule::allow(libc::SYS_fstat),
    // Sizes of open files. By a path they tell that a file exists, and no more.
    Rule::allow(libc::SYS_statx),
    Rule::allow(libc::SYS_newfstatat),
    // Descriptor flags, duplicates, seals and locks. All that it has open is for
    // it alone: its end of its channel, of the pipe of its outputs, and the two
    // files.
    Rule::allow(libc::SYS_fcntl),
    // Messages with descriptors on the channel.
    Rule::allow(libc::SYS_sendmsg),
    Rule::allow(libc::SYS_recvmsg),
    Rule::allow(libc::SYS_sendto),
    Rule::allow(libc::SYS_recvfrom),
    // The channel's socket is checked for what it is; options cannot connect it.
    Rule::allow(libc::SYS_getsockopt),
    Rule::allow(libc::SYS_shutdown),
    // Waiting for the channel, directly or in an async runtime.
    Rule::allow(libc::SYS_ppoll),
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_epoll_wait),
    Rule::allow(libc::SYS_epoll_pwait),
    Rule::allow(libc::SYS_epoll_ctl),
    Rule::allow(libc::SYS_epoll_create1),
    Rule::allow(libc::SYS_eventfd2),
    // malloc and mimalloc. Code is made executable only to be inspected: a
    // component's types are read from a loaded module. It is never entered.
    Rule::allow(libc::SYS_brk),
    Rule::allow(libc::SYS_mmap),
    Rule::allow(libc::SYS_munmap),
    Rule::allow(libc::SYS_mremap),
    Rule::allow(libc::SYS_mprotect),
    Rule::allow(libc::SYS_madvise),
    // Anonymous files, for the initial memory of a module that is loaded to be
    // inspected.
    Rule::allow(libc::SYS_memfd_create),
    // wasmtime makes barriers after it has written code.
    Rule::allow(libc::SYS_membarrier),
    // Locks, also those that one thread alone takes.
    Rule::allow(libc::SYS_futex),
    Rule::allow(libc::SYS_sched_yield),
    // Hash seeds and temporary names.
    Rule::allow(libc::SYS_getrandom),
    // Clocks, where the vDSO does not answer, and sleeps.
    Rule::allow(libc::SYS_clock_gettime),
    Rule::allow(libc::SYS_clock_getres),
    Rule::allow(libc::SYS_gettimeofday),
    Rule::allow(libc::SYS_clock_nanosleep),
    // Thread pools and allocators ask how many CPUs and which stack there are.
    Rule::allow(libc::SYS_sched_getaffinity),
    Rule::allow(libc::SYS_getcpu),
    Rule::allow(libc::SYS_sysinfo),
    Rule::allow(libc::SYS_uname),
    Rule::allow(libc::SYS_getpid),
    Rule::allow(libc::SYS_gettid),
    Rule::allow(libc::SYS_geteuid),
    Rule::allow(libc::SYS_getuid),
    Rule::allow(libc::SYS_getrusage),
    // Limits are read (a stack's size); nothing can be raised above them.
    Rule {
        syscall: libc::SYS_prlimit64,
        when: When::Zero { argument: 2 },
    },
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_getrlimit),
    // Naming mappings and threads; the names are shown, nothing else.
    Rule {
        syscall: libc::SYS_prctl,
        when: When::Is {
            argument: 0,
            value: libc::PR_SET_VMA.cast_unsigned(),
        },
    },
    Rule {
        syscall: libc::SYS_prctl,
        when: When::Is {
            argument: 0,
            value: libc::PR_SET_NAME.cast_unsigned(),
        },
    },
    // Signal handlers and their stack: std's overflow guard, wasmtime's traps.
    Rule::allow(libc::SYS_rt_sigaction),
    Rule::allow(libc::SYS_rt_sigprocmask),
    Rule::allow(libc::SYS_rt_sigreturn),
    Rule::allow(libc::SYS_sigaltstack),
    // abort() signals the process itself, and nobody else.
    Rule {
        syscall: libc::SYS_tgkill,
        when: When::OwnPid { argument: 0 },
    },
    // A wait that a stop signal interrupted goes on.
    Rule::allow(libc::SYS_restart_syscall),
    // The end.
    Rule::allow(libc::SYS_exit),
    Rule::allow(libc::SYS_exit_group),
];

/// Libraries try these and go on without: they are told no instead of dying.
const ANSWERED: &[Refused] = &[
    // Backtraces open the executable, allocators and CPU counts read /proc
    // and /sys. Landlock forbids it too, where there is Landlock.
    Refused::answer(libc::SYS_openat, Answer::Denied),
    Refused::answer(libc::SYS_readlinkat, Answer::Denied),
    Refused::answer(libc::SYS_faccessat, Answer::Denied),
    Refused::answer(libc::SYS_faccessat2, Answer::Denied),
    Refused::answer(libc::SYS_getcwd, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_open, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_readlink, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_access, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_stat, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_lstat, Answer::Denied),
    // std's copy between files tries these first.
    Refused::answer(libc::SYS_copy_file_range, Answer::Missing),
    Refused::answer(libc::SYS_sendfile, Answer::Missing),
    Refused::answer(libc::SYS_splice, Answer::Missing),
    // isatty, for the colour of messages.
    Refused::answer(libc::SYS_ioctl, Answer::NotATerminal),
    // A thread cannot be started; who tries is told so.
    Refused::answer(libc::SYS_clone3, Answer::Denied),
    // glibc registers it for new threads only; an old kernel has none.
    Refused::answer(libc::SYS_rseq, Answer::Missing),
];
