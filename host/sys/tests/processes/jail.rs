//! Roles in their jails: what each must be able to do, and attacks.
//!
//! A child confines itself and then tries one thing. It says `ok`, or the error
//! number; or it says nothing more because the kernel has killed it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use skep_sys::confine::{
    Confined, Mount, Ports, Strictness, WorkerConfinement, confine_admin, confine_alerter,
    confine_connector, confine_dispatcher, confine_worker, offer,
};
use skep_sys::{Channel, Ended, ExclusiveListener, Identity, keep_event_loop, process, watch};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{PATIENCE, ending, listen, say, start_as, wait_readable};

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "no role makes a system call that is nobody's",
        forbidden_calls,
    ),
    ("a worker serves after it was confined", worker_serves),
    (
        "a worker opens its artifacts and nothing else",
        worker_files,
    ),
    ("a worker uses its mounts as granted", worker_mounts),
    ("a worker cannot harm what it shares", worker_shares),
    (
        "a worker of another user is held as well",
        worker_of_another_user,
    ),
    (
        "a dispatcher passes on and opens nothing",
        dispatcher_is_held,
    ),
    (
        "a connector reaches its ports and nothing else",
        connector_is_held,
    ),
    (
        "an alerter reaches its webhook and nothing else",
        alerter_is_held,
    ),
    (
        "confinement that is off gives up privileges all the same",
        off,
    ),
];

const ALL_ROLES: &[&str] = &["worker", "dispatcher", "connector", "alerter", "admin"];

const SIGSYS: Ended = Ended::Signal(nix::sys::signal::Signal::SIGSYS as i32);

const EACCES: &str = "error 13";

