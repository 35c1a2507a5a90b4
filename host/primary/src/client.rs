//! The other end of the control socket, for the command line.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_core::{Portion, Revision, Strategy, WorkerId};
use skep_wire::{
    AppHistory, ControlReply, ControlRequest, FleetStatus, MAX_LINE, SweptFiles, decode_line,
    encode_line,
};

/// How long a primary may take to answer what it can answer at once. A healthy
/// one takes milliseconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes that the path of a Unix socket may have at most: the kernel's limit.
pub const MAX_SOCKET_PATH: usize = 107;

/// Bytes of one reply, as many as [`decode_line`] takes.
const MAX_REPLY: u64 = MAX_LINE as u64;

/// How long a sweep may take: it reads all histories and deletes files.
const SWEEP_DEADLINE: Duration = Duration::from_secs(120);

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

/// A component that is to become a new revision of an app, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    /// The app's name.
    pub app: String,
    /// The component's file, absolute: the primary has a directory of its own.
    pub source: PathBuf,
    /// In place or by restarting; as configured when absent.
    pub strategy: Option<Strategy>,
    /// Share of the requests until it is promoted; as configured when absent.
    pub canary: Option<Portion>,
    /// Go on although the digest was rolled back before or validation failed.
    pub force: bool,
    /// Stop before the roll-out.
    pub dry_run: bool,
    /// Return as soon as it was begun.
    pub detach: bool,
}

