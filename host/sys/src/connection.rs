//! What is asked of a connected socket that passes between processes, and how
//! it is read and written by who does not keep it.
//!
//! The status flags of a descriptor are those of everybody who has a copy of
//! it. So nothing here depends on them: what says that it never waits does not,
//! also where somebody has cleared `O_NONBLOCK`.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{PeerCredentials, SockType as SockTypeOf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockType, SockaddrLike as _, SockaddrStorage, getpeername,
    getsockname, getsockopt, recv, send, shutdown,
};

use crate::exclusive::Peer;
use crate::listener::{LocalAddress, socket_address};

/// Whether the other end of a connection is closed, not merely for writing.
#[must_use]
pub fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    hangs_up(socket, PollTimeout::ZERO)
}

/// Ends when nobody is at the other end of a connection or a pipe any more; never,
/// for a file.
pub fn wait_for_hang_up(end: BorrowedFd<'_>) {
    while !hangs_up(end, PollTimeout::NONE) {}
}

fn hangs_up(end: BorrowedFd<'_>, by: PollTimeout) -> bool {
    // Asked for or not, a hang-up is told.
    let mut asked = [PollFd::new(end, PollFlags::empty())];
    let told = poll(&mut asked, by).is_ok();
    let events = asked[0].revents().unwrap_or(PollFlags::empty());
    told && events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
}

/// The process at the other end of a Unix socket: for one that connected, the
/// process that listens there. `None` for one of another namespace of processes,
/// and for other sockets.
#[must_use]
pub fn process_of(socket: BorrowedFd<'_>) -> Option<u32> {
    let peer = getsockopt(&socket, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0)
}

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
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Takes what has arrived. Never waits. Returns how many bytes that were; 0 when
/// the other end has closed and nothing is left.
///
/// # Errors
///
/// `WouldBlock` when nothing has arrived; otherwise the connection is broken.
pub fn read_now(stream: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Sends as many of `bytes` as the kernel takes at once, and says how many that
/// were. Never waits, and raises no signal.
///
/// # Errors
///
/// `WouldBlock` when it takes none; otherwise the connection is broken.
pub fn write_now(stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match send(stream.as_raw_fd(), bytes, flags) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Tells the other end that nothing more is sent. What it sends can still be
/// read.
///
/// # Errors
///
/// The connection is broken.
pub fn end_writing(stream: BorrowedFd<'_>) -> io::Result<()> {
    Ok(shutdown(stream.as_raw_fd(), Shutdown::Write)?)
}

/// Whether reads and writes of this socket, by whoever has a copy, return
/// rather than wait.
///
/// # Errors
///
/// None that a descriptor which is open can have.
pub fn is_nonblocking(stream: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(stream, FcntlArg::F_GETFL)?);
    Ok(flags.contains(OFlag::O_NONBLOCK))
}

/// Has reads and writes of this socket return rather than wait. For who passes
/// a socket on that somebody else has had.
///
/// # Errors
///
/// None that a descriptor which is open can have.
pub fn make_nonblocking(stream: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(stream, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(stream, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// The number by which the kernel knows a socket, whoever has it and under
/// whatever descriptor; no other socket ever gets it.
///
/// # Errors
///
/// The descriptor is no socket.
pub fn cookie_of(stream: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&cookie)).expect("eight bytes");
    // SAFETY: getsockopt writes at most `length` bytes to `cookie`, which has
    // that size, and the true length to `length`; both live in this frame.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The other end of what somebody says is a connection.
///
/// # Errors
///
/// `InvalidInput` for what is no stream socket of TCP or a socket file;
/// `NotConnected` when the other end is gone already.
pub fn connected_peer(stream: BorrowedFd<'_>) -> io::Result<Peer> {
    let kind = getsockopt(&stream, SockTypeOf).map_err(|_| io::ErrorKind::InvalidInput)?;
    let domain = crate::channel::socket_domain(stream)?;
    let known = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
    if kind != SockType::Stream || !known.contains(&domain) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    peer_of(stream)
}

/// This end of a connection, or where a listener listens.
///
/// # Errors
///
/// `InvalidInput` for an end without a name, as both ends of a channel are; the
/// descriptor is no socket.
pub fn local_of(socket: BorrowedFd<'_>) -> io::Result<LocalAddress> {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
    if let Some(path) = address.as_unix_addr().and_then(|unix| unix.path()) {
        return Ok(LocalAddress::Unix(path.to_owned()));
    }
    socket_address(&address)
        .map(LocalAddress::Tcp)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
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
    fn nothing_waits_whatever_the_flags_say() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        // As somebody may have left it.
        assert!(!is_nonblocking(theirs.as_fd()).unwrap());
        let mut buffer = [0; 8];
        let error = read_now(theirs.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let block = [0; 1 << 16];
        let error = loop {
            if let Err(error) = write_now(theirs.as_fd(), &block) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        ours.write_all(b"hello").unwrap();
        assert_eq!(read_now(theirs.as_fd(), &mut buffer).unwrap(), 5);
        end_writing(theirs.as_fd()).unwrap();
        std::io::copy(&mut ours, &mut std::io::sink()).unwrap();
        drop(ours);
        assert!(write_now(theirs.as_fd(), b"x").is_err());

        make_nonblocking(theirs.as_fd()).unwrap();
        let copy = theirs.try_clone().unwrap();
        assert!(is_nonblocking(copy.as_fd()).unwrap());
    }

    #[test]
    fn a_socket_is_known_again_under_any_descriptor() {
        let (one, other) = UnixStream::pair().unwrap();
        let copy = one.try_clone().unwrap();
        let cookie = cookie_of(one.as_fd()).unwrap();
        assert_eq!(cookie_of(copy.as_fd()).unwrap(), cookie);
        assert_ne!(cookie_of(other.as_fd()).unwrap(), cookie);
        assert!(cookie_of(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn only_connections_pass_for_such() {
        let kind = |fd: BorrowedFd<'_>| connected_peer(fd).map_err(|error| error.kind());
        let (one, other) = UnixStream::pair().unwrap();
        assert_eq!(kind(one.as_fd()), Ok(Peer::Unix));
        assert!(local_of(one.as_fd()).is_err());
        drop((one, other));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        assert_eq!(kind(listener.as_fd()), Err(io::ErrorKind::NotConnected));
        assert_eq!(local_of(listener.as_fd()).unwrap(), LocalAddress::Tcp(here));
        let client = TcpStream::connect(here).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(kind(server.as_fd()).is_ok());
        assert_eq!(local_of(server.as_fd()).unwrap(), LocalAddress::Tcp(here));
        assert_ne!(local_of(client.as_fd()).unwrap(), LocalAddress::Tcp(here));
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(kind(datagrams.as_fd()), Err(io::ErrorKind::InvalidInput));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(kind(file.as_fd()), Err(io::ErrorKind::InvalidInput));
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