/// Calls that no role makes, with arguments that would otherwise do something
/// or at worst fail for another reason.
const FORBIDDEN: &[(&str, libc::c_long, [libc::c_long; 6])] = &[
    (
        "unix socket",
        libc::SYS_socket,
        [1, 2 | 0x8_0000, 1, 0, 0, 0],
    ),
    ("raw socket", libc::SYS_socket, [2, 3, 1, 0, 0, 0]),
    ("packet socket", libc::SYS_socket, [17, 3, 0, 0, 0, 0]),
    ("mptcp socket", libc::SYS_socket, [2, 1, 262, 0, 0, 0]),
    ("vsock", libc::SYS_socket, [40, 1, 0, 0, 0, 0]),
    ("socketpair", libc::SYS_socketpair, [1, 1, 0, 0, 0, 0]),
    ("listen", libc::SYS_listen, [3, 1, 0, 0, 0, 0]),
    ("execve", libc::SYS_execve, [0; 6]),
    ("execveat", libc::SYS_execveat, [0; 6]),
    ("fork", libc::SYS_clone, [libc::SIGCHLD as _, 0, 0, 0, 0, 0]),
    (
        "clone into a user namespace",
        libc::SYS_clone,
        [0x1000_0000, 0, 0, 0, 0, 0],
    ),
    (
        "thread in a network namespace",
        libc::SYS_clone,
        [0x4000_0000 | 0x1_0900, 0, 0, 0, 0, 0],
    ),
    ("ptrace", libc::SYS_ptrace, [0; 6]),
    (
        "read another's memory",
        libc::SYS_process_vm_readv,
        [1, 0, 0, 0, 0, 0],
    ),
    (
        "write another's memory",
        libc::SYS_process_vm_writev,
        [1, 0, 0, 0, 0, 0],
    ),
    (
        "advise another",
        libc::SYS_process_madvise,
        [3, 0, 0, 4, 0, 0],
    ),
    ("compare files", libc::SYS_kcmp, [1, 1, 0, 0, 0, 0]),
    ("kill", libc::SYS_kill, [-1, 0, 0, 0, 0, 0]),
    ("tkill", libc::SYS_tkill, [1, 0, 0, 0, 0, 0]),
    ("tgkill another", libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]),
    (
        "queue a signal",
        libc::SYS_rt_sigqueueinfo,
        [1, 0, 0, 0, 0, 0],
    ),
    ("open a process", libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0]),
    (
        "signal a process",
        libc::SYS_pidfd_send_signal,
        [3, 0, 0, 0, 0, 0],
    ),
    (
        "take a descriptor",
        libc::SYS_pidfd_getfd,
        [3, 0, 0, 0, 0, 0],
    ),
    (
        "own signals by descriptor",
        libc::SYS_fcntl,
        [3, 8, 1, 0, 0, 0],
    ),
    (
        "push input into a terminal",
        libc::SYS_ioctl,
        [0, 0x5412, 0, 0, 0, 0],
    ),
    ("mount", libc::SYS_mount, [0; 6]),
    ("umount", libc::SYS_umount2, [0; 6]),
    ("new mount", libc::SYS_fsopen, [0; 6]),
    ("move a mount", libc::SYS_move_mount, [0; 6]),
    ("clone a mount", libc::SYS_open_tree, [0; 6]),
    ("chroot", libc::SYS_chroot, [0; 6]),
    ("pivot_root", libc::SYS_pivot_root, [0; 6]),
    ("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [0, 0, 0, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [0; 6]),
    ("add_key", libc::SYS_add_key, [0; 6]),
    ("request_key", libc::SYS_request_key, [0; 6]),
    ("bpf", libc::SYS_bpf, [0; 6]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
    (
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        [1, 0, 0, 0, 0, 0],
    ),
    ("io_uring_enter", libc::SYS_io_uring_enter, [0; 6]),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
    (
        "old asynchronous I/O",
        libc::SYS_io_setup,
        [1, 0, 0, 0, 0, 0],
    ),
    ("load a module", libc::SYS_finit_module, [0; 6]),
    ("load a kernel", libc::SYS_kexec_load, [0; 6]),
    ("reboot", libc::SYS_reboot, [0; 6]),
    ("personality", libc::SYS_personality, [0; 6]),
    ("setuid", libc::SYS_setuid, [0; 6]),
    ("setresuid", libc::SYS_setresuid, [0; 6]),
    ("setgroups", libc::SYS_setgroups, [0; 6]),
    ("capset", libc::SYS_capset, [0; 6]),
    ("become dumpable", libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
    ("another seccomp", libc::SYS_seccomp, [0; 6]),
    (
        "another Landlock",
        libc::SYS_landlock_create_ruleset,
        [0; 6],
    ),
    ("raise a limit", libc::SYS_prlimit64, [0, 7, 1, 0, 0, 0]),
    ("lock memory", libc::SYS_mlock, [0; 6]),
    ("file handles", libc::SYS_open_by_handle_at, [0; 6]),
    ("watch files", libc::SYS_fanotify_init, [0; 6]),
    ("unlink", libc::SYS_unlinkat, [-100, 0, 0, 0, 0, 0]),
    ("rename", libc::SYS_renameat2, [0; 6]),
    ("change modes", libc::SYS_fchmodat, [0; 6]),
    ("change owners", libc::SYS_fchownat, [0; 6]),
    (
        "truncate what is open",
        libc::SYS_ftruncate,
        [2, 0, 0, 0, 0, 0],
    ),
    (
        "overwrite what is open",
        libc::SYS_pwrite64,
        [2, 0, 0, 0, 0, 0],
    ),
    ("shared memory", libc::SYS_shmget, [0; 6]),
    ("message queues", libc::SYS_mq_open, [0; 6]),
    ("new session", libc::SYS_setsid, [0; 6]),
    ("priorities", libc::SYS_setpriority, [0; 6]),
    ("affinity", libc::SYS_sched_setaffinity, [1, 0, 0, 0, 0, 0]),
    ("the clock", libc::SYS_clock_settime, [0; 6]),
    (
        "seal",
        libc::SYS_fcntl,
        [3, libc::F_ADD_SEALS as _, 0, 0, 0, 0],
    ),
    (
        "size a pipe",
        libc::SYS_fcntl,
        [2, libc::F_SETPIPE_SZ as _, 1 << 20, 0, 0, 0],
    ),
    ("stop receiving", libc::SYS_shutdown, [3, 0, 0, 0, 0, 0]),
    ("stop both", libc::SYS_shutdown, [3, 2, 0, 0, 0, 0]),
    (
        "connect while sending",
        libc::SYS_sendto,
        [3, 0, 0, libc::MSG_FASTOPEN as _, 0, 0],
    ),
    (
        "connect while sending a message",
        libc::SYS_sendmsg,
        [3, 0, libc::MSG_FASTOPEN as _, 0, 0, 0],
    ),
];

/// Calls that roles make which neither connect nor look names up.
const FORBIDDEN_BUT_FOR_CALLERS: &[(&str, libc::c_long, [libc::c_long; 6])] = &[
    ("tcp socket", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
    ("udp socket", libc::SYS_socket, [2, 2, 0, 0, 0, 0]),
    ("netlink socket", libc::SYS_socket, [16, 3, 0, 0, 0, 0]),
    ("connect", libc::SYS_connect, [3, 0, 0, 0, 0, 0]),
    ("bind", libc::SYS_bind, [3, 0, 0, 0, 0, 0]),
    ("send somewhere else", libc::SYS_sendto, [3, 0, 0, 0, 1, 16]),
    ("send much", libc::SYS_sendmmsg, [3, 0, 0, 0, 0, 0]),
    ("filter packets", libc::SYS_setsockopt, [3, 1, 26, 0, 0, 0]),
    ("mark packets", libc::SYS_setsockopt, [3, 1, 36, 0, 0, 0]),
    // The options of a listener are those of all its connections to come.
    ("linger", libc::SYS_setsockopt, [3, 1, 13, 0, 0, 0]),
    ("delay", libc::SYS_setsockopt, [3, 6, 1, 0, 0, 0]),
];

/// Calls that change what others have open, too, and that no role makes which
/// neither makes sockets nor gets any back from whom it does not trust.
const FORBIDDEN_TO_SHARERS: &[(&str, libc::c_long, [libc::c_long; 6])] = &[
    (
        "block",
        libc::SYS_fcntl,
        [3, libc::F_SETFL as _, 0, 0, 0, 0],
    ),
    ("block by ioctl", libc::SYS_ioctl, [3, 0x5421, 0, 0, 0, 0]),
];

/// Roles to which that applies.
const SHARERS: &[&str] = &["worker", "admin"];

/// Roles that open connections, or bring no code along.
const CALLERS: &[&str] = &["connector", "alerter"];

// The parent's side.

/// What a child of a role says when it tries something with these descriptors.
fn attempt_as(
    identity: Option<Identity>,
    role: &str,
    attempt: &str,
    fds: &[BorrowedFd<'_>],
) -> (String, Ended) {
    let (mut child, channel) = start_as(&format!("jail:{role}:{attempt}"), identity);
    channel.send(b"f", fds).unwrap();
    let text = listen(&channel);
    (text.trim_end().to_owned(), ending(&mut child))
}

fn attempt(role: &str, attempt: &str, fds: &[BorrowedFd<'_>]) -> (String, Ended) {
    attempt_as(None, role, attempt, fds)
}

fn assert_killed(role: &str, what: &str, fds: &[BorrowedFd<'_>]) {
    let (text, ended) = attempt(role, what, fds);
    assert_eq!(
        (text.as_str(), ended),
        ("confined", SIGSYS),
        "{role}: {what}"
    );
}

fn assert_says(role: &str, what: &str, fds: &[BorrowedFd<'_>], expected: &str) {
    let (text, ended) = attempt(role, what, fds);
    let expected = format!("confined\n{expected}");
    assert_eq!((text, ended), (expected, Ended::Code(0)), "{role}: {what}");
}

/// Whether to go on with what only Landlock forbids.
fn with_landlock() -> bool {
    let there = offer().landlock >= 6;
    if !there {
        super::note("skipped: this kernel has no Landlock, or an old one");
    }
    there
}

fn forbidden_calls() {
    for role in ALL_ROLES {
        let callers = CALLERS.contains(role);
        let more: &[_] = if callers {
            &[]
        } else {
            FORBIDDEN_BUT_FOR_CALLERS
        };
        for (what, ..) in FORBIDDEN.iter().chain(more) {
            match (*role, *what) {
                // The system's resolver tries it, so it is told.
                ("alerter", "unix socket") => assert_says(role, what, &[], EACCES),
                _ => assert_killed(role, what, &[]),
            }
        }
    }
    for role in ["dispatcher", "connector", "admin"] {
        assert_killed(role, "make memory executable", &[]);
    }
    for role in SHARERS {
        for (what, ..) in FORBIDDEN_TO_SHARERS {
            assert_killed(role, what, &[]);
        }
    }
    for role in ["dispatcher", "admin"] {
        assert_killed(role, "seek", &[]);
    }
    // std asks for positions and goes on without.
    assert_says("worker", "seek", &[], EACCES);
}

/// A folder with an artifact, and another one with another file.
struct Pool {
    _folder: tempfile::TempDir,
    artifacts: File,
    artifact: File,
    other: File,
}

impl Pool {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), name).unwrap();
            (
                File::open(&folder).unwrap(),
                File::open(folder.join("file")).unwrap(),
            )
        };
        let (artifacts, artifact) = make("artifacts");
        let (_, other) = make("other");
        Self {
            _folder: folder,
            artifacts,
            artifact,
            other,
        }
    }

    fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.artifacts.as_fd(),
            self.artifact.as_fd(),
            self.other.as_fd(),
        ]
    }
}

fn worker_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (mut child, channel) = start_as("jail:worker:serve", None);
    let pool = Pool::new();
    channel.send(b"f", &pool.fds()).unwrap();
    let mut piece = [0; 64];
    wait_readable(channel.as_fd(), "confinement");
    let got = channel.recv(&mut piece, &mut Vec::new()).unwrap();
    assert_eq!(&piece[..got], b"confined\n");
    channel.send(b"l", &[listener.as_fd()]).unwrap();
    for round in 0..3 {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"ping").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "ping pong", "round {round}");
    }
    assert_eq!(listen(&channel).trim_end(), "served true");
    assert_eq!(ending(&mut child), Ended::Code(0));
}

