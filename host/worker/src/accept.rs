//! Taking connections from a shared listening socket, this worker's share of
//! them and no more (DESIGN §5).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use skep_core::{Appetite, ConnectionLimits, LogLevel};
use skep_sys::{Accepted, ExclusiveListener, Peer};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::connection;
use crate::desk::{Accepting, Desk};
use crate::socket::Socket;

/// How long a worker above its share leaves the listener to the others before
/// it looks again. Short, because a less loaded worker may be stuck.
const POLITENESS: Duration = Duration::from_millis(1);

/// How long a worker waits that can accept nothing for want of descriptors or
/// memory.
const EXHAUSTION: Duration = Duration::from_millis(20);

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
    pub(crate) builder: Arc<auto::Builder<TokioExecutor>>,
}

impl Terms {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            builder: Arc::new(connection::builder(&limits)),
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
            Err(error) => {
                complain(&desk, "cannot accept", &error);
                tokio::time::sleep(EXHAUSTION).await;
            }
        }
    }
    let _until_then = accepting;
    let Some(terms) = terms else { return };
    for _ in 0..SWEEP {
        if desk.cell().connections() >= terms.limits.max_connections {
            return;
        }
        match listener.get_ref().accept() {
            Ok(Some(accepted)) => match take(accepted) {
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
    tokio::spawn(connection::serve(
        Arc::clone(desk),
        Arc::clone(&terms.builder),
        Arc::clone(&terms.limits),
        socket,
        peer,
        None,
    ));
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
                listener.get_ref().pause()?;
                tokio::select! {
                    () = desk.next_end() => {}
                    () = tokio::time::sleep(POLITENESS) => {
                        // The others had their chance.
                        if let Some(accepted) = listener.get_ref().accept()? {
                            return take(accepted);
                        }
                    }
                }
                continue;
            }
            Appetite::Full => {
                listener.get_ref().pause()?;
                desk.rooms.make();
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
                return take(accepted);
            }
            None => ready.clear_ready(),
        }
    }
}

pub(crate) fn take(accepted: Accepted) -> io::Result<(Socket, Peer)> {
    let socket = match accepted.peer {
        Peer::Tcp(_) => Socket::Tcp(TcpStream::from_std(accepted.stream.into())?),
        Peer::Unix => Socket::Unix(UnixStream::from_std(accepted.stream.into())?),
    };
    Ok((socket, accepted.peer))
}

pub(crate) fn complain(desk: &Desk, what: &str, error: &io::Error) {
    if let Some(record) = desk.log.record(LogLevel::Error, "worker.accept") {
        desk.log
            .write(record.text("reason", &format!("{what}: {error}")));
    }
}
