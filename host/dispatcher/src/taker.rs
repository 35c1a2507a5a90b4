//! One worker as the dispatcher sees it: the channel to it, and the connections
//! that it was given and has not acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use skep_core::PoolName;
use skep_sys::Channel;
use skep_wire::{Decoder, FromTaker, MAX_FDS, Taken, ToTaker};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Most connections that a worker may leave unacknowledged: it acknowledges
/// many times a second, or hangs and should get no more.
pub(crate) const MAX_UNACKNOWLEDGED: usize = 256;

/// Bytes of one read. Acknowledgements are small.
const READ: usize = 16 << 10;

/// A connection that is to be handed out.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// Where it comes from; `None` for a socket file.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) host: Option<String>,
    pub(crate) once: bool,
    /// What a worker has read of its next request.
    pub(crate) read: Vec<u8>,
    /// The pool of the worker that gave it back.
    pub(crate) from: Option<PoolName>,
    /// When it is closed if no worker has taken it.
    pub(crate) until: Option<Instant>,
}

/// What has yet to be said.
enum Say {
    Take(u64),
    GotBack(u64),
    Hosts { matter: bool },
}

/// What a worker said, beside acknowledging.
#[derive(Default)]
pub(crate) struct Said {
    /// How many connections it took.
    pub(crate) took: u64,
    pub(crate) declined: Vec<Connection>,
    /// Sockets with what was read from them.
    pub(crate) gave_back: Vec<(OwnedFd, Vec<u8>)>,
    /// It is gone, or makes no sense.
    pub(crate) gone: bool,
}

/// A worker that takes connections.
pub(crate) struct Taker {
    pub(crate) pool: PoolName,
    /// Its cell in the pool's scoreboard.
    pub(crate) cell: u16,
    channel: Rc<AsyncFd<Channel>>,
    decoder: Decoder<OwnedFd>,
    say: VecDeque<Say>,
    /// A message that did not go, or not whole, and the connections whose
    /// sockets go with its first byte.
    frame: Option<(Vec<u8>, Vec<u64>)>,
    given: BTreeMap<u64, Connection>,
    /// Wakes the task that waits until the channel takes more.
    blocked: Rc<Notify>,
    /// The tasks that wait for the channel.
    tasks: Vec<AbortHandle>,
}

impl Taker {
    pub(crate) fn new(
        pool: PoolName,
        cell: u16,
        channel: Rc<AsyncFd<Channel>>,
        blocked: Rc<Notify>,
        tasks: Vec<AbortHandle>,
    ) -> Self {
        Self {
            pool,
            cell,
            channel,
            decoder: Decoder::default(),
            say: VecDeque::new(),
            frame: None,
            given: BTreeMap::new(),
            blocked,
            tasks,
        }
    }

    /// How many connections it has been given and has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.given.len()
    }

    pub(crate) fn take(&mut self, id: u64, connection: Connection) {
        self.given.insert(id, connection);
        self.say.push_back(Say::Take(id));
    }

    pub(crate) fn hosts(&mut self, matter: bool) {
        self.say.push_back(Say::Hosts { matter });
    }

    /// Says what there is to say, as much as the channel takes now.
    ///
    /// # Errors
    ///
    /// The worker has gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        loop {
            if self.frame.is_none() {
                self.frame = self.next_frame()?;
            }
            let Some((bytes, ids)) = &mut self.frame else {
                return Ok(());
            };
            let given = ids.iter().filter_map(|id| self.given.get(id));
            let sockets: Vec<_> = given.map(|given| given.socket.as_fd()).collect();
            match self.channel.get_ref().send(bytes, &sockets) {
                Ok(sent) if sent == bytes.len() => self.frame = None,
                Ok(sent) => {
                    bytes.drain(..sent);
                    ids.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.notify_one();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message, of as many of the same kind as fit.
    fn next_frame(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u64>)>> {
        let mut ids = Vec::new();
        let message = match self.say.pop_front() {
            None => return Ok(None),
            Some(Say::Hosts { matter }) => ToTaker::Hosts { matter },
            Some(Say::GotBack(id)) => {
                let mut got = vec![id];
                while let Some(Say::GotBack(id)) = self.say.front() {
                    got.push(*id);
                    self.say.pop_front();
                }
                ToTaker::GotBack { ids: got }
            }
            Some(Say::Take(id)) => {
                ids.push(id);
                while let Some(Say::Take(id)) = self.say.front()
                    && ids.len() < MAX_FDS
                {
                    ids.push(*id);
                    self.say.pop_front();
                }
                let taken = ids.iter().filter_map(|id| {
                    let given = self.given.get(id)?;
                    Some(Taken {
                        id: *id,
                        host: given.host.clone(),
                        once: given.once,
                        read: given.read.clone(),
                    })
                });
                ToTaker::Take(taken.collect())
            }
        };
        let frame = skep_wire::encode(&message).map_err(io::Error::other)?;
        Ok(Some((frame, ids)))
    }

    /// Takes everything that the worker has said.
    pub(crate) fn hear(&mut self) -> Said {
        let mut said = Said::default();
        let mut buffer = [0; READ];
        loop {
            let mut fds = Vec::new();
            match self.channel.get_ref().recv(&mut buffer, &mut fds) {
                Ok(0) => said.gone = true,
                Ok(bytes) => self.decoder.push(&buffer[..bytes], fds),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return said,
                Err(_) => said.gone = true,
            }
            loop {
                match self.decoder.message::<FromTaker>() {
                    Ok(Some((message, fds))) => self.heard(message, fds, &mut said),
                    Ok(None) => break,
                    Err(_) => {
                        said.gone = true;
                        break;
                    }
                }
            }
            if said.gone {
                return said;
            }
        }
    }

    fn heard(&mut self, message: FromTaker, mut fds: Vec<OwnedFd>, said: &mut Said) {
        match message {
            FromTaker::Took { ids } => {
                // What was not given was not taken.
                let took = ids.iter().filter_map(|id| self.given.remove(id));
                said.took += took.count() as u64;
            }
            FromTaker::Declined { ids } => {
                let declined = ids.iter().filter_map(|id| self.given.remove(id));
                said.declined.extend(declined);
            }
            FromTaker::GaveBack { id, read } => {
                self.say.push_back(Say::GotBack(id));
                let socket = fds.pop();
                said.gave_back.extend(socket.map(|socket| (socket, read)));
            }
        }
    }

    /// Gives up; what was not acknowledged is to go to others.
    pub(crate) fn end(self) -> Vec<Connection> {
        for task in self.tasks {
            task.abort();
        }
        self.given.into_values().collect()
    }
}
