//! Taking connections from a dispatcher, and giving them back.
//!
//! A worker acknowledges a connection before it reads a byte of it, so that one of
//! the two processes has it whichever dies: before the acknowledgement the
//! dispatcher, which gives it to another worker; afterwards this worker. The way
//! back is the same with the roles exchanged; without a dispatcher, connections
//! wait for the next one.
//!
//! A dispatcher takes back only connections that it handed out, by their number.
//! So it is told now and then which have ended, and a new dispatcher is told first
//! which are left.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_link::{Link, LinkError};
use skep_sys::{Accepted, Channel};
use skep_wire::{FromAcceptor, Handout, MAX_IDS, ToAcceptor};
use tokio::sync::{Notify, mpsc};

use crate::accept::{self, Terms};
use crate::connection::{self, HandedOut, Returned};
use crate::desk::Desk;
use crate::home::{Home, Hosts};
use crate::transport::Socket;

/// How long a connection that is given back waits until a dispatcher has it.
/// Longer than it takes to start one.
const BACK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a dispatcher may take to take a message; longer means that it is
/// stuck, and another one may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that end before a dispatcher is told: bounded, because it counts
/// them as open until then; more than one, to save messages.
const ENDED: usize = 128;

/// Takes connections from the dispatcher of one listener. Its task ends when it
/// is dropped and no connection is left that could be given back.
pub(crate) struct Intake {
    met: mpsc::UnboundedSender<(Arc<Terms>, OwnedFd)>,
}

impl Intake {
    pub(crate) fn begin(desk: &Arc<Desk>) -> Self {
        let (met, meets) = mpsc::unbounded_channel();
        let (back, returned) = mpsc::unbounded_channel();
        let task = IntakeTask {
            desk: Arc::clone(desk),
            hosts: Arc::default(),
            held: Arc::default(),
            back: Some(back),
            returning: VecDeque::new(),
        };
        tokio::spawn(run(task, meets, returned));
        Self { met }
    }

    /// Takes connections over this channel from now on.
    pub(crate) fn meet(&self, terms: Arc<Terms>, channel: OwnedFd) {
        // Cannot fail: the task ends only when this is dropped.
        let _ = self.met.send((terms, channel));
    }
}

/// The state of an intake's task, but for its dispatcher.
struct IntakeTask {
    desk: Arc<Desk>,
    hosts: Arc<Hosts>,
    held: Arc<Held>,
    /// Where connections go that are given back; `None` once none are taken any
    /// more.
    back: Option<mpsc::UnboundedSender<(u64, Returned)>>,
    /// Connections that were given back and are not acknowledged, oldest first,
    /// each with the time until which that is waited for.
    returning: VecDeque<(u64, Returned, Instant)>,
}

/// The numbers of connections that were handed out.
#[derive(Default)]
struct Held {
    numbers: Mutex<Numbers>,
    /// Notified when [`ENDED`] connections have ended.
    enough: Notify,
}

#[derive(Default)]
struct Numbers {
    /// Those that are open, or on their way back.
    open: BTreeSet<u64>,
    /// Those that have ended, of which the dispatcher was not told.
    ended: Vec<u64>,
}

/// The way back of one connection. Dropped unused, it tells that the connection
/// has ended.
pub(crate) struct GiveBack {
    id: u64,
    held: Arc<Held>,
    back: Option<mpsc::UnboundedSender<(u64, Returned)>>,
}

/// A dispatcher.
struct Dispatcher {
    terms: Arc<Terms>,
    link: Link<ToAcceptor, FromAcceptor>,
}

impl Held {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // A panic leaves it consistent.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, id: u64) {
        let mut numbers = self.numbers();
        if numbers.open.remove(&id) {
            numbers.ended.push(id);
        }
        if numbers.ended.len() == ENDED {
            self.enough.notify_one();
        }
    }
}

