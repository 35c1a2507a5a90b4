//! Between the primary and a dispatcher, and between a dispatcher and the
//! workers that it hands connections to.
//!
//! A dispatcher belongs to one listener. It keeps its copy of a connection's
//! socket until the worker has acknowledged it, so that a connection outlives a
//! worker that dies before it took it. The same holds for a connection on its way
//! back and a dispatcher that dies.

use serde::{Deserialize, Serialize};
use skep_core::route::HostRoute;
use skep_core::{ConnectionLimits, Dispatch, ListenerName, PoolName, Sandbox, WorkerId};

use crate::{MAX_PLAN, Message};

/// What the primary tells a dispatcher.
///
/// It begins with [`ToDispatcher::Begin`]; pools, hosts and workers come and go
/// afterwards, a pool before its workers and before hosts that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToDispatcher {
    /// The first message. Carries the listening socket, and a scoreboard of one
    /// cell into which the dispatcher beats. Answered by
    /// [`FromDispatcher::Ready`].
    Begin {
        /// The listener.
        listener: ListenerName,
        /// Limits of its connections; those of heads hold for the first one.
        limits: ConnectionLimits,
        /// What happens where the kernel cannot confine this process.
        sandbox: Sandbox,
    },
    /// Other limits from now on.
    Limits(ConnectionLimits),
    /// A pool that the listener serves, or another way to hand out among its
    /// workers. Carries its scoreboard.
    Pool {
        /// The pool.
        pool: PoolName,
        /// How its connections are handed out. [`Dispatch::Balanced`] is as
        /// [`Dispatch::LeastConnections`].
        dispatch: Dispatch,
    },
    /// The listener no longer serves this pool.
    PoolGone {
        /// The pool.
        pool: PoolName,
    },
    /// Which hosts belong to which pool from now on. If they all belong to one,
    /// no host matters, and no head is looked at. Nothing is accepted before
    /// this has come once: it is sent for a single pool, too.
    Hosts {
        /// The hosts that routes name.
        hosts: Vec<HostRoute>,
        /// Who gets connections for other hosts.
        otherwise: PoolName,
    },
    /// A worker that takes connections as soon as its cell says that it is
    /// ready. Carries a channel to it.
    Worker {
        /// The worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its cell in the pool's scoreboard.
        cell: u16,
    },
    /// A worker has exited. What it had not acknowledged goes to others.
    WorkerGone {
        /// The worker.
        worker: WorkerId,
    },
    /// Accept no more, hand out what was accepted, say
    /// [`FromDispatcher::Drained`] and exit.
    Drain,
}

/// What a dispatcher tells the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromDispatcher {
    /// It is confined and accepts from now on.
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
    /// What it has done since it began; once a second while it changes.
    Counts(DispatchCounts),
    /// A worker said what no worker says: it gets no more connections, and what
    /// it had not acknowledged went to others.
    Distrusts {
        /// The worker.
        worker: WorkerId,
        /// What it said, in words.
        #[serde(with = "crate::text")]
        why: String,
    },
    /// Every connection is handed out by the hosts that it was told last, and
    /// workers have been told; once for each [`ToDispatcher::Hosts`].
    Switched,
    /// Nothing waits any more; it exits.
    Drained,
}

/// What a dispatcher counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchCounts {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that a worker acknowledged, each time.
    pub handed_out: u64,
    /// Connections that a worker gave back: for another host, or because it
    /// drains.
    pub given_back: u64,
    /// Connections that went to another worker because the first one died.
    pub again: u64,
    /// Connections that were closed because their first head did not come in
    /// time, was too large, or was none.
    pub unheard: u64,
    /// Connections that were closed to make room: the one that had waited
    /// longest for its head.
    pub evicted: u64,
    /// Connections that were closed because no worker took them in time.
    pub unserved: u64,
    /// Conversations that were ended because a worker said what no worker says.
    pub distrusted: u64,
    /// Connections that wait now: for a head or for a worker.
    pub waiting: u32,
}

/// What a dispatcher tells a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToAcceptor {
    /// Serve these connections. Carries their sockets, in this order. Each is
    /// answered by [`FromAcceptor::Took`] or [`FromAcceptor::Declined`].
    Take(Vec<Handout>),
    /// These came back. The worker closes its copies.
    GotBack {
        /// Their numbers.
        #[serde(deserialize_with = "crate::ids::few")]
        ids: Vec<u64>,
    },
    /// Hosts have changed. No connection that was handed out before is known any
    /// more to be for the host that it was handed out for.
    Hosts {
        /// Whether connections are handed out by their host.
        matter: bool,
    },
}