fn worker_files() {
    let pool = Pool::new();
    let fds = pool.fds();
    assert_says("worker", "open artifact", &fds, "ok artifacts");
    assert_says("worker", "inside folder", &fds, "ok artifacts");
    assert_killed("worker", "create in folder", &fds);
    assert_killed("worker", "write artifact", &fds);
    assert_says("worker", "start thread", &fds, EACCES);
    if with_landlock() {
        assert_says("worker", "open other", &fds, EACCES);
        assert_says("worker", "open root", &fds, EACCES);
        assert_says("worker", "open memory", &fds, EACCES);
        assert_says("worker", "list folder", &fds, EACCES);
    }
}

fn worker_mounts() {
    let pool = Pool::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "mount").unwrap();
    let mount = File::open(folder.path()).unwrap();
    let [artifacts, artifact, other] = pool.fds();
    let fds = [artifacts, artifact, other, mount.as_fd()];
    assert_says("reader", "read mount", &fds, "ok mount");
    assert_killed("reader", "write mount", &fds);
    assert_says("writer", "read mount", &fds, "ok mount");
    assert_says("writer", "write mount", &fds, "ok");
    assert_eq!(fs::read(folder.path().join("new")).unwrap(), b"new");
    if with_landlock() {
        assert_says("reader", "list folder", &fds, EACCES);
        assert_says("writer", "open other", &fds, EACCES);
        assert_says("writer", "create in folder", &fds, EACCES);
    }
}

