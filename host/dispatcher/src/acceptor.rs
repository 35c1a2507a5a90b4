//! One worker as the dispatcher sees it: the channel to it, and the connections
//! that it was given or has.
//!
//! ```text
//! given ── took ──▶ out ── gave back ──▶ the dispatcher's again
//!   │                └──── ended ──────▶ forgotten
//!   └── declined, or the worker died: given to another
//! ```
//! A worker may have been taken over, so nothing counts that does not fit this:
//! it gives back only what is out, once, and the very socket.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use skep_core::PoolName;
use skep_link::{LinkError, Voice};
use skep_wire::{FromAcceptor, Handout, Spoken, ToAcceptor};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::read_ahead::{Kept, ReadAhead};

/// Most connections that a worker may leave unacknowledged: it acknowledges
/// many times a second, or hangs and should get no more.
pub(crate) const MAX_UNACKNOWLEDGED: usize = 256;

/// Connections that one message hands out, and numbers of any other.
const MAX_TAKEN: usize = 64;

/// Bytes of what was read of connections that one message carries: so few that
/// it is small, but for one connection of which more was read.
const MAX_READ: usize = 64 << 10;

/// Connections that a worker may have beyond its limit, because it has not said
/// yet that they ended: those it may leave unacknowledged, and twice the number
/// at which it says so.
const MAX_UNREPORTED: usize = MAX_UNACKNOWLEDGED + 256;

/// Most connections that a worker may keep of an earlier dispatcher: as many
/// descriptors as a process has at most.
const MAX_KEPT: usize = 1 << 16;

/// A connection that is to be handed out.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// By which the kernel knows the socket.
    pub(crate) cookie: u64,
    /// Where it comes from; `None` for a socket file.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) host: Option<String>,
    pub(crate) once: bool,
    /// What a worker has read of its next request.
    pub(crate) read: ReadAhead,
    pub(crate) spoken: Spoken,
    /// The pool of the worker that gave it back.
    pub(crate) from: Option<PoolName>,
    /// When it is closed if no worker has taken it.
    pub(crate) until: Option<Instant>,
}

/// A connection that a worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// It was handed out by this dispatcher.
    Known {
        /// The cookie of its socket.
        cookie: u64,
        /// What it had spoken then.
        spoken: Spoken,
    },
    /// By an earlier one, as the worker says.
    Kept,
}

impl Out {
    fn is(&self, socket: u64) -> bool {
        matches!(self, Self::Known { cookie, .. } if *cookie == socket)
    }
}

/// A connection as a worker gave it back.
#[derive(Debug)]
pub(crate) struct GivenBack {
    pub(crate) id: u64,
    pub(crate) socket: OwnedFd,
    pub(crate) read: Vec<u8>,
    pub(crate) spoken: Spoken,
    /// What was known of it.
    pub(crate) out: Out,
}

/// What follows from what a worker said.
#[derive(Debug)]
pub(crate) enum Said {
    /// Nothing, but that it took so many connections.
    Took(u64),
    Declined(Vec<Connection>),
    GaveBack(GivenBack),
}

/// What no worker says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Offence {
    #[error("it gave back {0}, which it does not have")]
    NotOut(u64),
    #[error("it gave back another socket than was handed out under {0}")]
    AnotherSocket(u64),
    #[error("it gave back what is no connection under {0}")]
    NoConnection(u64),
    #[error("it says that {0} speaks another protocol than it has spoken")]
    Spoken(u64),
    #[error("it keeps connections that it cannot have kept")]
    Kept,
    #[error(transparent)]
    Message(#[from] LinkError),
}

/// What has yet to be said.
enum Say {
    Take(u64),
    GotBack(u64),
    Hosts { matter: bool },
}

impl Say {
    /// Whether both go in one message.
    const fn is_like(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Take(_), Self::Take(_)) | (Self::GotBack(_), Self::GotBack(_))
        )
    }

    const fn id(&self) -> Option<u64> {
        match self {
            Self::Take(id) | Self::GotBack(id) => Some(*id),
            Self::Hosts { .. } => None,
        }
    }
}

/// A worker, which accepts connections that are handed to it.
pub(crate) struct Acceptor {
    pub(crate) pool: PoolName,
    /// Its cell in the pool's scoreboard.
    pub(crate) cell: u16,
    voice: Voice<ToAcceptor>,
    say: VecDeque<Say>,
    given: BTreeMap<u64, Connection>,
    out: BTreeMap<u64, Out>,
    /// Counts what its pool's workers had read of what they gave back. It is the
    /// pool's, and outlives it.
    pub(crate) read_ahead: Kept,
    /// Whether it has said anything but what it keeps.
    begun: bool,
    /// Numbers below this one are of earlier dispatchers.
    first: u64,
    tasks: Tasks,
}

/// The tasks that wait for a worker's channel.
pub(crate) struct Tasks {
    /// Wakes the one that waits until the channel takes more.
    pub(crate) blocked: Rc<Notify>,
    /// Tells the one that hears that the worker has exited.
    pub(crate) exited: Rc<Notify>,
    pub(crate) handles: Vec<AbortHandle>,
}

impl Acceptor {
    /// `first` is the first number that this dispatcher gave a connection.
    pub(crate) fn new(
        pool: PoolName,
        cell: u16,
        voice: Voice<ToAcceptor>,
        first: u64,
        tasks: Tasks,
    ) -> Self {
        Self {
            pool,
            cell,
            voice,
            say: VecDeque::new(),
            given: BTreeMap::new(),
            out: BTreeMap::new(),
            read_ahead: Kept::default(),
            begun: false,
            first,
            tasks,
        }
    }

