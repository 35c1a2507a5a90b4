//! Connections of HTTP/2 that a dispatcher greeted.
//!
//! It has sent an empty SETTINGS frame to a client that may have waited for one,
//! and cannot read the acknowledgement. The HTTP library, which sends its own
//! SETTINGS, would take that for an acknowledgement of its own, and the next one
//! for an error. So the first one is taken out here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use skep_wire::Spoken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the preface of HTTP/2.
const PREFACE: usize = 24;

/// Bytes of a frame before its payload.
const FRAME: usize = 9;

const SETTINGS: u8 = 4;

const ACK: u8 = 1;

/// Bytes of one read until the acknowledgement has come.
const READ: usize = 4 << 10;

/// A connection without the first acknowledgement of settings, if it was
/// greeted.
pub(crate) struct Greeted<S> {
    stream: S,
    /// Until the acknowledgement has come.
    sought: Option<Sought>,
    /// What was read and passes on.
    passes: Vec<u8>,
}

/// Where in the frames of a client a reader is that seeks the first
/// acknowledgement of settings.
#[derive(Debug, PartialEq, Eq)]
enum Sought {
    /// So many bytes pass, whatever they are.
    Passing(usize),
    /// The beginning of a frame, and what there is of it.
    Frame(Vec<u8>),
}

impl<S> Greeted<S> {
    pub(crate) const fn new(stream: S, spoken: Spoken) -> Self {
        let sought = match spoken {
            Spoken::Http2 { greeted: true } => Some(Sought::Passing(PREFACE)),
            Spoken::Nothing | Spoken::Http1 | Spoken::Http2 { greeted: false } => None,
        };
        Self {
            stream,
            sought,
            passes: Vec::new(),
        }
    }
}

impl Sought {
    /// Appends what passes of `bytes`. Returns where the reader is then; `None`
    /// once the acknowledgement has come.
    fn pass(mut self, mut bytes: &[u8], passes: &mut Vec<u8>) -> Option<Self> {
        while !bytes.is_empty() {
            self = match self {
                Self::Passing(left) => {
                    let (now, later) = bytes.split_at(left.min(bytes.len()));
                    passes.extend_from_slice(now);
                    bytes = later;
                    match left - now.len() {
                        0 => Self::Frame(Vec::new()),
                        left => Self::Passing(left),
                    }
                }
                Self::Frame(mut frame) => {
                    let (now, later) = bytes.split_at((FRAME - frame.len()).min(bytes.len()));
                    frame.extend_from_slice(now);
                    bytes = later;
                    if frame.len() < FRAME {
                        Self::Frame(frame)
                    } else {
                        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
                        if length == 0 && frame[3] == SETTINGS && frame[4] & ACK != 0 {
                            passes.extend_from_slice(bytes);
                            return None;
                        }
                        passes.append(&mut frame);
                        match length as usize {
                            0 => Self::Frame(frame),
                            length => Self::Passing(length),
                        }
                    }
                }
            };
        }
        Some(self)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passes.is_empty() {
                let fits = this.passes.len().min(buf.remaining());
                buf.put_slice(&this.passes[..fits]);
                this.passes.drain(..fits);
                return Poll::Ready(Ok(()));
            }
            let Some(sought) = this.sought.take() else {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            };
            let mut piece = [0; READ];
            let mut piece = ReadBuf::new(&mut piece);
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut piece);
            let Poll::Ready(Ok(())) = read else {
                this.sought = Some(sought);
                return read;
            };
            if piece.filled().is_empty() {
                // The beginning of a frame is of no use without the rest.
                return Poll::Ready(Ok(()));
            }
            this.sought = sought.pass(piece.filled(), &mut this.passes);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACKNOWLEDGEMENT: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];

    /// What passes of the same bytes, cut there.
    fn passes(bytes: &[u8], cut: usize) -> Vec<u8> {
        let mut passes = Vec::new();
        let mut sought = Some(Sought::Passing(PREFACE));
        for piece in [&bytes[..cut], &bytes[cut..]] {
            sought = match sought {
                Some(sought) => sought.pass(piece, &mut passes),
                None => {
                    passes.extend_from_slice(piece);
                    None
                }
            };
        }
        passes
    }

    #[test]
    fn the_first_acknowledgement_is_taken_out_and_no_other() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        let empty = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // A payload that looks like one.
        let data = [&[0, 0, 9, 0, 0, 0, 0, 0, 1], ACKNOWLEDGEMENT].concat();
        let before = [&preface[..], &settings, &empty, &data].concat();
        let after = [&data[..], ACKNOWLEDGEMENT, b"rest"].concat();
        let bytes = [&before[..], ACKNOWLEDGEMENT, &after].concat();
        let expected = [&before[..], &after].concat();
        for cut in 0..bytes.len() {
            assert_eq!(passes(&bytes, cut), expected, "cut at {cut}");
        }
        assert_eq!(passes(&before, 30), before);
    }
}
