//! One accepted connection as hyper sees it: framing watched, stalls ended.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use skep_core::ConnectionLimits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

use crate::strict::Framing;

mod gate;

pub(crate) use gate::{Answering, Gate, Left};

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Given away: like one whose client has closed.
    Gone,
}

/// What the connection's task, its socket and its requests know of each other.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Requests that are being answered.
    in_flight: AtomicU32,
    /// Requests that were ever read.
    pub(crate) requests: AtomicU64,
    /// Microseconds from `began` to the end of the newest request.
    idle_since: AtomicU64,
    /// Heads of HTTP/1 that have arrived, in whole or in part. Those beyond
    /// `requests` are on their way through hyper.
    heads: AtomicU64,
    http2: AtomicBool,
    /// The connection is to end ([`farewell`](crate::farewell)).
    leaving: AtomicBool,
    /// The response that is about to be written is to be the last.
    last: AtomicBool,
    /// The next read that finds nothing is the end.
    looking: AtomicBool,
    /// The connection is to be given back between two requests.
    wanted_back: AtomicBool,
    /// Responses that are not yet all in the HTTP library's buffer; counted
    /// where connections may be given back.
    answering: AtomicU32,
    /// The connection, once it was given up.
    left: Mutex<Option<Left>>,
    /// The connection's task, once it is to end.
    task: Mutex<Option<Waker>>,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            last: AtomicBool::new(false),
            looking: AtomicBool::new(false),
            wanted_back: AtomicBool::new(false),
            answering: AtomicU32::new(0),
            left: Mutex::default(),
            task: Mutex::default(),
        })
    }

    pub(crate) fn request_began(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.idle_since.store(now, Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn idle_since(&self) -> Instant {
        self.began + Duration::from_micros(self.idle_since.load(Relaxed))
    }
}

/// What a connection that is to end asks and is told.
impl Pulse {
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// Has the connection's task come by when something of it changes.
    pub(crate) fn watched_by(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    /// Wakes the connection's task.
    pub(crate) fn wake(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    pub(crate) fn answer_last(&self) {
        self.last.store(true, Relaxed);
    }

    pub(crate) fn answers_last(&self) -> bool {
        self.last.load(Relaxed)
    }

    pub(crate) fn look(&self) {
        self.looking.store(true, Relaxed);
    }

    /// Whether a request of HTTP/1 has arrived, or has begun to, that hyper has
    /// not yet handed on.
    pub(crate) fn has_more(&self) -> bool {
        self.heads.load(Relaxed) > self.requests.load(Relaxed)
    }

    /// Whether a request is being answered or on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0 || (!self.is_http2() && self.has_more())
    }
}

/// A request line that no parser accepts: hyper answers it with 400 and
/// closes, after the responses to what came before.
const POISON: &[u8] = b"\0\r\n\r\n";

/// Whose turn it is when there is something to write.
///
/// Waking the reader of a response costs more than making most responses. A
/// worker with many connections therefore first does what all of them ask, and
/// then writes what it has to say (as Redis does), so that a client or proxy
/// with several connections is woken once for several responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The next write waits until the others have been served.
    Others,
    /// The next write is done at once.
    Now,
}

/// The socket, its framing and its timeouts.
pub(crate) struct WatchedSocket {
    socket: Socket,
    framing: Framing,
    pulse: Arc<Pulse>,
    head_timeout: Duration,
    write_timeout: Duration,
    /// Bytes that were read but not yet given to hyper.
    poison: &'static [u8],
    refused: bool,
    /// When the current head began, or the connection.
    head_since: Instant,
    blocked_since: Option<Instant>,
    /// Where the connection came from another process of ours, which gets it
    /// back.
    gate: Option<Box<Gate>>,
    turn: Turn,
    /// One timer for the life of the connection. It is moved only when it
    /// fires: a timer per request would cost more than the request's parsing.
    alarm: Pin<Box<Sleep>>,
    alarm_set: bool,
}

impl WatchedSocket {
    pub(crate) fn new(
        socket: Socket,
        limits: &ConnectionLimits,
        pulse: Arc<Pulse>,
        gate: Option<Gate>,
    ) -> Self {
        let now = Instant::now();
        let first = now + limits.header_timeout.min(limits.write_timeout);
        let mut framing = Framing::new(limits.max_head.saturating_mul(2));
        if gate.as_ref().is_some_and(Gate::is_http1) {
            framing.begin();
        }
        Self {
            socket,
            framing,
            pulse,
            head_timeout: limits.header_timeout,
            write_timeout: limits.write_timeout,
            poison: b"",
            refused: false,
            head_since: now,
            blocked_since: None,
            gate: gate.map(Box::new),
            turn: Turn::Now,
            alarm: Box::pin(tokio::time::sleep_until(first.into())),
            alarm_set: false,
        }
    }

    /// When the client has been silent, or has refused to take bytes, for too
    /// long; `None` while neither is its fault.
    fn patience_ends(&self) -> Option<Instant> {
        let head = if self.is_within_head() {
            Some(self.head_since + self.head_timeout)
        } else if self.pulse.in_flight.load(Relaxed) == 0 {
            let since = self.pulse.idle_since().max(self.head_since);
            Some(since + self.head_timeout)
        } else {
            None
        };
        let write = self.blocked_since.map(|since| since + self.write_timeout);
        match (head, write) {
            (Some(head), Some(write)) => Some(head.min(write)),
            (head, write) => head.or(write),
        }
    }

    /// Makes sure that this task wakes up when patience may have ended, and
    /// says whether it has.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.alarm_set && !self.alarm.is_elapsed() {
            return Ok(());
        }
        loop {
            if self.alarm.as_mut().poll(cx).is_pending() {
                self.alarm_set = true;
                return Ok(());
            }
            let now = Instant::now();
            let next = match self.patience_ends() {
                Some(end) if end <= now => return Err(io::ErrorKind::TimedOut.into()),
                Some(end) => end,
                None => now + self.head_timeout.min(self.write_timeout),
            };
            self.alarm.as_mut().reset(next.into());
        }
    }

    /// Before a silent connection is closed: asks the kernel itself, because
    /// the event loop may not have heard yet of what has just come. If nothing
    /// has, the connection ends as if the client had ended it.
    fn last_look(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pulse.is_busy() || self.blocked_since.is_some() {
            return Poll::Pending;
        }
        let socket = match &self.socket {
            Socket::Tcp(tcp) => tcp.as_fd().try_clone_to_owned(),
            Socket::Unix(unix) => unix.as_fd().try_clone_to_owned(),
            Socket::Gone => return Poll::Ready(Ok(())),
        };
        match socket
            .map(File::from)
            .and_then(|mut socket| socket.read(buf.initialize_unfilled()))
        {
            Ok(bytes) => {
                self.pulse.looking.store(false, Relaxed);
                buf.advance(bytes);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Whether a head has begun and not ended.
    fn is_within_head(&self) -> bool {
        self.framing.is_within_head() || self.holds_part()
    }

    /// Reads what has come.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Socket::Gone => return Poll::Ready(Ok(())),
        };
        let read = if read.is_pending() && self.pulse.looking.load(Relaxed) {
            self.last_look(buf)
        } else {
            read
        };
        if read.is_ready() {
            return read;
        }
        match self.watch(cx) {
            Ok(()) => Poll::Pending,
            Err(late) => Poll::Ready(Err(late)),
        }
    }

    /// Says what was read to everybody else.
    fn note_heads(&self) {
        let heads = self.framing.heads() + u64::from(self.holds_part());
        self.pulse.heads.store(heads, Relaxed);
        if self.framing.is_http2() {
            self.pulse.http2.store(true, Relaxed);
        }
    }

    /// Lets what is filled pass up to `good`, and then nothing more.
    fn refuse(&mut self, buf: &mut ReadBuf<'_>, good: usize) {
        buf.set_filled(good);
        self.refused = true;
        self.poison = POISON;
        self.give_poison(buf);
    }

    fn give_poison(&mut self, buf: &mut ReadBuf<'_>) {
        let fits = self.poison.len().min(buf.remaining());
        buf.put_slice(&self.poison[..fits]);
        self.poison = &self.poison[fits..];
    }
}

