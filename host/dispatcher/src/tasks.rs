//! What waits: for connections, for their heads, and for workers.
//!
//! All tasks share one thread, so the exchange is borrowed for an instant at a
//! time and never across a wait.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use skep_core::{PoolName, WorkerId};
use skep_link::{Ears, Heard, Link, LinkError};
use skep_sys::{Accepted, Channel, ExclusiveListener};
use skep_wire::{FromAcceptor, ToAcceptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use crate::acceptor::{Acceptor, Connection, Offence, Tasks};
use crate::exchange::{Exchange, Look, fresh};
use crate::refuse::refuse;

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

/// How long a worker may take nothing of what it is told. Its messages are
/// small and few: longer means that it hangs, which the primary finds out by
/// itself, or will not.
const TELL_PATIENCE: Duration = Duration::from_secs(30);

/// The exchange, on the one thread of a dispatcher.
pub(crate) type SharedExchange = Rc<RefCell<Exchange>>;

/// Accepts until told to stop. What waits then is still taken: where nobody
/// else accepts, it would be reset.
pub(crate) async fn accept(
    shared: SharedExchange,
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
                    accepted_one(&shared, accepted);
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
        accepted_one(&shared, accepted);
    }
    shared.borrow_mut().flush();
}

fn accepted_one(shared: &SharedExchange, accepted: Accepted) {
    shared.borrow_mut().counts.accepted += 1;
    match fresh(accepted.stream, accepted.peer) {
        Ok(connection) => arrived(shared, connection),
        Err(_) => shared.borrow_mut().counts.unserved += 1,
    }
}

/// A connection has come, or has come back. To be flushed.
fn arrived(shared: &SharedExchange, mut connection: Connection) {
    let mut exchange = shared.borrow_mut();
    if !exchange.hosts_matter() {
        return exchange.arrived(connection);
    }
    let look = look(&mut exchange, &mut connection);
    if look != Look::More {
        return looked(&mut exchange, shared, connection, look);
    }
    let id = exchange.number();
    let cookie = connection.cookie;
    let task = tokio::task::spawn_local({
        let shared = Rc::clone(shared);
        async move {
            let heard = hear(&shared, connection).await;
            let mut exchange = shared.borrow_mut();
            exchange.hears_no_more(id);
            match heard {
                Some((connection, look)) => looked(&mut exchange, &shared, connection, look),
                None => exchange.counts.unheard += 1,
            }
            exchange.flush();
        }
    });
    exchange.hears(id, task.abort_handle(), cookie);
}

fn look(exchange: &mut Exchange, connection: &mut Connection) -> Look {
    let Connection {
        socket,
        read,
        spoken,
        ..
    } = connection;
    exchange.look(socket.as_fd(), read, spoken)
}

fn looked(exchange: &mut Exchange, shared: &SharedExchange, connection: Connection, look: Look) {
    match look {
        Look::Host(host) => return exchange.heard(connection, host),
        Look::Refuse(refusal) => refuse(exchange, shared, connection.socket, refusal),
        Look::Close | Look::More => {}
    }
    exchange.counts.unheard += 1;
}

/// Waits for the head of a connection; `None` if it did not come in time.
async fn hear(shared: &SharedExchange, mut connection: Connection) -> Option<(Connection, Look)> {
    let deadline = Instant::now() + shared.borrow().limits.header_timeout;
    let socket = skep_sys::watch(connection.socket).ok()?;
    let mut looks = 0_u32;
    loop {
        let readable = tokio::time::timeout_at(deadline.into(), socket.readable());
        let mut readable = readable.await.ok()?.ok()?;
        // To peek does not tell: what has arrived is still there.
        let ended = readable.ready().is_read_closed();
        readable.clear_ready();
        let look = shared.borrow_mut().look(
            socket.get_ref().as_fd(),
            &connection.read,
            &mut connection.spoken,
        );
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

/// Hears and serves one worker's channel until it is gone.
pub(crate) fn meet(
    shared: &SharedExchange,
    worker: WorkerId,
    pool: PoolName,
    cell: u16,
    channel: Channel,
) -> io::Result<()> {
    let (ears, voice) = Link::<FromAcceptor, ToAcceptor>::new(channel)?.split();
    let blocked = Rc::new(Notify::new());
    let exited = Rc::new(Notify::new());
    let reader =
        tokio::task::spawn_local(listen(Rc::clone(shared), worker, ears, Rc::clone(&exited)));
    let writer = tokio::task::spawn_local(speak(Rc::clone(shared), worker, Rc::clone(&blocked)));
    let tasks = Tasks {
        blocked,
        exited,
        handles: vec![reader.abort_handle(), writer.abort_handle()],
    };
    let mut exchange = shared.borrow_mut();
    let acceptor = Acceptor::new(pool, cell, voice, exchange.first(), tasks);
    exchange.worker(worker, acceptor);
    Ok(())
}

/// Hears a worker until it has exited or said what no worker says.
async fn listen(
    shared: SharedExchange,
    worker: WorkerId,
    mut ears: Ears<FromAcceptor>,
    exited: Rc<Notify>,
) {
    let heard = loop {
        let heard = tokio::select! {
            biased;
            () = exited.notified() => {
                // A connection that it took is nobody else's.
                break hear_all(&shared, worker, || ears.next_of_the_last());
            }
            heard = ears.next() => heard,
        };
        let heard = match heard {
            Ok(Some((message, sockets))) => said(&shared, worker, message, sockets),
            Ok(None) => break Ok(()),
            Err(error) => Err(error.into()),
        };
        // What came along with it is heard before anything is answered.
        let heard = heard.and_then(|()| hear_all(&shared, worker, || ears.next_of_these()));
        if heard.is_err() {
            break heard;
        }
        shared.borrow_mut().flush();
    };
    let mut exchange = shared.borrow_mut();
    match heard {
        Ok(()) => exchange.worker_gone(worker),
        // Our own want of descriptors, for one, is nobody's offence.
        Err(Offence::Message(error)) if !matches!(error, LinkError::Frame(_)) => {
            exchange.worker_gone(worker);
        }
        Err(offence) => exchange.distrust(worker, &offence),
    }
    exchange.flush();
}

/// Hears what a worker has said already.
fn hear_all(
    shared: &SharedExchange,
    worker: WorkerId,
    mut next: impl FnMut() -> Heard<FromAcceptor>,
) -> Result<(), Offence> {
    while let Some((message, sockets)) = next()? {
        said(shared, worker, message, sockets)?;
    }
    Ok(())
}

fn said(
    shared: &SharedExchange,
    worker: WorkerId,
    message: FromAcceptor,
    sockets: Vec<OwnedFd>,
) -> Result<(), Offence> {
    let back = shared.borrow_mut().hear_worker(worker, message, sockets)?;
    if let Some(connection) = back {
        arrived(shared, connection);
    }
    Ok(())
}

/// Says to a worker what its channel did not take at once.
async fn speak(shared: SharedExchange, worker: WorkerId, blocked: Rc<Notify>) {
    loop {
        blocked.notified().await;
        let Some(room) = shared.borrow().room(worker) else {
            return;
        };
        let room = tokio::time::timeout(TELL_PATIENCE, room).await;
        let mut exchange = shared.borrow_mut();
        if !matches!(room, Ok(Ok(()))) {
            exchange.worker_gone(worker);
        }
        exchange.flush();
    }
}

/// Looks after what waits for a worker, for ever.
pub(crate) async fn pump(shared: SharedExchange) {
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
