//! Outbound HTTP: requests that guests send.
//!
//! ```text
//! AppOutbound::send ── grants cover it? ── no: denied, and said so in the log
//!        │ yes
//!        ▼
//! Pool: a connection that waits, or the right to open one, or a bounded wait
//!        │
//!        ▼
//! Opener (a process outside) ── socket ── TLS ── HTTP/1.1, driven by a task
//!        │
//!        ▼
//! head to the guest; the body streams as the guest reads it; then the
//! connection waits for the next request, or is closed with its guest
//! ```
//!
//! HTTP/1.1 only: the other end's HTTP/2 would multiplex requests of guests
//! that end at different times over one connection, for little here. Redirects
//! are the guest's to follow, so each hop is checked like any other request.

mod announce;
mod connection;
mod error;
mod pool;
mod send;
mod target;
mod tls;

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use skep_core::AppName;
use skep_core::egress::{OpenFailure, OutboundGrant, Scheme};

pub use self::connection::ResponseBody;
pub use self::error::{OutboundError, OutboundResult};
pub use self::tls::{Roots, RootsError};

use self::pool::Pool;
use self::tls::Tls;

/// What a body of a guest's request may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a guest's request.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// A connection that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who wants it.
    pub app: AppName,
    /// What will be spoken over it.
    pub scheme: Scheme,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How long it may take.
    pub timeout: Duration,
}

/// A connection that was opened.
pub struct Opened {
    /// The connected socket, non-blocking.
    pub socket: OwnedFd,
    /// The other end.
    pub address: SocketAddr,
    /// Dropped once the socket is closed.
    pub held: Box<dyn Any + Send>,
}

/// A connection on its way. Dropping it gives it up.
pub type Opening = Pin<Box<dyn Future<Output = Result<Opened, OpenFailure>> + Send>>;

/// Opens connections, which a worker cannot.
pub trait Opener: Send + Sync {
    /// Opens one, if it is allowed.
    fn open(&self, wanted: Wanted) -> Opening;
}

/// A request that was not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial<'a> {
    /// The request in whose name it was sent, or empty.
    pub request: &'a str,
    /// What was to be spoken.
    pub scheme: Scheme,
    /// The host as the guest wrote it, cut to a readable length.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// Why, as a stable name.
    pub reason: &'static str,
}

/// Hears of requests that were not allowed. Must not block.
pub trait OutboundLog: Send + Sync {
    /// One was not.
    fn denied(&self, denial: &Denial<'_>);
}

/// How long to wait for what, where the guest says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, with everything that it takes.
    pub connect: Option<Duration>,
    /// From the request to the head of the response.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response's body.
    pub between_bytes: Option<Duration>,
}

/// All outbound requests of one worker.
pub struct Outbound {
    opener: Arc<dyn Opener>,
    tls: Arc<Tls>,
    apps: Mutex<BTreeMap<AppName, Arc<AppShared>>>,
    handlers: AtomicU64,
}

/// What the handlers of one app share: connections and counts.
pub(crate) struct AppShared {
    pub(crate) pool: Arc<Pool>,
    counts: [AtomicU64; OutboundResult::ALL.len()],
}

/// The outbound requests of one handler.
pub struct AppOutbound {
    /// Distinguishes it from the app's other handlers, which may have had other
    /// grants when their connections were opened.
    handler: u64,
    app: AppName,
    grants: Vec<OutboundGrant>,
    log: Arc<dyn OutboundLog>,
    shared: Arc<AppShared>,
    opener: Arc<dyn Opener>,
    tls: Arc<Tls>,
}

impl Outbound {
    /// Nothing is read from `roots` before the first request over TLS.
    #[must_use]
    pub fn new(opener: Arc<dyn Opener>, roots: Roots) -> Self {
        Self {
            opener,
            tls: Arc::new(Tls::new(roots)),
            apps: Mutex::default(),
            handlers: AtomicU64::new(0),
        }
    }

    /// A handler's requests. `connections` is the most that its app may have
    /// open in this process at a time; it holds for all of the app's handlers.
    #[must_use]
    pub fn app(
        &self,
        app: AppName,
        grants: Vec<OutboundGrant>,
        connections: u32,
        log: Arc<dyn OutboundLog>,
    ) -> Arc<AppOutbound> {
        let shared = {
            let mut apps = self.apps();
            Arc::clone(apps.entry(app.clone()).or_insert_with(|| {
                Arc::new(AppShared {
                    pool: Arc::new(Pool::new(connections)),
                    counts: Default::default(),
                })
            }))
        };
        shared.pool.limit(connections);
        Arc::new(AppOutbound {
            handler: self.handlers.fetch_add(1, Relaxed),
            app,
            grants,
            log,
            shared,
            opener: Arc::clone(&self.opener),
            tls: Arc::clone(&self.tls),
        })
    }

    /// Changes how many connections an app may have open here. Those that are
    /// too many end when their requests do.
    pub fn limit(&self, app: &AppName, connections: u32) {
        if let Some(shared) = self.apps().get(app) {
            shared.pool.limit(connections);
        }
    }

    /// Closes connections that have waited for a request for too long, or
    /// whose other end has gone. To be called about every half second.
    pub fn expire_idle(&self) {
        for shared in self.apps().values() {
            shared.pool.expire();
        }
    }

    /// What became of the requests of each app since this process began.
    #[must_use]
    pub fn counts(&self) -> Vec<(AppName, Vec<(OutboundResult, u64)>)> {
        let of = |shared: &AppShared| {
            OutboundResult::ALL
                .into_iter()
                .map(|result| (result, shared.counts[result as usize].load(Relaxed)))
                .collect()
        };
        let apps = self.apps();
        apps.iter()
            .map(|(app, shared)| (app.clone(), of(shared)))
            .collect()
    }

    fn apps(&self) -> std::sync::MutexGuard<'_, BTreeMap<AppName, Arc<AppShared>>> {
        // Nothing in here panics halfway through a change.
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppShared {
    pub(crate) fn count(&self, result: OutboundResult) {
        self.counts[result as usize].fetch_add(1, Relaxed);
    }
}

impl Drop for AppOutbound {
    fn drop(&mut self) {
        self.shared.pool.forget(self.handler);
    }
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AppOutbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppOutbound")
            .field("app", &self.app)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
