//! Processes as `/proc` shows them: families, memory, CPU time; and signals.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Clock ticks per second in `/proc/PID/stat`: part of Linux's ABI on every
/// architecture that Rust's standard library supports.
const TICKS_PER_SECOND: u64 = 100;

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// Ticks since boot: with the pid, an identity that is never used again.
    started: u64,
    cpu_ticks: u64,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// Ended, but not waited for by its parent.
    Ended,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &stat)
    }

    /// The command's name may hold anything, parentheses too: what counts
    /// begins behind the last one.
    fn parse(pid: u32, stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            cpu_ticks: number(11)? + number(12)?,
            started: number(19)?,
            life: match *fields.first()? {
                "Z" | "X" => Life::Ended,
                _ => Life::Running,
            },
        })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::read(self.pid)
            .is_some_and(|now| now.started == self.started && now.life == Life::Running)
    }
}

/// These processes and all that descend from them, older generations first.
pub(crate) fn family(roots: &[u32]) -> Vec<Process> {
    let all: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect();
    descend(&all, roots)
}

fn descend(all: &[Process], roots: &[u32]) -> Vec<Process> {
    let mut seen: BTreeSet<u32> = roots.iter().copied().collect();
    let mut found: Vec<Process> = all
        .iter()
        .filter(|process| seen.contains(&process.pid))
        .copied()
        .collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        next += 1;
        let children = all.iter().filter(|process| process.parent == parent);
        for child in children {
            if seen.insert(child.pid) {
                found.push(*child);
            }
        }
    }
    found
}

/// CPU time in seconds that the processes have used so far.
pub(crate) fn cpu_seconds(processes: &[Process]) -> f64 {
    let ticks: u64 = processes.iter().map(|process| process.cpu_ticks).sum();
    ticks as f64 / TICKS_PER_SECOND as f64
}

/// Memory of a process in KiB, each shared page divided by its sharers.
///
/// # Errors
///
/// The process is gone, or is not ours to look at.
pub(crate) fn pss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_pss(&rollup).with_context(|| format!("no Pss in {path}"))
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Recipient {
    Process(u32),
    Group(u32),
}

/// Sends a signal, by its name without `SIG`.
///
/// The shell's own `kill` is used: it is there wherever a shell is, and it
/// keeps this crate free of system calls.
///
/// # Errors
///
/// There is no such process, or it is not ours.
pub(crate) fn send(signal: &str, to: Recipient) -> Result<()> {
    let target = match to {
        Recipient::Process(pid) => pid.to_string(),
        Recipient::Group(leader) => format!("-{leader}"),
    };
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$1" -- "$2""#, "sh", signal, &target])
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh")?;
    ensure!(status.success(), "cannot send {signal} to {target}");
    Ok(())
}

/// The file that a command's name stands for.
pub(crate) fn on_path(name: &str) -> Option<std::path::PathBuf> {
    // Daemons live in directories that a plain user's PATH often lacks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_confuse_the_parser() {
        let stat = "42 (a) R (b) S 7 42 42 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 1 0 9000 1 2";
        assert_eq!(
            Process::parse(42, stat),
            Some(Process {
                pid: 42,
                parent: 7,
                started: 9000,
                cpu_ticks: 75,
                life: Life::Running,
            })
        );
        assert_eq!(Process::parse(42, "42 (a) S 7"), None);
    }

    #[test]
    fn a_family_has_all_generations_and_no_neighbours() {
        let process = |pid, parent| Process {
            pid,
            parent,
            started: 0,
            cpu_ticks: 100,
            life: Life::Running,
        };
        let all = [
            process(9, 5),
            process(1, 0),
            process(5, 3),
            process(3, 1),
            process(4, 1),
        ];
        let family = descend(&all, &[3]);
        assert_eq!(family.iter().map(|p| p.pid).collect::<Vec<_>>(), [3, 5, 9]);
        assert!((cpu_seconds(&family) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn this_process_is_alive_and_has_memory() {
        let family = family(&[std::process::id()]);
        assert!(family[0].is_alive());
        assert!(pss_kib(family[0].pid).unwrap() > 100);
    }

    #[test]
    fn pss_is_not_one_of_its_parts() {
        let rollup = "00-ff ---p\nRss:   90 kB\nPss_Anon:  3 kB\nPss:     1234 kB\n";
        assert_eq!(parse_pss(rollup), Some(1234));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn signals_reach_whole_groups() {
        use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .process_group(0)
            .spawn()
            .unwrap();
        send("KILL", Recipient::Group(child.id())).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
