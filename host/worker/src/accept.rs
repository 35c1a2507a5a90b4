//! Taking connections from a shared listening socket, this worker's share of
//! them and no more (DESIGN §5).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_core::{Appetite, ConnectionLimits, LogLevel};
use skep_sys::{ExclusiveListener, Peer};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::connection;
use crate::desk::{Accepting, Desk};
use crate::transport::Socket;

/// How long a worker above its share leaves the listener to the others before
/// it looks again. Short, because a less loaded worker may be stuck.
const POLITENESS: Duration = Duration::from_millis(1);

/// How long a worker waits for the end of a connection that can accept nothing
/// for want of descriptors or memory: others may have given some back.
const EXHAUSTION: Duration = Duration::from_millis(100);

/// Most connections that are taken from a listener that is given up. Others
/// take them, too, where there are others.
const SWEEP: usize = 1024;

/// What a listener is to do.
#[derive(Clone)]
pub(crate) enum Order {
    /// Take connections on these terms.
    Accept(Arc<Terms>),
    /// Take what waits, and end.
    Close,
}

/// What the connections of a listener share.
pub(crate) struct Terms {
    pub(crate) limits: Arc<ConnectionLimits>,
}

impl Terms {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits: Arc::new(limits),
        })
    }
}

/// Accepts until this worker drains or the listener is given up.
///
/// What waits at that moment is still taken: the kernel may have woken this
/// process for it and no other, so that it would wait for the next one to
/// come; and where there is no other, it would be reset.
pub(crate) async fn accept(
    desk: Arc<Desk>,
    listener: AsyncFd<ExclusiveListener>,
    mut orders: watch::Receiver<Order>,
    accepting: Accepting,
) {
    let mut draining = desk.draining();
    let mut terms = None;
    loop {
        let order = orders.borrow_and_update().clone();
        let Order::Accept(now) = order else { break };
        let now = terms.insert(now);
        let next = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => break,
            changed = orders.changed() => match changed {
                Ok(()) => continue,
                Err(_) => break,
            },
            next = next(&desk, &listener, now.limits.max_connections) => next,
        };
        match next {
            Ok((socket, peer)) => open(&desk, now, socket, peer),
            Err(error) => exhausted(&desk, &error).await,
        }
    }
    let _until_then = accepting;
    let Some(terms) = terms else { return };
    for _ in 0..SWEEP {
        if desk.cell().connections() >= terms.limits.max_connections {
            return;
        }
        match listener.get_ref().accept() {
            Ok(Some(accepted)) => match Socket::new(accepted) {
                Ok((socket, peer)) => open(&desk, &terms, socket, peer),
                Err(error) => return complain(&desk, "cannot accept", &error),
            },
            Ok(None) => return,
            Err(error) => return complain(&desk, "cannot accept", &error),
        }
    }
}

fn open(desk: &Arc<Desk>, terms: &Terms, socket: Socket, peer: Peer) {
    desk.cell().connection_opened();
    let limits = Arc::clone(&terms.limits);
    let connection = connection::serve(Arc::clone(desk), limits, (socket, peer), None);
    tokio::spawn(connection);
}

/// Nothing can be accepted for want of descriptors or memory: who is idle makes
/// room, and the end of a connection is waited for.
async fn exhausted(desk: &Desk, error: &io::Error) {
    if desk.may_complain() {
        complain(desk, "cannot accept", error);
    }
    desk.rooms.make(Instant::now());
    let _ = tokio::time::timeout(EXHAUSTION, desk.next_end()).await;
}

/// The next connection, when this worker wants one and there is one.
async fn next(
    desk: &Desk,
    listener: &AsyncFd<ExclusiveListener>,
    limit: u32,
) -> io::Result<(Socket, Peer)> {
    loop {
        match desk.appetite(limit) {
            Appetite::Hungry => {
                listener.get_ref().resume()?;
            }
            Appetite::Sated => {
                // Woken by connections, but as one beside those whose turn it is.
                listener.get_ref().look_on()?;
                // An end that comes with a connection is not to be missed.
                let mut ready = tokio::select! {
                    biased;
                    () = desk.next_end() => continue,
                    ready = listener.readable() => ready?,
                };
                tokio::select! {
                    biased;
                    () = desk.next_end() => {}
                    () = tokio::time::sleep(POLITENESS) => {
                        // The others had their chance. The kernel tells of a
                        // connection once: until none waits, this worker
                        // looks again, after a failure, too.
                        match listener.get_ref().accept()? {
                            Some(accepted) => return Socket::new(accepted),
                            None => ready.clear_ready(),
                        }
                    }
                }
                continue;
            }
            Appetite::Full => {
                listener.get_ref().pause()?;
                desk.rooms.make(Instant::now());
                desk.next_end().await;
                continue;
            }
        }
        let mut ready = listener.readable().await?;
        match listener.get_ref().accept()? {
            Some(accepted) => {
                // To the end of the kernel's queue of waiters: otherwise the
                // worker that was asked last is always asked first. Adding
                // the socket again tells of whatever still waits.
                ready.clear_ready();
                listener.get_ref().rotate()?;
                return Socket::new(accepted);
            }
            None => ready.clear_ready(),
        }
    }
}

pub(crate) fn complain(desk: &Desk, what: &str, error: &io::Error) {
    if let Some(record) = desk.log.record(LogLevel::Error, "worker.accept") {
        desk.log
            .write(record.text("reason", &format!("{what}: {error}")));
    }
}
