//! System calls that several roles need, in groups.

use nix::sys::resource::Resource;

use crate::policy::seccomp::{Answer, FAST_OPEN, Refused, Rule, When};

/// A limit of resources: its name, soft and hard value.
pub(crate) type Limit = (&'static str, Resource, u64, u64);

/// Limits of a process that lives as long as its primary and starts nothing.
///
/// Not the size of files: standard error may be one. Not the address space: an
/// allocator for guests reserves terabytes. Not pending signals: each timer is
/// one.
pub(crate) const fn lasting(descriptors: u64) -> [Limit; 5] {
    [
        (
            "descriptors",
            Resource::RLIMIT_NOFILE,
            descriptors,
            descriptors,
        ),
        // Neither processes nor threads (root is not held by this one; seccomp
        // holds it).
        ("processes", Resource::RLIMIT_NPROC, 0, 0),
        // What guests and clients said is nobody else's to read in a core file.
        ("core size", Resource::RLIMIT_CORE, 0, 0),
        // Memory that cannot be swapped is the machine's to give.
        ("locked memory", Resource::RLIMIT_MEMLOCK, 0, 0),
        // Queues of messages outlive the process that filled them.
        ("message queues", Resource::RLIMIT_MSGQUEUE, 0, 0),
    ]
}

/// What every process does to be one: time, locks, signals, its end.
pub(crate) const LIVING: &[Rule] = &[
    // Clocks, where the vDSO does not answer (CPU time is one), and sleeps.
    Rule::allow(libc::SYS_clock_gettime),
    Rule::allow(libc::SYS_clock_getres),
    Rule::allow(libc::SYS_gettimeofday),
    Rule::allow(libc::SYS_clock_nanosleep),
    // Locks, also those that one thread alone takes.
    Rule::allow(libc::SYS_futex),
    Rule::allow(libc::SYS_sched_yield),
    // Hash seeds, and random numbers for guests.
    Rule::allow(libc::SYS_getrandom),
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
    // Limits are read (a stack's size) and never set.
    Rule::allow_when(libc::SYS_prlimit64, When::Zero { argument: 2 }),
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_getrlimit),
    // Naming mappings and threads; the names are shown, nothing else.
    Rule::allow_when(
        libc::SYS_prctl,
        When::Is {
            argument: 0,
            value: libc::PR_SET_VMA.cast_unsigned(),
        },
    ),
    Rule::allow_when(
        libc::SYS_prctl,
        When::Is {
            argument: 0,
            value: libc::PR_SET_NAME.cast_unsigned(),
        },
    ),
    // Signal handlers and their stack: std's overflow guard, tokio's signals.
    Rule::allow(libc::SYS_rt_sigaction),
    Rule::allow(libc::SYS_rt_sigprocmask),
    Rule::allow(libc::SYS_rt_sigreturn),
    Rule::allow(libc::SYS_sigaltstack),
    // abort() signals the process itself, and nobody else.
    Rule::allow_when(libc::SYS_tgkill, When::OwnPid { argument: 0 }),
    // A wait that a stop signal interrupted goes on.
    Rule::allow(libc::SYS_restart_syscall),
    // The end.
    Rule::allow(libc::SYS_exit),
    Rule::allow(libc::SYS_exit_group),
];

/// malloc and mimalloc.
pub(crate) const MEMORY: &[Rule] = &[
    Rule::allow(libc::SYS_brk),
    Rule::allow(libc::SYS_munmap),
    Rule::allow(libc::SYS_mremap),
    Rule::allow(libc::SYS_madvise),
];

/// Memory that cannot be executed: for roles that bring all their code along.
pub(crate) const NO_NEW_CODE: &[Rule] = &[
    Rule::allow_when(libc::SYS_mmap, NOT_EXECUTABLE),
    Rule::allow_when(libc::SYS_mprotect, NOT_EXECUTABLE),
];

/// Memory that can be executed, for roles that map code: artifacts, libraries.
pub(crate) const NEW_CODE: &[Rule] =
    &[Rule::allow(libc::SYS_mmap), Rule::allow(libc::SYS_mprotect)];

const NOT_EXECUTABLE: When = When::Bits {
    argument: 2,
    mask: libc::PROT_EXEC.cast_unsigned(),
    value: 0,
};

/// Waiting for descriptors, directly or in an async runtime.
pub(crate) const WAITING: &[Rule] = &[
    Rule::allow(libc::SYS_ppoll),
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    Rule::allow(libc::SYS_epoll_wait),
    Rule::allow(libc::SYS_epoll_pwait),
    Rule::allow(libc::SYS_epoll_ctl),
    // Each exclusive listener begins with an epoll of its own.
    Rule::allow(libc::SYS_epoll_create1),
    Rule::allow(libc::SYS_eventfd2),
];