impl GiveBack {
    /// Gives the connection back. If the intake has ended, it is closed.
    pub(crate) fn send(mut self, returned: Returned) {
        if let Some(back) = self.back.take()
            && back.send((self.id, returned)).is_err()
        {
            self.held.ended(self.id);
        }
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        if self.back.is_some() {
            self.held.ended(self.id);
        }
    }
}

async fn run(
    mut task: IntakeTask,
    mut meets: mpsc::UnboundedReceiver<(Arc<Terms>, OwnedFd)>,
    mut returned: mpsc::UnboundedReceiver<(u64, Returned)>,
) {
    let mut dispatcher: Option<Dispatcher> = None;
    loop {
        let late = task.returning.front().map(|(_, _, until)| *until);
        let held = Arc::clone(&task.held);
        let done = tokio::select! {
            biased;
            met = meets.recv(), if task.back.is_some() => match met {
                Some((terms, channel)) => match task.meet(terms, channel).await {
                    Ok(met) => {
                        dispatcher = Some(met);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                // The listener was given up. What is open may still go back.
                None => {
                    task.back = None;
                    Ok(())
                }
            },
            message = next(dispatcher.as_mut()) => match (message, &mut dispatcher) {
                (Ok((message, fds)), Some(from)) => task.told(from, message, fds).await,
                (Err(error), _) => Err(error),
                (Ok(_), None) => Ok(()),
            },
            returned = returned.recv() => match returned {
                Some((id, returned)) => task.returned(id, returned, dispatcher.as_mut()).await,
                // No connection is left that could be given back.
                None => return,
            },
            () = held.enough.notified() => task.tell_ended(dispatcher.as_mut()).await,
            () = at(late) => {
                if let Some((id, ..)) = task.returning.pop_front() {
                    task.held.ended(id);
                }
                Ok(())
            }
        };
        // The dispatcher is gone or says nonsense: its channel is closed.
        if done.is_err() {
            dispatcher = None;
        }
    }
}

impl IntakeTask {
    /// A dispatcher has come. It is told what is left of those before it, and
    /// what they have not acknowledged is given to this one.
    async fn meet(&self, terms: Arc<Terms>, channel: OwnedFd) -> Result<Dispatcher, LinkError> {
        let mut dispatcher = Dispatcher {
            terms,
            link: Link::new(Channel::from_fd(channel)?)?,
        };
        let kept: Vec<u64> = {
            let mut numbers = self.held.numbers();
            numbers.ended.clear();
            numbers.open.iter().copied().collect()
        };
        for ids in kept.chunks(MAX_IDS) {
            let ids = ids.to_vec();
            dispatcher.tell(&FromAcceptor::Kept { ids }, None).await?;
        }
        for (id, returned, _) in &self.returning {
            dispatcher.give_back(*id, returned).await?;
        }
        Ok(dispatcher)
    }

    async fn told(
        &mut self,
        dispatcher: &mut Dispatcher,
        message: ToAcceptor,
        fds: Vec<OwnedFd>,
    ) -> Result<(), LinkError> {
        match message {
            ToAcceptor::Take(handouts) => return self.take(dispatcher, handouts, fds).await,
            ToAcceptor::GotBack { ids } => {
                for id in ids {
                    // The first one, nearly always.
                    if let Some(at) = self.returning.iter().position(|(its, ..)| *its == id) {
                        self.returning.remove(at);
                        self.held.numbers().open.remove(&id);
                    }
                }
            }
            ToAcceptor::Hosts { matter } => self.hosts.change(matter),
        }
        Ok(())
    }

    async fn take(
        &self,
        dispatcher: &mut Dispatcher,
        handouts: Vec<Handout>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), LinkError> {
        let room = match &self.back {
            Some(_) if !*self.desk.draining().borrow() => {
                let most = dispatcher.terms.limits.max_connections;
                most.saturating_sub(self.desk.cell().connections()) as usize
            }
            _ => 0,
        };
        let mut accepted: Vec<_> = handouts.into_iter().zip(fds).collect();
        let declined = accepted.split_off(room.min(accepted.len()));
        let numbers =
            |of: &[(Handout, OwnedFd)]| of.iter().map(|(handout, _)| handout.id).collect();
        if !declined.is_empty() {
            let ids = numbers(&declined);
            dispatcher
                .tell(&FromAcceptor::Declined { ids }, None)
                .await?;
        }
        if accepted.is_empty() {
            return Ok(());
        }
        let ids = numbers(&accepted);
        dispatcher.tell(&FromAcceptor::Took { ids }, None).await?;
        for (handout, stream) in accepted {
            // Fails if the connection is broken, or for want of memory.
            if let Err(error) = self.serve(dispatcher, handout, stream)
                && error.kind() != io::ErrorKind::NotConnected
            {
                accept::complain(&self.desk, "cannot take a connection", &error);
            }
        }
        Ok(())
    }

    fn serve(&self, dispatcher: &Dispatcher, handout: Handout, stream: OwnedFd) -> io::Result<()> {
        if self.back.is_none() {
            return Ok(());
        }
        self.held.numbers().open.insert(handout.id);
        let back = GiveBack {
            id: handout.id,
            held: Arc::clone(&self.held),
            back: self.back.clone(),
        };
        // The dispatcher has set this; a worker must not change what others share.
        if !skep_sys::is_nonblocking(stream.as_fd())? {
            let blocks = "a connection that blocks whoever reads it";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, blocks));
        }
        let peer = skep_sys::peer_of(stream.as_fd())?;
        let (socket, peer) = Socket::new(Accepted { stream, peer })?;
        self.desk.cell().connection_opened();
        tokio::spawn(connection::serve(
            Arc::clone(&self.desk),
            Arc::clone(&dispatcher.terms.limits),
            (socket, peer),
            Some(HandedOut {
                home: Arc::new(Home::new(&self.desk, &self.hosts, handout.host)),
                once: handout.once,
                read: handout.read,
                spoken: handout.spoken,
                back,
            }),
        ));
        Ok(())
    }

    async fn returned(
        &mut self,
        id: u64,
        returned: Returned,
        dispatcher: Option<&mut Dispatcher>,
    ) -> Result<(), LinkError> {
        let until = Instant::now() + BACK_PATIENCE;
        let given = match dispatcher {
            Some(dispatcher) => dispatcher.give_back(id, &returned).await,
            None => Ok(()),
        };
        self.returning.push_back((id, returned, until));
        given
    }

    async fn tell_ended(&self, dispatcher: Option<&mut Dispatcher>) -> Result<(), LinkError> {
        let ids = std::mem::take(&mut self.held.numbers().ended);
        match dispatcher {
            Some(dispatcher) => {
                for ids in ids.chunks(MAX_IDS) {
                    let ids = ids.to_vec();
                    dispatcher.tell(&FromAcceptor::Ended { ids }, None).await?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Dispatcher {
    async fn give_back(&mut self, id: u64, returned: &Returned) -> Result<(), LinkError> {
        let message = FromAcceptor::GaveBack {
            id,
            read: returned.left.read.clone(),
            spoken: returned.left.spoken,
        };
        self.tell(&message, Some(&returned.left.socket)).await
    }

    async fn tell(
        &mut self,
        message: &FromAcceptor,
        socket: Option<&OwnedFd>,
    ) -> Result<(), LinkError> {
        let sockets = socket.map(|socket| socket.as_fd());
        let by = Instant::now() + PATIENCE;
        self.link.tell(message, sockets.as_slice(), by).await
    }
}

/// The next message of a dispatcher; never, without one.
async fn next(
    dispatcher: Option<&mut Dispatcher>,
) -> Result<(ToAcceptor, Vec<OwnedFd>), LinkError> {
    let Some(dispatcher) = dispatcher else {
        return pending().await;
    };
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    dispatcher.link.next().await?.ok_or_else(|| gone().into())
}

/// Waits until `then`; for ever without one.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => pending().await,
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
