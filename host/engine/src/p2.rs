//! Calls of `wasi:http/incoming-handler@0.2`.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use http::Request;
use http::uri::Scheme;
use tokio::sync::oneshot;
use wasmtime::component::InstancePre;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use crate::fault::Verdict;
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
        let (mut head, body) = job.request.into_parts();
        head::arriving(&mut head);
        let excess = store.data().excess();
        let mut view = store.data_mut().http();
        let incoming = view.new_incoming_request(scheme, Request::from_parts(head, body))?;
        let (refused, mut why) = oneshot::channel();
        let answer = job.answer;
        let outparam = view.new_response_outparam_from_callback(move |set| match set {
            Ok(mut response) => {
                head::leaving(response.headers_mut());
                drop(answer.send(response));
            }
            Err(code) => drop(refused.send(code)),
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
        // Nor may an instance that waits for its next call.
        guest::weigh(&mut store.as_context_mut())?;
        Ok(match why.try_recv() {
            Ok(code) => Verdict::no_response(format!("the guest answered with an error: {code:?}")),
            Err(_) => Verdict::OK,
        })
    }
}
