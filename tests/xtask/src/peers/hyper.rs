//! Bare hyper: what Rust's HTTP costs when nothing is behind it.
//!
//! Two single-threaded processes, as skep's workers are, each with a listener
//! of its own on the same port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

use super::{BODY, Peer, WORKERS};
use crate::server::{Address, Launch};

/// The queue of connections that were not accepted yet; the kernel cuts it to
/// its own limit.
const BACKLOG: u32 = 4096;

/// Two processes of this very program.
#[derive(Debug)]
pub(crate) struct Hyper;

impl Peer for Hyper {
    fn launch(&self, _: &Path) -> Result<Launch> {
        let address = Address::free()?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let commands = (0..WORKERS)
            .map(|_| {
                let mut command = Command::new(&program);
                command.arg("peer-hyper").arg(address.to_string());
                command
            })
            .collect();
        Ok(Launch {
            commands,
            address: Address::At(address),
        })
    }
}

/// Serves until killed.
///
/// # Errors
///
/// The address cannot be had, or accepting fails.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket
        .bind(address)
        .with_context(|| format!("cannot bind {address}"))?;
    let listener = socket.listen(BACKLOG)?;
    let connections = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(async move {
                // A client that goes away is no concern of a benchmark's.
                let _ = http1::Builder::new()
                    .pipeline_flush(true)
                    .serve_connection(TokioIo::new(stream), service_fn(hello))
                    .await;
            });
        }
    };
    tokio::task::LocalSet::new().run_until(connections).await
}

async fn hello(_: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(BODY.as_bytes())));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    Ok(response)
}
