//! An HTTP/2 client without TLS, by prior knowledge.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http::Address;

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Trailer fields.
    pub trailers: HeaderMap,
}

/// Sends all requests at once on one connection and returns the answers in the
/// requests' order.
///
/// # Errors
///
/// Whatever goes wrong, or takes too long.
pub fn exchange(address: &Address, requests: Vec<Request<Bytes>>) -> Result<Vec<Answer>> {
    let Address::Tcp(address) = address else {
        anyhow::bail!("only over TCP");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, all(*address, requests))
            .await
            .context("took too long")?
    })
}

async fn all(address: std::net::SocketAddr, requests: Vec<Request<Bytes>>) -> Result<Vec<Answer>> {
    let io = TokioIo::new(TcpStream::connect(address).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let mut answers = JoinSet::new();
    for (index, request) in requests.into_iter().enumerate() {
        let mut sender = sender.clone();
        answers.spawn(async move {
            let response = sender.send_request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            let answer = Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
                trailers,
            };
            anyhow::Ok((index, answer))
        });
    }
    let mut ordered = std::collections::BTreeMap::new();
    while let Some(answer) = answers.join_next().await {
        let (index, answer) = answer??;
        ordered.insert(index, answer);
    }
    Ok(ordered.into_values().collect())
}

/// Sends a request, waits for an answer no longer than `patience`, and closes
/// the connection.
///
/// # Errors
///
/// If it cannot be sent, or was answered.
pub fn abandon(address: &Address, request: Request<Bytes>, patience: Duration) -> Result<()> {
    let Address::Tcp(address) = address else {
        anyhow::bail!("only over TCP");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.map(Full::new));
        let answered = tokio::time::timeout(patience, answer).await.is_ok();
        connection.abort();
        anyhow::ensure!(!answered, "it was answered");
        Ok(())
    })
}
