//! What every instance of a handler is made by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_core::InstancePolicy;
use wasmtime::Engine;
use wasmtime_wasi_config::WasiConfigVariables;

use crate::meter::Clock;
use crate::outbound::OutboundHttp;
use crate::settings::Flavor;
use crate::stdio::GuestLog;
use crate::tenants::{HandlerShare, TenantShare};
use crate::watch::Watch;

/// What a handler needs besides its artifact.
#[derive(Clone)]
pub struct HandlerSetup {
    /// The engine that the artifact is for.
    pub flavor: Flavor,
    /// Environment variables of the guest, `SKEP_…` included.
    pub env: Vec<(String, String)>,
    /// What the guest reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// Wall time of one call.
    pub timeout: Duration,
    /// CPU time of one call.
    pub cpu: Duration,
    /// Bytes of one instance's memories and tables.
    pub memory: u64,
    /// Whose it is, and what that tenant has of this worker.
    pub tenant: Arc<TenantShare>,
    /// How instances are used.
    pub instance: InstancePolicy,
    /// Where the guest's lines go.
    pub log: Arc<dyn GuestLog>,
    /// What sends the guest's own requests. Without it all are denied.
    pub outbound: Option<Arc<dyn OutboundHttp>>,
}

impl std::fmt::Debug for HandlerSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerSetup")
            .field("flavor", &self.flavor)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// A handler's setup in the terms of its engine.
pub(crate) struct Blueprint {
    pub(crate) engine: Engine,
    pub(crate) setup: HandlerSetup,
    /// What its guests use.
    pub(crate) share: Arc<HandlerShare>,
    pub(crate) config: WasiConfigVariables,
    pub(crate) clock: Clock,
    /// Seats of its engine that an instance takes.
    pub(crate) seats: u32,
    /// Ends calls in their time.
    pub(crate) watch: Arc<Watch>,
}

impl Blueprint {
    pub(crate) fn new(engine: Engine, setup: HandlerSetup, clock: Clock, seats: u32) -> Arc<Self> {
        let config = setup.config.clone().into_iter().collect();
        let share = HandlerShare::new(&setup.tenant);
        Arc::new(Self {
            engine,
            setup,
            share,
            config,
            clock,
            seats,
            watch: Arc::default(),
        })
    }
}
