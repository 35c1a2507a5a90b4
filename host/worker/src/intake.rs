//! Taking connections from a dispatcher, and giving them back.
//!
//! A connection is acknowledged before a byte of it is read, so that whoever
//! dies, one of the two processes has it: not acknowledged, the dispatcher gives
//! it to another worker; acknowledged, it is this one's. On the way back it is
//! the same with the roles exchanged; without a dispatcher, connections wait for
//! the next one.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skep_sys::{Accepted, Channel};
use skep_wire::{Decoder, FromTaker, Message as _, Taken, ToTaker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::accept::{self, Terms};
use crate::connection::{self, GiveBack, HandedOut, Returned};
use crate::desk::Desk;
use crate::home::{Home, Hosts};
use crate::transport::Socket;

/// Bytes of one read: most of what 64 connections are announced with.
const READ: usize = 16 << 10;

/// How long a connection that is given back waits until a dispatcher has it.
/// Longer than it takes to start one.
const BACK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a dispatcher may take to take a message; longer means that it is
/// stuck, and another one may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What comes from the dispatcher of one listener. Ends when it is dropped and
/// no connection is left that could be given back.
pub(crate) struct Intake {
    met: mpsc::UnboundedSender<(Arc<Terms>, OwnedFd)>,
}

impl Intake {
    pub(crate) fn begin(desk: &Arc<Desk>) -> Self {
        let (met, meets) = mpsc::unbounded_channel();
        let (back, returned) = mpsc::unbounded_channel();
        let taking = Taking {
            desk: Arc::clone(desk),
            hosts: Arc::default(),
            back: Some(back),
            returning: BTreeMap::new(),
            next: 0,
        };
        tokio::spawn(run(taking, meets, returned));
        Self { met }
    }

    /// Takes connections over this channel from now on.
    pub(crate) fn meet(&self, terms: Arc<Terms>, channel: OwnedFd) {
        // It ends only when this is dropped.
        let _ = self.met.send((terms, channel));
    }
}

/// What is known besides the dispatcher.
struct Taking {
    desk: Arc<Desk>,
    hosts: Arc<Hosts>,
    /// Where connections go that are given back; `None` once none are taken any
    /// more.
    back: Option<GiveBack>,
    /// What was given back and not acknowledged, and until when that is waited
    /// for. In the order in which it was given.
    returning: BTreeMap<u64, (Returned, Instant)>,
    next: u64,
}

/// A dispatcher.
struct Dispatcher {
    terms: Arc<Terms>,
    channel: AsyncFd<Channel>,
    decoder: Decoder<OwnedFd>,
}

async fn run(
    mut taking: Taking,
    mut meets: mpsc::UnboundedReceiver<(Arc<Terms>, OwnedFd)>,
    mut returned: mpsc::UnboundedReceiver<Returned>,
) {
    let mut dispatcher: Option<Dispatcher> = None;
    loop {
        let late = taking.returning.first_key_value();
        let late = late.map(|(_, (_, until))| *until);
        let done = tokio::select! {
            biased;
            met = meets.recv(), if taking.back.is_some() => match met {
                Some((terms, channel)) => match taking.meet(terms, channel).await {
                    Ok(met) => {
                        dispatcher = Some(met);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                // The listener was given up. What is open may still go back.
                None => {
                    taking.back = None;
                    Ok(())
                }
            },
            message = next(dispatcher.as_mut()) => match (message, &dispatcher) {
                (Ok((message, fds)), Some(from)) => taking.told(from, message, fds).await,
                (Err(error), _) => Err(error),
                (Ok(_), None) => Ok(()),
            },
            returned = returned.recv() => match returned {
                Some(returned) => taking.returned(returned, dispatcher.as_ref()).await,
                // Nothing is left that could.
                None => return,
            },
            () = at(late) => {
                taking.returning.pop_first();
                Ok(())
            }
        };
        // Who makes no sense or is gone is nobody to talk with any more.
        if done.is_err() {
            dispatcher = None;
        }
    }
}

impl Taking {
    /// A dispatcher has come. What the one before has not acknowledged is given
    /// to this one.
    async fn meet(&self, terms: Arc<Terms>, channel: OwnedFd) -> anyhow::Result<Dispatcher> {
        let dispatcher = Dispatcher {
            terms,
            channel: skep_sys::watch(Channel::from_fd(channel)?)?,
            decoder: Decoder::default(),
        };
        for (id, (returned, _)) in &self.returning {
            dispatcher.give_back(*id, returned).await?;
        }
        Ok(dispatcher)
    }

    async fn told(
        &mut self,
        dispatcher: &Dispatcher,
        message: ToTaker,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        match message {
            ToTaker::Take(taken) => return self.take(dispatcher, taken, fds).await,
            ToTaker::GotBack { ids } => {
                for id in ids {
                    self.returning.remove(&id);
                }
            }
            ToTaker::Hosts { matter } => self.hosts.change(matter),
        }
        Ok(())
    }

    async fn take(
        &self,
        dispatcher: &Dispatcher,
        taken: Vec<Taken>,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let room = match &self.back {
            Some(_) if !*self.desk.draining().borrow() => {
                let most = dispatcher.terms.limits.max_connections;
                most.saturating_sub(self.desk.cell().connections()) as usize
            }
            _ => 0,
        };
        let mut taken: Vec<_> = taken.into_iter().zip(fds).collect();
        let declined = taken.split_off(room.min(taken.len()));
        let numbers = |of: &[(Taken, OwnedFd)]| of.iter().map(|(taken, _)| taken.id).collect();
        if !declined.is_empty() {
            let ids = numbers(&declined);
            dispatcher.tell(&FromTaker::Declined { ids }, None).await?;
        }
        if taken.is_empty() {
            return Ok(());
        }
        let ids = numbers(&taken);
        dispatcher.tell(&FromTaker::Took { ids }, None).await?;
        for (taken, stream) in taken {
            // It fails for one that is broken, or for want of memory.
            if let Err(error) = self.serve(dispatcher, taken, stream)
                && error.kind() != io::ErrorKind::NotConnected
            {
                accept::complain(&self.desk, "cannot take a connection", &error);
            }
        }
        Ok(())
    }

    fn serve(&self, dispatcher: &Dispatcher, taken: Taken, stream: OwnedFd) -> io::Result<()> {
        let Some(back) = self.back.clone() else {
            return Ok(());
        };
        let peer = skep_sys::peer_of(stream.as_fd())?;
        let (socket, peer) = Socket::new(Accepted { stream, peer })?;
        self.desk.cell().connection_opened();
        tokio::spawn(connection::serve(
            Arc::clone(&self.desk),
            Arc::clone(&dispatcher.terms.limits),
            (socket, peer),
            Some(HandedOut {
                home: Arc::new(Home::new(&self.desk, &self.hosts, taken.host)),
                once: taken.once,
                read: taken.read,
                spoken: skep_wire::Spoken::Nothing,
                back,
            }),
        ));
        Ok(())
    }

    async fn returned(
        &mut self,
        returned: Returned,
        dispatcher: Option<&Dispatcher>,
    ) -> anyhow::Result<()> {
        let id = self.next;
        self.next += 1;
        let until = Instant::now() + BACK_PATIENCE;
        let (returned, _) = self.returning.entry(id).or_insert((returned, until));
        match dispatcher {
            Some(dispatcher) => dispatcher.give_back(id, returned).await,
            None => Ok(()),
        }
    }
}

impl Dispatcher {
    async fn give_back(&self, id: u64, returned: &Returned) -> anyhow::Result<()> {
        let read = returned.left.read.clone();
        let socket = Some(&returned.left.socket);
        self.tell(&FromTaker::GaveBack { id, read }, socket).await
    }

    async fn tell(&self, message: &FromTaker, socket: Option<&OwnedFd>) -> anyhow::Result<()> {
        let frame = skep_wire::encode(message)?;
        debug_assert_eq!(message.fds(), usize::from(socket.is_some()));
        let sockets = socket.map(|socket| socket.as_fd());
        let sending = async {
            let mut sent = 0;
            while sent < frame.len() {
                // They go with the first byte.
                let sockets = if sent == 0 { sockets.as_slice() } else { &[] };
                let send = |channel: &Channel| channel.send(&frame[sent..], sockets);
                sent += self.channel.async_io(Interest::WRITABLE, send).await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, sending)
            .await
            .context("the dispatcher takes no messages")?
    }
}

/// The next message of a dispatcher; never, without one.
async fn next(dispatcher: Option<&mut Dispatcher>) -> anyhow::Result<(ToTaker, Vec<OwnedFd>)> {
    let Some(dispatcher) = dispatcher else {
        return pending().await;
    };
    loop {
        if let Some(message) = dispatcher.decoder.message::<ToTaker>()? {
            return Ok(message);
        }
        let mut buffer = [0; READ];
        let mut fds = Vec::new();
        let read = dispatcher
            .channel
            .async_io(Interest::READABLE, |channel| {
                channel.recv(&mut buffer, &mut fds)
            })
            .await?;
        anyhow::ensure!(read > 0, "the dispatcher has gone");
        dispatcher.decoder.push(&buffer[..read], fds);
    }
}

/// Ends then, or never.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => pending().await,
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
