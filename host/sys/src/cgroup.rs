//! Control groups: the kernel's own limits of memory and processes.
//!
//! Responsible for finding what this process may use of them, and for groups
//! that are gone when their owner is. What a limit is, and what follows from a
//! group that ran out of memory, is the caller's. Groups are made beneath the
//! one that this process is in, so they never take more than it was given.
//!
//! Version 2 wants processes in the leaves only. Where it is used, this process
//! therefore moves into a leaf of its own before it makes the first group
//! (`nest`).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

mod find;
mod nest;

use nest::{Files, Nest};

/// A group is free a moment after its last process was reaped.
const REMOVAL: Duration = Duration::from_millis(50);

/// What this process may use.
#[derive(Debug)]
pub enum CgroupSupport {
    /// Groups can be made, and memory be limited.
    Available(Cgroups),
    /// They cannot.
    Unavailable {
        /// Why, in words that say what to do where something can be done.
        reason: String,
    },
}

/// Which interface the kernel's groups have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The unified hierarchy.
    V2,
    /// A hierarchy for each controller.
    V1,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "cgroup v2",
            Self::V1 => "cgroup v1",
        })
    }
}

/// Where groups can be made, under a label. Dropping it moves this process, and
/// others that were moved, back to where they were, if no group is left.
#[derive(Debug)]
pub struct Cgroups {
    places: Places,
    prefix: String,
    /// Folders of groups that were busy when they were dropped.
    left: Arc<Mutex<Vec<PathBuf>>>,
    /// Where this process is meanwhile, with version 2.
    _nest: Option<Nest<Files>>,
}

/// What one group may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Bytes of memory, swapped ones included where the kernel counts them;
    /// beyond, the kernel kills a process of the group.
    pub memory: Option<u64>,
    /// Processes and threads; beyond, none can be started. Not in force where
    /// there is no controller for it.
    pub pids: Option<u64>,
}

/// A group. Dropping it removes it; for that its processes must have been
/// reaped. If the kernel is not done with them yet, it is removed when the next
/// group is made, or by the next start.
#[derive(Debug)]
pub struct Cgroup {
    version: Version,
    memory: PathBuf,
    /// Where the limit of processes is, if there is one.
    pids: Option<PathBuf>,
    left: Arc<Mutex<Vec<PathBuf>>>,
}

/// The folders of this process's own groups.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Places {
    V2 {
        own: PathBuf,
        pids: bool,
    },
    V1 {
        memory: PathBuf,
        pids: Option<PathBuf>,
    },
}

impl Cgroups {
    /// What could be used here. Changes nothing: for who only wants to know.
    ///
    /// # Errors
    ///
    /// Why nothing can, as [`CgroupSupport::Unavailable`] says it.
    pub fn look() -> Result<Version, String> {
        find::places(Path::new("/")).map(|places| places.version())
    }

    /// Finds what this process may use, prepares it, and removes empty groups
    /// that an earlier process left under the same label. A label is of letters,
    /// digits, `-` and `_`; other characters become `-`.
    ///
    /// With version 2 this process moves into a group of its own, beneath the
    /// one that it is in, and others that are in it into another one: their
    /// limits stay what they are.
    #[must_use]
    pub fn find(label: &str) -> CgroupSupport {
        let prepared = find::places(Path::new("/")).and_then(|places| {
            let label = plain(label);
            let nest = match &places {
                Places::V2 { own, pids } => {
                    Nest::enter(Files, own, &label, std::process::id(), *pids)?
                }
                Places::V1 { .. } => None,
            };
            places.clean(&label);
            Ok(Self {
                prefix: format!("skep.{label}.{}", std::process::id()),
                places,
                left: Arc::default(),
                _nest: nest,
            })
        });
        match prepared {
            Ok(cgroups) => CgroupSupport::Available(cgroups),
            Err(reason) => CgroupSupport::Unavailable { reason },
        }
    }

    /// Which interface is used.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.places.version()
    }

    /// Makes a group with limits. Its name, a plain word like a label, must be
    /// unique among this process's groups.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` for a name that is taken; the kernel refuses a limit, or
    /// to make more groups.
    pub fn create(&self, name: &str, limits: &CgroupLimits) -> io::Result<Cgroup> {
        sweep(&self.left);
        let name = format!("{}.{}", self.prefix, plain(name));
        let (memory, pids) = match &self.places {
            Places::V2 { own, pids } => {
                let path = own.join(&name);
                fs::create_dir(&path)?;
                (path.clone(), pids.then_some(path))
            }
            Places::V1 { memory, pids } => {
                let path = memory.join(&name);
                fs::create_dir(&path)?;
                // Limiting processes is a second thing: memory alone will do.
                let pids = pids.as_ref().map(|pids| pids.join(&name));
                (path, pids.filter(|path| fs::create_dir(path).is_ok()))
            }
        };
        // From here on dropping it removes what was made.
        let cgroup = Cgroup {
            version: self.version(),
            memory,
            pids,
            left: Arc::clone(&self.left),
        };
        cgroup.limit(limits)?;
        Ok(cgroup)
    }
}

