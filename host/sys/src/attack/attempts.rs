//! The attacks, one function each, by what they are after.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::ptr;

use nix::errno::Errno;

use super::Target;
use super::descriptors::{
    block, block_ioctl, descriptors, exhaust_descriptors, linger, seal, send_descriptors,
};

type Attempt = fn(&Target) -> io::Result<String>;

pub(super) const ALL: &[(&str, Attempt)] = &[
    // The primary, by words.
    ("tell", super::words::tell),
    // The primary, by numbers.
    ("forge-figures", super::figures::forge),
    // Other programs.
    ("exec", exec),
    ("exec-memory", exec_memory),
    ("fork", fork),
    ("thread", thread),
    // Files.
    ("read-passwd", |_| read("/etc/passwd")),
    ("read-path", |target| read(&target.path)),
    ("list-root", list_root),
    ("write-file", write_file),
    ("read-own-environment", |_| read("/proc/self/environ")),
    ("reopen-scoreboard-shrink", shrink),
    // Other processes.
    ("read-memory-file", |target| {
        read(&format!("/proc/{}/mem", target.pid))
    }),
    ("read-environment", |target| {
        read(&format!("/proc/{}/environ", target.pid))
    }),
    ("read-memory", read_memory),
    ("ptrace", ptrace),
    ("kill", |target| call(libc::SYS_kill, &[pid(target), 0])),
    ("tgkill", |target| {
        call(libc::SYS_tgkill, &[pid(target), pid(target), 0])
    }),
    ("sigqueue", sigqueue),
    ("pidfd-signal", pidfd_signal),
    ("steal-descriptor", steal_descriptor),
    ("priority", |target| {
        call(libc::SYS_setpriority, &[0, pid(target), 19])
    }),
    ("scheduler", scheduler),
    // The network.
    ("socket", |_| {
        call(
            libc::SYS_socket,
            &[of(libc::AF_INET), of(libc::SOCK_STREAM), 0],
        )
    }),
    ("socket-udp", |_| {
        call(
            libc::SYS_socket,
            &[of(libc::AF_INET), of(libc::SOCK_DGRAM), 0],
        )
    }),
    ("socket-raw", |_| {
        call(
            libc::SYS_socket,
            &[of(libc::AF_PACKET), of(libc::SOCK_RAW), 0],
        )
    }),
    ("socket-netlink", |_| {
        call(
            libc::SYS_socket,
            &[of(libc::AF_NETLINK), of(libc::SOCK_RAW), 0],
        )
    }),
    ("connect", |target| {
        TcpStream::connect(("127.0.0.1", target.port)).map(|_| "connected".to_owned())
    }),
    ("connect-unix", |target| {
        UnixStream::connect(&target.path).map(|_| "connected".to_owned())
    }),
    ("listen", |_| {
        std::net::TcpListener::bind("127.0.0.1:0").map(|_| "listens".to_owned())
    }),
    ("reconnect-channel", reconnect),
    // More rights.
    ("setuid", |_| call(libc::SYS_setuid, &[0])),
    ("setgid", |_| call(libc::SYS_setgid, &[0])),
    ("unshare-user", |_| {
        call(libc::SYS_unshare, &[of(libc::CLONE_NEWUSER)])
    }),
    ("unshare-mount", |_| {
        call(libc::SYS_unshare, &[of(libc::CLONE_NEWNS)])
    }),
    ("chroot", |_| {
        call(libc::SYS_chroot, &[c"/".as_ptr() as usize])
    }),
    ("mount", mount),
    ("dumpable", |_| {
        call(libc::SYS_prctl, &[of(libc::PR_SET_DUMPABLE), 1, 0, 0, 0])
    }),
    ("raise-limit", raise_limit),
    ("personality", |_| {
        call(libc::SYS_personality, &[0x0040_0000])
    }),
    // The kernel's larger surfaces.
    ("keyctl", |_| call(libc::SYS_keyctl, &[0, 0, 0, 0, 0])),
    ("bpf", |_| call(libc::SYS_bpf, &[0, 0, 0])),
    ("io-uring", io_uring),
    ("userfaultfd", |_| call(libc::SYS_userfaultfd, &[1])),
    ("perf", |_| {
        call(libc::SYS_perf_event_open, &[0, 0, 0, 0, 0])
    }),
    ("module", |_| call(libc::SYS_init_module, &[0, 0, 0])),
    ("terminal", terminal),
    // What others have open, too.
    ("block", block),
    ("block-ioctl", block_ioctl),
    ("linger", linger),
    ("seek-output", |_| call(libc::SYS_lseek, &[2, 0, 0])),
    ("seal-scoreboard", seal),
    ("truncate-output", |_| {
        reopen_output(libc::O_WRONLY | libc::O_TRUNC)
    }),
    ("read-output", read_output),
    ("send-descriptors", send_descriptors),
    // The log.
    ("write", |target| write(&target.text)),
    ("write-and-exit", |target| {
        write(&target.text)?;
        // SAFETY: _exit runs nothing of the process.
        unsafe { libc::_exit(1) }
    }),
    ("panic", |target| panic!("{}", target.text)),
    ("flood", flood),
    // All there is of something.
    ("exhaust-descriptors", exhaust_descriptors),
    ("exhaust-processes", exhaust_processes),
    // What was left open.
    ("descriptors", descriptors),
];

