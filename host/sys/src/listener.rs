//! Listening sockets.
//!
//! Responsible for binding each address once and for saying clearly why it
//! cannot be. The sockets are handed to workers, who accept through an
//! [`ExclusiveListener`](crate::ExclusiveListener) each.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockname,
    listen, setsockopt, socket, sockopt,
};

use crate::holder::{self, Holder};

/// Connections that may wait to be accepted, so that a burst or a moment
/// without ready workers refuses nobody. The kernel lowers it to
/// `net.core.somaxconn`, which is 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// An address of this machine, with the real port where 0 was asked for.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket that listens: non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it listens.
    pub local: LocalAddress,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("address in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    InUse {
        /// Who it is, where the system tells us.
        holder: Option<Holder>,
    },
    /// We may not.
    #[error(
        "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE, socket files a folder that may be written to"
    )]
    PermissionDenied,
    /// The address is not one of this machine's.
    #[error("not an address of this machine")]
    NotAvailable,
    /// Anything else.
    #[error(transparent)]
    Other(io::Error),
}

/// Listens on a TCP address. An IPv6 address takes no IPv4 connections.
///
/// `beside` are sockets of ours that listen on the same port, at an address that
/// this one includes or that includes it. They go on listening: whoever connects
/// to an address that two have, reaches the one that names it.
///
/// # Errors
///
/// [`BindError`].
pub fn bind(address: SocketAddr, beside: &[BorrowedFd<'_>]) -> Result<Bound, BindError> {
    // Two listen on one port only where both allow it. It is allowed for this
    // moment; from then on the kernel keeps out who is another user, or does not
    // ask for it.
    let share =
        |socket: &BorrowedFd<'_>, share: bool| setsockopt(socket, sockopt::ReusePort, &share);
    let bind = || {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = stream_socket(family)?;
        // Connections of an earlier run that linger do not keep us out.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        // Connections inherit it. Set here and once: processes that accept may
        // set no options, because a listener's are everybody's.
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        if !beside.is_empty() {
            share(&socket.as_fd(), true)?;
            for other in beside {
                share(other, true)?;
            }
        }
        nix::sys::socket::bind(raw(&socket), &SockaddrStorage::from(address))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        if !beside.is_empty() {
            share(&socket.as_fd(), false)?;
        }
        let local: SockaddrStorage = getsockname(raw(&socket))?;
        Ok((socket, local))
    };
    let bound = bind();
    for other in beside {
        // It was allowed a moment ago.
        let _ = share(other, false);
    }
    let (socket, local) = bound.map_err(|errno| match errno {
        Errno::EADDRINUSE => BindError::InUse {
            holder: holder::of_tcp(address),
        },
        errno => refusal(errno),
    })?;
    let local = socket_address(&local).ok_or_else(|| refusal(Errno::EAFNOSUPPORT))?;
    Ok(Bound {
        socket,
        local: LocalAddress::Tcp(local),
    })
}

/// Whether a listening TCP socket takes connections that begin from now on. One
/// that takes none leaves them unanswered: their clients try again after a second,
/// when another socket may listen there. Those that wait in it stay.
///
/// # Errors
///
/// The kernel has no memory for it.
pub fn take_new(socket: BorrowedFd<'_>, takes: bool) -> io::Result<()> {
    // A program of one instruction, which returns how much of a packet to keep.
    let mut nothing = [libc::sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).expect("codes have 16 bits"),
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: nothing.as_mut_ptr(),
    };
    let option = if takes {
        libc::SO_DETACH_FILTER
    } else {
        libc::SO_ATTACH_FILTER
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).expect("it is small");
    // SAFETY: the kernel reads a program of the length that is said, which lives
    // in this frame, and copies it; to detach one it reads nothing.
    let result = unsafe {
        libc::setsockopt(
            raw_of(socket),
            libc::SOL_SOCKET,
            option,
            (&raw const program).cast(),
            length,
        )
    };
    match Errno::result(result) {
        // There was no filter to detach.
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Listens on a socket file. One that nobody listens on any more is replaced;
/// anything else at the path stays. The file's mode follows the umask, and it
/// is the caller who removes it in the end.
///
/// # Errors
///
/// [`BindError`].
pub fn bind_unix(path: &Path) -> Result<Bound, BindError> {
    let other = |kind, message: String| BindError::Other(io::Error::new(kind, message));
    let address = UnixAddr::new(path).map_err(|_| {
        other(
            io::ErrorKind::InvalidInput,
            "the path of a socket file must be shorter than 108 bytes".into(),
        )
    })?;
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(other(
            io::ErrorKind::NotFound,
            format!("the folder {} does not exist", folder.display()),
        ));
    }
    let socket = stream_socket(AddressFamily::Unix).map_err(refusal)?;
    match nix::sys::socket::bind(raw(&socket), &address) {
        Err(Errno::EADDRINUSE) => {
            remove_stale(path, &address)?;
            nix::sys::socket::bind(raw(&socket), &address).map_err(refusal)?;
        }
        result => result.map_err(refusal)?,
    }
    Backlog::new(BACKLOG)
        .and_then(|backlog| listen(&socket, backlog))
        .map_err(refusal)?;
    Ok(Bound {
        socket,
        local: LocalAddress::Unix(path.to_owned()),
    })
}

/// Removes a socket file that nobody listens on.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), BindError> {
    // Connecting to a file that is no socket is refused as well.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Err(BindError::Other(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} exists and is no socket", path.display()),
        )));
    }
    let probe = stream_socket(AddressFamily::Unix).map_err(refusal)?;
    match connect(raw(&probe), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(BindError::Other),
        // Gone in the meantime.
        Err(Errno::ENOENT) => Ok(()),
        // Connected, or its queue is full (EAGAIN), or it is of another kind
        // (EPROTOTYPE), or it is not ours to touch.
        _ => Err(BindError::InUse {
            holder: holder::of_unix(path),
        }),
    }
}

fn stream_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
}

/// nix's bind and connect still take a number.
fn raw(socket: &OwnedFd) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd())
}

fn raw_of(socket: BorrowedFd<'_>) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&socket)
}

fn refusal(errno: Errno) -> BindError {
    match errno {
        Errno::EADDRINUSE => BindError::InUse { holder: None },
        Errno::EACCES | Errno::EPERM => BindError::PermissionDenied,
        Errno::EADDRNOTAVAIL => BindError::NotAvailable,
        errno => BindError::Other(errno.into()),
    }
}

/// The internet address in a socket address, if it is one.
pub(crate) fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        Some((*v4).into())
    } else {
        address.as_sockaddr_in6().map(|v6| (*v6).into())
    }
}

#[cfg(test)]
mod tests;
