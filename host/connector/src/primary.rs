//! The conversation with the primary, and the workers that it brings.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use skep_core::{PoolName, Sandbox, WorkerId};
use skep_link::Link;
use skep_sys::{Board, Channel, clock};
use skep_wire::{FromConnector, ToConnector};
use tokio::task::{AbortHandle, JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

use crate::ledger::Ledger;
use crate::names::Names;
use crate::worker::{Conversation, Office};

/// How long it goes on without its primary: workers that have lost theirs
/// drain for 30 s, and what they finish may need a connection.
const ORPHANED: Duration = Duration::from_secs(40);

/// How often it beats, and the files that say how names are resolved are looked
/// at.
const LOOK: Duration = Duration::from_secs(1);

/// How long the primary may take to take a message; longer means that it is
/// stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a connector ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The primary has gone, and so have the workers.
    Alone,
    /// How names are resolved was changed in a way that only a new process,
    /// confined to the new files, can follow.
    Outdated(String),
}

/// Serves workers until the primary has gone. `confine` gives up what a
/// connector does not need, and returns what of that the kernel lacks; it is
/// called once, before anybody is served. Must run on a current-thread runtime.
///
/// # Errors
///
/// The primary makes no sense, or this process cannot be confined; that was
/// told to the primary then.
pub async fn serve(
    channel: Channel,
    names: Names,
    confine: impl FnOnce(Sandbox) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<Ended> {
    let mut link = Link::new(channel).context("cannot watch the channel")?;
    let Some((first, mut fds)) = link.next().await? else {
        return Ok(Ended::Alone);
    };
    let ToConnector::Begin { sandbox } = first else {
        bail!("the first message was not `begin`");
    };
    let board = Board::open(fds.pop().context("no scoreboard came")?);
    let board = board.context("the scoreboard is none")?;
    let confined = confine(sandbox);
    let word = match &confined {
        Ok(missing) => FromConnector::Ready {
            missing: missing.clone(),
        },
        Err(error) => FromConnector::Unfit {
            message: format!("{error:#}"),
        },
    };
    link.tell(&word, &[], Instant::now() + PATIENCE).await?;
    confined?;
    let names = Rc::new(names);
    let connector = Connector {
        link,
        board,
        office: Office {
            ledger: Ledger::default(),
            names,
        },
        workers: JoinSet::new(),
        handles: HashMap::new(),
    };
    // The conversations share what is not `Send`: there is one thread.
    LocalSet::new().run_until(connector.run()).await
}

struct Connector {
    link: Link<ToConnector, FromConnector>,
    /// Of one cell, into which it beats.
    board: Board,
    office: Office,
    workers: JoinSet<()>,
    handles: HashMap<WorkerId, AbortHandle>,
}

impl Connector {
    async fn run(mut self) -> anyhow::Result<Ended> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.link.next() => match message? {
                    Some((message, fds)) => self.told(message, fds)?,
                    None => return Ok(self.finish().await),
                },
                // Conversations that have ended are of no more interest.
                Some(_) = self.workers.join_next() => {}
                _ = look.tick() => {
                    if let Some(cell) = self.board.cell(0) {
                        cell.beat(clock::monotonic());
                    }
                    if let Err(replaced) = self.office.names.refresh() {
                        return Ok(Ended::Outdated(replaced.to_string()));
                    }
                }
            }
        }
    }

    fn told(&mut self, message: ToConnector, mut fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        match message {
            ToConnector::Begin { .. } => bail!("told to begin twice"),
            ToConnector::Grants { pool, apps } => self.office.ledger.grant(pool, apps),
            ToConnector::PoolGone { pool } => self.office.ledger.forget(&pool),
            ToConnector::Worker { worker, pool } => {
                let channel = fds.pop().context("no channel came")?;
                self.meet(worker, pool, channel)?;
            }
            ToConnector::WorkerGone { worker } => {
                if let Some(conversation) = self.handles.remove(&worker) {
                    conversation.abort();
                }
            }
        }
        Ok(())
    }

    fn meet(&mut self, worker: WorkerId, pool: PoolName, channel: OwnedFd) -> anyhow::Result<()> {
        let channel = Channel::from_fd(channel).context("a worker's channel is none")?;
        let conversation = Conversation::new(channel, pool, self.office.clone())
            .context("cannot watch a worker's channel")?;
        let handle = self.workers.spawn_local(async move {
            // Whatever it was, the worker is dropped; it notices.
            let _ = conversation.hold().await;
        });
        if let Some(earlier) = self.handles.insert(worker, handle) {
            earlier.abort();
        }
        Ok(())
    }

    /// The primary has gone: serves the workers that are left.
    async fn finish(&mut self) -> Ended {
        let all_gone = async { while self.workers.join_next().await.is_some() {} };
        // Those that are still there then are stuck.
        let _ = tokio::time::timeout(ORPHANED, all_gone).await;
        Ended::Alone
    }
}
