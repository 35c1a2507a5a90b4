//! The life of one connection.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use skep_core::{ConnectionLimits, Outcome};
use skep_engine::CutShort;
use skep_sys::Peer;
use tokio::sync::mpsc;

use crate::budget::Origin;
use crate::desk::Desk;
use crate::farewell::{self, Farewell, Step};
use crate::home::Home;
use crate::reply::ReplyBody;
use crate::service::Service;
use crate::socket::{Answering, Gate, Left, Pulse, Socket, WatchedSocket};

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

/// A connection that did not come from a listener, but from who hands its
/// connections out.
pub(crate) struct HandedOut {
    pub(crate) home: Arc<Home>,
    /// It is wanted back after one request.
    pub(crate) once: bool,
    /// What was read of it already.
    pub(crate) read: Vec<u8>,
    pub(crate) back: GiveBack,
}

/// Where connections go that are given back.
pub(crate) type GiveBack = mpsc::UnboundedSender<Returned>;

/// A connection that is given back. It counts as open until this is dropped.
pub(crate) struct Returned {
    pub(crate) left: Left,
    #[expect(dead_code, reason = "held, so that the worker waits for it")]
    open: Open,
}

/// Serves one connection to its end, or until it is given back.
pub(crate) async fn serve(
    desk: Arc<Desk>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    limits: Arc<ConnectionLimits>,
    socket: Socket,
    peer: Peer,
    handed_out: Option<HandedOut>,
) {
    let open = Open(Arc::clone(&desk));
    let pulse = Pulse::new();
    let stay = desk.rooms.enter(&pulse);
    let (gate, home, back) = match handed_out {
        Some(HandedOut {
            home,
            once,
            read,
            back,
        }) => {
            let gate = Gate::new(Arc::clone(&home), once, read);
            (Some(gate), Some(home), Some(back))
        }
        None => (None, None, None),
    };
    let watched = WatchedSocket::new(socket, &limits, Arc::clone(&pulse), gate);
    let io = TokioIo::new(watched);
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
        home,
        body_timeout: limits.body_timeout,
        write_timeout: limits.write_timeout,
    });
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move {
            let answering = service.home.is_some().then(|| service.pulse.answering());
            let response = service.answer(request).await;
            farewell::before_response(&service.pulse).await;
            Ok::<_, Infallible>(response.map(|body| Counted {
                body,
                _answering: answering,
            }))
        }
    });
    let mut connection = pin!(builder.serve_connection(io, answer));
    let mut recycle = pin!(recycle(&limits, &pulse));
    let mut farewell = tokio::select! {
        biased;
        // How a connection fails is the client's affair: it has hung up, been
        // too slow, or sent what no message begins with.
        ended = connection.as_mut() => {
            open.ended(ended);
            return give_back(&pulse, back, open);
        }
        _ = draining.wait_for(|draining| *draining) => match back {
            // Others go on with it, and the client does not notice.
            Some(_) => {
                pulse.want_back();
                None
            }
            None => Some(Farewell::begin(&pulse, linger)),
        },
        () = recycle.as_mut() => Some(Farewell::begin(&pulse, linger)),
        // A client of HTTP/2 is told, and may need a while to hear of it.
        () = stay.asked_to_go() => {
            if !pulse.is_http2() {
                linger = farewell::LEAST;
            }
            Some(Farewell::begin(&pulse, linger))
        }
    };
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                open.ended(ended);
                return Poll::Ready(());
            }
            let farewell = match &mut farewell {
                Some(farewell) => farewell,
                // Its streams cannot be told apart from here.
                None if pulse.is_http2() => farewell.insert(Farewell::begin(&pulse, linger)),
                None => return Poll::Pending,
            };
            match farewell.next(cx) {
                Step::Wait => return Poll::Pending,
                Step::Finish => connection.as_mut().graceful_shutdown(),
                Step::Look => {}
                Step::Cut => return Poll::Ready(()),
            }
        }
    })
    .await;
    give_back(&pulse, back, open);
}

fn give_back(pulse: &Pulse, back: Option<GiveBack>, open: Open) {
    if let (Some(back), Some(left)) = (back, pulse.take_left()) {
        // If nobody is there any more, it is closed.
        let _ = back.send(Returned { left, open });
    }
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

/// The body of a response, which counts as on its way until it is encoded.
struct Counted {
    body: ReplyBody,
    _answering: Option<Answering>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

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
pub(crate) mod tests;
