//! A call of `wasi:http/handler@0.3`.

use std::pin::Pin;
use std::sync::Arc;

use http::Request;
use http::uri::Scheme;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p3;

use crate::RequestBody;
use crate::fault::Verdict;
use crate::guest::Guest;
use crate::handler::{Answer, Inner, Kind};
use crate::instances::{Instance, World};

/// Runs one call to its end, which is when the guest has no task left that it
/// must finish. The answer is sent as soon as the guest returns it.
pub(crate) async fn run(
    handler: Arc<Inner>,
    request: Request<RequestBody>,
    scheme: Scheme,
    request_id: Arc<str>,
    answer: oneshot::Sender<Answer>,
) -> Verdict {
    let Kind::P3 {
        pre,
        instances,
        shared,
    } = &handler.kind
    else {
        unreachable!("the caller matched the kind");
    };
    if handler.setup.instance.concurrent > 1 {
        return shared
            .run(&handler, pre, request, scheme, request_id, answer)
            .await;
    }
    let mut instance = match instances.obtain(pre, &handler, request_id).await {
        Ok(instance) => instance,
        Err(verdict) => return verdict,
    };
    let result = call(&mut instance, request, scheme, answer).await;
    instances.settle(instance, result)
}

impl World for p3::bindings::ServicePre<Guest> {
    type Proxy = p3::bindings::Service;

    fn instantiate(
        &self,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<Self::Proxy>> + Send {
        self.instantiate_async(store)
    }
}

async fn call(
    instance: &mut Instance<p3::bindings::Service>,
    request: Request<RequestBody>,
    scheme: Scheme,
    send: oneshot::Sender<Answer>,
) -> wasmtime::Result<Verdict> {
    let store = &mut instance.store;
    store.set_epoch_deadline(1);
    let proxy = &instance.proxy;
    store
        .run_concurrent(async move |accessor| {
            let verdict = answer(accessor, proxy, request, scheme, send).await?;
            // The guest's tasks write the body after the handler returned.
            std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(verdict)
        })
        .await?
}

/// Calls the guest's handler and sends its answer on.
pub(crate) async fn answer(
    accessor: &Accessor<Guest>,
    proxy: &p3::bindings::Service,
    request: Request<RequestBody>,
    scheme: Scheme,
    answer: oneshot::Sender<Answer>,
) -> wasmtime::Result<Verdict> {
    let request = absolute(request, scheme)?;
    let (request, sent) = accessor.with(|mut access| {
        let view = access.get().http();
        let (request, sent) = p3::Request::from_http(view.hooks, request);
        let sent: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(sent);
        wasmtime::error::Ok((view.table.push(request)?, sent))
    })?;
    let handler = proxy.wasi_http_handler();
    let response = match handler.call_handle(accessor, request).await? {
        Ok(response) => response,
        Err(code) => {
            return Ok(Verdict::no_response(format!(
                "the guest answered with an error: {code:?}"
            )));
        }
    };
    let response = accessor.with(|mut access| {
        let response = access.get().http().table.delete(response)?;
        response.into_http_with_getter(&mut access, sent, Guest::http)
    })?;
    // A receiver that is gone belongs to a client that is gone.
    drop(answer.send(response));
    Ok(Verdict::OK)
}

/// A guest of 0.3 finds scheme and authority in the request itself.
fn absolute(
    request: Request<RequestBody>,
    scheme: Scheme,
) -> wasmtime::Result<Request<RequestBody>> {
    let (mut head, body) = request.into_parts();
    let mut parts = head.uri.into_parts();
    if parts.authority.is_none()
        && let Some(host) = head.headers.get(http::header::HOST)
    {
        parts.authority = Some(http::uri::Authority::try_from(host.as_bytes())?);
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    parts.scheme = Some(scheme);
    head.uri = http::Uri::from_parts(parts)?;
    Ok(Request::from_parts(head, body))
}
