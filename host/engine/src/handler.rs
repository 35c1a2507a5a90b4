//! An app's revision, loaded in this worker.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use skep_core::Outcome;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::blueprint::{Blueprint, HandlerSetup};
use crate::body::GuestBody;
use crate::call::{CallSetup, Ended, Witness};
use crate::event_loop;
use crate::fault::chain;
use crate::guest::Guest;
use crate::instances::{InstanceCounts, Instances};
use crate::link::Linked;
use crate::meter::Meter;
use crate::origin::{Origin, Outside};
use crate::runtime::{EngineError, Runtime, seats_of};
use crate::settings::Flavor;
use crate::shared_instances::SharedInstances;
use crate::slot::{CUT, Slot, Terms};
use crate::startup::{Startup, ValidateFault, Validation};
use crate::tenants::Usage;
use crate::world::{Job, Reception, Work, World as _};
use crate::{RequestBody, precompiled};

/// An artifact cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The worker has no engine for it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// wasmtime refused the artifact.
    #[error("the artifact does not load: {0}")]
    Artifact(String),
    /// The component asks for what we do not offer.
    #[error("the component does not link: {0}")]
    Link(String),
}

/// The kinds of handler, each with its instances.
#[derive(Clone)]
enum Kind {
    P2(Arc<Instances<ProxyPre<Guest>>>),
    P3(Arc<Instances<ServicePre<Guest>>>),
    SharedP3(Arc<SharedInstances>),
}

/// An app's revision, loaded in this worker. Cheap to clone.
#[derive(Clone)]
pub struct Handler {
    blueprint: Arc<Blueprint>,
    startup: Startup,
    kind: Kind,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler")
            .field("setup", &self.blueprint.setup)
            .finish_non_exhaustive()
    }
}

impl Handler {
    /// Maps an artifact and resolves its imports.
    ///
    /// # Errors
    ///
    /// No address space for instances, an artifact of another skep, or imports
    /// that are not offered.
    pub fn load(
        runtime: &Runtime,
        artifact: BorrowedFd<'_>,
        setup: HandlerSetup,
    ) -> Result<Self, LoadError> {
        let engine = runtime.engine(setup.flavor)?.clone();
        let component = precompiled::map(&engine, artifact)
            .map_err(|error| LoadError::Artifact(chain(&error)))?;
        let linked = Linked::new(&engine, setup.flavor, &component)
            .map_err(|error| LoadError::Link(chain(&error)))?;
        let startup = Startup::of(&component);
        let shared = setup.instance.concurrent > 1;
        let blueprint = Blueprint::new(engine, setup, runtime.clock(), seats_of(&component));
        let kind = match linked {
            Linked::P2(pre) => Kind::P2(Instances::new(&blueprint, pre)),
            Linked::P3(pre) if shared => Kind::SharedP3(SharedInstances::new(&blueprint, pre)),
            Linked::P3(pre) => Kind::P3(Instances::new(&blueprint, pre)),
        };
        Ok(Self {
            blueprint,
            startup,
            kind,
        })
    }

