//! What keeps our processes apart besides what they do themselves: users and
//! control groups. (What they may open is the `shelf`'s.)
//!
//! Users can only be given by root; control groups only where the system lets
//! us make them. What cannot be had is told, and `sandbox` does not ask for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use skep_core::identity::{Role, has_nameless, of_pools};
use skep_core::{FleetSpec, LogLevel, PoolName, PoolSpec};
use skep_sys::cgroup::{Cgroup, CgroupLimits, CgroupSupport, Cgroups};
use skep_sys::{Identity, Schedule, process};

use crate::log::Log;

/// Processes and threads of one worker: it has one, and starts no more. The
/// rest is room for what a debugger starts.
const WORKER_TASKS: u64 = 16;

/// A pool's workers cannot be who they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// There is no such user.
    #[error("pool {pool}: there is no user `{user}`; make it, or leave `user` out")]
    Unknown {
        /// The pool.
        pool: PoolName,
        /// What it names.
        user: String,
    },
    /// Workers of root would be behind one wall less.
    #[error("pool {0}: workers do not run as root; name another `user`, or leave it out")]
    Root(PoolName),
    /// The system does not say.
    #[error("pool {pool}: cannot look up the user `{user}`: {why}")]
    Lookup {
        /// The pool.
        pool: PoolName,
        /// What it names.
        user: String,
        /// What the system says.
        why: String,
    },
}

/// The users that pools name, as they were looked up. To ask the system may wait
/// for a name service, so it is done apart from the loop, which only reads what is
/// known here. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users(Arc<Mutex<BTreeMap<String, Known>>>);

/// What the system said of a user, or why it did not.
type Known = Result<Option<Identity>, String>;

impl Users {
    /// Looks up those that a specification names. May wait for long.
    pub(crate) fn look_up(&self, spec: &FleetSpec) {
        if !can_be_others() {
            return;
        }
        for user in spec.pools.values().filter_map(|pool| pool.user.as_ref()) {
            let found = Identity::of_user(user).map_err(|error| error.to_string());
            self.known().insert(user.clone(), found);
        }
    }

