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

/// How long a worker that lacks descriptors or memory waits for the end of one of
/// its connections: another process may have freed some.
const EXHAUSTION: Duration = Duration::from_millis(100);

/// Most connections that a worker still accepts from a listener that it gives
/// up. Other workers, if there are any, accept from it as well.
const SWEEP: usize = 1024;

/// Connections that are taken in a row before whatever else is ready goes on: a
/// worker that is alone finds the next one without a look at its sockets.
const ROW: u32 = 16;

/// What a listener is to do.
#[derive(Clone)]
pub(crate) enum ListenerCommand {
    /// Accept connections on these terms.
    Accept(Arc<Terms>),
    /// Accept the connections that wait, and end.
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
/// Connections that wait at that moment are still accepted: the kernel may have
/// woken only this process for them, so that they would wait until the next one
/// comes; without another worker they would be reset.
pub(crate) async fn accept(
    desk: Arc<Desk>,
    listener: AsyncFd<ExclusiveListener>,
    mut commands: watch::Receiver<ListenerCommand>,
    accepting: Accepting,
) {
    let mut draining = desk.draining();
    let mut terms = None;
    let mut taken = 0_u32;
    loop {
        let command = commands.borrow_and_update().clone();
        let ListenerCommand::Accept(now) = command else {
            break;
        };
        let now = terms.insert(now);
        let next = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => break,
            changed = commands.changed() => match changed {
                Ok(()) => continue,
                Err(_) => break,
            },
            next = next(&desk, &listener, now.limits.max_connections) => next,
        };
        match next {
            Ok((socket, peer)) => {
                open(&desk, now, socket, peer);
                taken = taken.wrapping_add(1);
                if taken.is_multiple_of(ROW) {
                    tokio::task::yield_now().await;
                }
            }
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

/// Accepting failed for want of descriptors or memory: asks idle connections to
/// end, and waits for the end of one.
async fn exhausted(desk: &Desk, error: &io::Error) {
    if desk.may_complain() {
        complain(desk, "cannot accept", error);
    }
    desk.rooms.make(Instant::now());
    let _ = tokio::time::timeout(EXHAUSTION, desk.next_rest()).await;
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
                // Connections wake this worker too, but take no other's wake-up.
                listener.get_ref().look_on()?;
                // First, or an end that comes with a connection would be missed.
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
                desk.next_rest().await;
                continue;
            }
        }
        let mut ready = listener.readable().await?;
        match listener.get_ref().accept()? {
            Some(accepted) => {
                if desk.is_alone() {
                    // It looks for another one next.
                    ready.retain_ready();
                } else {
                    // To the end of the kernel's queue of waiters: otherwise the
                    // worker that was asked last is always asked first. Adding
                    // the socket again tells of whatever still waits.
                    ready.clear_ready();
                    listener.get_ref().rotate()?;
                }
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
