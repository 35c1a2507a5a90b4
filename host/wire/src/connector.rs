//! Between the primary and the connector, the process that opens outbound
//! connections, and between the connector and the workers that ask for them.
//!
//! A worker cannot make a socket. It asks for a connection in the name of an
//! app of its pool; the connector holds the grants, resolves the name, checks
//! the address, connects, and passes the socket. A worker that was taken over
//! reaches nothing that its pool's apps may not reach.

use core::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_core::egress::{OpenFailure, OutboundGrant, Scheme};
use skep_core::{AppName, PoolName, Sandbox, WorkerId};

use crate::{MAX_PLAN, Message};

/// What the primary tells the connector.
///
/// It begins with [`ToConnector::Begin`]; grants and workers come and go
/// afterwards, a pool's grants before its workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToConnector {
    /// The first message. Carries a scoreboard of one cell into which the
    /// connector beats. Answered by [`FromConnector::Ready`].
    Begin {
        /// What happens where the kernel cannot confine this process.
        sandbox: Sandbox,
    },
    /// What the apps of a pool may reach from now on; apps that are not named
    /// may reach nothing.
    Grants {
        /// The pool.
        pool: PoolName,
        /// Its apps.
        apps: Vec<AppGrants>,
    },
    /// The pool is gone.
    PoolGone {
        /// The pool.
        pool: PoolName,
    },
    /// A worker that may ask. Carries a channel to it.
    Worker {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
    },
    /// A worker has exited; its connections are closed.
    WorkerGone {
        /// The worker.
        worker: WorkerId,
    },
}

/// What one app may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppGrants {
    /// The app.
    pub app: AppName,
    /// Where to.
    pub grants: Vec<OutboundGrant>,
    /// Connections that it may have open at a time, over all workers.
    pub connections: u32,
}

/// What the connector tells the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromConnector {
    /// It is confined and answers workers from now on.
    Ready {
        /// What of its confinement the kernel lacks, in words.
        #[serde(with = "crate::text::few")]
        missing: Vec<String>,
    },
    /// It cannot serve and is about to exit.
    Unfit {
        /// What is wrong.
        #[serde(with = "crate::text")]
        message: String,
    },
}

/// What a worker asks the connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToOpener {
    /// Open a connection. Answered by a [`FromOpener`] with the same number.
    Open {
        /// The worker's number for it.
        id: u64,
        /// Who wants it.
        app: AppName,
        /// What will be spoken over it.
        scheme: Scheme,
        /// A name or an address, as the guest wrote it, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// How long it may take, resolution included.
        timeout: Duration,
    },
    /// A connection that was opened is closed.
    Closed {
        /// Its number.
        id: u64,
    },
}

/// What the connector answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromOpener {
    /// It is open. Carries the connected socket.
    Opened {
        /// The worker's number.
        id: u64,
        /// The other end.
        address: SocketAddr,
    },
    /// It is not.
    Failed {
        /// The worker's number.
        id: u64,
        /// Why not.
        why: OpenFailure,
    },
}

impl Message for ToConnector {
    const MOST: usize = MAX_PLAN;

    fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Grants { .. } => "grants",
            Self::PoolGone { .. } => "pool-gone",
            Self::Worker { .. } => "worker",
            Self::WorkerGone { .. } => "worker-gone",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Begin { .. } | Self::Worker { .. } => 1,
            Self::Grants { .. } | Self::PoolGone { .. } | Self::WorkerGone { .. } => 0,
        }
    }
}

impl Message for FromConnector {
    const MOST: usize = 64 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::Unfit { .. } => "unfit",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}

impl Message for ToOpener {
    const MOST: usize = 16 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Closed { .. } => "closed",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}

impl Message for FromOpener {
    const MOST: usize = 16 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::Failed { .. } => "failed",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Opened { .. } => 1,
            Self::Failed { .. } => 0,
        }
    }
}