impl Cgroup {
    /// Moves a process into the group. What it and its threads use from now on
    /// is the group's.
    ///
    /// # Errors
    ///
    /// `NotFound` once it has ended, in whichever way the kernel says that; the
    /// process may not be moved.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        for folder in self.folders() {
            fs::write(folder.join("cgroup.procs"), pid.to_string()).map_err(|error| {
                if error.raw_os_error() == Some(libc::ESRCH) {
                    io::ErrorKind::NotFound.into()
                } else {
                    error
                }
            })?;
        }
        Ok(())
    }

    /// How many of its processes the kernel has killed because memory ran out.
    ///
    /// # Errors
    ///
    /// The group is gone.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        let counts = fs::read_to_string(self.memory.join(file))?;
        find::field(&counts, "oom_kill").ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Bytes of memory in use.
    ///
    /// # Errors
    ///
    /// The group is gone.
    pub fn memory_current(&self) -> io::Result<u64> {
        self.number(match self.version {
            Version::V2 => "memory.current",
            Version::V1 => "memory.usage_in_bytes",
        })
    }

    /// The most bytes of memory that were in use at a time, or `None` where the
    /// kernel does not say (version 2 before Linux 5.19).
    ///
    /// # Errors
    ///
    /// The group is gone.
    pub fn memory_peak(&self) -> io::Result<Option<u64>> {
        let peak = self.number(match self.version {
            Version::V2 => "memory.peak",
            Version::V1 => "memory.max_usage_in_bytes",
        });
        match peak {
            Ok(peak) => Ok(Some(peak)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.memory.is_dir() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn limit(&self, limits: &CgroupLimits) -> io::Result<()> {
        if let Some(bytes) = limits.memory {
            let write =
                |file: &str, value: u64| fs::write(self.memory.join(file), value.to_string());
            match self.version {
                Version::V2 => {
                    write("memory.max", bytes)?;
                    // Not everywhere; a hog would only swap.
                    optional(write("memory.swap.max", 0))?;
                }
                Version::V1 => {
                    write("memory.limit_in_bytes", bytes)?;
                    optional(write("memory.memsw.limit_in_bytes", bytes))?;
                }
            }
        }
        if let (Some(most), Some(pids)) = (limits.pids, &self.pids) {
            fs::write(pids.join("pids.max"), most.to_string())?;
        }
        Ok(())
    }

    fn number(&self, file: &str) -> io::Result<u64> {
        let text = fs::read_to_string(self.memory.join(file))?;
        text.trim()
            .parse()
            .map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// The folders that it consists of; with version 2 there is one.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        let pids = self.pids.as_deref().filter(|pids| *pids != self.memory);
        std::iter::once(self.memory.as_path()).chain(pids)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let by = Instant::now() + REMOVAL;
        for folder in self.folders() {
            while fs::remove_dir(folder).is_err_and(|error| busy(&error)) {
                if Instant::now() >= by {
                    let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                    left.push(folder.to_owned());
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        sweep(&self.left);
    }
}

/// Removes folders that are busy no more.
fn sweep(left: &Mutex<Vec<PathBuf>>) {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|folder| fs::remove_dir(folder).is_err_and(|error| busy(&error)));
}

impl Places {
    const fn version(&self) -> Version {
        match self {
            Self::V2 { .. } => Version::V2,
            Self::V1 { .. } => Version::V1,
        }
    }

    /// Removes the empty groups of earlier processes of this label.
    fn clean(&self, label: &str) {
        let prefix = format!("skep.{label}.");
        let (first, second) = match self {
            Self::V2 { own, .. } => (own, None),
            Self::V1 { memory, pids } => (memory, pids.as_ref()),
        };
        let folders = std::iter::once(first).chain(second);
        let entries = folders.filter_map(|folder| fs::read_dir(folder).ok());
        for entry in entries.flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // One that is in use stays.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Without characters that mean something in a path or in our names.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
            _ => '-',
        })
        .collect()
}

fn busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// A file that this kernel does not have is none to write to.
fn optional(written: io::Result<()>) -> io::Result<()> {
    match written {
        // A group has no files of ours, so one cannot be made either.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) || error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Ok(())
        }
        written => written,
    }
}