/// Descriptors that are open, and bytes and descriptors through those that are
/// sockets. Nothing is opened, bound or connected by any of these.
///
/// And nothing of an open file is changed by any of these. Descriptors that are
/// passed between processes, as connections and listeners are, share one open
/// file: its position and its flags are those of everybody who has it. Whoever
/// passes a descriptor prepares it; the roles that prepare some are allowed to
/// by [`PREPARING`].
pub(crate) const TALKING: &[Rule] = &[
    // What a role's outputs lead to is a pipe of its own to the primary, so
    // that writing there writes over nobody.
    Rule::allow(libc::SYS_read),
    Rule::allow(libc::SYS_readv),
    Rule::allow(libc::SYS_pread64),
    Rule::allow(libc::SYS_write),
    Rule::allow(libc::SYS_writev),
    Rule::allow(libc::SYS_close),
    // Sizes and kinds of open files. By a path they tell that a file exists,
    // and no more.
    Rule::allow(libc::SYS_fstat),
    Rule::allow(libc::SYS_statx),
    Rule::allow(libc::SYS_newfstatat),
    // Duplicates; an exclusive listener keeps its number and changes its file.
    // Which file a number means is this process's own matter. How many there
    // are is limited.
    Rule::allow(libc::SYS_dup),
    Rule::allow(libc::SYS_dup3),
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_DUPFD)),
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_DUPFD_CLOEXEC)),
    // Flags and seals are looked at. `F_SETFD` is a number's own flag and would
    // do no harm, but nothing is executed, so nobody needs it. `F_SETFL` is
    // everybody's (above). `F_ADD_SEALS` would keep others from mapping a
    // scoreboard. Not the owner of a descriptor, who would be signalled, not its
    // leases, and not the size of a pipe, which is memory of the kernel.
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_GETFD)),
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_GETFL)),
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_GET_SEALS)),
    // Messages, and descriptors with them. Who receives some that it did not
    // ask for closes them and the channel: the primary takes none at all, a
    // dispatcher those that it has handed out, a worker those of the three that
    // it was introduced to.
    Rule::allow_when(
        libc::SYS_sendmsg,
        When::Bits {
            argument: 2,
            mask: FAST_OPEN,
            value: 0,
        },
    ),
    Rule::allow(libc::SYS_recvmsg),
    Rule::allow_when(libc::SYS_sendto, When::Connected),
    Rule::allow(libc::SYS_recvfrom),
    // Sockets are asked what they are and how they fare.
    Rule::allow(libc::SYS_getsockopt),
    Rule::allow(libc::SYS_getsockname),
    Rule::allow(libc::SYS_getpeername),
    // The end of what is sent, and of nothing else: ending what is received by
    // a listener, or by a channel, would end it for all who share it. For a
    // listener the end of what is sent means nothing.
    Rule::allow_when(
        libc::SYS_shutdown,
        When::Is {
            argument: 1,
            value: libc::SHUT_WR.cast_unsigned(),
        },
    ),
];

/// Whether reads and writes of an open file wait, for all who have it: for
/// roles that make sockets of their own, or that repair those which come back to
/// them from somebody whom they do not trust. Both ways, as std has one and
/// others the other.
pub(crate) const PREPARING: &[Rule] = &[
    Rule::allow_when(libc::SYS_fcntl, command(libc::F_SETFL)),
    Rule::allow_when(libc::SYS_ioctl, request(FIONBIO)),
];

/// Connections of clients. No options are set: those of a listener are
/// everybody's and those of the connections to come (one that lingers for no
/// time has all of them cut at their ends), and a filter cannot tell a listener
/// from a connection. What connections need is set on the listener, by the
/// primary.
pub(crate) const SERVING: &[Rule] = &[
    // With whatever flags: those of a new connection are its own.
    Rule::allow(libc::SYS_accept4),
];

/// New connections to others, over TCP, and questions to name servers, over
/// UDP. Never a unix or a raw socket, and no protocol that Landlock does not
/// know (MPTCP, SCTP).
pub(crate) const CALLING: &[Rule] = &[
    Rule::allow_when(libc::SYS_socket, stream(libc::AF_INET, 0)),
    Rule::allow_when(libc::SYS_socket, stream(libc::AF_INET, libc::IPPROTO_TCP)),
    Rule::allow_when(libc::SYS_socket, stream(libc::AF_INET6, 0)),
    Rule::allow_when(libc::SYS_socket, stream(libc::AF_INET6, libc::IPPROTO_TCP)),
    Rule::allow_when(libc::SYS_socket, datagrams(libc::AF_INET, 0)),
    Rule::allow_when(
        libc::SYS_socket,
        datagrams(libc::AF_INET, libc::IPPROTO_UDP),
    ),
    Rule::allow_when(libc::SYS_socket, datagrams(libc::AF_INET6, 0)),
    Rule::allow_when(
        libc::SYS_socket,
        datagrams(libc::AF_INET6, libc::IPPROTO_UDP),
    ),
    Rule::allow(libc::SYS_connect),
    // A random port for each question. Landlock forbids it for TCP, and
    // nothing listens.
    Rule::allow(libc::SYS_bind),
    // The sockets are its own, so their options are, too.
    Rule::allow(libc::SYS_setsockopt),
    // To an address, unless that opens a connection past Landlock.
    Rule::allow_when(
        libc::SYS_sendto,
        When::Bits {
            argument: 3,
            mask: FAST_OPEN,
            value: 0,
        },
    ),
    // The system's resolver asks for both families at once.
    Rule::allow_when(
        libc::SYS_sendmmsg,
        When::Bits {
            argument: 3,
            mask: FAST_OPEN,
            value: 0,
        },
    ),
    Rule::allow(libc::SYS_recvmmsg),
];