impl AsyncRead for WatchedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refused {
            this.give_poison(buf);
            return Poll::Ready(Ok(()));
        }
        if this.gate.is_some() {
            return this.poll_gate(cx, buf);
        }
        let before = buf.filled().len();
        let read = this.poll_socket(cx, buf);
        if buf.filled().len() > before {
            if this.framing.is_between() {
                this.head_since = Instant::now();
            }
            if let Err((good, _)) = this.framing.take(&buf.filled()[before..]) {
                this.refuse(buf, before + good);
            }
            this.note_heads();
        }
        read
    }
}

impl WatchedSocket {
    /// Lets the others go first, once for each write.
    fn after_others(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Guests that compute are others, too, and far too slow to wait for.
        if self.turn == Turn::Others && skep_engine::computing() == 0 {
            self.turn = Turn::Now;
            // tokio wakes this task again when nothing else is left to do.
            let mut others = std::pin::pin!(tokio::task::yield_now());
            if others.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.turn = Turn::Others;
        Poll::Ready(())
    }

    /// Notes whether the client takes bytes.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked_since = None;
            return written;
        }
        if self.blocked_since.is_none() {
            self.blocked_since = Some(Instant::now());
        }
        match self.watch(cx) {
            Ok(()) => Poll::Pending,
            Err(late) => Poll::Ready(Err(late)),
        }
    }
}

impl AsyncWrite for WatchedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.after_others(cx).is_pending() {
            return Poll::Pending;
        }
        let written = match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
            Socket::Gone => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bytes),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bytes),
            Socket::Gone => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of their own to flush. But the HTTP library
        // flushes only when its own is empty.
        self.gate_flushed(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Socket::Gone => Poll::Ready(Ok(())),
        }
    }
}