/// A small constant as an argument.
pub(super) const fn of(value: libc::c_int) -> usize {
    value as usize
}

const fn pid(target: &Target) -> usize {
    target.pid as usize
}

/// A system call that returns something when it is let.
pub(super) fn call(number: libc::c_long, arguments: &[usize]) -> io::Result<String> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: the callers pass numbers, or pointers to what outlives the call
    // and is as large as the call reads; none of them lets the kernel write.
    let result = unsafe {
        libc::syscall(
            number,
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )
    };
    match Errno::result(result) {
        Ok(result) => Ok(format!("returned {result}")),
        Err(errno) => Err(errno.into()),
    }
}

fn read(path: &str) -> io::Result<String> {
    let mut piece = [0; 64];
    let length = File::open(path)?.read(&mut piece)?;
    Ok(format!("read {length} bytes of {path}"))
}

fn exec(_: &Target) -> io::Result<String> {
    let argv = [c"/bin/sh".as_ptr(), ptr::null()];
    call(
        libc::SYS_execve,
        &[argv[0] as usize, argv.as_ptr() as usize, 0],
    )
}

/// Runs what is in memory only.
fn exec_memory(_: &Target) -> io::Result<String> {
    // SAFETY: memfd_create reads a string that ends in NUL.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0) })?;
    let fd = usize::try_from(fd).map_err(io::Error::other)?;
    let argv = [c"x".as_ptr(), ptr::null()];
    let empty = c"".as_ptr() as usize;
    call(
        libc::SYS_execveat,
        &[
            fd,
            empty,
            argv.as_ptr() as usize,
            0,
            of(libc::AT_EMPTY_PATH),
        ],
    )
}

fn fork(_: &Target) -> io::Result<String> {
    // SAFETY: a process of one thread may fork; the child ends at once without
    // running anything of the parent's.
    match unsafe { libc::fork() } {
        // SAFETY: _exit runs nothing of the parent's.
        0 => unsafe { libc::_exit(0) },
        -1 => Err(io::Error::last_os_error()),
        child => Ok(format!("process {child}")),
    }
}

fn thread(_: &Target) -> io::Result<String> {
    let thread = std::thread::Builder::new().spawn(|| ())?;
    thread.join().map_err(|_| io::ErrorKind::Other)?;
    Ok("a thread ran".to_owned())
}

fn list_root(_: &Target) -> io::Result<String> {
    let entries = std::fs::read_dir("/")?.count();
    Ok(format!("{entries} entries"))
}

fn write_file(_: &Target) -> io::Result<String> {
    let path = format!("/tmp/skep-attack-{}", std::process::id());
    File::create(&path)?.write_all(b"x")?;
    std::fs::remove_file(&path)?;
    Ok("written".to_owned())
}

/// Cuts shared memory away under its other readers, which would kill them.
fn shrink(_: &Target) -> io::Result<String> {
    for number in 3..64 {
        // SAFETY: ftruncate takes integers; a closed number gives EBADF.
        if unsafe { libc::ftruncate(number, 0) } == 0 {
            return Ok(format!("descriptor {number} was cut"));
        }
    }
    Err(io::Error::last_os_error())
}

fn read_memory(target: &Target) -> io::Result<String> {
    let mut piece = [0_u8; 8];
    let mut own = libc::iovec {
        iov_base: piece.as_mut_ptr().cast(),
        iov_len: piece.len(),
    };
    // Our code lies where theirs does, or at least somewhere near.
    let remote = libc::iovec {
        iov_base: (read_memory as *const ()).cast_mut().cast(),
        iov_len: piece.len(),
    };
    call(
        libc::SYS_process_vm_readv,
        &[
            pid(target),
            (&raw mut own) as usize,
            1,
            (&raw const remote) as usize,
            1,
            0,
        ],
    )
}

