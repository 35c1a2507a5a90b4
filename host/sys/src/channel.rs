//! One end of the stream between two of skep's processes, which also carries
//! file descriptors.
//!
//! Responsible for bytes and descriptors, both non-blocking. What they mean is
//! `skep-wire`'s; waiting for readiness is the driver's. The `sendfd` crate is
//! not used: it receives without `MSG_CMSG_CLOEXEC` and does not notice
//! truncated control messages.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt::SockType as SockTypeOf,
};

/// Where a spawned process finds its channel.
pub(crate) const CHANNEL_FD: RawFd = 3;

/// The kernel's own limit of descriptors in one message (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;

/// Room for one control message with [`MAX_FDS`] descriptors. More cannot
/// come: the kernel ends a read at the next message that carries descriptors.
// SAFETY: CMSG_SPACE is arithmetic on its argument and has no conditions.
#[expect(clippy::cast_possible_truncation, reason = "253 × 4 bytes")]
const CONTROL: usize =
    unsafe { libc::CMSG_SPACE((MAX_FDS * mem::size_of::<RawFd>()) as u32) } as usize;

/// Control messages start with a `cmsghdr`, so they need its alignment.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

const _: () = assert!(mem::align_of::<Control>() >= mem::align_of::<libc::cmsghdr>());