    /// How many connections it has been given and has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.given.len()
    }

    /// Whether it may be given one more, of a worker that may have `limit` open.
    pub(crate) fn may_take(&self, limit: u32) -> bool {
        // Its cell is its own word for what it has; this is ours.
        let most = (limit as usize).saturating_add(MAX_UNREPORTED);
        self.given.len() < MAX_UNACKNOWLEDGED && self.given.len() + self.out.len() < most
    }

    /// Whether a connection with this socket was given to it, or is out.
    pub(crate) fn has(&self, cookie: u64) -> bool {
        let given = self.given.values().any(|given| given.cookie == cookie);
        given || self.out.values().any(|out| out.is(cookie))
    }

    pub(crate) fn take(&mut self, id: u64, connection: Connection) {
        self.given.insert(id, connection);
        self.say.push_back(Say::Take(id));
    }

    pub(crate) fn hosts(&mut self, matter: bool) {
        self.say.push_back(Say::Hosts { matter });
    }

    /// Tells it that a connection which it gave back has arrived.
    pub(crate) fn got_back(&mut self, id: u64) {
        self.say.push_back(Say::GotBack(id));
    }

    /// The worker has exited: what it said last is still heard.
    pub(crate) fn exited(&self) {
        self.tasks.exited.notify_one();
    }

    /// Says what there is to say, as much as the channel takes now.
    ///
    /// # Errors
    ///
    /// The worker has gone.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        let mut room = self.voice.flush_now()?;
        while room && let Some((message, count)) = self.next_message() {
            let sockets: Vec<_> = match &message {
                ToAcceptor::Take(handouts) => handouts
                    .iter()
                    .filter_map(|handout| Some(self.given.get(&handout.id)?.socket.as_fd()))
                    .collect(),
                ToAcceptor::GotBack { .. } | ToAcceptor::Hosts { .. } => Vec::new(),
            };
            room = self.voice.tell_now(&message, &sockets)?;
            if room {
                self.say.drain(..count);
            }
        }
        if !room {
            self.tasks.blocked.notify_one();
        }
        Ok(())
    }

    /// Ends when the channel takes something again.
    pub(crate) fn room(&self) -> impl Future<Output = std::io::Result<()>> + use<> {
        self.voice.room()
    }

    /// The next message, of as many of the same kind as fit, and how many those
    /// are.
    fn next_message(&self) -> Option<(ToAcceptor, usize)> {
        let next = self.say.front()?;
        let alike = self.say.iter().take_while(|say| say.is_like(next));
        let mut room = MAX_READ;
        let fits = |say: &&Say| {
            let given = say.id().and_then(|id| self.given.get(&id));
            let read = given.map_or(0, |given| given.read.len());
            let fits = read <= room;
            room = room.saturating_sub(read);
            fits
        };
        let count = alike.take(MAX_TAKEN).take_while(fits).count().max(1);
        let ids = self.say.iter().take(count).filter_map(Say::id);
        let message = match next {
            Say::Hosts { matter } => ToAcceptor::Hosts { matter: *matter },
            Say::GotBack(_) => ToAcceptor::GotBack { ids: ids.collect() },
            Say::Take(_) => {
                // What it took or declined without having been told of it is
                // gone.
                let handouts = ids.filter_map(|id| {
                    let given = self.given.get(&id)?;
                    Some(Handout {
                        id,
                        host: given.host.clone(),
                        once: given.once,
                        read: given.read.to_vec(),
                        spoken: given.spoken,
                    })
                });
                ToAcceptor::Take(handouts.collect())
            }
        };
        Some((message, count))
    }

    /// Takes what it says.
    pub(crate) fn heard(
        &mut self,
        message: FromAcceptor,
        mut sockets: Vec<OwnedFd>,
    ) -> Result<Said, Offence> {
        self.begun |= !matches!(message, FromAcceptor::Kept { .. });
        match message {
            FromAcceptor::Kept { ids } => {
                let earlier = ids.iter().all(|id| *id < self.first);
                if self.begun || !earlier || self.out.len() + ids.len() > MAX_KEPT {
                    return Err(Offence::Kept);
                }
                self.out.extend(ids.into_iter().map(|id| (id, Out::Kept)));
                Ok(Said::Took(0))
            }
            FromAcceptor::Took { ids } => {
                let mut took = 0;
                for id in ids {
                    // What was not given was not taken.
                    if let Some(connection) = self.given.remove(&id) {
                        let (cookie, spoken) = (connection.cookie, connection.spoken);
                        self.out.insert(id, Out::Known { cookie, spoken });
                        took += 1;
                    }
                }
                Ok(Said::Took(took))
            }
            FromAcceptor::Ended { ids } => {
                for id in ids {
                    self.out.remove(&id);
                }
                Ok(Said::Took(0))
            }
            FromAcceptor::Declined { ids } => {
                let declined = ids.iter().filter_map(|id| self.given.remove(id));
                Ok(Said::Declined(declined.collect()))
            }
            FromAcceptor::GaveBack { id, read, spoken } => {
                let out = self.out.remove(&id).ok_or(Offence::NotOut(id))?;
                let socket = sockets.pop().ok_or(Offence::NoConnection(id))?;
                Ok(Said::GaveBack(GivenBack {
                    id,
                    socket,
                    read,
                    spoken,
                    out,
                }))
            }
        }
    }

    /// Gives up; what was not acknowledged is to go to others.
    pub(crate) fn end(self) -> Vec<Connection> {
        for task in self.tasks.handles {
            task.abort();
        }
        self.given.into_values().collect()
    }
}
