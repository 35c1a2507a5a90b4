//! The checked specification of a fleet: what `config` produces and every
//! other part relies on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits::{AppLimits, ConnectionLimits, InstancePolicy, SupervisionSettings};
use crate::name::{AppName, Generation, ListenerName, PoolName, TenantName};
use crate::route::RoutePattern;

/// A numbered, immutable description of everything that should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSpec {
    /// The number of this specification; 1 at start.
    pub generation: Generation,
    /// What concerns the primary itself.
    pub server: ServerSpec,
    /// Listening addresses.
    pub listeners: BTreeMap<ListenerName, ListenerSpec>,
    /// Sets of workers.
    pub pools: BTreeMap<PoolName, PoolSpec>,
    /// Handlers.
    pub apps: BTreeMap<AppName, AppSpec>,
}

/// What concerns the primary itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Directory of artifacts, revisions and the control socket.
    pub state_dir: PathBuf,
    /// How log records are written.
    pub log: LogSpec,
}

/// How log records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// The least important records that are still written.
    pub level: LogLevel,
}

/// The shape of a log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The importance of a log record, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is odd but works.
    Warn,
    /// What an operator wants to follow.
    Info,
    /// What a developer wants to follow.
    Debug,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// Where to listen.
    pub address: ListenAddress,
    /// The pool that serves it.
    pub pool: PoolName,
    /// Limits of its connections.
    pub limits: ConnectionLimits,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenAddress {
    /// A TCP address; port 0 asks the system for a free one.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
    /// A socket inherited through socket activation under this name.
    Inherited(String),
}

impl fmt::Display for ListenAddress {
    /// As in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => write!(f, "fd:{name}"),
        }
    }
}

/// How connections reach the workers of a pool (DESIGN §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dispatch {
    /// Workers accept from the shared socket, each up to its fair share.
    #[default]
    Balanced,
}

/// A set of workers with one OS identity and one set of limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Number of workers; `auto` is resolved before this is built.
    pub workers: u16,
    /// How connections reach the workers.
    pub dispatch: Dispatch,
    /// When workers are waited for, replaced and given up on.
    pub supervision: SupervisionSettings,
}

/// A deployed handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// The component's file.
    pub component: PathBuf,
    /// The owner.
    pub tenant: TenantName,
    /// The pool whose workers load it.
    pub pool: PoolName,
    /// What it answers; never empty.
    pub routes: Vec<RoutePattern>,
    /// Whether the matched prefix is cut off the path that the guest sees.
    pub strip_prefix: bool,
    /// Its limits.
    pub limits: AppLimits,
    /// How its instances are used.
    pub instance: InstancePolicy,
    /// Its environment, resolved, in order.
    pub env: Vec<(String, String)>,
    /// Names of variables that must be present and not empty.
    pub require: Vec<String>,
    /// Values that the guest reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
}