fn worker_shares() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fds = [listener.as_fd(), listener.as_fd(), listener.as_fd()];
    for what in ["shut listener down", "fast open", "fast open by message"] {
        assert_killed("worker", what, &fds);
    }
    // It still listens.
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

fn worker_of_another_user() {
    if !process::is_root() {
        super::note("skipped: only root can give processes to others");
        return;
    }
    let identity = Identity {
        uid: 61_234,
        gid: 61_235,
    };
    let pool = Pool::new();
    let fds = pool.fds();
    let (text, ended) = attempt_as(Some(identity), "nobody", "describe", &fds);
    assert_eq!(ended, Ended::Code(0));
    assert_eq!(
        text,
        "confined\nUid: 61234 61234 61234 61234\nGid: 61235 61235 61235 61235\nGroups: 61235\n\
         CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\n\
         CapAmb: 0000000000000000\nroot again error 1"
    );
    let (text, _) = attempt_as(Some(identity), "worker", "open artifact", &fds);
    assert_eq!(text, "confined\nok artifacts");
    let (text, ended) = attempt_as(Some(identity), "worker", "kill", &fds);
    assert_eq!((text.as_str(), ended), ("confined", SIGSYS));
    // Its group of processes is its own, and signals are root's to send.
    let (child, channel) = start_as("wait", Some(identity));
    child.signal(skep_sys::Signal::Kill).unwrap();
    drop((child, channel));
}

