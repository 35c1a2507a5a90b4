//! What was seen on a client's socket, under the HTTP client: only the bytes
//! themselves prove whether a request was written and a response had begun.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Bytes that came.
    pub(super) read: u64,
    /// Bytes that went out.
    written: u64,
    /// Requests of which a HEADERS frame went out, in HTTP/2 only. Bytes prove
    /// nothing there: acknowledgements go out unasked.
    headers: u64,
    /// How the connection ended, first of all.
    pub(super) end: Option<End>,
    /// Whether the server said GOAWAY.
    pub(super) goaway: bool,
    /// What comes and what goes out, in HTTP/2 only.
    frames: Option<(Frames, Frames)>,
}

impl Seen {
    /// What only a request can make greater: if it is what it was before, then
    /// nothing of the request was written.
    pub(super) const fn asked(&self) -> u64 {
        match self.frames {
            Some(_) => self.headers,
            None => self.written,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server closed it in order.
    Closed,
    /// It was reset, or had been when we wrote.
    Reset,
}

/// A [`Seen`] that the connection writes and its client reads.
#[derive(Clone, Debug)]
pub(super) struct Witness(Arc<Mutex<Seen>>);

impl Witness {
    pub(super) fn new(is_h2: bool) -> Self {
        Self(Arc::new(Mutex::new(Seen {
            frames: is_h2.then(|| (Frames::default(), Frames::after(PREFACE))),
            ..Seen::default()
        })))
    }

    pub(super) fn look(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &io::Error) {
        let reset = matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
        );
        if reset {
            self.look().end.get_or_insert(End::Reset);
        }
    }
}

/// A socket with a witness.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) stream: TcpStream,
    pub(super) witness: Witness,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &polled {
            Poll::Ready(Ok(())) => {
                let came = &buffer.filled()[before..];
                let mut seen = self.witness.look();
                seen.read += came.len() as u64;
                if came.is_empty() && room {
                    seen.end.get_or_insert(End::Closed);
                }
                let goaways = seen
                    .frames
                    .as_mut()
                    .map(|(read, _)| read.count(GOAWAY, came));
                seen.goaway |= goaways.is_some_and(|count| count > 0);
            }
            Poll::Ready(Err(error)) => self.witness.failed(error),
            Poll::Pending => {}
        }
        polled
    }
}

impl Watched {
    fn wrote(&self, pieces: &[IoSlice<'_>], polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(count)) => {
                let mut seen = self.witness.look();
                seen.written += *count as u64;
                let mut left = *count;
                for piece in pieces {
                    let went = &piece[..left.min(piece.len())];
                    left -= went.len();
                    let headers = seen
                        .frames
                        .as_mut()
                        .map(|(_, wrote)| wrote.count(HEADERS, went));
                    seen.headers += headers.unwrap_or_default();
                }
            }
            Poll::Ready(Err(error)) => self.witness.failed(error),
            Poll::Pending => {}
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&[IoSlice::new(bytes)], &polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.wrote(pieces, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The type of a frame that begins a request (RFC 9113 §6.2).
const HEADERS: u8 = 1;

/// The type of a GOAWAY frame (RFC 9113 §6.8).
const GOAWAY: u8 = 7;

/// Bytes that a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Follows HTTP/2 frames by their lengths, because hyper's client says neither
/// whether the end of a connection was announced nor whether a request that
/// failed was written.
#[derive(Debug, Default)]
struct Frames {
    /// Length in three bytes, type, flags, stream in four.
    head: [u8; 9],
    have: usize,
    /// What is left of the payload.
    skip: usize,
}

impl Frames {
    /// Frames that begin after so many bytes.
    fn after(skip: usize) -> Self {
        Self {
            skip,
            ..Self::default()
        }
    }

    /// How many frames of a type these bytes are the heads of.
    fn count(&mut self, wanted: u8, mut bytes: &[u8]) -> u64 {
        let mut found = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            self.head[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if self.have == self.head.len() {
                let [a, b, c, kind, ..] = self.head;
                self.have = 0;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                found += u64::from(kind == wanted);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_is_found_however_the_bytes_come() {
        // DATA with nine bytes that look like a GOAWAY's head, then a GOAWAY.
        let data = [[0, 0, 9, 0, 0, 0, 0, 0, 1], [0, 0, 8, 7, 0, 0, 0, 0, 0]].concat();
        let goaway = [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
        let mut frames = Frames::default();
        assert_eq!(frames.count(GOAWAY, &data), 0);
        assert_eq!(frames.count(GOAWAY, &goaway), 1);
        assert_eq!(frames.count(GOAWAY, &data), 0);
        let all = [data, goaway].concat();
        let mut frames = Frames::default();
        let found: Vec<u64> = all
            .iter()
            .map(|byte| frames.count(GOAWAY, &[*byte]))
            .collect();
        assert_eq!(found.iter().sum::<u64>(), 1);
        assert_eq!(found[18 + 8], 1);
    }
}
