//! Taking from this process what its role does not need, for ever.
//!
//! Responsible for the order and for the proof that it was done; what a role
//! may do is data, one module per role in `policy`. A process confines itself
//! after it has opened what it needs and before it touches what it distrusts.
//!
//! Landlock is used as far as the kernel has it, and so is seccomp; what was
//! applied is told, because a container may have neither, and [`Strictness`]
//! says whether that will do. Anything else that fails is an error, and then
//! the process must not go on.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};

use crate::policy::basics::Limit;
use crate::policy::landlock::{Grants, Rules, Use};
use crate::policy::seccomp::{Filters, Policy};
use crate::policy::{admin, alerter, builder, connector, dispatcher, worker};
use crate::process;

pub use self::offer::{Missing, Offer, offer};

mod offer;

/// What to do where the kernel cannot confine as we ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// It is an error.
    Require,
    /// What can be had is used, and the rest is told.
    BestEffort,
    /// Neither Landlock nor seccomp is used. Limits and privileges are given
    /// up all the same.
    Off,
}

/// How much of a protection is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All that was asked for.
    Full,
    /// Some of it: the kernel is older.
    Partial,
    /// None: the kernel does not have it.
    Absent,
    /// None: nobody asked for it.
    Off,
}

/// What confinement did, besides what every kernel has: resource limits, and
/// privileges given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// No file can be opened but the role's, no port bound or connected.
    pub landlock: Support,
    /// No system call but the role's can be made.
    pub seccomp: Support,
}

/// Proof that this process is confined.
#[derive(Debug)]
pub struct Confined {
    applied: Applied,
    missing: Vec<Missing>,
}

impl Confined {
    /// What was applied.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        self.applied
    }

    /// What was asked for and is not in force, for people. Empty when nothing
    /// was asked for.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
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

/// What one worker may use.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfinement<'a> {
    /// The folder with its pool's artifacts: files beneath can be opened, to
    /// read. `None` for a worker that opens none.
    ///
    /// A descriptor that was opened through this folder can be opened again by
    /// its path in `/proc/self/fd`; one of the same file that was opened
    /// through another folder cannot.
    pub artifacts: Option<BorrowedFd<'a>>,
    /// Folders that its guests may use.
    pub mounts: &'a [Mount<'a>],
    /// Open descriptors at most, or fewer where that is all it may have.
    pub descriptors: u64,
}

/// A folder that guests may use.
#[derive(Clone, Copy, Debug)]
pub struct Mount<'a> {
    /// The folder.
    pub folder: BorrowedFd<'a>,
    /// Whether files beneath can be written, made and removed, or only read.
    pub writable: bool,
}

/// To which TCP ports a connector may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// To all.
    All,
    /// To these, at whatever address.
    These(Vec<u16>),
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
    /// The kernel cannot do all that is required.
    #[error("the kernel does not forbid {}", offer::in_words(.0))]
    Missing(Vec<Missing>),
}

/// Confines a builder: it can compute, and read and write what is open.
///
/// It may receive a few more descriptors over its channel. The process must
/// have one thread, and it cannot start another.
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_builder(
    limits: &BuilderLimits,
    strictness: Strictness,
) -> Result<Confined, ConfineError> {
    alone()?;
    limit(&builder::resource_limits(limits))?;
    confine(&Grants::none(), &builder::policy(), strictness)
}

/// Confines a worker: it can accept, run guests, and use what it is passed.
///
/// The process must have one thread, and it cannot start another. Before this,
/// wasmtime must have opened the process's pagemap, and an event loop that
/// exclusive listeners are going to join must be
/// [kept](crate::keep_event_loop).
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_worker(
    confinement: &WorkerConfinement<'_>,
    strictness: Strictness,
) -> Result<Confined, ConfineError> {
    let mounts = if confinement.mounts.is_empty() {
        worker::Mounts::None
    } else if confinement.mounts.iter().any(|mount| mount.writable) {
        worker::Mounts::Write
    } else {
        worker::Mounts::Read
    };
    let mut grants = Grants::none();
    let artifacts = confinement.artifacts.map(|folder| (folder, Use::Open));
    grants.open.extend(artifacts);
    grants.open.extend(confinement.mounts.iter().map(|mount| {
        let usage = if mount.writable {
            Use::Write
        } else {
            Use::Read
        };
        (mount.folder, usage)
    }));
    alone()?;
    limit(&worker::resource_limits(confinement.descriptors))?;
    confine(&grants, &worker::policy(mounts), strictness)
}

