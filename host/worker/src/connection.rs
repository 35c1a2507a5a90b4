//! The life of one connection.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use skep_core::{ConnectionLimits, Outcome};
use skep_sys::Peer;

use crate::budget::Origin;
use crate::desk::Desk;
use crate::farewell::{self, Farewell, Step};
use crate::service::Service;
use crate::socket::{Pulse, Socket, WatchedSocket};

/// Requests that one HTTP/2 connection may have open at a time; what browsers
/// and proxies expect at least.
const MAX_STREAMS: u32 = 128;

/// Sets up what all connections of a listener share.
pub(crate) fn builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Watched by our own socket, with one timer for all requests.
        .header_read_timeout(None)
        .max_buf_size(limits.max_head.max(8 << 10))
        .max_headers(limits.max_headers)
        // Most responses are small: one copy costs less than a vectored write.
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX));
    builder
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    desk: Arc<Desk>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    limits: Arc<ConnectionLimits>,
    socket: Socket,
    peer: Peer,
) {
    let open = Open(Arc::clone(&desk));
    let pulse = Pulse::new();
    let stay = desk.rooms.enter(&pulse);
    let io = TokioIo::new(WatchedSocket::new(socket, &limits, Arc::clone(&pulse)));
    let client = match peer {
        Peer::Tcp(address) => HeaderValue::from_str(&address.ip().to_string()).ok(),
        Peer::Unix => None,
    };
    let mut draining = desk.draining();
    let mut linger = desk.linger();
    let service = Arc::new(Service {
        desk,
        pulse: Arc::clone(&pulse),
        client,
        origin: Origin::of(&peer),
        body_timeout: limits.body_timeout,
    });
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move {
            let response = service.answer(request).await;
            farewell::before_response(&service.pulse).await;
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(io, answer));
    let mut recycle = pin!(recycle(&limits, &pulse));
    tokio::select! {
        biased;
        // How a connection fails is the client's affair: it has hung up, been
        // too slow, or sent what no message begins with.
        ended = connection.as_mut() => return open.ended(ended),
        _ = draining.wait_for(|draining| *draining) => {}
        () = recycle.as_mut() => {}
        // A client of HTTP/2 is told, and may need a while to hear of it.
        () = stay.asked_to_go() => if !pulse.is_http2() {
            linger = farewell::LEAST;
        },
    }
    let mut farewell = Farewell::begin(&pulse, linger);
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                open.ended(ended);
                return Poll::Ready(());
            }
            match farewell.next(cx) {
                Step::Wait => return Poll::Pending,
                Step::Finish => connection.as_mut().graceful_shutdown(),
                Step::Look => {}
                Step::Cut => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// Ends when the connection has served enough, so that load can move to other
/// workers.
async fn recycle(limits: &ConnectionLimits, pulse: &Pulse) {
    let age = limits.max_connection_age;
    let requests = limits.max_requests_per_connection;
    if age.is_zero() && requests == 0 {
        return std::future::pending().await;
    }
    // Less up to a tenth, by the low bits of what the clock says, so that
    // connections that came together do not leave together.
    let jitter = age / 10 * (u32::from(std::process::id().to_le_bytes()[0]) % 16) / 16;
    let age = if age.is_zero() {
        Duration::MAX
    } else {
        age - jitter
    };
    let mut check = tokio::time::interval(RECYCLE_CHECK);
    loop {
        check.tick().await;
        if pulse.age() >= age || (requests > 0 && pulse.requests.load(Relaxed) >= requests) {
            return;
        }
    }
}

/// How often a connection that may grow old looks at itself.
const RECYCLE_CHECK: Duration = Duration::from_millis(100);

/// Counts an open connection.
struct Open(Arc<Desk>);

impl Open {
    /// Counts the one failure of which hyper tells the client by itself.
    fn ended(&self, ended: Result<(), Box<dyn Error + Send + Sync>>) {
        let failed = ended.err();
        let failed = failed
            .as_ref()
            .and_then(|e| e.downcast_ref::<hyper::Error>());
        if failed.is_some_and(hyper::Error::is_parse_too_large) {
            self.0.refused_unread(Outcome::HeadTooLarge);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cell().connection_closed();
        self.0.something_ended();
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
