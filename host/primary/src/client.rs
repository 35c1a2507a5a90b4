//! The other end of the control socket, for the command line.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_wire::{ControlReply, ControlRequest, FleetStatus, decode_line, encode_line};

/// How long a primary may take to answer what it can answer at once. A healthy
/// one takes milliseconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of one reply, as many as [`decode_line`] takes.
const MAX_REPLY: u64 = 16 << 20;

/// Why an operator's request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the control socket: exit code 4.
    #[error("no primary at {path}")]
    NoPrimary {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket is another user's: exit code 5.
    #[error("the control socket {path} belongs to another user")]
    NotAllowed {
        /// The control socket.
        path: PathBuf,
    },
    /// The primary said no.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
        /// The exit code that it wants for it.
        code: u8,
    },
    /// The primary did not answer in time.
    #[error("the primary does not answer")]
    Silent,
    /// The primary ended before it answered.
    #[error("the primary ended before it answered")]
    Gone,
    /// The answer is not one of this version's.
    #[error("the primary's answer makes no sense: {0}")]
    Garbled(String),
    /// The connection failed.
    #[error("the control socket failed")]
    Io(#[source] io::Error),
}

/// A connection to a primary. Blocking, each wait with a deadline unless said
/// otherwise.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoPrimary`] or [`ClientError::NotAllowed`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed {
                path: path.to_owned(),
            },
            _ => ClientError::NoPrimary {
                path: path.to_owned(),
                source,
            },
        })?;
        stream
            .set_write_timeout(Some(ANSWER_DEADLINE))
            .and_then(|()| stream.set_read_timeout(Some(ANSWER_DEADLINE)))
            .map_err(ClientError::Io)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The state of everything.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<FleetStatus, ClientError> {
        self.send(&ControlRequest::Status)?;
        match self.receive()? {
            ControlReply::Status(status) => Ok(*status),
            other => Err(unexpected(other)),
        }
    }

    /// Ends the primary and waits until it is done. `now` cuts requests in
    /// flight. Without it the wait has no deadline of its own: the primary's
    /// `drain_timeout` and `kill_timeout` bound it, and `on_progress` is called
    /// as workers go.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn stop(
        &mut self,
        now: bool,
        mut on_progress: impl FnMut(&str),
    ) -> Result<(), ClientError> {
        self.send(&ControlRequest::Stop { now })?;
        self.stream
            .get_ref()
            .set_read_timeout(None)
            .map_err(ClientError::Io)?;
        loop {
            match self.receive() {
                Ok(ControlReply::Progress { message }) => on_progress(&message),
                // Killed while it was ending: it has ended all the same.
                Ok(ControlReply::Done) | Err(ClientError::Gone) => return Ok(()),
                Ok(other) => return Err(unexpected(other)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Clears the breakers of a pool.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn reset(&mut self, pool: &str) -> Result<(), ClientError> {
        self.send(&ControlRequest::Reset {
            pool: pool.to_owned(),
        })?;
        match self.receive()? {
            ControlReply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn send(&mut self, request: &ControlRequest) -> Result<(), ClientError> {
        self.stream
            .get_mut()
            .write_all(&encode_line(request))
            .map_err(broken)
    }

    fn receive(&mut self) -> Result<ControlReply, ClientError> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(MAX_REPLY)
            .read_until(b'\n', &mut line)
            .map_err(broken)?;
        if line.last() != Some(&b'\n') {
            return Err(ClientError::Gone);
        }
        decode_line(&line).map_err(ClientError::Garbled)
    }
}

fn broken(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Gone,
        _ => ClientError::Io(error),
    }
}

fn unexpected(reply: ControlReply) -> ClientError {
    match reply {
        ControlReply::Refused { message, code } => ClientError::Refused { message, code },
        ControlReply::Status(_) => ClientError::Garbled("an unasked-for status".to_owned()),
        ControlReply::Progress { .. } => ClientError::Garbled("unasked-for progress".to_owned()),
        ControlReply::Done => ClientError::Garbled("an early end".to_owned()),
    }
}
