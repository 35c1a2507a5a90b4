//! Several processes count on one sheet, and some are killed on the way.
//!
//! The children are this very executable in another role, so there is no
//! libtest harness: `main` looks at `argv[1]` as `skep` does.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without harness"
)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skep_sys::{Channel, Child, Count, Counting, Full, Sheet, Signal, Spawn, clock, spawn};

/// No child needs as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests in a window.
const LIMIT: u32 = 1000;

/// Milliseconds of a window.
const WINDOW: u64 = 400;

/// Windows that are looked at.
const WINDOWS: usize = 4;

/// Calls at one time.
const CALLS: u32 = 5;

/// Workers, and how many of them are killed and replaced.
const WORKERS: u16 = 6;
const KILLED: u16 = 4;

const TESTS: &[(&str, fn())] = &[
    (
        "a rate is exact over processes, whoever is killed",
        rates_are_exact,
    ),
    (
        "calls never exceed the limit, and those of the dead come back",
        calls_are_bounded,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let role = arguments
        .get(1)
        .and_then(|role| role.strip_prefix("child:"));
    match role {
        Some("rate") => child(count_requests),
        Some("calls") => child(make_calls),
        Some(other) => panic!("no role {other}"),
        None => {
            let filter = arguments[1..].iter().find(|one| !one.starts_with('-'));
            for (name, test) in TESTS {
                if filter.is_none_or(|filter| name.contains(filter.as_str())) {
                    println!("test {name}");
                    test();
                }
            }
        }
    }
}

// The parent's side.

struct Worker {
    child: Child,
    channel: Channel,
    said: Vec<u8>,
}

impl Worker {
    fn start(role: &str, sheet: &Sheet, cell: u16) -> Self {
        sheet.use_up_to(cell + 1);
        let (channel, theirs) = Channel::pair().unwrap();
        let child = spawn(Spawn {
            role: &format!("child:{role}"),
            title: "skep: test child",
            channel: theirs,
            output: None,
            identity: None,
            schedule: skep_sys::Schedule::default(),
        })
        .unwrap();
        let sent = channel.send(&cell.to_ne_bytes(), &[sheet.as_fd()]).unwrap();
        assert_eq!(sent, 2);
        Self {
            child,
            channel,
            said: Vec::new(),
        }
    }

    /// Takes what there is to hear. Whether there may be more.
    fn hear(&mut self) -> bool {
        let mut piece = [0; 65536];
        loop {
            match self.channel.recv(&mut piece, &mut Vec::new()) {
                Ok(0) => return false,
                Ok(count) => self.said.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Ends it as nothing can be prepared for, and waits until it is gone.
    fn kill(&mut self) {
        self.child.signal(Signal::Kill).unwrap();
        let timeout = PollTimeout::try_from(PATIENCE).unwrap();
        let mut fds = [PollFd::new(self.child.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, timeout).unwrap(), 1);
        assert!(self.child.try_wait().unwrap().is_some());
        while self.hear() {}
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        let words = self.said.chunks_exact(8);
        words.map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
    }
}

/// Listens to all until `done`; kills one after the other on the way and puts
/// another in its place.
fn run(role: &str, sheet: &Sheet, done: impl Fn(&[Worker]) -> bool) -> Vec<Worker> {
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|cell| Worker::start(role, sheet, cell))
        .collect();
    let began = Instant::now();
    let mut killed = 0;
    while !done(&workers) {
        assert!(began.elapsed() < PATIENCE, "late");
        let fds = workers.iter().map(|worker| &worker.channel);
        let mut fds: Vec<PollFd<'_>> = fds
            .map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut fds, PollTimeout::from(50_u8)).unwrap();
        for worker in &mut workers {
            worker.hear();
        }
        // In the middle of everything, and not all at the same time.
        let next = Duration::from_millis(70 + 230 * u64::from(killed));
        if killed < KILLED && began.elapsed() > next {
            let cell = killed;
            let victim = workers
                .iter_mut()
                .find_map(|worker| worker.child.try_wait().unwrap().is_none().then_some(worker))
                .unwrap();
            victim.kill();
            sheet.clear_cell(cell);
            workers.push(Worker::start(role, sheet, cell));
            killed += 1;
        }
    }
    assert_eq!(killed, KILLED);
    for worker in &mut workers {
        if worker.child.try_wait().unwrap().is_none() {
            worker.kill();
        }
    }
    workers
}

fn rates_are_exact() {
    let sheet = Sheet::create().unwrap();
    let windows = |workers: &[Worker]| {
        let mut windows = BTreeMap::<u64, u32>::new();
        for since in workers.iter().flat_map(Worker::words) {
            *windows.entry(since).or_default() += 1;
        }
        windows
    };
    let workers = run("rate", &sheet, |workers| windows(workers).len() > WINDOWS);
    let mut windows = windows(&workers);
    // Cut when it was over.
    windows.pop_last();
    println!("  {windows:?}");
    let starts: Vec<u64> = windows.keys().copied().collect();
    assert!(starts.windows(2).all(|two| two[1] - two[0] >= WINDOW));
    // A worker that is killed may have been let in and not have said so.
    let unsaid = u32::from(KILLED);
    let said: u32 = windows.values().sum();
    let all = u32::try_from(windows.len()).unwrap() * LIMIT;
    assert!(windows.values().all(|count| *count <= LIMIT));
    assert!(said >= all - unsaid, "{said} of {all}");
}

fn calls_are_bounded() {
    let sheet = Sheet::create().unwrap();
    let enough = |workers: &[Worker]| {
        let ended: usize = workers.iter().map(|worker| worker.said.len() / 16).sum();
        ended > 5_000
    };
    let began = Instant::now();
    let workers = run("calls", &sheet, |workers| {
        let calls = sheet.calls(0);
        // One more for each that looks at this moment.
        assert!(calls <= CALLS + u32::from(WORKERS), "{calls}");
        enough(workers) && began.elapsed() > Duration::from_millis(1200)
    });
    // When calls began and ended. One that has not said how it ended was
    // killed; it ended then.
    let mut changes: Vec<(u64, i32)> = Vec::new();
    for worker in &workers {
        let words: Vec<u64> = worker.words().collect();
        for call in words.chunks_exact(2) {
            changes.extend([(call[0], 1), (call[1], -1)]);
        }
    }
    // What ends at the moment at which another begins has made room for it.
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    println!("  at most {most} calls at a time");
    assert!(most <= i32::try_from(CALLS).unwrap(), "{most}");
    for cell in 0..WORKERS {
        sheet.clear_cell(cell);
    }
    assert_eq!(sheet.calls(0), 0);
}

// The children's side.

/// What a child does: with its cell, and with somebody to tell numbers to.
type Work = fn(&Sheet, u16, &mut dyn FnMut(&[u64]));

fn child(work: Work) {
    let channel = Channel::inherited().unwrap();
    let mut cell = [0; 2];
    let mut fds: Vec<OwnedFd> = Vec::new();
    wait(&channel, PollFlags::POLLIN);
    assert_eq!(channel.recv(&mut cell, &mut fds).unwrap(), 2);
    let sheet = Sheet::open(fds.pop().unwrap()).unwrap();
    work(&sheet, u16::from_ne_bytes(cell), &mut |words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut left = &bytes[..];
        while !left.is_empty() {
            match channel.send(left, &[]) {
                Ok(sent) => left = &left[sent..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    wait(&channel, PollFlags::POLLOUT);
                }
                // The parent is gone.
                Err(_) => std::process::exit(0),
            }
        }
    });
}

fn wait(channel: &Channel, flags: PollFlags) {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(channel.as_fd(), flags)], timeout).unwrap();
    assert_eq!(ready, 1);
}

/// Says of each request that it counted in which window.
fn count_requests(sheet: &Sheet, _: u16, say: &mut dyn FnMut(&[u64])) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let now = u64::try_from(clock::monotonic().as_millis()).unwrap();
        let window = std::cell::Cell::new(0);
        let counting = sheet.count(0, |count| {
            let next = if now.saturating_sub(count.since) >= WINDOW {
                Count {
                    since: now,
                    count: 1,
                }
            } else if count.count < LIMIT {
                Count {
                    count: count.count + 1,
                    ..count
                }
            } else {
                return Err(Full);
            };
            window.set(next.since);
            Ok(next)
        });
        if counting == Counting::Done {
            say(&[window.get()]);
        }
    }
}

/// Says of each call when it began and ended.
fn make_calls(sheet: &Sheet, cell: u16, say: &mut dyn FnMut(&[u64])) {
    let now = || u64::try_from(clock::monotonic().as_nanos()).unwrap();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if sheet.begin_call(0, cell, CALLS, CALLS).is_ok() {
            let began = now();
            std::thread::yield_now();
            let ended = now();
            sheet.end_call(0, cell);
            say(&[began, ended]);
        }
    }
}
