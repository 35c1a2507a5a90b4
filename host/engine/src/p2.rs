//! A call of `wasi:http/incoming-handler@0.2`.

use std::sync::Arc;

use http::Request;
use http::uri::Scheme;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2 as http2;
use wasmtime_wasi_http::p2::bindings::http::types;

use crate::RequestBody;
use crate::fault::Verdict;
use crate::guest::Guest;
use crate::handler::{Answer, Inner, Kind};
use crate::instances::{Instance, World};

/// Runs one call to its end. The answer is sent as soon as the guest sets it.
pub(crate) async fn run(
    handler: Arc<Inner>,
    request: Request<RequestBody>,
    scheme: Scheme,
    request_id: Arc<str>,
    answer: oneshot::Sender<Answer>,
) -> Verdict {
    let Kind::P2 { pre, instances } = &handler.kind else {
        unreachable!("the caller matched the kind");
    };
    let mut instance = match instances.obtain(pre, &handler, request_id).await {
        Ok(instance) => instance,
        Err(verdict) => return verdict,
    };
    let result = call(&mut instance, request, scheme, answer).await;
    instances.settle(instance, result)
}

impl World for http2::bindings::ProxyPre<Guest> {
    type Proxy = http2::bindings::Proxy;

    fn instantiate(
        &self,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<Self::Proxy>> + Send {
        self.instantiate_async(store)
    }
}

async fn call(
    instance: &mut Instance<http2::bindings::Proxy>,
    request: Request<RequestBody>,
    scheme: Scheme,
    answer: oneshot::Sender<Answer>,
) -> wasmtime::Result<Verdict> {
    let store = &mut instance.store;
    store.set_epoch_deadline(1);
    let scheme = if scheme == Scheme::HTTPS {
        types::Scheme::Https
    } else {
        types::Scheme::Http
    };
    let mut view = store.data_mut().http();
    let incoming = view.new_incoming_request(scheme, request)?;
    let (refused, why) = oneshot::channel();
    let outparam = view.new_response_outparam_from_callback(move |set| match set {
        // A receiver that is gone belongs to a client that is gone.
        Ok(response) => drop(answer.send(response)),
        Err(code) => drop(refused.send(code)),
    })?;
    instance
        .proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, incoming, outparam)
        .await?;
    let mut why = why;
    Ok(match why.try_recv() {
        Ok(code) => Verdict::no_response(format!("the guest answered with an error: {code:?}")),
        Err(_) => Verdict::OK,
    })
}