/// What a connection has spoken, so that nobody reads it in another way than
/// who had it before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spoken {
    /// No byte of it was taken for anything yet.
    #[default]
    Nothing,
    /// HTTP/1.1. It never becomes HTTP/2 any more: the preface of HTTP/2 is no
    /// request line.
    Http1,
    /// HTTP/2: its preface is the first that there is to be read.
    Http2 {
        /// The dispatcher has sent an empty SETTINGS frame, for clients that
        /// wait for one. Whoever serves the connection passes over the first
        /// acknowledgement of settings that comes.
        greeted: bool,
    },
}

impl Spoken {
    /// Whether a connection that has spoken this may have spoken `later` after
    /// somebody served it.
    #[must_use]
    pub fn may_become(self, later: Self) -> bool {
        match self {
            Self::Nothing => later != Self::Http2 { greeted: true },
            Self::Http1 | Self::Http2 { .. } => later == self,
        }
    }

    /// Whether nothing is known yet.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// One connection that is handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handout {
    /// Its number. Numbers of a listener's connections are never used again,
    /// also by the dispatchers that follow.
    pub id: u64,
    /// The host that it was handed out for, as it was received, empty for a
    /// request without one; `None` where hosts do not matter and the worker need
    /// not look at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// One request only: the connection is given back after the response,
    /// because its client sends requests for hosts of several pools.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// What was read of it already and is to be read again.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "crate::bytes")]
    pub read: Vec<u8>,
    /// What it has spoken.
    #[serde(default, skip_serializing_if = "Spoken::is_nothing")]
    pub spoken: Spoken,
}

/// What a worker tells a dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromAcceptor {
    /// Connections of an earlier dispatcher of the listener that are still
    /// open, or on their way back to it. The first messages, or none.
    Kept {
        /// Their numbers.
        #[serde(deserialize_with = "crate::ids::few")]
        ids: Vec<u64>,
    },
    /// These are served. The dispatcher closes its copies.
    Took {
        /// Their numbers.
        #[serde(deserialize_with = "crate::ids::few")]
        ids: Vec<u64>,
    },
    /// These were taken or kept, and have ended. Said when there are some: until
    /// then they count as open.
    Ended {
        /// Their numbers.
        #[serde(deserialize_with = "crate::ids::few")]
        ids: Vec<u64>,
    },
    /// These are not: the worker takes no more. The dispatcher goes on with
    /// its copies.
    Declined {
        /// Their numbers.
        #[serde(deserialize_with = "crate::ids::few")]
        ids: Vec<u64>,
    },
    /// A connection between two requests. Carries its socket, of which the
    /// worker keeps a copy until [`ToAcceptor::GotBack`].
    GaveBack {
        /// The number under which it was handed out. Of a number that was not,
        /// or was given back already, or with another socket than was handed
        /// out under it, nothing is taken: the conversation ends.
        id: u64,
        /// What was read of the next request, without having been looked at
        /// further than its host.
        #[serde(with = "crate::bytes")]
        read: Vec<u8>,
        /// What it has spoken.
        #[serde(default, skip_serializing_if = "Spoken::is_nothing")]
        spoken: Spoken,
    },
}

impl Message for ToDispatcher {
    const MOST: usize = MAX_PLAN;

    fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Limits(_) => "limits",
            Self::Pool { .. } => "pool",
            Self::PoolGone { .. } => "pool-gone",
            Self::Hosts { .. } => "hosts",
            Self::Worker { .. } => "worker",
            Self::WorkerGone { .. } => "worker-gone",
            Self::Drain => "drain",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Begin { .. } => 2,
            Self::Pool { .. } | Self::Worker { .. } => 1,
            Self::Limits(_)
            | Self::PoolGone { .. }
            | Self::Hosts { .. }
            | Self::WorkerGone { .. }
            | Self::Drain => 0,
        }
    }
}

impl Message for FromDispatcher {
    const MOST: usize = 64 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::Unfit { .. } => "unfit",
            Self::Counts(_) => "counts",
            Self::Distrusts { .. } => "distrusts",
            Self::Switched => "switched",
            Self::Drained => "drained",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}

impl Message for ToAcceptor {
    // What was read of a connection, twice the largest head there is.
    const MOST: usize = 4 << 20;

    fn name(&self) -> &'static str {
        match self {
            Self::Take(_) => "take",
            Self::GotBack { .. } => "got-back",
            Self::Hosts { .. } => "hosts",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Take(handouts) => handouts.len(),
            Self::GotBack { .. } | Self::Hosts { .. } => 0,
        }
    }
}

impl Message for FromAcceptor {
    // What was read of a connection, twice the largest head there is.
    const MOST: usize = 4 << 20;

    fn name(&self) -> &'static str {
        match self {
            Self::Kept { .. } => "kept",
            Self::Took { .. } => "took",
            Self::Ended { .. } => "ended",
            Self::Declined { .. } => "declined",
            Self::GaveBack { .. } => "gave-back",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Kept { .. } | Self::Took { .. } | Self::Ended { .. } | Self::Declined { .. } => 0,
            Self::GaveBack { .. } => 1,
        }
    }
}
