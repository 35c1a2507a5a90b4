//! Taking connections from a shared listening socket, this worker's share of
//! them and no more (DESIGN §5).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use skep_core::{Appetite, ConnectionLimits, LogLevel};
use skep_sys::{Accepted, ExclusiveListener, Peer};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use crate::connection;
use crate::desk::Desk;
use crate::socket::Socket;

/// How long a worker above its share leaves the listener to the others before
/// it looks again. Short, because a less loaded worker may be stuck.
const POLITENESS: Duration = Duration::from_millis(1);

/// How long a worker waits that can accept nothing for want of descriptors or
/// memory.
const EXHAUSTION: Duration = Duration::from_millis(20);

/// Accepts until this worker drains.
pub(crate) async fn accept(desk: Arc<Desk>, socket: OwnedFd, limits: ConnectionLimits) {
    let listener = match ExclusiveListener::new(socket).and_then(skep_sys::watch) {
        Ok(listener) => listener,
        Err(error) => return complain(&desk, "cannot watch the listener", &error),
    };
    let builder = Arc::new(connection::builder(&limits));
    let limits = Arc::new(limits);
    let mut draining = desk.draining();
    loop {
        let next = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => return,
            next = next(&desk, &listener, limits.max_connections) => next,
        };
        match next {
            Ok((socket, peer)) => {
                desk.cell().connection_opened();
                tokio::spawn(connection::serve(
                    Arc::clone(&desk),
                    Arc::clone(&builder),
                    Arc::clone(&limits),
                    socket,
                    peer,
                ));
            }
            Err(error) => {
                complain(&desk, "cannot accept", &error);
                tokio::time::sleep(EXHAUSTION).await;
            }
        }
    }
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

fn take(accepted: Accepted) -> io::Result<(Socket, Peer)> {
    let socket = match accepted.peer {
        Peer::Tcp(_) => Socket::Tcp(TcpStream::from_std(accepted.stream.into())?),
        Peer::Unix => Socket::Unix(UnixStream::from_std(accepted.stream.into())?),
    };
    Ok((socket, accepted.peer))
}

fn complain(desk: &Desk, what: &str, error: &io::Error) {
    if let Some(record) = desk.log.record(LogLevel::Error, "worker.accept") {
        desk.log
            .write(record.text("reason", &format!("{what}: {error}")));
    }
}
