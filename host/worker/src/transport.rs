//! What carries the bytes of a connection: a TCP socket, a Unix socket, and
//! whatever else can be read from and written to in their stead.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::uri::Scheme;
use skep_sys::{Accepted, Peer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Bytes of a body that are read at a time.
pub(crate) const READ: usize = 16 << 10;

/// A stream of bytes both ways.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The scheme of what is asked over it.
    fn scheme(&self) -> Scheme;

    /// Ends when something can be read. Reserves no memory until then.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether bytes have arrived that the event loop has not heard of yet.
    fn has_more(&self) -> bool;

    /// Whether the other end is known to be gone, although it has not said so.
    fn is_broken(&self) -> bool;

    /// The socket, if another process can go on with it.
    fn into_socket(self) -> Option<OwnedFd>;
}

/// Reads what has come to the end of `input`, about `most` bytes of it; 0 at the
/// end of the stream.
pub(crate) fn poll_read<T: Transport>(
    transport: &mut T,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    most: usize,
) -> Poll<io::Result<usize>> {
    // An idle connection has no buffer.
    ready!(transport.poll_readable(cx))?;
    input.reserve(most);
    let read = tokio_util::io::poll_read_buf(Pin::new(transport), cx, input);
    if read.is_pending() && input.is_empty() {
        *input = BytesMut::new();
    }
    read
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Through a socket file.
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn new(accepted: Accepted) -> io::Result<(Self, Peer)> {
        let socket = match accepted.peer {
            Peer::Tcp(_) => Self::Tcp(TcpStream::from_std(accepted.stream.into())?),
            Peer::Unix => Self::Unix(UnixStream::from_std(accepted.stream.into())?),
        };
        Ok((socket, accepted.peer))
    }
}

macro_rules! plain {
    ($stream:ty) => {
        impl Transport for $stream {
            fn scheme(&self) -> Scheme {
                Scheme::HTTP
            }

            fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn has_more(&self) -> bool {
                let peeked = skep_sys::peek(self.as_fd(), &mut [0]);
                // The end is something as well; so is an error.
                !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }

            fn is_broken(&self) -> bool {
                !matches!(self.take_error(), Ok(None))
            }

            fn into_socket(self) -> Option<OwnedFd> {
                // It fails for a socket that the event loop does not know.
                self.into_std().map(OwnedFd::from).ok()
            }
        }
    };
}

plain!(TcpStream);
plain!(UnixStream);