/// Opening files to read them: Landlock says which.
pub(crate) const READING: &[Rule] = &[Rule::allow_when(libc::SYS_openat, TO_READ)];

const TO_READ: When = When::Bits {
    argument: 2,
    // O_TMPFILE and O_DIRECTORY share a bit, and making a file needs another.
    mask: (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND).cast_unsigned(),
    value: 0,
};

/// The position in files that this process has opened itself, and shares with
/// nobody.
pub(crate) const SEEKING: &[Rule] = &[Rule::allow(libc::SYS_lseek)];

/// std asks for the position of a file before it reads all of it, and goes on
/// without. Where a file was passed, its position is everybody's.
pub(crate) const NO_SEEKING: &[Refused] = &[Refused::answer(libc::SYS_lseek, Answer::Denied)];

/// Threads of this process, and nothing else that clone can make. What tells
/// clone3 what to make cannot be seen by a filter, so that is missing.
pub(crate) const THREADS: &[Rule] = &[
    Rule::allow_when(
        libc::SYS_clone,
        When::Bits {
            argument: 0,
            mask: (libc::CLONE_THREAD | NAMESPACES).cast_unsigned(),
            value: libc::CLONE_THREAD.cast_unsigned(),
        },
    ),
    Rule::allow(libc::SYS_set_robust_list),
    Rule::allow(libc::SYS_rseq),
    // Who joins a thread, or cancels it.
    Rule::allow(libc::SYS_set_tid_address),
];

const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// What [`THREADS`] needs an answer to.
pub(crate) const THREADS_ANSWERED: &[Refused] =
    &[Refused::answer(libc::SYS_clone3, Answer::Missing)];

/// A thread cannot be started; who tries is told so.
pub(crate) const NO_THREADS: &[Refused] = &[
    Refused::answer(libc::SYS_clone3, Answer::Denied),
    // glibc registers it for new threads only; an old kernel has none.
    Refused::answer(libc::SYS_rseq, Answer::Missing),
];

/// Libraries try to open files and go on without: backtraces open the
/// executable, allocators and CPU counts read /proc and /sys.
pub(crate) const NO_FILES: &[Refused] = &[
    Refused::answer(libc::SYS_openat, Answer::Denied),
    Refused::answer(libc::SYS_readlinkat, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_open, Answer::Denied),
    #[cfg(target_arch = "x86_64")]
    Refused::answer(libc::SYS_readlink, Answer::Denied),
];

/// Libraries try these and go on without: they are told no instead of dying.
pub(crate) const ANSWERED: &[Refused] = &[
    Refused::answer(libc::SYS_faccessat, Answer::Denied),
    Refused::answer(libc::SYS_faccessat2, Answer::Denied),
    Refused::answer(libc::SYS_getcwd, Answer::Denied),
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
    // A wait with nanoseconds, which older kernels have not either.
    Refused::answer(libc::SYS_epoll_pwait2, Answer::Missing),
    // isatty, for the colour of messages.
    Refused::answer_when(libc::SYS_ioctl, request(TCGETS), Answer::NotATerminal),
];

/// A request of `ioctl`.
pub(crate) const fn request(number: u32) -> When {
    When::Is {
        argument: 1,
        value: number,
    }
}

/// A command of `fcntl`.
pub(crate) const fn command(number: libc::c_int) -> When {
    When::Is {
        argument: 1,
        value: number.cast_unsigned(),
    }
}

const fn stream(domain: libc::c_int, protocol: libc::c_int) -> When {
    When::Socket {
        domain,
        kind: libc::SOCK_STREAM,
        protocol,
    }
}

const fn datagrams(domain: libc::c_int, protocol: libc::c_int) -> When {
    When::Socket {
        domain,
        kind: libc::SOCK_DGRAM,
        protocol,
    }
}

/// These are the same on x86-64 and AArch64; their type is not the same in all
/// libcs.
const FIONBIO: u32 = 0x5421;
const TCGETS: u32 = 0x5401;
