//! The conversation with one worker, whom nobody trusts: it may be run by a
//! guest that has left its sandbox.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use skep_core::PoolName;
use skep_core::egress::OpenFailure;
use skep_link::Link;
use skep_sys::Channel;
use skep_wire::{FromOpener, ToOpener};
use tokio::task::JoinSet;

use crate::connect::{Opened, Target, open};
use crate::ledger::{Ledger, Permit};
use crate::names::Names;

/// Connections that one worker may have on their way at a time. An app has
/// a hundred in all, unless it is told otherwise.
const MAX_OPENING: usize = 512;

/// The longest that one may take, whatever the worker says: a kernel gives up
/// connecting after two minutes.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a worker may take to take an answer. It does nothing else with its
/// end of the channel; longer means that it is stuck or hostile.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What all workers' conversations share.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) ledger: Ledger,
    pub(crate) names: Rc<Names>,
}

/// One that is done, whatever came of it.
struct Done {
    id: u64,
    came: Result<(Opened, Permit), OpenFailure>,
}

/// One worker's conversation.
pub(crate) struct Conversation {
    link: Link<ToOpener, FromOpener>,
    pool: PoolName,
    office: Office,
    opening: JoinSet<Done>,
    /// Numbers of those that are on their way or open. A permit is there once
    /// it is open.
    known: HashMap<u64, Option<Permit>>,
}

impl Conversation {
    pub(crate) fn new(channel: Channel, pool: PoolName, office: Office) -> std::io::Result<Self> {
        Ok(Self {
            link: Link::new(channel)?,
            pool,
            office,
            opening: JoinSet::new(),
            known: HashMap::new(),
        })
    }

    /// Answers until the worker has gone, or said what no worker says. What it
    /// had open is given back by dropping this.
    pub(crate) async fn hold(mut self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                message = self.link.next() => match message? {
                    Some((message, _)) => self.asked(message).await?,
                    None => return Ok(()),
                },
                Some(done) = self.opening.join_next() => {
                    self.done(done.context("an attempt broke off")?).await?;
                }
            }
        }
    }

    async fn asked(&mut self, message: ToOpener) -> anyhow::Result<()> {
        let (id, app, target, timeout) = match message {
            ToOpener::Open {
                id,
                app,
                scheme,
                host,
                port,
                timeout,
            } => (id, app, Target { scheme, host, port }, timeout),
            ToOpener::Closed { id } => match self.known.get(&id) {
                Some(Some(_)) => {
                    self.known.remove(&id);
                    return Ok(());
                }
                Some(None) | None => bail!("{id} is not open"),
            },
        };
        if self.known.contains_key(&id) {
            bail!("{id} is asked for twice");
        }
        let grants = self.office.ledger.grants(&self.pool, &app);
        if grants.is_empty() {
            return self.fail(id, OpenFailure::Denied).await;
        }
        if self.opening.len() >= MAX_OPENING {
            return self.fail(id, OpenFailure::TooMany).await;
        }
        let Some(permit) = self.office.ledger.permit(&self.pool, &app) else {
            return self.fail(id, OpenFailure::TooMany).await;
        };
        self.known.insert(id, None);
        let names = Rc::clone(&self.office.names);
        let timeout = timeout.min(MAX_TIMEOUT);
        self.opening.spawn_local(async move {
            let came = open(&target, &grants, &names, timeout).await;
            Done {
                id,
                came: came.map(|opened| (opened, permit)),
            }
        });
        Ok(())
    }

    async fn done(&mut self, Done { id, came }: Done) -> anyhow::Result<()> {
        match came {
            Ok(((socket, address), permit)) => {
                self.known.insert(id, Some(permit));
                let answer = FromOpener::Opened { id, address };
                self.answer(&answer, Some(&socket)).await
            }
            Err(why) => {
                self.known.remove(&id);
                self.fail(id, why).await
            }
        }
    }

    async fn fail(&mut self, id: u64, why: OpenFailure) -> anyhow::Result<()> {
        self.answer(&FromOpener::Failed { id, why }, None).await
    }

    async fn answer(
        &mut self,
        answer: &FromOpener,
        socket: Option<&OwnedFd>,
    ) -> anyhow::Result<()> {
        let sockets = socket.map(|socket| socket.as_fd());
        let by = Instant::now() + ANSWER_PATIENCE;
        let answered = self.link.tell(answer, sockets.as_slice(), by).await;
        answered.context("the worker takes no answer")
    }
}
