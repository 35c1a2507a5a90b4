//! An app's revision, loaded in this worker.

use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Method, Request, Response};
use skep_core::Outcome;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::blueprint::{Blueprint, HandlerSetup};
use crate::body::{AfterBody, GuestBody};
use crate::call::{Ended, Run, Witness, Work};
use crate::fault::chain;
use crate::guest::Guest;
use crate::instances::{InstanceCounts, Instances};
use crate::link::Linked;
use crate::meter::Meter;
use crate::p3_shared::Shared;
use crate::runtime::{EngineError, Runtime, seats_of};
use crate::settings::Flavor;
use crate::startup::{Startup, ValidateFault, Validation};
use crate::world::{Answer, Job, World as _};
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
    SharedP3(Arc<Shared>),
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
            Linked::P3(pre) if shared => Kind::SharedP3(Shared::new(&blueprint, pre)),
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

    /// Calls the guest. The future ends with the guest's headers; the guest
    /// goes on within the body. Dropping either cancels it.
    ///
    /// The request must have an authority, in its URI or its `Host` field.
    ///
    /// # Errors
    ///
    /// The outcome of a call that ended without a response; the witness has
    /// heard of it.
    pub async fn call<W: Witness>(
        &self,
        request: Request<RequestBody>,
        scheme: http::uri::Scheme,
        request_id: Arc<str>,
        witness: W,
    ) -> Result<Response<GuestBody<W>>, Outcome> {
        let (answer, answered) = oneshot::channel();
        // A guest that does much in one turn uses up what tokio lets a task do
        // before it yields, and its answer would seem not to be there.
        let mut answered = tokio::task::unconstrained(answered);
        let headers_only = request.method() == Method::HEAD;
        let job = Job {
            request,
            scheme,
            answer,
        };
        let work: Work = match self.kind.clone() {
            Kind::P2(instances) => Box::pin(instances.run(request_id, job)),
            Kind::P3(instances) => Box::pin(instances.run(request_id, job)),
            Kind::SharedP3(shared) => Box::pin(shared.run(request_id, job)),
        };
        let setup = &self.blueprint.setup;
        let meter = Meter::of_request(&setup.tenant, self.blueprint.clock, setup.cpu);
        let mut run = Some(Run::new(work, meter, setup.timeout, &self.blueprint.cut));
        let mut witness = Some(witness);
        let after = match &self.kind {
            Kind::SharedP3(_) => AfterBody::Leave,
            _ => AfterBody::Finish,
        };

        std::future::poll_fn(move |cx| {
            let ended = match run.as_mut().map(|run| Pin::new(run).poll(cx)) {
                Some(Poll::Ready(ended)) => Some(ended),
                Some(Poll::Pending) | None => None,
            };
            let answer: Option<Answer> = match Pin::new(&mut answered).poll(cx) {
                Poll::Ready(Ok(answer)) => Some(answer),
                Poll::Ready(Err(_)) | Poll::Pending => None,
            };
            match (answer, ended) {
                (None, None) => Poll::Pending,
                (None, Some(mut ended)) => {
                    if ended.outcome == Outcome::Ok {
                        ended.outcome = Outcome::NoResponse;
                        ended.detail = Some("the guest returned without a response".into());
                    }
                    let outcome = ended.outcome;
                    if let Some(witness) = witness.take() {
                        witness.ended(ended);
                    }
                    Poll::Ready(Err(outcome))
                }
                // It failed while nothing was sent yet: the client learns that,
                // and not the beginning of a response that has no end.
                (Some(_), Some(ended)) if ended.outcome != Outcome::Ok => {
                    let outcome = ended.outcome;
                    if let Some(witness) = witness.take() {
                        witness.ended(ended);
                    }
                    Poll::Ready(Err(outcome))
                }
                // An interim status is no answer: the next response on the
                // connection would be taken for its own, and 101 would hand the
                // connection over to nobody.
                (Some(answer), ended) if answer.status().is_informational() => {
                    run = None;
                    if let Some(witness) = witness.take() {
                        witness.ended(Ended {
                            outcome: Outcome::Trap,
                            detail: Some(format!(
                                "the guest answered with the interim status {}",
                                answer.status().as_u16()
                            )),
                            cpu: ended.map_or(Duration::ZERO, |ended| ended.cpu),
                            status: None,
                        });
                    }
                    Poll::Ready(Err(Outcome::Trap))
                }
                (Some(answer), ended) => {
                    let (head, stream) = answer.into_parts();
                    let expected = if headers_only {
                        Some(0)
                    } else {
                        expected_length(&head)
                    };
                    let promised = (head.status, expected);
                    let witness = witness.take().expect("the future has not ended before");
                    let body = match ended {
                        Some(ended) => GuestBody::whole(stream, promised, ended, witness, cx),
                        None => {
                            let run = run.take().expect("the future has not ended before");
                            GuestBody::running(stream, promised, run, after, witness)
                        }
                    };
                    Poll::Ready(Ok(Response::from_parts(head, body)))
                }
            }
        })
        .await
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

    /// Ends all calls, those too that begin after this, with
    /// [`Outcome::Deadline`]. A call whose client takes no bytes ends when its
    /// client takes some or is given up.
    pub fn cut(&self) {
        self.blueprint.cut.cut();
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

/// Bytes of body after which the response is whole, where the head says so.
fn expected_length(head: &http::response::Parts) -> Option<u64> {
    if head.status == http::StatusCode::NO_CONTENT || head.status == http::StatusCode::NOT_MODIFIED
    {
        return Some(0);
    }
    head.headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
}
