//! A connection of HTTP/2: hyper between its socket and the service, within
//! limits.
//!
//! hyper and h2 speak the protocol. What they leave open is decided here: which
//! frames a client may send us without end ([`guard`]), that a stream nobody
//! reads ends with its call ([`stream`]), and how a connection comes to its end.
//!
//! What one connection can make a worker hold, at most, besides its calls:
//! [`MAX_STREAMS`] answers of [`SEND_BUFFER`] in one frame ([`portion`]) and one
//! piece each (4 MiB), bodies of requests up to [`CONNECTION_WINDOW`]
//! (256 KiB, and 2 MiB for frames of a few bytes, which h2 counts), and the heads
//! of its streams (`max_head` each, which are taken at once).
//!
//! ```text
//!  Open ── asked to end ──▶ Asked ──── an answer, or silent for the linger ──▶ Finishing (GOAWAY)
//!    │ silent: header_timeout ▲ │                                                │ silent for the linger
//!    └────────────────────────┘ └── client closed ──▶ closed ◀───────────────────┘
//! ```
//!
//! GOAWAY goes in two steps with a PING between them. A client's answer to that
//! PING may overtake a request that waits to be written, and the second GOAWAY
//! then says that this request was not looked at. So it is said just before an
//! answer, when a client that asks one thing after the other has nothing to
//! write. Only a client that answers no GOAWAY is cut off.

mod frames;
mod guard;
mod portion;
mod stream;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use http::{Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use skep_core::{LogLevel, Outcome};

use crate::alarm::{Alarm, micros, moment};
use crate::connection::Carrier;
use crate::desk::Desk;
use crate::http2::frames::Abuse;
use crate::http2::guard::Guarded;
use crate::http2::stream::{Answering, Pieces, Streams};
use crate::rooms::Stay;
use crate::service::{ClientBody, Service};
use crate::transport::Transport;

/// Requests that one connection may have open at a time; what browsers and
/// proxies expect at least.
const MAX_STREAMS: u32 = 128;

/// Bytes of one answer that wait until its client takes them.
const SEND_BUFFER: usize = 16 << 10;

/// Bytes of one request's body that are taken before they are wanted.
const STREAM_WINDOW: u32 = 128 << 10;

/// The same of all requests of a connection.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Streams that a client has reset before we looked at them.
const MAX_UNSEEN_RESETS: usize = 20;

/// Decoded header lists may be so many times as large as `max_head` before h2
/// drops what is too much without a word: what is over `max_head` is refused
/// here, where it can be told.
const LIST_ROOM: u32 = 4;

/// What the task of a connection, its socket and its streams know of each other.
pub(crate) struct Pulse {
    desk: Arc<Desk>,
    stay: Arc<Stay>,
    /// Streams that are answered.
    in_flight: AtomicU32,
    /// Streams that have come.
    requests: AtomicU64,
    /// Microseconds at which the last stream ended or something was written.
    moved: AtomicU64,
    /// Microseconds since when the client takes nothing; 0 while it does.
    blocked: AtomicU64,
    /// The client was too slow: its calls end so.
    too_slow: AtomicBool,
    leaving: AtomicBool,
    /// The answer that is about to be written is to be the last.
    last: AtomicBool,
    task: AtomicWaker,
}

impl Pulse {
    fn new(carrier: &Carrier) -> Arc<Self> {
        Arc::new(Self {
            desk: Arc::clone(&carrier.desk),
            stay: Arc::clone(&carrier.stay),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            moved: AtomicU64::new(micros(Instant::now())),
            blocked: AtomicU64::new(0),
            too_slow: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            last: AtomicBool::new(false),
            task: AtomicWaker::new(),
        })
    }

    fn began(&self) {
        self.requests.fetch_add(1, Relaxed);
        if self.in_flight.fetch_add(1, Relaxed) == 0 {
            self.stay.busy();
        }
    }

    fn ended(&self) {
        let now = Instant::now();
        self.moved.store(micros(now), Relaxed);
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.stay.idle(now);
            self.desk.request_ended();
            self.task.wake();
        }
    }

    /// The client sends frames that cost it nothing and this worker work.
    fn abused(&self, abuse: Abuse) {
        let record = self.desk.log.record(LogLevel::Debug, "connection.abused");
        if let Some(record) = record {
            self.desk
                .log
                .write(record.text("reason", &abuse.to_string()));
        }
        self.desk.refused_unread(Outcome::BadRequest);
    }

    fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// When something last happened.
    fn moved(&self) -> Instant {
        moment(self.moved.load(Relaxed))
    }

    /// The socket took bytes, or did not.
    fn wrote(&self, some: bool) {
        let now = micros(Instant::now());
        if some {
            self.moved.store(now, Relaxed);
            self.blocked.store(0, Relaxed);
        } else if self.blocked.load(Relaxed) == 0 {
            self.blocked.store(now.max(1), Relaxed);
            self.task.wake();
        }
    }

    fn blocked_since(&self) -> Option<Instant> {
        match self.blocked.load(Relaxed) {
            0 => None,
            since => Some(moment(since)),
        }
    }

    /// Before an answer goes out on a connection that is to end: has the
    /// connection's task say so first.
    async fn before_answer(&self) {
        if self.leaving.load(Relaxed) && !self.last.swap(true, Relaxed) {
            // Another task than this one.
            self.task.wake();
            tokio::task::yield_now().await;
        }
    }
}

/// How far a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Open,
    /// It ends with an answer, or when it is silent for so long.
    Asked(Duration, Instant),
    /// The client was told, then.
    Finishing(Duration, Instant),
}