fn ptrace(target: &Target) -> io::Result<String> {
    call(
        libc::SYS_ptrace,
        &[libc::PTRACE_ATTACH as usize, pid(target), 0, 0],
    )
}

fn sigqueue(target: &Target) -> io::Result<String> {
    // SAFETY: all zeros are a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_code = -1;
    call(
        libc::SYS_rt_sigqueueinfo,
        &[pid(target), of(libc::SIGTERM), (&raw const info) as usize],
    )
}

fn pidfd(target: &Target) -> io::Result<usize> {
    // SAFETY: pidfd_open takes two integers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid(target), 0) })?;
    usize::try_from(fd).map_err(io::Error::other)
}

fn pidfd_signal(target: &Target) -> io::Result<String> {
    let fd = pidfd(target)?;
    call(libc::SYS_pidfd_send_signal, &[fd, of(libc::SIGTERM), 0, 0])
}

fn steal_descriptor(target: &Target) -> io::Result<String> {
    let fd = pidfd(target)?;
    call(libc::SYS_pidfd_getfd, &[fd, 3, 0])
}

fn scheduler(_: &Target) -> io::Result<String> {
    let param = libc::sched_param { sched_priority: 1 };
    call(
        libc::SYS_sched_setscheduler,
        &[0, of(libc::SCHED_FIFO), (&raw const param) as usize],
    )
}

/// A channel is a connected socket; it must not become another one.
fn reconnect(target: &Target) -> io::Result<String> {
    // SAFETY: all zeros are a valid address of no family.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    for (to, from) in address.sun_path.iter_mut().zip(target.path.bytes()) {
        *to = from.cast_signed();
    }
    let length = size_of::<libc::sockaddr_un>();
    call(
        libc::SYS_connect,
        &[3, (&raw const address) as usize, length],
    )
}

fn mount(_: &Target) -> io::Result<String> {
    let tmpfs = c"tmpfs".as_ptr() as usize;
    call(
        libc::SYS_mount,
        &[tmpfs, c"/mnt".as_ptr() as usize, tmpfs, 0, 0],
    )
}

fn raise_limit(_: &Target) -> io::Result<String> {
    let limit = libc::rlimit64 {
        rlim_cur: 1 << 20,
        rlim_max: 1 << 30,
    };
    call(
        libc::SYS_prlimit64,
        &[
            0,
            libc::RLIMIT_NOFILE as usize,
            (&raw const limit) as usize,
            0,
        ],
    )
}

fn io_uring(_: &Target) -> io::Result<String> {
    let mut parameters = [0_u64; 32];
    call(
        libc::SYS_io_uring_setup,
        &[1, parameters.as_mut_ptr() as usize],
    )
}

/// Types into the terminal of whoever started skep.
fn terminal(_: &Target) -> io::Result<String> {
    let letter = b"x";
    let request = usize::try_from(libc::TIOCSTI).unwrap_or_default();
    call(libc::SYS_ioctl, &[2, request, letter.as_ptr() as usize])
}

fn reopen_output(flags: libc::c_int) -> io::Result<String> {
    let path = c"/proc/self/fd/2".as_ptr() as usize;
    call(libc::SYS_openat, &[of(libc::AT_FDCWD), path, of(flags)])
}

/// Reads what is on its way to the log: succeeds at what others have written.
fn read_output(_: &Target) -> io::Result<String> {
    let mut output = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/proc/self/fd/2")?;
    let own = format!("pid={} ", std::process::id());
    let mut piece = [0; 64 << 10];
    let count = output.read(&mut piece)?;
    let text = String::from_utf8_lossy(&piece[..count]);
    match text.lines().find(|line| !line.contains(&own)) {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Writes to the log, with `\\n` for the end of a line.
fn write(text: &str) -> io::Result<String> {
    let text = text.replace("\\n", "\n");
    let own = std::process::id().to_string();
    io::stderr().write_all(text.replace("OWN", &own).as_bytes())?;
    Ok("written".to_owned())
}

/// Writes 10 MB of nonsense to the log, for a second at most.
fn flood(_: &Target) -> io::Result<String> {
    let piece = b"\x1b[2Jnonsense\n\xff\n\n".repeat(1000);
    let (mut taken, began) = (0, std::time::Instant::now());
    while taken < 10 << 20 && began.elapsed() < std::time::Duration::from_secs(1) {
        match io::stderr().write(&piece) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(format!("{taken} bytes"))
}

fn exhaust_processes(target: &Target) -> io::Result<String> {
    for _ in 0..10_000 {
        fork(target)?;
    }
    Ok("10000 processes".to_owned())
}
