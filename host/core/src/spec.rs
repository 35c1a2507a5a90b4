//! The checked specification of a fleet: what `config` produces and every
//! other part relies on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::egress::OutboundGrant;
use crate::limits::{
    AppLimits, ConnectionLimits, InstancePolicy, SupervisionSettings, TenantLimits,
};
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
    /// Owners of apps; every app's tenant is among them.
    pub tenants: BTreeMap<TenantName, TenantSpec>,
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
    /// Who is told when something needs a person.
    pub alert: Option<AlertSpec>,
    /// What happens where the kernel cannot confine our processes.
    pub sandbox: Sandbox,
}

/// What happens where the kernel cannot confine our processes as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Nothing is served.
    Require,
    /// What it can do is done, and the rest is told.
    #[default]
    BestEffort,
    /// Nothing is asked of it: for debugging.
    Off,
}

/// An owner of apps: the unit of budget and blame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Whether it has workers of its own.
    pub isolation: Isolation,
    /// What all its apps have together.
    pub limits: TenantLimits,
}

/// How far apart a tenant is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Its instances share workers with others'.
    #[default]
    Shared,
    /// It has a pool of its own, of the same name: other processes, another
    /// user.
    Dedicated,
}

/// Who is told when something needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSpec {
    /// An `http` or `https` URL that gets each alert as a JSON POST.
    pub webhook: String,
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
    /// The pools that serve it; never empty. Requests for hosts that no route
    /// names go to the first.
    pub pools: Vec<PoolName>,
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
    /// A dispatcher passes each connection to the next worker.
    RoundRobin,
    /// A dispatcher passes each connection to the worker with the fewest.
    LeastConnections,
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
    /// Who the workers are, where skep was started as root: a user's name,
    /// `UID` or `UID:GID`. If absent, a user of the pool's own that has no name.
    pub user: Option<String>,
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
    /// A request that must be answered well before the app takes traffic.
    pub validate: Option<HttpCheck>,
    /// How another revision of it takes over.
    pub rollout: RolloutSpec,
    /// What it may reach: its own grants and its tenant's.
    pub outbound: Vec<OutboundGrant>,
}

/// A request that a handler must answer well before it takes traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The path and query of the `GET`, beginning with a slash.
    pub path: String,
    /// The status that it must have.
    pub status: u16,
    /// How long it may take, to the end of the body.
    pub timeout: Duration,
}

/// How another revision of an app takes over (DESIGN §7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// In place, or by replacing the worker processes.
    pub strategy: Strategy,
    /// Share of the requests that a new revision gets until it is promoted;
    /// all of them when absent.
    pub canary: Option<Portion>,
    /// How long a new revision is watched; zero is not at all.
    pub observe: Duration,
    /// Share of failed requests above which it is rolled back.
    pub max_error_rate: Portion,
    /// Median latency, as a share of the old revision's, above which it is
    /// rolled back; zero is no limit.
    pub max_latency: Portion,
    /// Revisions that are remembered, with their artifacts; at least 2.
    pub keep: u16,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            strategy: Strategy::Swap,
            canary: None,
            observe: Duration::from_secs(10),
            max_error_rate: Portion::percent(1),
            // Far enough above noise, and well below twice as slow.
            max_latency: Portion::percent(160),
            keep: 10,
        }
    }
}

/// How a new revision gets into the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Each worker loads it beside the old one and switches.
    #[default]
    Swap,
    /// Workers are replaced, new ones ready before old ones drain.
    Restart,
}

/// A part of something in hundredths of a percent; it may be more than all.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Portion(pub u32);

impl Portion {
    /// All of it.
    pub const ALL: Self = Self(10_000);

    /// So many percent.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 100)
    }

    /// As a factor: 1.0 is all of it.
    #[must_use]
    pub fn factor(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ALL.0)
    }
}

impl fmt::Display for Portion {
    /// As in the configuration: `12.5%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "{whole}%"),
            (_, 0) => write!(f, "{whole}.{}%", rest / 10),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}