/// Serves a connection to its end. `input` was read of it; `greeted` says
/// whether it was sent SETTINGS that it will acknowledge.
pub(crate) async fn run<T: Transport>(
    carrier: Carrier,
    transport: T,
    input: BytesMut,
    greeted: bool,
) {
    let pulse = Pulse::new(&carrier);
    let service = Arc::new(Service::new(&carrier, transport.scheme()));
    let guarded = Guarded::new(transport, input, greeted, &carrier.limits, &pulse);
    let streams = Streams::new(&pulse, carrier.limits.write_timeout);
    let answer = service_fn({
        let pulse = Arc::clone(&pulse);
        move |request: Request<Incoming>| {
            let (service, pulse) = (Arc::clone(&service), Arc::clone(&pulse));
            // Boxed, because it is large and moved several times.
            Box::pin(async move {
                let stream = Answering::current();
                let (head, body) = request.into_parts();
                let is_head = head.method == Method::HEAD;
                let body = ClientBody::Http2(body);
                let reply = service
                    .answer(head, body, Arc::clone(stream.lifeline()))
                    .await;
                pulse.before_answer().await;
                Ok::<_, Infallible>(Pieces::of(reply.response, is_head, stream))
            })
        }
    });
    let max_head = u32::try_from(carrier.limits.max_head).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(max_head.saturating_mul(LIST_ROOM))
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guarded), answer));
    let mut ending = Ending {
        carrier: &carrier,
        pulse: &pulse,
        leaving: Leaving::Open,
        alarm: Alarm::default(),
    };
    std::future::poll_fn(|cx| {
        loop {
            // A failure needs no report: the client has hung up, or has broken
            // the protocol and was told.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match ending.next(cx) {
                Step::Wait => return Poll::Pending,
                Step::Finish => connection.as_mut().graceful_shutdown(),
                Step::Cut => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// What the connection's task does next.
enum Step {
    Wait,
    /// Say GOAWAY.
    Finish,
    /// Drop it.
    Cut,
}

/// Ends a connection that is asked to, or that nobody uses.
struct Ending<'a> {
    carrier: &'a Carrier,
    pulse: &'a Pulse,
    leaving: Leaving,
    alarm: Alarm,
}

impl Ending<'_> {
    fn next(&mut self, cx: &mut Context<'_>) -> Step {
        self.pulse.task.register(cx.waker());
        self.carrier.stay.watched_by(cx.waker());
        loop {
            let now = Instant::now();
            if self
                .pulse
                .blocked_since()
                .is_some_and(|since| since + self.write_timeout() <= now)
            {
                self.pulse.too_slow.store(true, Relaxed);
                return Step::Cut;
            }
            if let Some(step) = self.step(now) {
                return step;
            }
            let deadline = self.deadline();
            if self.alarm.watch(deadline, cx).is_pending() {
                return Step::Wait;
            }
        }
    }

    fn step(&mut self, now: Instant) -> Option<Step> {
        match self.leaving {
            Leaving::Open => {
                if let Some(linger) = self.wants_to_leave(now) {
                    self.pulse.leaving.store(true, Relaxed);
                    self.leaving = Leaving::Asked(linger, now);
                    return self.step(now);
                }
                None
            }
            Leaving::Asked(linger, from) => {
                let silent = !self.pulse.is_busy() && from.max(self.pulse.moved()) + linger <= now;
                if self.pulse.last.load(Relaxed) || silent {
                    self.leaving = Leaving::Finishing(linger, now);
                    return Some(Step::Finish);
                }
                None
            }
            Leaving::Finishing(linger, from) => {
                let silent = !self.pulse.is_busy() && from.max(self.pulse.moved()) + linger <= now;
                silent.then_some(Step::Cut)
            }
        }
    }

    fn wants_to_leave(&self, now: Instant) -> Option<Duration> {
        if let Some(linger) = self.carrier.asked_to_end(now) {
            return Some(linger.max(LEAST_LINGER));
        }
        let max = self.carrier.limits.max_requests_per_connection;
        let enough = max > 0 && self.pulse.requests.load(Relaxed) >= max;
        let idle = !self.pulse.is_busy() && self.pulse.moved() + self.header_timeout() <= now;
        (enough || idle).then(|| self.carrier.desk.linger())
    }

    fn deadline(&self) -> Option<Instant> {
        let blocked = self
            .pulse
            .blocked_since()
            .map(|since| since + self.write_timeout());
        let busy = self.pulse.is_busy();
        let moved = self.pulse.moved();
        let next = match self.leaving {
            Leaving::Open if busy => self.carrier.old_at(),
            Leaving::Open => {
                let silent = moved + self.header_timeout();
                Some(self.carrier.old_at().map_or(silent, |old| old.min(silent)))
            }
            // The task is woken when the last stream ends.
            Leaving::Asked(..) | Leaving::Finishing(..) if busy => None,
            Leaving::Asked(linger, from) | Leaving::Finishing(linger, from) => {
                Some(from.max(moved) + linger)
            }
        };
        [blocked, next].into_iter().flatten().min()
    }

    fn header_timeout(&self) -> Duration {
        self.carrier.limits.header_timeout
    }

    fn write_timeout(&self) -> Duration {
        self.carrier.limits.write_timeout
    }
}

/// A client of HTTP/2 is told that its connection ends, and may need a while to
/// hear of it.
const LEAST_LINGER: Duration = Duration::from_millis(500);
