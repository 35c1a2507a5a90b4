//! Between the primary and a worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_core::route::RoutePattern;
use skep_core::{
    AppLimits, AppName, ConnectionLimits, Generation, InstancePolicy, ListenerName, LogSpec,
    PoolName, Revision, SlotIndex, TenantName, WorkerId,
};

use crate::{Flavor, Message};

/// What the primary tells a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first message: who the worker is and what will follow. Carries the
    /// pool's scoreboard and then one listening socket per entry of
    /// `listeners`, in that order.
    Begin {
        /// The worker's unique number.
        worker: WorkerId,
        /// The pool it works for.
        pool: PoolName,
        /// Its place in the pool, and its cell in the scoreboard.
        slot: SlotIndex,
        /// The scoreboard cell that it writes.
        cell: u16,
        /// Number of workers of the pool, for shares of limits.
        workers: u16,
        /// The specification it serves.
        generation: Generation,
        /// How it logs.
        log: LogSpec,
        /// What it accepts from.
        listeners: Vec<ListenerRole>,
        /// How many [`ToWorker::Load`] follow before it may report ready.
        apps: u32,
    },
    /// Load one app. Carries the artifact, open for reading.
    Load(Box<LoadApp>),
    /// Stop accepting, finish what was begun, report [`FromWorker::Drained`]
    /// and exit.
    Drain,
    /// Cut what is left and exit.
    Stop,
}

/// One listening socket that a worker was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRole {
    /// Its name.
    pub name: ListenerName,
    /// Limits of its connections.
    pub limits: ConnectionLimits,
}

/// One app as a worker needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadApp {
    /// The app.
    pub app: AppName,
    /// Its owner.
    pub tenant: TenantName,
    /// The artifact's number.
    pub revision: Revision,
    /// Which engine the artifact was compiled for.
    pub flavor: Flavor,
    /// What it answers.
    pub routes: Vec<RoutePattern>,
    /// Whether the matched prefix is cut off.
    pub strip_prefix: bool,
    /// Its limits.
    pub limits: AppLimits,
    /// How its instances are used.
    pub instance: InstancePolicy,
    /// Its environment, without the `SKEP_…` variables.
    pub env: Vec<(String, String)>,
    /// What it reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
}

/// What a worker tells the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromWorker {
    /// All apps are loaded and valid; the worker accepts from now on.
    Ready,
    /// The worker cannot serve and is about to exit.
    Unfit {
        /// The app at fault, where it is one.
        app: Option<AppName>,
        /// What is wrong.
        message: String,
    },
    /// Nothing is in flight any more; the worker exits.
    Drained,
}

impl Message for ToWorker {
    fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Load(_) => "load",
            Self::Drain => "drain",
            Self::Stop => "stop",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Begin { listeners, .. } => 1 + listeners.len(),
            Self::Load(_) => 1,
            Self::Drain | Self::Stop => 0,
        }
    }
}

impl Message for FromWorker {
    fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unfit { .. } => "unfit",
            Self::Drained => "drained",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}
