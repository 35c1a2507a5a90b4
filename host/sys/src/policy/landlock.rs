//! Landlock rule sets.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    Scope,
};

use crate::confine::Support;

/// The newest rights that we know of; older kernels enforce what they have.
const KNOWN: ABI = ABI::V9;

/// The first version with everything that we rely on. What came later we can
/// do without: sockets by a path (9) are not to be had past seccomp.
const COMPLETE: ABI = ABI::V6;

/// What a process may still open and connect to; everything else is forbidden:
/// files, TCP ports, abstract sockets and signals of others.
#[derive(Default)]
pub(crate) struct Grants<'a> {
    /// Files, or folders with all beneath, that are open.
    pub(crate) open: Vec<(BorrowedFd<'a>, Use)>,
    /// Files, or folders with all beneath, to read. Those that are not there
    /// are passed over.
    pub(crate) paths: &'a [&'a str],
    /// TCP ports to connect to; `None` is all of them.
    pub(crate) ports: Option<Vec<u16>>,
}

/// What may be done with a file or what is beneath a folder.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    /// Read files whose names are known.
    Open,
    /// Read files and folders.
    Read,
    /// Read, write, make and remove files and folders; no devices or sockets.
    Write,
}

impl Use {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Open => AccessFs::ReadFile.into(),
            Self::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Self::Write => {
                AccessFs::ReadFile
                    | AccessFs::ReadDir
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::MakeSym
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
        }
    }
}

impl Grants<'_> {
    /// Nothing at all.
    pub(crate) fn none() -> Self {
        Self {
            ports: Some(Vec::new()),
            ..Self::default()
        }
    }
}

/// What of Landlock was put in force.
pub(crate) struct Restricted {
    pub(crate) support: Support,
    /// The version of the kernel's Landlock, as far as we know its rights.
    pub(crate) version: u32,
}

/// Rules that a thread can take.
pub(crate) struct Rules(RulesetCreated);

impl Rules {
    /// # Errors
    ///
    /// The kernel refuses for a reason other than that it has no Landlock.
    pub(crate) fn new(grants: &Grants<'_>) -> io::Result<Self> {
        create(grants).map(Self).map_err(io::Error::other)
    }

    /// Forbids the calling thread everything that is not granted. What is open
    /// stays usable.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub(crate) fn restrict(self) -> io::Result<Restricted> {
        let restricted = self.0.restrict_self().map_err(io::Error::other)?;
        let version = match restricted.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        };
        let support = match version {
            0 => Support::Absent,
            version if version < COMPLETE as u32 => Support::Partial,
            _ => Support::Full,
        };
        Ok(Restricted { support, version })
    }
}

fn create(grants: &Grants<'_>) -> Result<RulesetCreated, RulesetError> {
    let mut net = AccessNet::from_all(KNOWN);
    if grants.ports.is_none() {
        net.remove(AccessNet::ConnectTcp);
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(net)?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for (fd, usage) in &grants.open {
        rules = rules.add_rule(PathBeneath::new(fd, usage.rights()))?;
    }
    for path in grants.paths {
        // A file that is not there is not read.
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, Use::Read.rights()))?;
        }
    }
    for port in grants.ports.iter().flatten() {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok(rules)
}

/// The version of this kernel's Landlock; 0 where there is none.
pub(crate) fn version() -> u32 {
    // SAFETY: landlock_create_ruleset takes a null attribute of size 0 with
    // this flag, touches no memory and makes no descriptor.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// linux/landlock.h
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;

/// What each version of Landlock added that we rely on, in words.
pub(crate) const ADDED: &[(u32, &str)] = &[
    (1, "opening, making and removing files"),
    (2, "moving files between folders"),
    (3, "truncating files"),
    (4, "TCP ports"),
    (5, "requests to devices"),
    (6, "abstract sockets and signals to other processes"),
];
