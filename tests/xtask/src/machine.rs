//! Where and when something was measured.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::build::root;

/// What figures depend on, besides what is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    date: String,
    commit: String,
    /// Versions of the programs that took part.
    pub(crate) programs: Vec<String>,
}

impl Machine {
    /// This machine, now.
    pub(crate) fn here() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu().unwrap_or_else(unknown),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            date: said_by("date", &["-u", "+%F %H:%M UTC"]).unwrap_or_else(unknown),
            commit: commit().unwrap_or_else(unknown),
            programs: Vec::new(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cores,
            cpu,
            kernel,
            date,
            commit,
            programs,
        } = self;
        write!(
            f,
            "{cores} cores ({cpu}), Linux {kernel}, {date}, commit {commit}"
        )?;
        if !programs.is_empty() {
            write!(f, "; {}", programs.join(", "))?;
        }
        Ok(())
    }
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn commit() -> Option<String> {
    let commit = said_by("git", &["rev-parse", "--short", "HEAD"])?;
    let changes = said_by("git", &["status", "--porcelain", "--untracked-files=no"]);
    Some(match changes {
        Some(changes) if !changes.is_empty() => format!("{commit} with changes"),
        _ => commit,
    })
}

fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .ok()?;
    let said = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8_lossy(&said).trim().to_owned())
}
