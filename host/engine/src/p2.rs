//! Calls of `wasi:http/incoming-handler@0.2`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::uri::Scheme;
use http::{Method, Request};
use wasmtime::component::{InstancePre, Linker, Resource};
use wasmtime::{AsContextMut as _, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::types::HostOutgoingResponse;

use crate::fault::Verdict;
use crate::flow;
use crate::guest::{self, Guest};
use crate::head;
use crate::world::{Job, World};

impl World for ProxyPre<Guest> {
    type Proxy = Proxy;

    fn pre(&self) -> &InstancePre<Guest> {
        self.instance_pre()
    }

    fn instantiate(
        &self,
        store: &mut Store<Guest>,
    ) -> impl Future<Output = wasmtime::Result<Proxy>> + Send {
        self.instantiate_async(store)
    }

    async fn call(proxy: &Proxy, store: &mut Store<Guest>, job: Job) -> wasmtime::Result<Verdict> {
        let scheme = if job.scheme == Scheme::HTTPS {
            types::Scheme::Https
        } else {
            types::Scheme::Http
        };
        let headless = job.request.method() == Method::HEAD;
        store.data_mut().set_headless(headless);
        let (mut head, body) = job.request.into_parts();
        head::arriving(&mut head);
        let excess = store.data().excess();
        let mut view = store.data_mut().http();
        let incoming = view.new_incoming_request(scheme, Request::from_parts(head, body))?;
        let reception = Arc::clone(&job.reception);
        let outparam = view.new_response_outparam_from_callback(move |set| match set {
            Ok(mut response) => {
                head::leaving(response.headers_mut());
                reception.answer(response);
            }
            Err(code) => reception.refuse(Verdict::no_response(format!(
                "the guest answered with an error: {code:?}"
            ))),
        })?;
        let handler = proxy.wasi_http_incoming_handler();
        {
            let mut handled = pin!(handler.call_handle(&mut *store, incoming, outparam));
            std::future::poll_fn(|cx| match handled.as_mut().poll(cx) {
                // It must not wait with what it holds.
                Poll::Pending => excess
                    .get()
                    .map_or(Poll::Pending, |excess| Poll::Ready(Err((*excess).into()))),
                done => done,
            })
            .await?;
        }
        if store.data().is_reused() {
            // Nor may an instance that waits for its next call.
            guest::weigh(&mut store.as_context_mut())?;
        }
        // It has no event loop, so nothing comes after what is taken at first.
        let verdict = job.reception.returned(true);
        let verdict = verdict.or_else(|| job.reception.returned(true));
        Ok(verdict.unwrap_or(Verdict::OK))
    }
}

/// Replaces what makes a response's body by one that lets an answer without
/// content announce a length: the original holds what the guest writes to the
/// length, and a guest that finishes after fewer bytes is told that it failed.
pub(crate) fn let_empty_answers_have_lengths(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-response.body",
        |mut store: StoreContextMut<'_, Guest>, (response,): (Resource<HostOutgoingResponse>,)| {
            let headless = store.data().is_headless();
            let mut view = store.data_mut().http();
            let same = || Resource::<HostOutgoingResponse>::new_borrow(response.rep());
            let head = view.table.get_mut(&same())?;
            let kept = (headless || flow::has_none(head.status))
                .then(|| std::mem::take(&mut head.headers));
            let body = types::HostOutgoingResponse::body(&mut view, same());
            if let Some(headers) = kept {
                view.table.get_mut(&same())?.headers = headers;
            }
            Ok((body?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The interface as wasmtime names it; guests of all of 0.2 are linked with it.
const TYPES: &str = "wasi:http/types@0.2.12";
