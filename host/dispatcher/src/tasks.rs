//! What waits: for connections, for their heads, and for workers.
//!
//! All tasks share one thread, so the exchange is borrowed for an instant at a
//! time and never across a wait.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use skep_core::{PoolName, WorkerId};
use skep_sys::{Channel, ExclusiveListener};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use crate::exchange::{Exchange, Look, Refusal, fresh};
use crate::taker::{Connection, Taker};

/// Connections that are accepted before anything else is looked at.
const BATCH: usize = 64;

/// How often it is looked whether a worker has become ready while something
/// waits for one: the scoreboard is memory and tells nobody.
const LOOK: Duration = Duration::from_millis(5);

/// How long nothing is accepted for want of descriptors or memory.
const EXHAUSTION: Duration = Duration::from_millis(20);

/// Looks at one head at the speed at which it comes: nearly all heads come in
/// one or two pieces.
const FREE_LOOKS: u32 = 8;

/// The longest pause between two looks at a head that comes in more pieces than
/// that: it doubles from a millisecond, so that a client which sends byte after
/// byte costs little.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The exchange, on the one thread of a dispatcher.
pub(crate) type Shared = Rc<RefCell<Exchange>>;

/// Accepts until told to stop. What waits then is still taken: where nobody
/// else accepts, it would be reset.
pub(crate) async fn accept(
    shared: Shared,
    listener: AsyncFd<ExclusiveListener>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let readable = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            readable = listener.readable() => readable,
        };
        let Ok(mut readable) = readable else { return };
        let may = shared.borrow().may_accept();
        if !may {
            drop(readable);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(LOOK) => continue,
            }
        }
        let mut taken = 0;
        while taken < BATCH && shared.borrow().may_accept() {
            match listener.get_ref().accept() {
                Ok(Some(accepted)) => {
                    taken += 1;
                    shared.borrow_mut().counts.accepted += 1;
                    arrived(&shared, fresh(accepted.stream, accepted.peer));
                }
                Ok(None) => {
                    readable.clear_ready();
                    break;
                }
                Err(_) => {
                    drop(readable);
                    tokio::time::sleep(EXHAUSTION).await;
                    break;
                }
            }
        }
        shared.borrow_mut().flush();
        tokio::task::yield_now().await;
    }
    while shared.borrow().may_accept()
        && let Ok(Some(accepted)) = listener.get_ref().accept()
    {
        shared.borrow_mut().counts.accepted += 1;
        arrived(&shared, fresh(accepted.stream, accepted.peer));
    }
    shared.borrow_mut().flush();
}

/// A connection has come, or has come back. To be flushed.
pub(crate) fn arrived(shared: &Shared, connection: Connection) {
    let mut exchange = shared.borrow_mut();
    if !exchange.hosts_matter() {
        return exchange.arrived(connection);
    }
    let look = exchange.look(connection.socket.as_fd(), &connection.read);
    if look != Look::More {
        return looked(&mut exchange, connection, look);
    }
    let id = exchange.number();
    let task = tokio::task::spawn_local({
        let shared = Rc::clone(shared);
        async move {
            let heard = hear(&shared, connection).await;
            let mut exchange = shared.borrow_mut();
            exchange.hears_no_more(id);
            match heard {
                Some((connection, look)) => looked(&mut exchange, connection, look),
                None => exchange.counts.unheard += 1,
            }
            exchange.flush();
        }
    });
    exchange.hears(id, task.abort_handle());
}

fn looked(exchange: &mut Exchange, connection: Connection, look: Look) {
    match look {
        Look::Host(host) => return exchange.heard(connection, host),
        Look::Refuse(refusal) => refuse(connection.socket, refusal),
        Look::Close | Look::More => {}
    }
    exchange.counts.unheard += 1;
}

/// Waits for the head of a connection; `None` if it did not come in time.
async fn hear(shared: &Shared, mut connection: Connection) -> Option<(Connection, Look)> {
    let deadline = Instant::now() + shared.borrow().limits.header_timeout;
    let socket = skep_sys::watch(connection.socket).ok()?;
    let mut looks = 0_u32;
    loop {
        let readable = tokio::time::timeout_at(deadline.into(), socket.readable());
        let mut readable = readable.await.ok()?.ok()?;
        // To peek does not tell: what has arrived is still there.
        let ended = readable.ready().is_read_closed();
        readable.clear_ready();
        let look = shared
            .borrow_mut()
            .look(socket.get_ref().as_fd(), &connection.read);
        if look != Look::More || ended {
            connection.socket = socket.into_inner();
            return Some((connection, look));
        }
        looks += 1;
        if let Some(more) = looks.checked_sub(FREE_LOOKS) {
            let pause = Duration::from_millis(1 << more.min(16)).min(MAX_PAUSE);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Tells a client that its head was not good, as far as the socket takes that
/// at once.
fn refuse(socket: OwnedFd, refusal: Refusal) {
    let status = match refusal {
        Refusal::Bad => "400 Bad Request",
        Refusal::TooLarge => "431 Request Header Fields Too Large",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{status}\n",
        status.len() + 1
    );
    let mut socket = File::from(socket);
    // The client may have gone. What it sent is read so that the kernel does
    // not reset the connection before the answer has arrived.
    if socket.write_all(answer.as_bytes()).is_ok() {
        let _ = socket.read(&mut [0; 16 << 10]);
    }
}

/// Hears and serves one worker's channel until it is gone.
pub(crate) fn meet(
    shared: &Shared,
    worker: WorkerId,
    pool: PoolName,
    cell: u16,
    channel: Channel,
) -> io::Result<()> {
    let channel = Rc::new(skep_sys::watch(channel)?);
    let blocked = Rc::new(Notify::new());
    let reader = tokio::task::spawn_local({
        let (shared, channel) = (Rc::clone(shared), Rc::clone(&channel));
        async move {
            while let Ok(mut readable) = channel.readable().await {
                readable.clear_ready();
                hear_worker(&shared, worker);
                // A channel that was closed is readable for ever.
                if !shared.borrow().knows(worker) {
                    return;
                }
            }
        }
    });
    let writer = tokio::task::spawn_local({
        let (shared, channel) = (Rc::clone(shared), Rc::clone(&channel));
        let blocked = Rc::clone(&blocked);
        async move {
            loop {
                blocked.notified().await;
                let Ok(mut writable) = channel.writable().await else {
                    return;
                };
                writable.clear_ready();
                shared.borrow_mut().flush();
            }
        }
    });
    let tasks = vec![reader.abort_handle(), writer.abort_handle()];
    let taker = Taker::new(pool, cell, channel, blocked, tasks);
    shared.borrow_mut().worker(worker, taker);
    Ok(())
}

/// Takes what a worker has said, and says what follows from it.
pub(crate) fn hear_worker(shared: &Shared, worker: WorkerId) {
    let back = shared.borrow_mut().hear_worker(worker);
    for connection in back {
        arrived(shared, connection);
    }
    shared.borrow_mut().flush();
}

/// Looks after what waits for a worker, for ever.
pub(crate) async fn pump(shared: Shared) {
    let queued = shared.borrow().queued();
    loop {
        queued.notified().await;
        while shared.borrow().is_queueing() {
            tokio::time::sleep(LOOK).await;
            let mut exchange = shared.borrow_mut();
            exchange.pump(Instant::now());
            exchange.flush();
        }
    }
}
