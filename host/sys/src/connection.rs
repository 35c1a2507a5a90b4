//! What is asked of a connected socket besides reading and writing.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockaddrLike as _, SockaddrStorage, getpeername, recv, setsockopt,
    sockopt,
};

use crate::exclusive::Peer;
use crate::listener::socket_address;

/// Copies what has arrived and leaves it there. Never waits. Returns how many
/// bytes there are, of those that fit; 0 when the other end has closed and
/// nothing is left.
///
/// # Errors
///
/// `WouldBlock` when nothing has arrived; otherwise the connection is broken.
pub fn peek(stream: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    loop {
        match recv(stream.as_raw_fd(), buffer, flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Has the kernel reset the connection when it is closed, so that what was sent
/// before does not look as if it were all.
///
/// # Errors
///
/// The descriptor is no socket.
pub fn reset_on_close(stream: BorrowedFd<'_>) -> io::Result<()> {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&stream, sockopt::Linger, &at_once)?)
}

/// The other end of a connection.
///
/// # Errors
///
/// `NotConnected` when it is gone already; the descriptor is no socket.
pub fn peer_of(stream: BorrowedFd<'_>) -> io::Result<Peer> {
    let address = getpeername::<SockaddrStorage>(stream.as_raw_fd())?;
    if address.family() == Some(AddressFamily::Unix) {
        return Ok(Peer::Unix);
    }
    socket_address(&address)
        .map(Peer::Tcp)
        .ok_or_else(|| io::ErrorKind::NotConnected.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peeking_takes_nothing_away() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut buffer = [0; 8];
        let error = peek(theirs.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        ours.write_all(b"hello").unwrap();
        for _ in 0..2 {
            assert_eq!(peek(theirs.as_fd(), &mut buffer).unwrap(), 5);
            assert_eq!(&buffer[..5], b"hello");
        }
        assert_eq!(peek(theirs.as_fd(), &mut buffer[..2]).unwrap(), 2);
        drop(ours);
        theirs.read_exact(&mut buffer[..5]).unwrap();
        assert_eq!(peek(theirs.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn both_kinds_of_peers_are_known() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer_of(one.as_fd()).unwrap(), Peer::Unix);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let expected = Peer::Tcp(client.local_addr().unwrap());
        assert_eq!(peer_of(server.as_fd()).unwrap(), expected);
    }
}
