//! What the two versions of `wasi:http` have in common.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::Scheme;
use http::{Request, Response};
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::WasiBody;

use crate::fault::Verdict;
use crate::guest::Guest;
use crate::origin::Outside;
use crate::places::Place;

/// What a guest answers before its body.
pub(crate) type Answer = Response<WasiBody>;

/// A guest's run, to its end.
pub(crate) type Work = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// One request on its way to a guest.
pub(crate) struct Job {
    pub(crate) request: Request<Outside>,
    pub(crate) scheme: Scheme,
    pub(crate) request_id: Arc<str>,
    pub(crate) reception: Arc<dyn Reception>,
}

/// Where a call's guest is heard.
pub(crate) trait Reception: Send + Sync {
    /// The call shares an instance, on which it has this place.
    fn placed(&self, place: Place);

    /// Whether the call still has that place.
    fn is_wanted(&self) -> bool;

    /// The guest answers.
    fn answer(&self, answer: Answer);

    /// The guest says that there is no answer, and why.
    fn refuse(&self, verdict: Verdict);

    /// What the call came to on the guest's side, if that can be said, now that the
    /// guest has returned and before anything happens to its store. It can where
    /// the event loop of that store has nothing left to do, which `is_quiet` says,
    /// or all of the response is there. To be asked until it is said.
    fn returned(&self, is_quiet: bool) -> Option<Verdict>;

    /// The guest of a call that shares an instance has ended like this.
    fn ended(&self, verdict: Verdict);
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
