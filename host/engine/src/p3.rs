//! Calls of `wasi:http/handler@0.3`.

use std::future::Future;
use std::pin::{Pin, pin};

use http::Request;
use http::uri::Scheme;
use wasmtime::component::{Accessor, InstancePre};
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use crate::RequestBody;
use crate::fault::Verdict;
use crate::guest::{self, Guest};
use crate::head;
use crate::world::{Job, World};

impl World for ServicePre<Guest> {
    type Proxy = Service;

    fn pre(&self) -> &InstancePre<Guest> {
        self.instance_pre()
    }

    fn instantiate(
        &self,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<Service>> + Send {
        self.instantiate_async(store)
    }

    async fn call(
        proxy: &Service,
        store: &mut Store<Guest>,
        job: Job,
    ) -> wasmtime::Result<Verdict> {
        store
            .run_concurrent(async move |accessor| {
                let work = async {
                    let verdict = answer(accessor, proxy, job).await?;
                    // The guest's tasks write the body after the handler returned.
                    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                    Ok(verdict)
                };
                weighed(accessor, work).await
            })
            .await?
    }
}

/// Does some work for a guest that is driven by `accessor`, and looks before
/// each wait, and at the end, whether the host holds too much for that guest:
/// wasmtime polls this after whatever the guest did.
pub(crate) async fn weighed<R>(
    accessor: &Accessor<Guest>,
    work: impl Future<Output = wasmtime::Result<R>>,
) -> wasmtime::Result<R> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        accessor.with(|mut access| guest::weigh_if_due(&mut access.as_context_mut()))?;
        work.as_mut().poll(cx)
    })
    .await
}

/// Calls the guest's handler and sends its answer on.
pub(crate) async fn answer(
    accessor: &Accessor<Guest>,
    proxy: &Service,
    job: Job,
) -> wasmtime::Result<Verdict> {
    let request = absolute(job.request, job.scheme)?;
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
    let mut response = accessor.with(|mut access| {
        let response = access.get().http().table.delete(response)?;
        response.into_http_with_getter(&mut access, sent, Guest::http)
    })?;
    head::leaving(response.headers_mut());
    drop(job.answer.send(response));
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
    head::arriving(&mut head);
    Ok(Request::from_parts(head, body))
}