    /// Which engine it runs on.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.blueprint.setup.flavor
    }

    /// Finds out whether requests may be sent here: makes an instance with the
    /// handler's limits, asks it by its export `skep:lifecycle/startup` if it
    /// has that, and throws it away. `deadline` bounds the wall time, and the
    /// CPU time where the handler's own budget is smaller.
    ///
    /// What the guest writes meanwhile goes to its log. Needs ticks, as
    /// [`call`](Self::call) does.
    ///
    /// # Errors
    ///
    /// Why the handler must not serve.
    pub async fn validate(&self, deadline: Duration) -> Result<Validation, ValidateFault> {
        let pre = match &self.kind {
            Kind::P2(instances) => instances.world.pre(),
            Kind::P3(instances) => instances.world.pre(),
            Kind::SharedP3(shared) => shared.pre.pre(),
        };
        self.startup.validate(&self.blueprint, pre, deadline).await
    }

    /// Calls the guest. The future ends with the guest's headers; the guest goes
    /// on by itself, within its limits, and also when its response is whole.
    /// Dropping the future, or the body before it is whole, cancels it at once.
    ///
    /// The request must have an authority, in its URI or its `Host` field. Needs
    /// a tokio runtime, on one thread.
    ///
    /// # Errors
    ///
    /// The outcome of a call that ended without a response; the witness has
    /// heard of it.
    pub async fn call<W: Witness>(
        &self,
        request: Request<RequestBody>,
        call: CallSetup,
        witness: W,
    ) -> Result<Response<GuestBody<W>>, Outcome> {
        let setup = &self.blueprint.setup;
        let watch = &self.blueprint.watch;
        if watch.is_cut() {
            witness.ended(Ended {
                outcome: Outcome::Deadline,
                detail: Some(CUT.into()),
                cpu: Duration::ZERO,
                status: None,
            });
            return Err(Outcome::Deadline);
        }
        event_loop::call_begins();
        let terms = Terms {
            deadline: Instant::now() + setup.timeout,
            timeout: setup.timeout,
            patience: call.patience,
            headless: request.method() == Method::HEAD,
        };
        let slot = Slot::new(witness, watch, terms);
        // Dropped before it is given away, it gives the call up.
        let body = GuestBody::new(Arc::clone(&slot));
        let reception: Arc<dyn Reception> = slot.clone();
        let job = Job {
            request: request.map(|body| Outside::new(body, Origin::Client)),
            scheme: call.scheme,
            request_id: call.request_id,
            reception,
        };
        let mut work: Option<Work> = match &self.kind {
            Kind::P2(instances) => Some(Box::pin(instances.clone().run(job))),
            Kind::P3(instances) => Some(Box::pin(instances.clone().run(job))),
            Kind::SharedP3(shared) => {
                shared.take(job);
                None
            }
        };
        // Most guests are done in their first turn, and cost no task.
        let mut begun = false;
        let head = std::future::poll_fn(|cx| {
            if begun {
                return slot.poll_head(cx);
            }
            begun = true;
            if let Some(work) = work.take() {
                let Blueprint { share, clock, .. } = &*self.blueprint;
                let meter = Meter::of_request(share, *clock, setup.cpu);
                if slot.start(work, meter, cx).is_pending() {
                    slot.run_ahead(cx);
                }
            }
            let head = slot.poll_head(cx);
            if head.is_pending() {
                slot.settle();
            }
            head
        })
        .await?;
        slot.settle();
        Ok(Response::from_parts(head, body))
    }

    /// Drops instances that have waited for too long. To be called about
    /// every half second.
    pub fn expire_idle(&self) {
        match &self.kind {
            Kind::P2(instances) => instances.expire(),
            Kind::P3(instances) => instances.expire(),
            // Their tasks end them.
            Kind::SharedP3(_) => {}
        }
    }

    /// Drops the instances that wait for a next call, and keeps none any more.
    /// Calls go on, and new ones may still be made.
    pub fn retire(&self) {
        match &self.kind {
            Kind::P2(instances) => instances.retire(),
            Kind::P3(instances) => instances.retire(),
            Kind::SharedP3(shared) => shared.retire(),
        }
    }

    /// Ends all calls at once, and those that begin after this, with
    /// [`Outcome::Deadline`], or with [`Outcome::TooSlow`] where a frame is the
    /// client's to take.
    pub fn cut(&self) {
        self.blueprint.watch.cut();
    }

    /// What its guests use of this worker.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.blueprint.share.usage()
    }

    /// What became of its instances.
    #[must_use]
    pub fn instances(&self) -> InstanceCounts {
        match &self.kind {
            Kind::P2(instances) => instances.counts(),
            Kind::P3(instances) => instances.counts(),
            Kind::SharedP3(shared) => shared.counts(),
        }
    }
}
