//! The frames of a client of HTTP/2 on their way to h2: how many of which kind,
//! and what h2 does not look at.
//!
//! Some frames cost a server work and a client nothing: a PING is answered,
//! SETTINGS are acknowledged, a stream that is reset was begun. h2 bounds what
//! it holds for them, not how many there are. Here each kind has a budget that
//! ordinary use fills faster than it spends; who has used it up is told by
//! GOAWAY, which h2 says when it meets a frame that makes no sense.
//!
//! How many are too many is said by [`frames`](super::frames).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use skep_core::ConnectionLimits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::Pulse;
use crate::http2::frames::{FrameHead, HEADER, Judged, Verdict, Watch, begins_with_pseudo};
use crate::transport::{READ, Transport, poll_read};
use crate::writing::Turns;

/// What a connection begins with; a dispatcher or the first reader has seen it.
const PREFACE: usize = 24;

/// A transport whose frames are watched.
pub(crate) struct Guarded<T> {
    transport: T,
    watch: Watch,
    pulse: Arc<Pulse>,
    turns: Turns,
    /// What was read and has not passed.
    input: BytesMut,
    place: Place,
}

/// Where in the client's bytes the next one belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To the preface, or to a frame; so many bytes pass, or are dropped.
    Within(usize, Verdict),
    /// To the head of a frame.
    Head,
    /// To what follows [`NONSENSE`], which is nobody's.
    Nonsense(&'static [u8]),
}

/// DATA of no stream: h2 answers with GOAWAY and ends the connection.
const NONSENSE: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0];

impl<T> Guarded<T> {
    pub(crate) fn new(
        transport: T,
        input: BytesMut,
        greeted: bool,
        limits: &ConnectionLimits,
        pulse: &Arc<Pulse>,
    ) -> Self {
        Self {
            transport,
            watch: Watch::new(limits.max_head, greeted, Instant::now()),
            pulse: Arc::clone(pulse),
            turns: Turns::Others,
            input,
            place: Place::Within(PREFACE, Verdict::Pass),
        }
    }

    /// Has what is read pass, as far as it may. Says whether more must come.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        loop {
            match self.place {
                Place::Nonsense(rest) => {
                    let some = rest.len().min(buf.remaining());
                    buf.put_slice(&rest[..some]);
                    self.place = Place::Nonsense(&rest[some..]);
                    self.input.clear();
                    return rest.is_empty();
                }
                Place::Within(0, _) => self.place = Place::Head,
                Place::Within(left, verdict) => {
                    let mut some = left.min(self.input.len());
                    if verdict == Verdict::Swallow {
                        self.input.advance(some);
                    } else {
                        some = some.min(buf.remaining());
                        buf.put_slice(&self.input.split_to(some));
                    }
                    self.place = Place::Within(left - some, verdict);
                    if some == 0 {
                        return self.input.is_empty();
                    }
                }
                Place::Head => {
                    let Some(head) = self.input.first_chunk::<HEADER>() else {
                        return true;
                    };
                    let frame = FrameHead::parse(*head);
                    let pseudo =
                        begins_with_pseudo(frame.flags, &self.input[HEADER..], frame.length);
                    match self.watch.judge(frame, pseudo) {
                        Judged::More => return true,
                        Judged::Abuse(abuse) => {
                            self.pulse.abused(abuse);
                            self.place = Place::Nonsense(NONSENSE);
                        }
                        Judged::Is(Verdict::Swallow) => {
                            self.input.advance(HEADER);
                            self.place = Place::Within(frame.length, Verdict::Swallow);
                        }
                        Judged::Is(_) => {
                            self.place = Place::Within(HEADER + frame.length, Verdict::Pass);
                        }
                    }
                }
            }
        }
    }
}

impl<T: Transport> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            let more = this.pass(buf);
            if buf.filled().len() > before || !more {
                return Poll::Ready(Ok(()));
            }
            if matches!(this.place, Place::Nonsense(_)) {
                // Nothing follows: as if the client had closed.
                return Poll::Ready(Ok(()));
            }
            if this.input.is_empty() {
                this.input = BytesMut::new();
            }
            let read = ready!(poll_read(&mut this.transport, cx, &mut this.input, READ))?;
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Transport> Guarded<T> {
    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.watch.took(*bytes);
                self.pulse.wrote(true);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.pulse.wrote(false),
        }
        written
    }
}

impl<T: Transport> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turns.poll(cx));
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turns.poll(cx));
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bytes);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of their own to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
