//! Connections that a dispatcher handed out, and that go back to it.
//!
//! Such a connection carries requests for hosts of other pools, too, if its
//! client is a proxy. Between two messages of HTTP/1 the gate looks at the head
//! that comes next: if it is not certainly for this worker, not one byte of it
//! passes to the HTTP library. When all responses before it are written, the
//! connection leaves with the bytes that were read, and another process reads
//! on where this one stopped.
//!
//! ```text
//!            a head of ours                 answers written
//! Passing ◀─────────────────▶ at a head ──▶ Held ──────────────▶ left
//!                              │ not ours, one request only,
//!                              │ or wanted back
//! ```
//! The HTTP library never learns of this: what it sees is a client that closes
//! while nothing is asked and nothing is unanswered.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;

use skep_wire::Spoken;
use tokio::io::{Interest, ReadBuf};

use super::{Pulse, Socket, WatchedSocket};
use crate::home::Home;
use crate::strict::Ahead;

/// What a connection was handed out with.
#[derive(Debug)]
pub(crate) struct Gate {
    home: Arc<Home>,
    /// It is given back after one request.
    once: bool,
    /// What was read and has not passed to the HTTP library.
    unread: Vec<u8>,
    /// What it had spoken when it came.
    spoken: Spoken,
    /// Of the first bytes of `unread` it is known that no head ends there.
    known: usize,
    /// The next head is not ours.
    foreign: bool,
    /// How many requests were there when all responses had been written.
    written: u64,
}

/// A connection that was given up between two requests.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) socket: OwnedFd,
    /// What was read of the next request.
    pub(crate) read: Vec<u8>,
    /// What it has spoken.
    pub(crate) spoken: Spoken,
}

/// A response that is not yet all in the HTTP library's buffer.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Pulse>);

impl Gate {
    /// `read` is what was read of the connection already.
    pub(crate) fn new(home: Arc<Home>, once: bool, read: Vec<u8>, spoken: Spoken) -> Self {
        Self {
            home,
            once,
            unread: read,
            spoken,
            known: 0,
            foreign: false,
            written: 0,
        }
    }

    /// Whether it may not become HTTP/2 any more.
    pub(super) fn is_http1(&self) -> bool {
        self.spoken == Spoken::Http1
    }
}

impl Pulse {
    /// The connection is to be given back as soon as nothing is unanswered.
    pub(crate) fn want_back(&self) {
        self.wanted_back.store(true, Relaxed);
    }

    /// Counts a response until the result is dropped.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Relaxed);
        Answering(Arc::clone(self))
    }

    /// The connection, if it was given up.
    pub(crate) fn take_left(&self) -> Option<Left> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.take()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Relaxed);
    }
}

