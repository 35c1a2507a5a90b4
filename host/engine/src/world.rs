//! What the two versions of `wasi:http` have in common.

use std::future::Future;

use http::uri::Scheme;
use http::{Request, Response};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::WasiBody;

use crate::RequestBody;
use crate::fault::Verdict;
use crate::guest::Guest;

/// What a guest answers before its body.
pub(crate) type Answer = Response<WasiBody>;

/// One request on its way to a guest.
pub(crate) struct Job {
    pub(crate) request: Request<RequestBody>,
    pub(crate) scheme: Scheme,
    /// Where the answer goes, as soon as the guest gives it. A receiver that
    /// is gone belongs to a client that is gone.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A component whose imports are resolved, of either version.
pub(crate) trait World: Send + Sync + 'static {
    /// An instance of it.
    type Proxy: Send + Sync;

    /// The component, whatever its world.
    fn pre(&self) -> &InstancePre<Guest>;

    /// Makes an instance in a fresh store.
    fn instantiate(
        &self,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<Self::Proxy>> + Send;

    /// Runs one call to its end, which is when the guest has nothing left that
    /// it must finish.
    fn call(
        proxy: &Self::Proxy,
        store: &mut Store<Guest>,
        job: Job,
    ) -> impl Future<Output = wasmtime::Result<Verdict>> + Send;
}
