//! An app's revision, loaded in this worker.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use skep_core::{InstancePolicy, Outcome};
use tokio::sync::oneshot;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiBody, p2 as http2, p3 as http3};

use crate::body::{AfterBody, GuestBody};
use crate::call::{Run, Witness};
use crate::compile::chain;
use crate::guest::Guest;
use crate::instances::{InstanceCounts, Instances};
use crate::meter::Meter;
use crate::p3_shared::Shared;
use crate::runtime::{Clock, EngineError, Runtime};
use crate::settings::Flavor;
use crate::stdio::GuestLog;
use crate::{RequestBody, logging, p2, p3, precompiled};

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
    /// How instances are used.
    pub instance: InstancePolicy,
    /// Where the guest's lines go.
    pub log: Arc<dyn GuestLog>,
}

impl std::fmt::Debug for HandlerSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerSetup")
            .field("flavor", &self.flavor)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// A component whose imports are resolved.
pub(crate) enum Linked {
    P2(http2::bindings::ProxyPre<Guest>),
    P3(http3::bindings::ServicePre<Guest>),
}

impl Linked {
    pub(crate) fn new(
        engine: &Engine,
        flavor: Flavor,
        component: &Component,
    ) -> wasmtime::Result<Self> {
        // A linker with all of WASI is a megabyte or two; it is needed for no
        // longer than this.
        let mut linker = Linker::<Guest>::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        http2::add_only_http_to_linker_async(&mut linker)?;
        wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
        logging::add_to_linker(&mut linker)?;
        if flavor == Flavor::P3 {
            wasmtime_wasi::p3::add_to_linker(&mut linker)?;
            http3::add_to_linker(&mut linker)?;
        }
        let pre = linker.instantiate_pre(component)?;
        Ok(match flavor {
            Flavor::P2 => Self::P2(http2::bindings::ProxyPre::new(pre)?),
            Flavor::P3 => Self::P3(http3::bindings::ServicePre::new(pre)?),
        })
    }
}

/// The two kinds of handler, each with its instances.
pub(crate) enum Kind {
    P2 {
        pre: http2::bindings::ProxyPre<Guest>,
        instances: Instances<http2::bindings::Proxy>,
    },
    P3 {
        pre: http3::bindings::ServicePre<Guest>,
        instances: Instances<http3::bindings::Service>,
        shared: Shared,
    },
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) setup: HandlerSetup,
    pub(crate) config: WasiConfigVariables,
    pub(crate) kind: Kind,
    pub(crate) clock: Clock,
}

/// An app's revision, loaded in this worker. Cheap to clone.
#[derive(Clone)]
pub struct Handler(Arc<Inner>);

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handler").field(&self.0.setup).finish()
    }
}

/// What a guest answers before its body: headers, or the reason of none.
pub(crate) type Answer = Response<WasiBody>;

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
        let policy = setup.instance.clone();
        let kind = match linked {
            Linked::P2(pre) => Kind::P2 {
                pre,
                instances: Instances::new(policy),
            },
            Linked::P3(pre) => Kind::P3 {
                pre,
                instances: Instances::new(policy),
                shared: Shared::default(),
            },
        };
        let config = setup.config.clone().into_iter().collect();
        Ok(Self(Arc::new(Inner {
            engine,
            config,
            setup,
            kind,
            clock: runtime.clock(),
        })))
    }

    /// Which engine it runs on.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.0.setup.flavor
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
        let (answer, mut answered) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        let work: crate::call::Work = match &self.0.kind {
            Kind::P2 { .. } => Box::pin(p2::run(inner, request, scheme, request_id, answer)),
            Kind::P3 { .. } => Box::pin(p3::run(inner, request, scheme, request_id, answer)),
        };
        let setup = &self.0.setup;
        let meter = Meter::new(self.0.clock, setup.cpu);
        let mut run = Run::new(work, meter, setup.timeout);
        let mut witness = Some(witness);
        let after = match &self.0.kind {
            Kind::P3 { .. } if setup.instance.concurrent > 1 => AfterBody::Leave,
            _ => AfterBody::Finish,
        };

        std::future::poll_fn(move |cx| {
            let ended = match Pin::new(&mut run).poll(cx) {
                Poll::Ready(ended) => Some(ended),
                Poll::Pending => None,
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
                (Some(answer), ended) => {
                    let (head, stream) = answer.into_parts();
                    let expected = expected_length(&head);
                    let witness = witness.take().expect("the future has not ended before");
                    let body = match ended {
                        Some(ended) => GuestBody::whole(stream, expected, ended, witness, cx),
                        None => {
                            let run = std::mem::replace(&mut run, Run::finished());
                            GuestBody::running(stream, expected, run, after, witness)
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
        let idle = self.0.setup.instance.idle;
        match &self.0.kind {
            Kind::P2 { instances, .. } => instances.expire(idle),
            Kind::P3 { instances, .. } => instances.expire(idle),
        }
    }

    /// What became of its instances.
    #[must_use]
    pub fn instances(&self) -> InstanceCounts {
        match &self.0.kind {
            Kind::P2 { instances, .. } => instances.counts(),
            Kind::P3 { instances, .. } => instances.counts(),
        }
    }
}

/// Bytes of body after which the response is whole, where the head says so.
fn expected_length(head: &http::response::Parts) -> Option<u64> {
    if head.status.is_informational()
        || head.status == http::StatusCode::NO_CONTENT
        || head.status == http::StatusCode::NOT_MODIFIED
    {
        return Some(0);
    }
    head.headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
}