/// A connection to a primary. Blocking.
///
/// What the primary can answer at once has a deadline of 10 s. What takes its
/// time ([`Self::deploy`], [`Self::promote`], [`Self::rollback`],
/// [`Self::reload`], [`Self::restart`], [`Self::scale`], [`Self::rotate`] and
/// [`Self::stop`]) has none here: the deadlines of every step are the
/// primary's, and if it ends before it has answered, so does the wait, with
/// [`ClientError::Gone`]. Such an operation belongs to the primary: it goes on
/// when the client is dropped.
///
/// What comes back from an operation is what the primary says was done, if it
/// says anything.
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
            .map_err(ClientError::Io)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The process that listens at the socket, as far as it can be seen from here.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        skep_sys::process_of(self.stream.get_ref().as_fd())
    }

    /// The state of everything.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<FleetStatus, ClientError> {
        match self.ask(&ControlRequest::Status)? {
            ControlReply::Status(status) => Ok(*status),
            other => Err(unexpected(other)),
        }
    }

    /// The revisions of an app.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn history(&mut self, app: &str) -> Result<AppHistory, ClientError> {
        let app = app.to_owned();
        match self.ask(&ControlRequest::History { app })? {
            ControlReply::History(history) => Ok(history),
            other => Err(unexpected(other)),
        }
    }

    /// Makes a component a new revision of its app. `on_progress` gets what
    /// happens on the way, for people.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Refused`] with code 1 when it was
    /// rejected or rolled back.
    pub fn deploy(
        &mut self,
        deployment: Deployment,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        let Deployment {
            app,
            source,
            strategy,
            canary,
            force,
            dry_run,
            detach,
        } = deployment;
        let request = ControlRequest::Deploy {
            app,
            source,
            strategy,
            canary,
            force,
            dry_run,
            detach,
        };
        self.operate(&request, on_progress)
    }

    /// Gives a canary, or a revision that is still observed, all requests.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn promote(
        &mut self,
        app: &str,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        let app = app.to_owned();
        self.operate(&ControlRequest::Promote { app }, on_progress)
    }

    /// Returns to an earlier revision: the one before if none is named.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn rollback(
        &mut self,
        app: &str,
        revision: Option<Revision>,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        let app = app.to_owned();
        self.operate(&ControlRequest::Rollback { app, revision }, on_progress)
    }

    /// Has the configuration read again, and the difference rolled out.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Refused`] with code 3 when the
    /// configuration has problems.
    pub fn reload(&mut self, on_progress: impl FnMut(&str)) -> Result<Option<String>, ClientError> {
        self.operate(&ControlRequest::Reload, on_progress)
    }

    /// Replaces the workers of a pool, or of all pools, one by one.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn restart(
        &mut self,
        pool: Option<&str>,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        let pool = pool.map(str::to_owned);
        self.operate(&ControlRequest::Restart { pool }, on_progress)
    }

    /// Changes the number of workers of a pool.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn scale(
        &mut self,
        pool: &str,
        workers: u16,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        let pool = pool.to_owned();
        self.operate(&ControlRequest::Scale { pool, workers }, on_progress)
    }

    /// Replaces one worker.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn rotate(
        &mut self,
        worker: WorkerId,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        self.operate(&ControlRequest::Rotate { worker }, on_progress)
    }

    /// Clears the breakers of a pool, or of the pool of an app.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn reset(&mut self, target: &str) -> Result<Option<String>, ClientError> {
        let target = target.to_owned();
        self.change(&ControlRequest::Reset { target })
    }

    /// Has an app answer 503.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn pause(&mut self, app: &str) -> Result<Option<String>, ClientError> {
        let app = app.to_owned();
        self.change(&ControlRequest::Pause { app })
    }

    /// Lets an app answer again.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn resume(&mut self, app: &str) -> Result<Option<String>, ClientError> {
        let app = app.to_owned();
        self.change(&ControlRequest::Resume { app })
    }

    /// Has what of the state directory nothing needs deleted, or told.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn gc(&mut self, dry_run: bool) -> Result<SweptFiles, ClientError> {
        self.send(&ControlRequest::Gc { dry_run })?;
        self.wait_at_most(Some(SWEEP_DEADLINE))?;
        match self.answer(|_| {})? {
            ControlReply::Swept(swept) => Ok(swept),
            other => Err(unexpected(other)),
        }
    }

    /// The newest events, oldest first, each a JSON object. With `follow` also
    /// those to come, without a deadline, until `on_event` breaks or the
    /// primary ends.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a primary that ends is none for who follows it.
    pub fn events(
        &mut self,
        follow: bool,
        mut on_event: impl FnMut(serde_json::Value) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        self.send(&ControlRequest::Events { follow })?;
        self.wait_at_most((!follow).then_some(ANSWER_DEADLINE))?;
        loop {
            match self.receive() {
                Ok(ControlReply::Event { event }) => {
                    if on_event(event).is_break() {
                        return Ok(());
                    }
                }
                Ok(ControlReply::Progress { .. }) => {}
                Ok(ControlReply::Done { .. }) => return Ok(()),
                Ok(other) => return Err(unexpected(other)),
                Err(ClientError::Gone) if follow => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the primary and waits until it is done. `now` cuts requests in
    /// flight. Without it the primary's `drain_timeout` and `kill_timeout`
    /// bound the wait, and `on_progress` is called as workers go.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn stop(&mut self, now: bool, on_progress: impl FnMut(&str)) -> Result<(), ClientError> {
        match self.operate(&ControlRequest::Stop { now }, on_progress) {
            // Killed while it was ending: it has ended all the same.
            Ok(_) | Err(ClientError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks for a change that takes no time.
    fn change(&mut self, request: &ControlRequest) -> Result<Option<String>, ClientError> {
        done(self.ask(request)?)
    }

    /// Asks for what is answered at once.
    fn ask(&mut self, request: &ControlRequest) -> Result<ControlReply, ClientError> {
        self.send(request)?;
        self.wait_at_most(Some(ANSWER_DEADLINE))?;
        self.answer(|_| {})
    }

    /// Asks for what takes its time.
    fn operate(
        &mut self,
        request: &ControlRequest,
        on_progress: impl FnMut(&str),
    ) -> Result<Option<String>, ClientError> {
        self.send(request)?;
        self.wait_at_most(None)?;
        done(self.answer(on_progress)?)
    }

    /// The reply that ends the request.
    fn answer(&mut self, mut on_progress: impl FnMut(&str)) -> Result<ControlReply, ClientError> {
        loop {
            match self.receive()? {
                ControlReply::Progress { message } => on_progress(&message),
                reply => return Ok(reply),
            }
        }
    }

    fn send(&mut self, request: &ControlRequest) -> Result<(), ClientError> {
        self.stream
            .get_mut()
            .write_all(&encode_line(request))
            .map_err(broken)
    }

    fn wait_at_most(&self, deadline: Option<Duration>) -> Result<(), ClientError> {
        self.stream
            .get_ref()
            .set_read_timeout(deadline)
            .map_err(ClientError::Io)
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

fn done(reply: ControlReply) -> Result<Option<String>, ClientError> {
    match reply {
        ControlReply::Done { message } => Ok(message),
        other => Err(unexpected(other)),
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
    let what = match reply {
        ControlReply::Refused { message, code } => return ClientError::Refused { message, code },
        ControlReply::Status(_) => "an unasked-for status",
        ControlReply::History(_) => "an unasked-for history",
        ControlReply::Swept(_) => "an unasked-for sweep",
        ControlReply::Progress { .. } => "unasked-for progress",
        ControlReply::Event { .. } => "an unasked-for event",
        ControlReply::Done { .. } => "an early end",
    };
    ClientError::Garbled(what.to_owned())
}

#[cfg(test)]
mod tests;
