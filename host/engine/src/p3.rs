//! Calls of `wasi:http/handler@0.3`.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use http::Request;
use http::uri::Scheme;
use skep_core::Outcome;
use tokio::task::coop;
use wasmtime::component::{Accessor, GuestTaskId, InstancePre};
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use crate::fault::Verdict;
use crate::guest::{self, Guest};
use crate::head;
use crate::origin::Outside;
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
        let reception = Arc::clone(&job.reception);
        let quiet = Quiet::default();
        let event_loop = store.run_concurrent(async |accessor| {
            let work = async {
                let verdict = answer(accessor, proxy, job).await?.verdict;
                // The guest's tasks write the body after the handler returned.
                std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                if verdict.outcome != Outcome::Ok {
                    return Ok(verdict);
                }
                let mut known = reception.returned(false);
                let mut asked = Asked::default();
                while known.is_none() {
                    // The host's own pass it on.
                    std::future::poll_fn(|cx| asked.poll(&quiet, cx)).await;
                    known = reception.returned(true);
                }
                wasmtime::error::Ok(known.unwrap_or(verdict))
            };
            weighed(accessor, work).await
        });
        let mut event_loop = pin!(event_loop);
        std::future::poll_fn(|cx| quiet.poll_loop(event_loop.as_mut(), cx)).await?
    }
}

/// Does some work for a guest that is driven by `accessor`, and looks before
/// each wait, and at the end, whether the host holds too much for that guest:
/// wasmtime polls this after whatever the guest did.
async fn weighed<R>(
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

/// What a handler's call came to, while its task goes on.
pub(crate) struct Answered {
    pub(crate) verdict: Verdict,
    pub(crate) task: GuestTaskId,
}

/// Calls the guest's handler and sends its answer on.
pub(crate) async fn answer(
    accessor: &Accessor<Guest>,
    proxy: &Service,
    job: Job,
) -> wasmtime::Result<Answered> {
    let request = absolute(job.request, job.scheme)?;
    let handler = proxy.wasi_http_handler().func_handle();
    let (call, sent) = accessor.with(|mut access| {
        let view = access.get().http();
        let (request, sent) = p3::Request::from_http(view.hooks, request);
        let request = view.table.push(request)?;
        let sent: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(sent);
        let call = handler.start_call_concurrent(access, (request,))?;
        wasmtime::error::Ok((call, sent))
    })?;
    let task = call.task();
    let (response,) = handler.finish_call_concurrent(accessor, call).await?;
    let response = match response {
        Ok(response) => response,
        Err(code) => {
            let why = format!("the guest answered with an error: {code:?}");
            let verdict = Verdict::no_response(why);
            return Ok(Answered { verdict, task });
        }
    };
    let response = accessor.with(|mut access| {
        let mut response = access.get().http().table.delete(response)?;
        // Whoever takes the body holds it to its length: what does it in here loses
        // its finding where a frame is still untaken, and does not know of answers
        // without content.
        let headers = std::mem::take(&mut response.headers);
        let mut response = response.into_http_with_getter(&mut access, sent, Guest::http)?;
        *response.headers_mut() = headers.into();
        head::leaving(response.headers_mut());
        wasmtime::error::Ok(response)
    })?;
    job.reception.answer(response);
    let verdict = Verdict::OK;
    Ok(Answered { verdict, task })
}

/// Finds out when the event loop of a store has nothing left to do by itself:
/// what a guest wrote in its last turn has gone through the host's own tasks
/// then.
#[derive(Default)]
pub(crate) struct Quiet {
    /// Somebody in the loop wants to know.
    asked: AtomicBool,
    reached: AtomicBool,
}

/// Who waits in a loop until it is quiet.
#[derive(Default)]
pub(crate) struct Asked(bool);

impl Asked {
    /// Whether the loop has come to rest since this was asked first, or last answered.
    /// To be asked from within the loop, which is polled again if it is quiet.
    pub(crate) fn poll(&mut self, quiet: &Quiet, cx: &Context<'_>) -> Poll<()> {
        let is_reached = quiet.reached.load(Relaxed);
        if std::mem::take(&mut self.0) && is_reached {
            return Poll::Ready(());
        }
        self.0 = true;
        quiet.asked.store(true, Relaxed);
        if is_reached {
            // That rest was before this was asked: the loop looks for the next one when
            // it is polled again.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Quiet {
    /// Polls the loop.
    pub(crate) fn poll_loop<F: Future>(
        &self,
        mut event_loop: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let mut polled = event_loop.as_mut().poll(cx);
        if polled.is_pending() && self.asked.swap(false, Relaxed) {
            if !coop::has_budget_remaining() {
                // What tokio lets a task do at a time is used up: that is no rest.
                polled = pin!(coop::unconstrained(event_loop.as_mut())).poll(cx);
                if polled.is_ready() {
                    return polled;
                }
            }
            self.reached.store(true, Relaxed);
            polled = pin!(coop::unconstrained(event_loop)).poll(cx);
            self.reached.store(false, Relaxed);
        }
        polled
    }
}

/// A guest of 0.3 finds scheme and authority in the request itself.
fn absolute(request: Request<Outside>, scheme: Scheme) -> wasmtime::Result<Request<Outside>> {
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
