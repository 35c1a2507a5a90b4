//! Real child processes: spawning, ending, inheriting nothing, confinement.
//!
//! The children are this very executable in another role, so there is no
//! libtest harness: `main` looks at `argv[1]` as `skep` does.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without harness"
)]

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skep_sys::cgroup::{CgroupLimits, CgroupSupport, Cgroups, Version};
use skep_sys::confine::{BuilderLimits, Strictness, Support, confine_builder};
use skep_sys::{Channel, Child, Ended, Identity, Signal, Spawn, process, spawn};

#[path = "processes/jail.rs"]
mod jail;

/// No child needs as long.
const PATIENCE: Duration = Duration::from_secs(20);

const TESTS: &[(&str, fn())] = &[
    ("a child inherits nothing but its channel", inherits_nothing),
    ("exit codes and signals are told apart", endings),
    ("a dropped child is killed and reaped", drop_reaps),
    ("descriptors and processes do not pile up", no_leaks),
    ("what cannot be spawned is an error", refused),
    ("a confined builder still works", builder_works),
    ("a confined builder can do nothing else", builder_is_held),
    ("limits of a builder hold", builder_is_limited),
    (
        "a process with threads is not confined",
        threads_are_refused,
    ),
    (
        "a group kills the process that takes too much memory",
        groups_hold,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments
        .get(1)
        .and_then(|role| role.strip_prefix("child:"))
    {
        Some(role) => child(role),
        None => run(&arguments[1..]),
    }
}

fn run(arguments: &[String]) {
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in TESTS.iter().chain(jail::TESTS) {
        if filter.is_none_or(|filter| name.contains(filter.as_str())) {
            println!("test {name}");
            test();
        }
    }
}

// The parent's side.

fn note(text: &str) {
    println!("  {text}");
}

fn start(role: &str) -> (Child, Channel) {
    start_as(role, None)
}

fn start_as(role: &str, identity: Option<Identity>) -> (Child, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    let child = spawn(Spawn {
        role: &format!("child:{role}"),
        title: "skep: test child",
        channel: theirs,
        output: None,
        identity,
        schedule: skep_sys::Schedule::default(),
    });
    (child.unwrap(), ours)
}

fn wait_readable(fd: BorrowedFd<'_>, what: &str) {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout).unwrap();
    assert_eq!(ready, 1, "{what} within {PATIENCE:?}");
}

fn ending(child: &mut Child) -> Ended {
    wait_readable(child.as_fd(), "an end");
    let ended = child.try_wait().unwrap().unwrap();
    assert_eq!(child.try_wait().unwrap(), Some(ended));
    ended
}

/// Everything that the other side says before it goes, and how it ends.
fn report(role: &str) -> (String, Ended) {
    let (mut child, channel) = start(role);
    let text = listen(&channel);
    (text, ending(&mut child))
}

fn listen(channel: &Channel) -> String {
    let mut text = Vec::new();
    loop {
        wait_readable(channel.as_fd(), "a word");
        let mut buffer = [0; 4096];
        match channel.recv(&mut buffer, &mut Vec::new()) {
            Ok(0) => return String::from_utf8(text).unwrap(),
            Ok(got) => text.extend(&buffer[..got]),
            // The child was killed with unread words of ours.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return String::from_utf8(text).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn inherits_nothing() {
    // Inheritable on purpose, as a careless library would leave it.
    let careless = fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(
        &careless,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let blocked = nix::sys::signal::SigSet::all();
    blocked.thread_block().unwrap();
    let (text, ended) = report("describe");
    blocked.thread_unblock().unwrap();
    assert_eq!(ended, Ended::Code(0));
    let expected = format!(
        "title skep: test child\n\
         environment 0\n\
         descriptors 0 1 2 3\n\
         input /dev/null\n\
         outputs same true\n\
         group own true\n\
         blocked 0000000000000000\n\
         parent {}\n\
         second channel refused true\n",
        std::process::id()
    );
    assert_eq!(text, expected);
}

fn endings() {
    assert_eq!(report("exit").1, Ended::Code(7));
    for (signal, number) in [(Signal::Term, 15), (Signal::Quit, 3), (Signal::Kill, 9)] {
        let (mut child, channel) = start("wait");
        assert_eq!(child.try_wait().unwrap(), None);
        child.signal(signal).unwrap();
        assert_eq!(ending(&mut child), Ended::Signal(number));
        let error = child.signal(signal).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        drop(channel);
    }
}

fn drop_reaps() {
    let (child, channel) = start("wait");
    let pid = child.pid();
    assert_eq!(process::children(std::process::id()), [pid]);
    drop(child);
    childless();
    assert_eq!(process::memory(pid), None);
    assert_eq!(listen(&channel), "");
}

fn no_leaks() {
    report("exit");
    let before = descriptors();
    for _ in 0..50 {
        report("exit");
        drop(start("wait"));
    }
    childless();
    let by = Instant::now() + Duration::from_secs(20);
    while descriptors() != before {
        assert!(Instant::now() < by, "{:?} and {before:?}", descriptors());
        std::thread::yield_now();
    }
}

/// Waits until what was dropped is reaped, which nobody who drops it does.
fn childless() {
    let by = Instant::now() + Duration::from_secs(20);
    while !process::children(std::process::id()).is_empty() {
        assert!(Instant::now() < by, "it is not reaped");
        std::thread::yield_now();
    }
}

fn refused() {
    let before = descriptors();
    let (_, theirs) = Channel::pair().unwrap();
    let error = spawn(Spawn {
        role: "with\0nul",
        title: "t",
        channel: theirs,
        output: None,
        identity: None,
        schedule: skep_sys::Schedule::default(),
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);

    let (_, theirs) = Channel::pair().unwrap();
    // Longer than one argument may be: the exec fails, in the child.
    let error = spawn(Spawn {
        role: &"x".repeat(1 << 20),
        title: "t",
        channel: theirs,
        output: None,
        identity: None,
        schedule: skep_sys::Schedule::default(),
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ArgumentListTooLong);
    assert_eq!(descriptors(), before);
    assert!(process::children(std::process::id()).is_empty());
}

fn builder_works() {
    let (mut child, channel) = start("confined:work");
    wait_readable(channel.as_fd(), "confinement");
    let artifact = tempfile::tempfile().unwrap();
    channel.send(b"x", &[artifact.as_fd()]).unwrap();
    let text = listen(&channel);
    assert!(text.ends_with("worked\n"), "{text}");
    assert_eq!(ending(&mut child), Ended::Code(0));
    assert_eq!(artifact.metadata().unwrap().len(), 1 << 20);
    // What the kernel offered, for who reads the test's output.
    print!("  {text}");
}

fn builder_is_held() {
    for attempt in ["open", "create", "run-thread", "read-link", "spawn"] {
        let (text, ended) = report(&format!("confined:{attempt}"));
        assert!(text.ends_with("refused\n"), "{attempt}: {text}");
        assert_eq!(ended, Ended::Code(0), "{attempt}");
    }
    for attempt in [
        "socket",
        "exec",
        "ptrace",
        "kill",
        "mount",
        "unlink",
        "raise-limit",
    ] {
        let (text, ended) = report(&format!("confined:{attempt}"));
        assert!(text.starts_with("confined"), "{attempt}: {text}");
        assert_eq!(ended, Ended::Signal(libc_sigsys()), "{attempt}: {text}");
    }
    let (_, ended) = report("confined:abort");
    assert_eq!(ended, Ended::Signal(6));
}

fn builder_is_limited() {
    let (text, ended) = report("confined:spin");
    assert_eq!(ended, Ended::Signal(24), "SIGXCPU: {text}");
    let (text, ended) = report("confined:hog");
    assert_eq!(ended, Ended::Code(0));
    assert!(text.ends_with("refused\n"), "{text}");
}

fn threads_are_refused() {
    assert_eq!(
        report("threads").0,
        "the process has 2 threads and must have one"
    );
}

fn groups_hold() {
    if Cgroups::look() == Ok(Version::V2) {
        // Groups of version 2 take this process with them.
        return note("skipped: would move the test into another cgroup");
    }
    // Nobody else's tests have this label.
    let label = format!("test-{}", std::process::id());
    let groups = match Cgroups::find(&label) {
        CgroupSupport::Available(groups) => groups,
        CgroupSupport::Unavailable { reason } => return note(&format!("skipped: {reason}")),
    };
    let limits = CgroupLimits {
        memory: Some(64 << 20),
        pids: Some(1),
    };
    let group = groups.create("one", &limits).unwrap();
    assert_eq!(
        groups.create("one", &limits).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    let neighbour = groups.create("two", &limits).unwrap();
    let hog = |group: &skep_sys::cgroup::Cgroup, megabytes: u8| {
        let (mut child, channel) = start("hog");
        group.add(child.pid()).unwrap();
        channel.send(&[megabytes], &[]).unwrap();
        let text = listen(&channel);
        (text, ending(&mut child))
    };
    assert_eq!(hog(&group, 8), ("a thread: false\n".into(), Ended::Code(0)));
    assert_eq!(group.oom_kills().unwrap(), 0);
    assert!(group.memory_peak().unwrap().unwrap() > 8 << 20);
    assert_eq!(
        hog(&group, 200),
        ("a thread: false\n".into(), Ended::Signal(9))
    );
    assert_eq!(group.oom_kills().unwrap(), 1);
    assert!(group.memory_current().unwrap() <= 64 << 20);
    assert_eq!(neighbour.oom_kills().unwrap(), 0);
    assert_eq!(
        neighbour.add(u32::MAX >> 1).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    // Dropped ones are gone, forgotten ones once somebody comes back.
    drop(group);
    groups.create("one", &limits).unwrap();
    std::mem::forget(neighbour);
    let error = groups.create("two", &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    drop(Cgroups::find(&label));
    groups.create("two", &limits).unwrap();
}

const fn libc_sigsys() -> i32 {
    nix::sys::signal::Signal::SIGSYS as i32
}

// The child's side.

fn child(role: &str) {
    let channel = Channel::inherited().unwrap();
    match role.split_once(':') {
        None => plain(role, &channel),
        Some(("jail", attempt)) => {
            let (role, attempt) = attempt.split_once(':').unwrap();
            jail::play(role, attempt, &channel);
        }
        Some((_, attempt)) => confined(attempt, &channel),
    }
}

fn say(channel: &Channel, text: &str) {
    assert_eq!(channel.send(text.as_bytes(), &[]).unwrap(), text.len());
}

fn plain(role: &str, channel: &Channel) {
    match role {
        "describe" => say(channel, &description()),
        "exit" => std::process::exit(7),
        "wait" => wait_readable(channel.as_fd(), "the parent's end"),
        "hog" => {
            let mut megabytes = [0];
            wait_readable(channel.as_fd(), "how much");
            channel.recv(&mut megabytes, &mut Vec::new()).unwrap();
            let thread = std::thread::Builder::new().spawn(|| ());
            say(channel, &format!("a thread: {}\n", thread.is_ok()));
            let block = vec![7_u8; usize::from(megabytes[0]) << 20];
            assert_eq!(block.iter().filter(|byte| **byte == 7).count(), block.len());
        }
        "threads" => {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || stopped.recv());
            let error = confine_builder(&limits(), Strictness::BestEffort).unwrap_err();
            say(channel, &error.to_string());
            drop(stop);
            thread.join().unwrap().unwrap_err();
        }
        _ => panic!("no role {role}"),
    }
}

fn description() -> String {
    let mut open: Vec<u32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    open.sort_unstable();
    // The last one is the folder that is being read.
    open.pop();
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    let link = |fd: u32| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let blocked = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:\t"));
    let pid = nix::unistd::getpid();
    format!(
        "title {}\nenvironment {}\ndescriptors {}\ninput {}\noutputs same {}\n\
         group own {}\nblocked {}\nparent {}\nsecond channel refused {}\n",
        std::env::args().next().unwrap(),
        std::env::vars().count(),
        open.join(" "),
        link(0).display(),
        link(1) == link(2),
        nix::unistd::getpgrp() == pid,
        blocked.unwrap(),
        nix::unistd::getppid(),
        Channel::inherited().is_err(),
    )
}

fn limits() -> BuilderLimits {
    BuilderLimits {
        cpu: Duration::from_millis(500),
        memory: 512 << 20,
        file_size: 16 << 20,
    }
}

fn confined(attempt: &str, channel: &Channel) {
    let proof = confine_builder(&limits(), Strictness::BestEffort).unwrap();
    let applied = proof.applied();
    assert_eq!(applied.seccomp, Support::Full);
    say(channel, &format!("confined {applied:?}\n"));
    let refused = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let path = "/tmp/skep-must-not-exist";
    match attempt {
        "work" => return work(channel),
        "open" => refused(fs::File::open("/proc/self/status").unwrap_err()),
        "create" => refused(fs::File::create(path).unwrap_err()),
        "read-link" => refused(fs::read_link("/proc/self/exe").unwrap_err()),
        "run-thread" => refused(std::thread::Builder::new().spawn(|| ()).unwrap_err()),
        "spawn" => refused(std::process::Command::new("/bin/true").spawn().unwrap_err()),
        "hog" => {
            let mut much = Vec::<u8>::new();
            much.try_reserve_exact(1 << 30).unwrap_err();
        }
        "spin" => loop {
            std::hint::spin_loop();
        },
        "abort" => std::process::abort(),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "exec" => drop(nix::unistd::execv(c"/bin/true", &[c"true"])),
        "ptrace" => drop(nix::sys::ptrace::traceme()),
        "kill" => drop(nix::sys::signal::kill(nix::unistd::getppid(), None)),
        "mount" => drop(nix::unistd::chroot(path)),
        "unlink" => drop(fs::remove_file(path)),
        "raise-limit" => drop(nix::sys::resource::setrlimit(
            nix::sys::resource::Resource::RLIMIT_CPU,
            1,
            1,
        )),
        _ => panic!("no attempt {attempt}"),
    }
    say(channel, "refused\n");
}

/// What a builder does: receive files, allocate, compute, write, answer.
fn work(channel: &Channel) {
    let mut fds: Vec<OwnedFd> = Vec::new();
    wait_readable(channel.as_fd(), "the artifact");
    channel.recv(&mut [0; 16], &mut fds).unwrap();
    let mut artifact = fs::File::from(fds.pop().unwrap());
    let block = vec![7_u8; 64 << 20];
    artifact.write_all(&block[..1 << 20]).unwrap();
    artifact.sync_all().unwrap();
    assert_eq!(artifact.metadata().unwrap().len(), 1 << 20);
    let map: std::collections::HashMap<u32, u32> = (0..1000).map(|n| (n, n)).collect();
    assert_eq!(map.len(), 1000);
    // A panic that is caught, with its attempt at a backtrace.
    std::panic::set_hook(Box::new(|_| {
        let _ = std::backtrace::Backtrace::force_capture().to_string();
    }));
    std::panic::catch_unwind(|| panic!("a compiler's bug")).unwrap_err();
    say(channel, "worked\n");
}
