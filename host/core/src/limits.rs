//! Numbers that may not be exceeded, with their defaults and the reason of
//! each default.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// Most listeners of one pool: a new worker is given their sockets at once, and
/// the kernel passes so many descriptors and not twice as many.
pub const MAX_LISTENERS: usize = 128;

/// The limits of one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppLimits {
    /// Wall time of one request, from its head to the last byte of its
    /// response.
    pub timeout: Duration,
    /// CPU time of one request's guest code.
    pub cpu: Duration,
    /// Bytes of linear memories and tables of one instance, all together.
    pub memory: u64,
    /// Calls at one time over the pool; each worker gets its share, rounded up.
    pub concurrency: u32,
    /// Requests that may wait for a permit over the pool, shared likewise.
    pub queue: u32,
    /// Bytes of one request body.
    pub max_body: u64,
    /// Requests in a time, over all workers of the pool; no limit if absent.
    pub rate: Option<RateLimit>,
    /// Bytes of log records that its guests may write in a second, on each
    /// worker; what is more is dropped and counted.
    pub log_rate: u64,
    /// Outbound connections at one time over the pool; each worker gets its
    /// share, rounded up.
    pub outbound_connections: u32,
}

/// So many in a time: exactly as many, in windows that begin with the first
/// of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// In how long; a second to a day.
    pub period: Duration,
}

/// A rate of requests, and who has one each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// The rate.
    pub rate: Rate,
    /// Who has one each.
    pub per: RatePer,
}

/// Who has a rate of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatePer {
    /// All requests together.
    All,
    /// Each client address; for IPv6 each network of 64 bits, because one
    /// client has so many addresses.
    Client,
    /// Each value of this request header, whose name is lower-case; requests
    /// without it share one.
    Header(String),
}

impl fmt::Display for Rate {
    /// As in the configuration: `100/min`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count;
        match self.period.as_secs() {
            1 => write!(f, "{count}/s"),
            60 => write!(f, "{count}/min"),
            3600 => write!(f, "{count}/h"),
            86_400 => write!(f, "{count}/day"),
            seconds => write!(f, "{count}/{seconds}s"),
        }
    }
}

impl fmt::Display for RateLimit {
    /// As in the configuration: `100/min per client`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.per {
            RatePer::All => self.rate.fmt(f),
            RatePer::Client => write!(f, "{} per client", self.rate),
            RatePer::Header(name) => write!(f, "{} per header {name}", self.rate),
        }
    }
}

/// The limits of one tenant: what all its apps have together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLimits {
    /// Bytes of all its instances on one worker; 0 is no limit.
    pub memory: u64,
    /// Calls at one time over all workers of its pool; 0 is no limit.
    pub concurrency: u32,
    /// Requests in a time, over all workers of its pool.
    pub rate: Option<Rate>,
}

impl Default for AppLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            cpu: Duration::from_secs(1),
            memory: 128 * MIB,
            concurrency: 100,
            queue: 1000,
            max_body: 10 * MIB,
            rate: None,
            // Far above what a handler has to say, far below what a disk takes.
            log_rate: MIB,
            outbound_connections: 100,
        }
    }
}

/// How instances of an app are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePolicy {
    /// Requests that one instance answers before it is thrown away; 1 is a
    /// fresh sandbox for every request.
    pub reuse: u32,
    /// Requests that one instance answers at the same time; more than 1 needs
    /// a component of WASI 0.3.
    pub concurrent: u32,
    /// How long an unused instance is kept for its next request.
    pub idle: Duration,
}

impl Default for InstancePolicy {
    fn default() -> Self {
        Self {
            reuse: 1,
            concurrent: 1,
            idle: Duration::from_secs(1),
        }
    }
}

