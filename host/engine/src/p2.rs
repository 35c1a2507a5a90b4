//! Calls of `wasi:http/incoming-handler@0.2`.

use std::future::Future;

use http::uri::Scheme;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use crate::fault::Verdict;
use crate::guest::Guest;
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
        let mut view = store.data_mut().http();
        let incoming = view.new_incoming_request(scheme, job.request)?;
        let (refused, mut why) = oneshot::channel();
        let answer = job.answer;
        let outparam = view.new_response_outparam_from_callback(move |set| match set {
            Ok(response) => drop(answer.send(response)),
            Err(code) => drop(refused.send(code)),
        })?;
        proxy
            .wasi_http_incoming_handler()
            .call_handle(&mut *store, incoming, outparam)
            .await?;
        Ok(match why.try_recv() {
            Ok(code) => Verdict::no_response(format!("the guest answered with an error: {code:?}")),
            Err(_) => Verdict::OK,
        })
    }
}
