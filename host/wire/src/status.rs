//! The document behind `skep status --json` and `GET /v1/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_core::{
    AppName, ExitReason, Generation, Isolation, ListenerName, PoolName, Revision, SlotIndex,
    TenantName, WorkerId,
};

use crate::DispatchCounts;

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// skep's version.
    pub version: String,
    /// The primary's process.
    pub pid: u32,
    /// Seconds since the primary started.
    pub uptime_seconds: f64,
    /// The specification in force.
    pub generation: Generation,
    /// Whether the primary is shutting down.
    pub stopping: bool,
    /// What operators have under way that others must wait for.
    pub operations: Vec<String>,
    /// Listening addresses, with the real port where 0 was asked for.
    pub listeners: Vec<ListenerStatus>,
    /// Pools.
    pub pools: Vec<PoolStatus>,
    /// Workers that live, retirees among them.
    pub workers: Vec<WorkerStatus>,
    /// Apps.
    pub apps: Vec<AppStatus>,
    /// Dispatchers, of the listeners that need one.
    #[serde(default)]
    pub dispatchers: Vec<DispatcherStatus>,
    /// The connector, where some app may reach something.
    #[serde(default)]
    pub connector: Option<SoloStatus>,
    /// Owners of apps.
    #[serde(default)]
    pub tenants: Vec<TenantStatus>,
    /// What is not told, because a reply would have been too large with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// A process of which there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoloStatus {
    /// Its process, if there is one now.
    pub pid: Option<u32>,
    /// `starting`, `serving`, `waiting` for its next start, `leaving` or
    /// `absent`.
    pub state: String,
    /// Processes that took the place of another since the primary started.
    pub restarts: u64,
    /// Why the last one ended.
    pub last_exit: Option<ExitReason>,
}

/// The dispatcher of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatcherStatus {
    /// Its listener.
    pub listener: ListenerName,
    /// Its process.
    #[serde(flatten)]
    pub process: SoloStatus,
    /// What all dispatchers of this listener have counted.
    pub counts: DispatchCounts,
}

/// One owner of apps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// Its name.
    pub name: TenantName,
    /// Whether it has workers of its own.
    pub isolation: Isolation,
    /// The pools that its apps are in.
    pub pools: Vec<PoolName>,
    /// How many apps it has.
    pub apps: usize,
    /// What all its apps have counted, those too that it has no more.
    #[serde(flatten)]
    pub figures: FiguresStatus,
    /// What all its apps have together.
    pub limits: TenantLimitsStatus,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: ListenerName,
    /// Where it listens: `http://127.0.0.1:8080` or `unix:PATH`.
    pub address: String,
    /// The pools that serve it.
    pub pools: Vec<PoolName>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: PoolName,
    /// Workers it should have.
    pub workers: u16,
    /// Workers that serve.
    pub serving: u16,
    /// The breakers, as one word: the worst of the two.
    pub breaker: BreakerStatus,
    /// Workers that a rolling replacement has still to replace.
    pub rolling: Option<u16>,
    /// Processes forked for it since the primary started.
    pub spawns: u64,
    /// Workers that were replaced since the primary started.
    pub restarts: u64,
    /// Exits nobody asked for within the current window.
    pub crashes_in_window: u32,
    /// The newest exit.
    pub last_exit: Option<LastExit>,
}

/// The state of a pool's breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BreakerStatus {
    /// Workers are replaced as they end.
    Admitting,
    /// Too many crashes: nothing is forked until the next probe.
    Tripped,
    /// One worker is being tried.
    Probing,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    /// The worker.
    pub worker: WorkerId,
    /// Its process; 0 if it never had one.
    pub pid: u32,
    /// Its place.
    pub slot: SlotIndex,
    /// Whether we had asked for it.
    pub voluntary: bool,
    /// Why it ended.
    pub reason: ExitReason,
    /// How long ago, in seconds.
    pub seconds_ago: f64,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its unique number.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolName,
    /// Its place in the pool.
    pub slot: SlotIndex,
    /// Its process.
    pub pid: u32,
    /// `starting`, `serving`, `draining`, `stopping` or `killed`.
    pub state: String,
    /// Seconds since it was spawned.
    pub uptime_seconds: f64,
    /// The specification it serves.
    pub generation: Generation,
    /// Milliseconds from exec to ready, once it was ready.
    pub ready_after_ms: Option<f64>,
    /// Connections it holds.
    pub connections: u32,
    /// Connections it ever accepted.
    pub accepted: u64,
    /// Requests it ever read.
    pub requests: u64,
    /// Requests it is working on.
    pub in_flight: u32,
    /// Requests by outcome, those that occurred.
    pub outcomes: BTreeMap<String, u64>,
    /// Time from a request's head to the end of its response.
    pub latency: Option<LatencyStatus>,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// CPU time in seconds.
    pub cpu_seconds: f64,
}

/// Quantiles, each an upper bound: within a third of the truth for a worker, within
/// an eighth for an app or a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
}

