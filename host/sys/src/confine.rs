//! Taking from this process what its role does not need, for ever.
//!
//! Responsible for the order and for the proof that it was done; what a role
//! may do is data, one module per role in `policy`. A process confines itself
//! after it has opened what it needs and before it touches what it distrusts.
//!
//! Landlock is used as far as the kernel has it, and so is seccomp; what was
//! applied is told, because a container may have neither. Anything else that
//! fails is an error, and then the process must not go on.

use std::io;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};

use crate::policy::{builder, landlock, seccomp};
use crate::process;

/// How much of a protection the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All that was asked for is in force.
    Full,
    /// An older kernel: some of it is in force.
    Partial,
    /// The kernel has none of it.
    Absent,
}

/// What confinement did, besides the resource limits, which every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// No file can be opened, no port bound or connected.
    pub landlock: Support,
    /// No system call but the role's can be made.
    pub seccomp: Support,
}

/// Proof that this process is confined.
#[derive(Debug)]
pub struct Confined {
    applied: Applied,
}

impl Confined {
    /// What was applied.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        self.applied
    }
}

/// Resources that one builder may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuilderLimits {
    /// CPU time, rounded up to seconds; the kernel ends the process with
    /// `SIGXCPU` after it.
    pub cpu: Duration,
    /// Bytes of address space; allocations beyond fail. Nothing in a builder
    /// reserves address space that it does not use.
    pub memory: u64,
    /// Bytes of any file that it writes; `SIGXFSZ` ends it beyond.
    pub file_size: u64,
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Landlock and seccomp confine the calling thread; others would stay free.
    #[error("the process has {0} threads and must have one")]
    Threads(usize),
    /// A resource limit was refused.
    #[error("cannot set the limit {name}")]
    Limit {
        /// The limit.
        name: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// A step of confinement was refused.
    #[error("cannot {step}")]
    Step {
        /// What we were doing.
        step: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Confines a builder: it can compute, and read and write what is open.
///
/// It may receive a few more descriptors over its channel. The process must
/// have one thread, and it cannot start another.
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_builder(limits: &BuilderLimits) -> Result<Confined, ConfineError> {
    let step = |step| move |source| ConfineError::Step { step, source };
    let threads = process::threads().map_err(step("count threads"))?;
    if threads != 1 {
        return Err(ConfineError::Threads(threads));
    }
    for (name, resource, soft, hard) in builder::resource_limits(limits) {
        set_limit(name, resource, soft, hard)?;
    }
    process::set_not_dumpable().map_err(step("become not dumpable"))?;
    process::no_new_privileges().map_err(step("give up new privileges"))?;
    let landlock = landlock::deny_everything().map_err(step("apply Landlock"))?;
    let seccomp = seccomp::apply(&builder::policy()).map_err(step("apply seccomp"))?;
    Ok(Confined {
        applied: Applied { landlock, seccomp },
    })
}

/// Sets a limit, or keeps the one in force where that is lower and may not be
/// raised.
fn set_limit(
    name: &'static str,
    resource: Resource,
    soft: u64,
    hard: u64,
) -> Result<(), ConfineError> {
    let refused = |errno: nix::errno::Errno| ConfineError::Limit {
        name,
        source: errno.into(),
    };
    let (_, ceiling) = nix::sys::resource::getrlimit(resource).map_err(refused)?;
    setrlimit(resource, soft.min(ceiling), hard.min(ceiling)).map_err(refused)
}