fn dispatcher_is_held() {
    assert_says("dispatcher", "open root", &[], EACCES);
    assert_says("dispatcher", "start thread", &[], EACCES);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"GET /").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut child, channel) = start_as("jail:dispatcher:dispatch", None);
    channel.send(b"f", &[listener.as_fd()]).unwrap();
    let mut passed = Vec::new();
    let mut text = Vec::new();
    while passed.is_empty() {
        wait_readable(channel.as_fd(), "a connection");
        let mut piece = [0; 64];
        let got = channel.recv(&mut piece, &mut passed).unwrap();
        assert!(got > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..got]);
    }
    assert_eq!(text, b"confined\npeeked GET /\n");
    let mut stream = TcpStream::from(passed.pop().unwrap());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"GET /");
    assert_eq!(ending(&mut child), Ended::Code(0));
}

fn connector_is_held() {
    let one = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (allowed, denied) = (port(&one), port(&two));
    let to = |what: &str, to: u16| format!("{allowed}:{what} {to}");
    assert_says("connector", &to("connect", allowed), &[], "ok");
    assert_says("connector", &to("start thread", 0), &[], EACCES);
    assert_says("connector", &to("ask", 0), &[], "ok");
    assert_says("connector", &to("read /etc/hosts", 0), &[], "ok");
    assert_killed("connector", &to("create /tmp/skep-must-not-exist", 0), &[]);
    assert_killed("connector", &to("fast open", denied), &[]);
    assert_says("connector", &format!("0:connect {denied}"), &[], "ok");
    if with_landlock() {
        assert_says("connector", &to("connect", denied), &[], EACCES);
        assert_says("connector", &to("listen", 0), &[], EACCES);
        assert_says("connector", &to("read /etc/passwd", 0), &[], EACCES);
        assert_says("connector", &to("read /proc/self/mem", 0), &[], EACCES);
    }
}

fn alerter_is_held() {
    let one = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (allowed, denied) = (port(&one), port(&two));
    let to = |what: &str, to: u16| format!("{allowed}:{what} {to}");
    assert_says("alerter", &to("connect by name", allowed), &[], "ok");
    assert_says("alerter", &to("start thread", 0), &[], "ok");
    assert_killed("alerter", &to("create /tmp/skep-must-not-exist", 0), &[]);
    if with_landlock() {
        assert_says("alerter", &to("connect", denied), &[], EACCES);
        assert_says("alerter", &to("listen", 0), &[], EACCES);
        assert_says("alerter", &to("read /etc/passwd", 0), &[], EACCES);
        assert_says("alerter", &to("read /proc/self/environ", 0), &[], EACCES);
    }
}

fn off() {
    let (text, ended) = attempt("off", "describe", &[]);
    assert_eq!(ended, Ended::Code(0));
    assert!(text.contains("CapEff: 0000000000000000"), "{text}");
    assert!(
        text.ends_with("root again error 1") || process::is_root(),
        "{text}"
    );
}

// The child's side.

/// Takes descriptors, is confined, and tries one thing.
pub(crate) fn play(role: &str, attempt: &str, channel: &Channel) {
    let mut fds = Vec::new();
    wait_readable(channel.as_fd(), "descriptors");
    channel.recv(&mut [0; 1], &mut fds).unwrap();
    if attempt == "serve" {
        return serve(channel, &fds);
    }
    let (port, attempt) = attempt.split_once(':').unwrap_or(("0", attempt));
    let port: u16 = port.parse().unwrap();
    let missing = offer().missing;
    let confined = match role {
        "worker" => worker(&fds, &[]),
        "reader" | "writer" => worker(
            &fds,
            &[Mount {
                folder: fds[3].as_fd(),
                writable: role == "writer",
            }],
        ),
        "dispatcher" => confine_dispatcher(64, strictness()).unwrap(),
        "admin" => confine_admin(64, strictness()).unwrap(),
        "connector" => {
            let ports = match port {
                0 => Ports::All,
                port => Ports::These(vec![port]),
            };
            confine_connector(ports, 64, strictness()).unwrap()
        }
        "alerter" => confine_alerter(port, strictness()).unwrap(),
        "nobody" => return describe(channel),
        "off" => {
            confine_dispatcher(64, Strictness::Off).unwrap();
            return describe(channel);
        }
        _ => panic!("no role {role}"),
    };
    assert_eq!(confined.missing(), missing);
    say(channel, "confined\n");
    if attempt == "dispatch" {
        return dispatch(channel, &fds[0]);
    }
    say_result(channel, attack(attempt, &fds));
}