/// A non-blocking `AF_UNIX` stream socket that carries descriptors.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// A connected pair: our end, and the end to give to a child. Both are
    /// close-on-exec; [`spawn`](crate::spawn()) makes the child's inheritable.
    ///
    /// # Errors
    ///
    /// No descriptors left, in the process or in the system.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        Ok((Self { socket: ours }, theirs))
    }

    /// Takes a connected unix stream socket that whoever passed it has made
    /// non-blocking. It is not changed here: a confined process cannot, because
    /// the flags of an open file are those of everybody who has it open.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the descriptor is no unix stream socket, or one that
    /// blocks.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        check_unix_stream(socket.as_fd())?;
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        if !flags.contains(OFlag::O_NONBLOCK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor blocks, and a channel's may not",
            ));
        }
        Ok(Self { socket })
    }

    /// Takes the channel that [`spawn`](crate::spawn()) left at descriptor 3.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when called twice in one process; `InvalidInput` when
    /// descriptor 3 was not inherited or is no unix stream socket, as when a
    /// hidden subcommand is run by hand.
    pub fn inherited() -> io::Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the inherited channel was already taken",
            ));
        }
        let not_inherited = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "descriptor 3 is not an inherited channel",
            )
        };
        // SAFETY: F_GETFD takes any number and no pointer; for a closed one it
        // fails with EBADF.
        let flags = unsafe { libc::fcntl(CHANNEL_FD, libc::F_GETFD) };
        // Whatever this process opened itself is close-on-exec, as everything
        // that std and our crates open is; what was inherited cannot be.
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            return Err(not_inherited());
        }
        // SAFETY: from_raw_fd wants an open descriptor that nobody else owns.
        // It is open, and it came through exec (no FD_CLOEXEC), so no value of
        // this process owns it; TAKEN lets only one call come this far.
        let socket = unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) };
        if check_unix_stream(socket.as_fd()).is_err() {
            // Not ours to close: leave it as it was found.
            let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
            return Err(not_inherited());
        }
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Self::from_fd(socket)
    }

    /// Sends some of `bytes`, and `fds` with the first of them. Returns how
    /// many bytes went; once that is not zero all descriptors have gone too,
    /// and the rest of the bytes is sent without them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the socket is full: nothing was sent. `BrokenPipe`
    /// when the peer is gone (no signal is raised). `InvalidInput` for
    /// descriptors without a byte to carry them, or more than the kernel's 253.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        if fds.len() > MAX_FDS || (bytes.is_empty() && !fds.is_empty()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut iov = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut control = Control([0; CONTROL]);
        let mut header = message_header(&mut iov);
        if !fds.is_empty() {
            let length = u32::try_from(mem::size_of_val(fds)).expect("at most 253 descriptors");
            header.msg_control = (&raw mut control).cast();
            // SAFETY: CMSG_SPACE, CMSG_LEN are arithmetic. CMSG_FIRSTHDR wants a
            // header whose control buffer is valid: it is `control`, which is
            // aligned for a cmsghdr and, fds.len() being at most MAX_FDS, large
            // enough; so the returned pointer and CMSG_DATA's array of
            // fds.len() descriptors lie inside it. Descriptors are written
            // unaligned, so the data's alignment does not matter.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(length) as _;
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(length) as _;
                let mut slot = libc::CMSG_DATA(first).cast::<RawFd>();
                for fd in fds {
                    ptr::write_unaligned(slot, fd.as_raw_fd());
                    slot = slot.add(1);
                }
            }
        }
        loop {
            // SAFETY: sendmsg reads the header, its iovec and its control
            // buffer: all three live until the end of this function, and the
            // iovec spans exactly `bytes`, which sendmsg does not write to.
            let sent = unsafe {
                libc::sendmsg(
                    self.socket.as_raw_fd(),
                    &raw const header,
                    libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(sent),
                Err(_) => retry_if_interrupted()?,
            }
        }
    }

    /// Receives bytes into `buffer`, which must not be empty, and appends the
    /// descriptors that came with them to `fds`. Returns how many bytes came;
    /// 0 when the peer is gone.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there. `InvalidInput` for an empty buffer.
    /// An error of kind `Other` when the kernel had to drop descriptors (this
    /// process has no number left for them): those that did come are closed,
    /// and the channel is of no more use.
    pub fn recv(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        if buffer.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut iov = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut control = Control([0; CONTROL]);
        let mut header = message_header(&mut iov);
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = CONTROL as _;
        let received = loop {
            // SAFETY: recvmsg writes to the iovec's memory, which is exactly
            // `buffer`, and to the control buffer, whose true length is given;
            // both are borrowed or owned by this frame until it returns.
            let received = unsafe {
                libc::recvmsg(
                    self.socket.as_raw_fd(),
                    &raw mut header,
                    libc::MSG_CMSG_CLOEXEC,
                )
            };
            match usize::try_from(received) {
                Ok(received) => break received,
                Err(_) => retry_if_interrupted()?,
            }
        };
        let before = fds.len();
        take_descriptors(&header, fds);
        if header.msg_flags & libc::MSG_CTRUNC != 0 {
            fds.truncate(before);
            return Err(io::Error::other("descriptors were lost on the channel"));
        }
        Ok(received)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn message_header(iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: msghdr is integers and pointers, for which all zeroes (no
    // address, no control buffer) is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = iov;
    header.msg_iovlen = 1;
    header
}

/// Moves the descriptors of a header that recvmsg filled in to `fds`.
fn take_descriptors(header: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the CMSG macros want a header as recvmsg left it, with its
    // control buffer alive: the caller's frame holds it. They return null or a
    // pointer to a whole cmsghdr in that buffer, aligned since the buffer is.
    // For SCM_RIGHTS the kernel wrote cmsg_len - CMSG_LEN(0) bytes of
    // descriptors, each newly installed for this process and owned by nobody
    // else, so each is taken exactly once.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS
            {
                #[allow(
                    clippy::unnecessary_cast,
                    reason = "cmsg_len's type is the libc's choice"
                )]
                let length = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let slot = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..length / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(slot.add(index))));
                }
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
}

fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted {
        Ok(())
    } else {
        Err(error)
    }
}

fn check_unix_stream(fd: BorrowedFd<'_>) -> io::Result<()> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the descriptor is no unix stream socket",
        )
    };
    let kind = getsockopt(&fd, SockTypeOf).map_err(|_| wrong())?;
    let domain = socket_domain(fd)?;
    if kind == SockType::Stream && domain == libc::AF_UNIX {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// `SO_DOMAIN`, which nix does not offer.
pub(crate) fn socket_domain(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut domain: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&domain)).expect("four bytes");
    // SAFETY: getsockopt writes at most `length` bytes to `domain`, which has
    // that size, and the true length to `length`; both live in this frame.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(domain)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
