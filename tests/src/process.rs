//! Processes as `/proc` shows them, and signals.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The number of its parent.
    pub parent: u32,
    /// One letter: `R`, `S`, `Z`, `T` and others.
    pub state: char,
}

impl Process {
    /// Reads one; `None` if there is none of that number.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything: what counts stands behind its end.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        Some(Self {
            pid,
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
        })
    }

    /// Whether it is dead and not reaped.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }
}

/// Whether a process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    Process::read(pid).is_some_and(|process| !process.is_zombie())
}

/// The processes whose parent is `pid`, zombies included.
#[must_use]
pub fn children(pid: u32) -> Vec<Process> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .filter(|process| process.parent == pid)
        .collect()
}

/// What it calls itself: the first word of its command line, empty for one
/// that is gone.
#[must_use]
pub fn title(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = words.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

/// Resident memory in bytes; 0 for a process that is gone.
#[must_use]
pub fn rss(pid: u32) -> u64 {
    status_field(pid, "VmRSS:").map_or(0, |kib| kib * 1024)
}

/// The most that was resident since the last [`reset_peak`], in bytes.
#[must_use]
pub fn peak(pid: u32) -> u64 {
    status_field(pid, "VmHWM:").map_or(0, |kib| kib * 1024)
}

/// Makes [`peak`] start from what is resident now, and says how much that is.
///
/// # Panics
///
/// If the process is not the caller's to look at.
pub fn reset_peak(pid: u32) -> u64 {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("own processes may be looked at");
    peak(pid)
}

/// Resident memory that is its own and no file's, in bytes.
#[must_use]
pub fn anonymous(pid: u32) -> u64 {
    status_field(pid, "RssAnon:").map_or(0, |kib| kib * 1024)
}

fn status_field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Proportional share of memory in bytes, where the kernel says it.
#[must_use]
pub fn pss(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// CPU time that it has used; none for a process that is gone.
#[must_use]
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks: u64 = stat
        .rsplit_once(") ")
        .into_iter()
        .flat_map(|(_, rest)| rest.split(' ').skip(11).take(2))
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // Linux shows hundredths of a second, whatever it counts in.
    Duration::from_millis(ticks * 10)
}

/// How often its threads have waited for something and were woken.
#[must_use]
pub fn wakeups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

/// Open descriptors.
#[must_use]
pub fn fds(pid: u32) -> usize {
    fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).map_or(0, Iterator::count)
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    // The owner of its own directory in `/proc`.
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}

/// Sends a signal, named as in `KILL`, `TERM`, `STOP`. A process that is gone
/// gets none.
///
/// # Panics
///
/// If there is no shell.
pub fn signal(pid: u32, name: &str) {
    // By the shell, whose `kill` is built in: the crates that know system
    // calls are `sys`'s own.
    let script = format!("kill -s {name} {pid} 2>/dev/null; true");
    let status = Command::new("sh").arg("-c").arg(script).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "no shell to send a signal with"
    );
}