/// What this kernel has must be in force; what it has not is no failure here.
fn strictness() -> Strictness {
    if offer().missing.is_empty() {
        Strictness::Require
    } else {
        Strictness::BestEffort
    }
}

fn worker(fds: &[OwnedFd], mounts: &[Mount<'_>]) -> Confined {
    let confinement = WorkerConfinement {
        artifacts: fds.first().map(AsFd::as_fd),
        mounts,
        descriptors: 64,
    };
    // A listener is no folder.
    let confinement = match fds.first() {
        Some(fd) if !is_folder(fd) => WorkerConfinement {
            artifacts: None,
            ..confinement
        },
        _ => confinement,
    };
    confine_worker(&confinement, strictness()).unwrap()
}

fn is_folder(fd: &OwnedFd) -> bool {
    File::from(fd.try_clone().unwrap())
        .metadata()
        .unwrap()
        .is_dir()
}

fn say_result(channel: &Channel, result: io::Result<String>) {
    let text = match result {
        Ok(text) => format!("ok {text}"),
        Err(error) => format!("error {}", error.raw_os_error().unwrap_or(-1)),
    };
    say(channel, text.trim_end());
}

fn done<T>(result: io::Result<T>) -> io::Result<String> {
    result.map(|_| String::new())
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn attack(attempt: &str, fds: &[OwnedFd]) -> io::Result<String> {
    let every = || {
        FORBIDDEN
            .iter()
            .chain(FORBIDDEN_BUT_FOR_CALLERS)
            .chain(FORBIDDEN_TO_SHARERS)
    };
    if let Some((_, call, arguments)) = every().find(|(what, ..)| *what == attempt) {
        return done(raw(*call, *arguments));
    }
    let (verb, object) = attempt.split_once(' ').unwrap_or((attempt, ""));
    let port = || object.rsplit(' ').next().unwrap().parse::<u16>().unwrap();
    match (verb, object) {
        ("open", "artifact") => fs::read_to_string(by_descriptor(&fds[1])),
        ("open", "other") => fs::read_to_string(by_descriptor(&fds[2])),
        ("open", "root") => done(File::open("/etc/passwd")),
        ("open", "memory") => done(File::open("/proc/self/mem")),
        ("inside", _) => fs::read_to_string(format!("{}/file", by_descriptor(&fds[0]))),
        ("list", _) => done(fs::read_dir(by_descriptor(&fds[0]))),
        ("create", "in folder") => done(File::create(format!("{}/new", by_descriptor(&fds[0])))),
        ("write", "artifact") => done(File::options().write(true).open(by_descriptor(&fds[1]))),
        ("read", "mount") => fs::read_to_string(format!("{}/file", by_descriptor(&fds[3]))),
        ("write", "mount") => done(fs::write(format!("{}/new", by_descriptor(&fds[3])), "new")),
        ("make", "memory executable") => done(raw(libc::SYS_mmap, [0, 4096, 5, 0x22, -1, 0])),
        ("seek", _) => done(raw(libc::SYS_lseek, [2, 0, 0, 0, 0, 0])),
        ("start", _) => done(std::thread::Builder::new().spawn(|| ())),
        ("shut", _) => done(raw(
            libc::SYS_shutdown,
            [fds[0].as_raw_fd().into(), libc::SHUT_RD.into(), 0, 0, 0, 0],
        )),
        ("fast", "open by message") => done(raw(
            libc::SYS_sendmsg,
            [
                fds[0].as_raw_fd().into(),
                0,
                libc::MSG_FASTOPEN.into(),
                0,
                0,
                0,
            ],
        )),
        ("fast", _) => done(fast_open(fds.first())),
        ("connect", _) if object.starts_with("by name") => {
            done(TcpStream::connect(("localhost", port())))
        }
        ("connect", _) => done(TcpStream::connect(("127.0.0.1", port()))),
        ("listen", _) => done(TcpListener::bind("127.0.0.1:0")),
        ("ask", _) => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.send_to(b"?", socket.local_addr()?)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            done(socket.recv_from(&mut [0; 8]))
        }
        ("read", _) => done(File::open(object.split(' ').next().unwrap())),
        ("create", _) => done(File::create(object.split(' ').next().unwrap())),
        _ => panic!("no attempt {attempt}"),
    }
}

fn raw(call: libc::c_long, [a, b, c, d, e, f]: [libc::c_long; 6]) -> io::Result<()> {
    // SAFETY: the calls of these tables get null pointers or none, so they
    // touch no memory; what they would do is forbidden, which is the test.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Opens a connection by sending, past every check of `connect`.
fn fast_open(listener: Option<&OwnedFd>) -> io::Result<()> {
    let fd = match listener {
        Some(fd) => fd.try_clone()?,
        None => {
            // SAFETY: socket takes integers; the descriptor is new and ours.
            unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) }
        }
    };
    raw(
        libc::SYS_sendto,
        [fd.as_raw_fd().into(), 0, 0, libc::MSG_FASTOPEN.into(), 0, 0],
    )
}