/// Limits of the connections on one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionLimits {
    /// Time for a whole request head to arrive; also how long a kept-alive
    /// connection may stay silent.
    pub header_timeout: Duration,
    /// Longest pause between two pieces of a request body.
    pub body_timeout: Duration,
    /// Longest time during which a client may refuse to take bytes of a
    /// response.
    pub write_timeout: Duration,
    /// Bytes of one request head. 32 KiB is twice what browsers and proxies
    /// send at their worst.
    pub max_head: usize,
    /// Header fields of one request head.
    pub max_headers: usize,
    /// Connections that one worker holds at a time.
    pub max_connections: u32,
    /// Requests after which a kept-alive connection is ended, so that load can
    /// move between workers; 0 is no limit.
    pub max_requests_per_connection: u64,
    /// Age after which a kept-alive connection is ended, less a jitter of
    /// 10 %; zero is no limit.
    pub max_connection_age: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            max_head: 32 << 10,
            max_headers: 100,
            max_connections: 10_000,
            max_requests_per_connection: 0,
            max_connection_age: Duration::ZERO,
        }
    }
}

/// The settings of DESIGN §6 for one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisionSettings {
    /// Time from spawn to ready; late means not ready.
    pub start_timeout: Duration,
    /// How long a worker must serve to count as stable.
    pub min_uptime: Duration,
    /// The window in which crashes are counted.
    pub crash_window: Duration,
    /// Crashes in the window that trip the breaker.
    pub max_crashes: u32,
    /// First delay before a respawn; doubles up to `backoff_max`, full jitter.
    pub backoff: Duration,
    /// Longest delay before a respawn.
    pub backoff_max: Duration,
    /// Time without a heartbeat after which a serving worker is killed.
    pub hang_timeout: Duration,
    /// Time that a draining worker has for its requests.
    pub drain_timeout: Duration,
    /// Time between asking a worker to stop and killing it.
    pub kill_timeout: Duration,
    /// How often a tripped pool is probed with one worker.
    pub probe_interval: Duration,
    /// Workers above the pool's size that a rolling replacement may start
    /// before it takes old ones away. Not 0 where `max_unavailable` is.
    pub surge: u16,
    /// Workers below the pool's size that a rolling replacement may be short of.
    pub max_unavailable: u16,
    /// Requests after which a worker is replaced, less a jitter of 10 %; 0 is
    /// never.
    pub max_requests: u64,
    /// Age at which a worker is replaced, less a jitter of 10 %; zero is never.
    pub max_age: Duration,
    /// Bytes of resident memory that a worker process may have; 0 is no limit.
    pub memory: u64,
    /// Bytes of resident memory at which a worker is replaced, drained; 0 is
    /// 80 % of `memory`.
    pub memory_soft: u64,
}

impl SupervisionSettings {
    /// Bytes of resident memory at which a worker is replaced; `None` is never.
    #[must_use]
    pub const fn soft_memory(&self) -> Option<u64> {
        match (self.memory_soft, self.memory) {
            (0, 0) => None,
            (0, memory) => Some(memory / 5 * 4),
            (soft, _) => Some(soft),
        }
    }
}

impl Default for SupervisionSettings {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(10),
            min_uptime: Duration::from_secs(10),
            crash_window: Duration::from_secs(30),
            max_crashes: 5,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            hang_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            kill_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(30),
            surge: 1,
            max_unavailable: 0,
            max_requests: 0,
            max_age: Duration::ZERO,
            memory: 0,
            memory_soft: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_in_the_configuration() {
        let written = |count, seconds, per| {
            let period = Duration::from_secs(seconds);
            let rate = Rate { count, period };
            RateLimit { rate, per }.to_string()
        };
        assert_eq!(written(100, 60, RatePer::Client), "100/min per client");
        assert_eq!(written(5, 1, RatePer::All), "5/s");
        let key = RatePer::Header("x-key".into());
        assert_eq!(written(7, 3600, key), "7/h per header x-key");
        assert_eq!(written(1, 86_400, RatePer::All), "1/day");
        assert_eq!(written(1, 90, RatePer::All), "1/90s");
    }
}