    fn get(&self, user: &str) -> Known {
        let known = self.known().get(user).cloned();
        known.unwrap_or_else(|| Err("nobody has asked the system yet".to_owned()))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        // Whole at every step, and held while nothing waits.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a process is born behind.
#[derive(Debug, Default)]
pub(crate) struct Wall {
    /// Who it is, if not who we are.
    pub(crate) identity: Option<Identity>,
    /// What bounds its memory; gone with it.
    pub(crate) cgroup: Option<Cgroup>,
    /// How it runs among others.
    pub(crate) schedule: Schedule,
}

impl Wall {
    /// For a process that nobody waits for as long as others serve.
    pub(crate) const fn in_background(mut self) -> Self {
        self.schedule = Schedule::Background;
        self
    }
}

/// Makes walls.
#[derive(Debug)]
pub(crate) struct Walls {
    /// Whether we can make our processes somebody else.
    root: bool,
    cgroups: Option<Cgroups>,
    /// Users without a name that pools were given.
    nameless: BTreeMap<PoolName, u32>,
    /// Who pools are that name this user, or none: a reload that is rejected
    /// changes nobody.
    pools: BTreeMap<(PoolName, Option<String>), Identity>,
    users: Users,
    log: Log,
}

impl Walls {
    /// Sees what there is, and prepares for the pools of `spec`.
    ///
    /// # Errors
    ///
    /// [`UserError`].
    pub(crate) fn raise(spec: &FleetSpec, users: Users, log: &Log) -> Result<Self, UserError> {
        let state_dir = &spec.server.state_dir;
        let mut walls = Self {
            root: can_be_others(),
            cgroups: None,
            nameless: BTreeMap::new(),
            pools: BTreeMap::new(),
            users,
            log: log.clone(),
        };
        walls.admit(spec)?;
        if process::is_root() && !walls.root {
            log.record(LogLevel::Warn, "sandbox.incomplete", |line| {
                line.text(
                    "message",
                    "all processes are root: this container has too few users to give each pool \
                     its own; run skep as an ordinary user",
                )
            });
        }
        match Cgroups::find(&label_of(state_dir)) {
            CgroupSupport::Available(cgroups) => walls.cgroups = Some(cgroups),
            CgroupSupport::Unavailable { reason } => {
                if spec.pools.values().any(|pool| pool.supervision.memory > 0) {
                    log.record(LogLevel::Warn, "memory.unenforced", |line| {
                        line.text("reason", &reason).text(
                            "message",
                            "the kernel does not enforce `memory`; workers are measured and replaced",
                        )
                    });
                }
            }
        }
        Ok(walls)
    }

    /// Decides who the workers of each pool of `spec` are. Pools that are there
    /// already keep their users unless they name others.
    ///
    /// # Errors
    ///
    /// [`UserError`]; nothing has changed then.
    pub(crate) fn admit(&mut self, spec: &FleetSpec) -> Result<(), UserError> {
        if !self.root {
            return Ok(());
        }
        let nameless = of_pools(spec.pools.keys(), &self.nameless);
        let mut pools = BTreeMap::new();
        for (pool, settings) in &spec.pools {
            let identity = match &settings.user {
                None => Identity {
                    uid: nameless[pool],
                    gid: nameless[pool],
                },
                Some(user) => named(pool, user, self.users.get(user))?,
            };
            pools.insert((pool.clone(), settings.user.clone()), identity);
        }
        self.nameless = nameless;
        // Those whose workers are going away keep who they are.
        self.pools.extend(pools);
        Ok(())
    }

    /// The users that specifications name, to be looked up before they are admitted.
    pub(crate) fn users(&self) -> Users {
        self.users.clone()
    }

    /// The wall around a worker. `name` is told from those of all others.
    pub(crate) fn around_worker(&self, pool: &PoolName, name: &str, spec: &PoolSpec) -> Wall {
        let memory = spec.supervision.memory;
        let limits = CgroupLimits {
            memory: (memory > 0).then_some(memory),
            pids: Some(WORKER_TASKS),
        };
        let cgroups = self.cgroups.as_ref().filter(|_| memory > 0);
        let cgroup = cgroups.and_then(|cgroups| match cgroups.create(name, &limits) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                self.log
                    .record(LogLevel::Warn, "memory.unenforced", |line| {
                        line.text("pool", pool.as_str())
                            .text("reason", &error.to_string())
                    });
                None
            }
        });
        Wall {
            identity: self.pools.get(&(pool.clone(), spec.user.clone())).copied(),
            cgroup,
            schedule: Schedule::Serving,
        }
    }

    /// The wall around a process of a role.
    pub(crate) fn around(role: Role) -> Wall {
        Wall {
            identity: identity_of(role),
            cgroup: None,
            schedule: Schedule::Serving,
        }
    }
}

/// Whether our processes can be somebody else: we are root, and of a system or
/// a container that has the users which nobody else has.
fn can_be_others() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        process::is_root() && has_nameless(&map)
    })
}

/// Who the processes of a role are: somebody else where we are root.
pub(crate) fn identity_of(role: Role) -> Option<Identity> {
    can_be_others().then(|| Identity {
        uid: role.user(),
        gid: role.user(),
    })
}

fn named(pool: &PoolName, user: &str, known: Known) -> Result<Identity, UserError> {
    let found = known.map_err(|why| UserError::Lookup {
        pool: pool.clone(),
        user: user.to_owned(),
        why,
    })?;
    match found {
        None => Err(UserError::Unknown {
            pool: pool.clone(),
            user: user.to_owned(),
        }),
        Some(identity) if identity.uid == 0 || identity.gid == 0 => {
            Err(UserError::Root(pool.clone()))
        }
        Some(identity) => Ok(identity),
    }
}

/// Tells the groups of this state directory's skep from those of others.
fn label_of(state_dir: &Path) -> String {
    let path = state_dir.as_os_str().as_encoded_bytes();
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