/// Who this process is, and whether it can be root again.
fn describe(channel: &Channel) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let wanted = [
        "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb",
    ];
    let mut text = String::from("confined\n");
    for name in wanted {
        let values = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")))
            .unwrap();
        let values: Vec<&str> = values.split_ascii_whitespace().collect();
        text += &format!("{name}: {}\n", values.join(" "));
    }
    say(channel, &text);
    let again = raw(libc::SYS_setresuid, [0; 6]);
    match again {
        Ok(()) => say(channel, "root again"),
        Err(error) => say(
            channel,
            &format!("root again error {}", error.raw_os_error().unwrap()),
        ),
    }
}

/// Accepts as a worker does: in tokio, from a listener that came later, with a
/// tick under way; and passes a descriptor on.
fn serve(channel: &Channel, fds: &[OwnedFd]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // SAFETY: a function that does nothing is async-signal-safe.
        let ticker = unsafe { skep_sys::ticker::start(Duration::from_millis(1), || ()) }.unwrap();
        keep_event_loop().unwrap();
        worker(fds, &[]);
        say(channel, "confined\n");
        let mut passed = Vec::new();
        wait_readable(channel.as_fd(), "the listener");
        channel.recv(&mut [0; 1], &mut passed).unwrap();
        let listener = ExclusiveListener::new(passed.pop().unwrap()).unwrap();
        let listener = watch(listener).unwrap();
        for _ in 0..3 {
            let accepted = loop {
                let mut ready = tokio::time::timeout(PATIENCE, listener.readable())
                    .await
                    .unwrap()
                    .unwrap();
                match listener.get_ref().accept().unwrap() {
                    Some(accepted) => break accepted,
                    None => ready.clear_ready(),
                }
            };
            listener.get_ref().rotate().unwrap();
            let inside = ticker.inside();
            // Born non-blocking: a worker cannot make it so.
            let stream = TcpStream::from(accepted.stream);
            let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut ping = [0; 4];
            stream.read_exact(&mut ping).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            stream.write_all(&ping).await.unwrap();
            stream.write_all(b" pong").await.unwrap();
            stream.shutdown().await.unwrap();
            drop(inside);
        }
        listener.get_ref().pause().unwrap();
        say(channel, &format!("served {}", ticker.is_armed()));
    });
}

/// Accepts, peeks and passes on.
fn dispatch(channel: &Channel, listener: &OwnedFd) {
    let listener = TcpListener::from(listener.try_clone().unwrap());
    let (stream, _) = listener.accept().unwrap();
    let mut head = [0; 64];
    let got = stream.peek(&mut head).unwrap();
    let text = format!("peeked {}\n", String::from_utf8_lossy(&head[..got]));
    let sent = channel.send(text.as_bytes(), &[stream.as_fd()]).unwrap();
    assert_eq!(sent, text.len());
}