/// Confines a dispatcher: it can accept, look at what was received, and pass
/// on. It opens nothing. The process must have one thread, and it cannot start
/// another. `descriptors` are those that it may have open.
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_dispatcher(
    descriptors: u64,
    strictness: Strictness,
) -> Result<Confined, ConfineError> {
    alone()?;
    limit(&dispatcher::resource_limits(descriptors))?;
    confine(&Grants::none(), &dispatcher::policy(), strictness)
}

/// Confines a connector: it can look names up, connect to the ports that are
/// given, and pass the connections on. It reads the resolver's configuration
/// and nothing else. The process must have one thread, and it cannot start
/// another. `descriptors` are those that it may have open.
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_connector(
    ports: Ports,
    descriptors: u64,
    strictness: Strictness,
) -> Result<Confined, ConfineError> {
    let grants = Grants {
        paths: connector::FILES,
        ports: match ports {
            Ports::All => None,
            Ports::These(ports) => Some(ports),
        },
        ..Grants::none()
    };
    alone()?;
    limit(&connector::resource_limits(descriptors))?;
    confine(&grants, &connector::policy(), strictness)
}

/// Confines an alerter: it can connect to the TCP port that is given, with the
/// system's resolver and certificates. The process must have one thread; those
/// that it starts from now on are confined likewise.
///
/// A name server that answers over TCP is at a port of its own, 53, and stays
/// reachable.
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_alerter(port: u16, strictness: Strictness) -> Result<Confined, ConfineError> {
    let grants = Grants {
        paths: alerter::FILES,
        ports: Some(vec![port, alerter::DOMAIN]),
        ..Grants::none()
    };
    alone()?;
    limit(&alerter::resource_limits())?;
    confine(&grants, &alerter::policy(), strictness)
}

/// Confines an admin process: it can accept, and use what is open. The process
/// must have one thread, and it cannot start another. `descriptors` are those
/// that it may have open.
///
/// # Errors
///
/// [`ConfineError`]; part of the confinement may be in force then.
pub fn confine_admin(descriptors: u64, strictness: Strictness) -> Result<Confined, ConfineError> {
    alone()?;
    limit(&admin::resource_limits(descriptors))?;
    confine(&Grants::none(), &admin::policy(), strictness)
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> ConfineError {
    move |source| ConfineError::Step { step, source }
}

fn alone() -> Result<(), ConfineError> {
    match process::threads().map_err(step("count threads"))? {
        1 => Ok(()),
        threads => Err(ConfineError::Threads(threads)),
    }
}

/// Confines the calling thread.
fn confine(
    grants: &Grants<'_>,
    policy: &Policy,
    strictness: Strictness,
) -> Result<Confined, ConfineError> {
    let rules = Rules::new(grants).map_err(step("prepare Landlock"))?;
    let filters = Filters::new(policy).map_err(step("prepare seccomp"))?;
    process::set_not_dumpable().map_err(step("become not dumpable"))?;
    process::no_new_privileges().map_err(step("give up new privileges"))?;
    process::drop_capabilities().map_err(step("give up capabilities"))?;
    if strictness == Strictness::Off {
        return Ok(Confined {
            applied: Applied {
                landlock: Support::Off,
                seccomp: Support::Off,
            },
            missing: Vec::new(),
        });
    }
    let restricted = rules.restrict().map_err(step("apply Landlock"))?;
    let seccomp = filters.apply().map_err(step("apply seccomp"))?;
    let missing = offer::missing(restricted.version, seccomp == Support::Full);
    if strictness == Strictness::Require && !missing.is_empty() {
        return Err(ConfineError::Missing(missing));
    }
    Ok(Confined {
        applied: Applied {
            landlock: restricted.support,
            seccomp,
        },
        missing,
    })
}

fn limit(limits: &[Limit]) -> Result<(), ConfineError> {
    limits
        .iter()
        .try_for_each(|&(name, resource, soft, hard)| set_limit(name, resource, soft, hard))
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