/// Reading through the gate; only called where there is one.
impl WatchedSocket {
    pub(super) fn poll_gate(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.may_leave() {
                self.leave();
            }
            if matches!(self.socket, Socket::Gone) {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            if self.pass_unread(buf) {
                self.note_heads();
                return Poll::Ready(Ok(()));
            }
            if self.is_held() {
                if self.may_leave() {
                    continue;
                }
                return self.poll_held(cx);
            }
            match self.poll_socket(cx, buf) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.sort(buf, before);
            self.note_heads();
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Notes that all responses so far are written, if they are.
    pub(super) fn gate_flushed(&mut self, cx: &Context<'_>) {
        let Some(gate) = &mut self.gate else { return };
        if self.pulse.answering.load(Relaxed) == 0 {
            gate.written = self.pulse.requests.load(Relaxed);
            if self.may_leave() {
                // The reader, which has it leave, is of the same task.
                cx.waker().wake_by_ref();
            }
        }
    }

    fn gate(&mut self) -> &mut Gate {
        self.gate.as_mut().expect("only called where there is one")
    }

    /// Whether nothing more is to be read here, once the message that has begun
    /// is whole.
    fn is_held(&self) -> bool {
        let Some(gate) = &self.gate else { return false };
        let last = gate.once || self.pulse.wanted_back.load(Relaxed);
        gate.foreign || (last && self.is_at_next_head())
    }

    /// Whether a head has begun that may be for us and is not whole.
    pub(super) fn holds_part(&self) -> bool {
        let unread = |gate: &Gate| !gate.unread.is_empty();
        self.gate.as_deref().is_some_and(unread) && self.framing.is_between() && !self.is_held()
    }

    /// Whether the next byte begins a message that is not the first.
    fn is_at_next_head(&self) -> bool {
        self.framing.is_between() && self.framing.heads() > 0
    }

    /// Whether the connection is to be given up, and nothing of it is in the
    /// HTTP library: every request that passed was answered, and every answer
    /// is written.
    fn may_leave(&self) -> bool {
        let Some(gate) = &self.gate else { return false };
        let wanted_back = self.pulse.wanted_back.load(Relaxed);
        let requests = self.pulse.requests.load(Relaxed);
        (self.is_held() || wanted_back)
            && !self.refused
            && self.framing.is_between()
            && self.framing.heads() == requests
            && gate.written == requests
            && self.pulse.answering.load(Relaxed) == 0
            && !matches!(self.socket, Socket::Gone)
    }

    fn leave(&mut self) {
        let spoken = match self.framing.heads() {
            0 => self.gate().spoken,
            _ => Spoken::Http1,
        };
        let read = std::mem::take(&mut self.gate().unread);
        let socket = match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Tcp(tcp) => tcp.into_std().map(OwnedFd::from),
            Socket::Unix(unix) => unix.into_std().map(OwnedFd::from),
            Socket::Gone => return,
        };
        // It fails for a socket that the event loop does not know.
        if let Ok(socket) = socket {
            let left = self.pulse.left.lock();
            let mut left = left.unwrap_or_else(PoisonError::into_inner);
            *left = Some(Left {
                socket,
                read,
                spoken,
            });
        }
    }

    /// Waits for the answers before the head that is held. Nothing is read: it
    /// is only looked whether the client is still there.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut byte = [0];
            let peeked = match &self.socket {
                Socket::Tcp(tcp) => match tcp.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => tcp.try_io(Interest::READABLE, || {
                        skep_sys::peek(tcp.as_fd(), &mut byte)
                    }),
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Pending => break,
                },
                Socket::Unix(unix) => match unix.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => unix.try_io(Interest::READABLE, || {
                        skep_sys::peek(unix.as_fd(), &mut byte)
                    }),
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Pending => break,
                },
                Socket::Gone => return Poll::Ready(Ok(())),
            };
            match peeked {
                // It has closed, and what it asked last may be cancelled.
                Ok(0) if self.gate().unread.is_empty() => return Poll::Ready(Ok(())),
                // It says more, or has said all it wanted to: that is for the
                // next one to see.
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        match self.watch(cx) {
            Ok(()) => Poll::Pending,
            Err(late) => Poll::Ready(Err(late)),
        }
    }

    /// Passes on what is unread and may pass. Returns whether something did.
    fn pass_unread(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.gate().unread.is_empty() {
            return false;
        }
        let before = buf.filled().len();
        let unread = std::mem::take(&mut self.gate().unread);
        let admitted = self.admit(&unread, buf.remaining());
        let (Ok(good) | Err(good)) = admitted;
        buf.put_slice(&unread[..good]);
        let gate = self.gate();
        gate.unread = unread;
        gate.unread.drain(..good);
        if admitted.is_err() {
            self.refuse(buf, before + good);
        }
        buf.filled().len() > before
    }

    /// Has what was read beyond `before` pass, as far as it may.
    fn sort(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if self.framing.is_between() && self.gate().unread.is_empty() {
            self.head_since = Instant::now();
        }
        let read = &buf.filled()[before..];
        if !self.gate().unread.is_empty() {
            self.gate().unread.extend_from_slice(read);
            buf.set_filled(before);
            self.pass_unread(buf);
            return;
        }
        match self.admit(read, read.len()) {
            Ok(good) => {
                self.gate().unread.extend_from_slice(&read[good..]);
                buf.set_filled(before + good);
            }
            Err(good) => self.refuse(buf, before + good),
        }
    }

    /// How many of `bytes` may pass, at most `room`; an error when a message
    /// follows that is refused.
    fn admit(&mut self, bytes: &[u8], room: usize) -> Result<usize, usize> {
        let room = room.min(bytes.len());
        let mut good = 0;
        while good < room {
            if self.is_at_next_head() && !self.is_ours(&bytes[good..]) {
                break;
            }
            match self.framing.take_message(&bytes[good..room]) {
                Ok(used) => good += used,
                Err((used, _)) => return Err(good + used),
            }
            self.gate().known = 0;
        }
        Ok(good)
    }

    /// Whether the message that begins with `bytes` may pass. One that will be
    /// refused may, for that is the same everywhere.
    fn is_ours(&mut self, bytes: &[u8]) -> bool {
        if self.is_held() {
            return false;
        }
        let gate = self.gate.as_mut().expect("only called where there is one");
        match self.framing.ahead(bytes, gate.known) {
            Ahead::Part => {
                gate.known = bytes.len();
                false
            }
            Ahead::Bad => true,
            Ahead::Host(host) => {
                gate.foreign = !gate.home.owns(host);
                !gate.foreign
            }
        }
    }
}