/// What requests came to: of one app, all its revisions together, or of all apps
/// of a tenant. Over all workers that there were since the primary started; what
/// is counted never becomes less.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FiguresStatus {
    /// Requests that were routed to it.
    pub requests: u64,
    /// Requests by outcome, those that occurred; `worker-died` are those whose
    /// worker was gone before it had counted an outcome. With those in flight they
    /// are all requests.
    pub outcomes: BTreeMap<String, u64>,
    /// Responses by class of status, `2xx` for one; those of clients that went
    /// away are not among them.
    pub status: BTreeMap<String, u64>,
    /// Time from the head of a request to the end of its response, where a guest
    /// was called: of those that ended in the last 30 to 60 seconds, if there were
    /// any.
    pub latency: Option<LatencyStatus>,
    /// Requests that are being worked on, those among them that wait.
    pub in_flight: u64,
    /// Requests that wait for a permit of the app or its tenant.
    pub queued: u64,
    /// Instances that live, as of half a second ago.
    pub instances: u64,
    /// Bytes that those hold, likewise.
    pub guest_memory_bytes: u64,
    /// CPU time of guests in seconds, validation included.
    pub guest_cpu_seconds: f64,
}

/// What an app does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppState {
    /// It answers them.
    Serving,
    /// It is loaded when the first one comes.
    Cold,
    /// Its handler cannot be loaded or validated: 503.
    Quarantined,
    /// An operator paused it: 503.
    Paused,
    /// Its pool has no worker that serves.
    Unserved,
}

impl AppState {
    /// What an app does: what an operator wanted comes first, then what is wrong
    /// with the app, then what is wrong with its pool.
    #[must_use]
    pub const fn of(paused: bool, quarantined: bool, serving_workers: u16) -> Self {
        match (paused, quarantined, serving_workers) {
            (true, ..) => Self::Paused,
            (_, true, _) => Self::Quarantined,
            (_, _, 0) => Self::Unserved,
            _ => Self::Serving,
        }
    }

    /// The name used in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Cold => "cold",
            Self::Quarantined => "quarantined",
            Self::Paused => "paused",
            Self::Unserved => "unserved",
        }
    }
}

/// What an app may not exceed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppLimitsStatus {
    /// Wall time of one request.
    pub timeout_seconds: f64,
    /// CPU time of one request.
    pub cpu_seconds: f64,
    /// Bytes of one instance.
    pub memory_bytes: u64,
    /// Calls at one time over the pool.
    pub concurrency: u32,
    /// Requests that may wait over the pool.
    pub queue: u32,
    /// Bytes of one request body.
    pub max_body_bytes: u64,
    /// Requests in a time, as in the configuration; none is no limit.
    pub rate: Option<String>,
    /// Bytes of log records in a second, on each worker.
    pub log_rate_bytes: u64,
    /// Outbound connections at one time over the pool.
    pub outbound_connections: u32,
    /// Requests that one instance answers before it is thrown away.
    pub instance_reuse: u32,
    /// Requests that one instance answers at the same time.
    pub instance_concurrent: u32,
}

/// What all apps of a tenant may not exceed together; none is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLimitsStatus {
    /// Bytes of all its instances on one worker.
    pub memory_bytes: Option<u64>,
    /// Calls at one time over the pool.
    pub concurrency: Option<u32>,
    /// Requests in a time, as in the configuration.
    pub rate: Option<String>,
}

/// What an app may use. Names only: values may be secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsStatus {
    /// What it may reach, its tenant's grants included.
    pub outbound: Vec<String>,
    /// Names of its environment variables.
    pub env: Vec<String>,
    /// Keys that it reads through `wasi:config`.
    pub config: Vec<String>,
}

/// One app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its name.
    pub name: AppName,
    /// Its owner.
    pub tenant: TenantName,
    /// Its pool.
    pub pool: PoolName,
    /// What it does with requests.
    pub state: AppState,
    /// Why it is quarantined.
    pub reason: Option<String>,
    /// The active artifact.
    pub revision: Revision,
    /// The artifact that gets a part of the requests, with the share in
    /// hundredths of a percent.
    pub canary: Option<(Revision, u32)>,
    /// Whether its requests are refused for now.
    pub paused: bool,
    /// What is under way with it: `building`, `validating`, `rolling-out`,
    /// `observing`, `canary` or `restoring`.
    pub rollout: Option<String>,
    /// `sha256:…` of the component.
    pub digest: String,
    /// Where the component came from.
    pub source: String,
    /// `wasi:http` 0.2 or 0.3.
    pub wasi: String,
    /// What it answers.
    pub routes: Vec<String>,
    /// What its requests came to.
    #[serde(flatten)]
    pub figures: FiguresStatus,
    /// What it may not exceed.
    pub limits: AppLimitsStatus,
    /// What it may use.
    pub grants: GrantsStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_state_is_what_its_operator_wanted_then_what_is_wrong_with_it() {
        assert_eq!(AppState::of(true, true, 0), AppState::Paused);
        assert_eq!(AppState::of(false, true, 0), AppState::Quarantined);
        assert_eq!(AppState::of(false, false, 0), AppState::Unserved);
        assert_eq!(AppState::of(false, false, 1), AppState::Serving);
        for state in [AppState::Cold, AppState::Quarantined] {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
    }
}
