//! The state of a dispatcher: pools, hosts, workers, and the connections that
//! wait.
//!
//! ```text
//! accepted ──▶ hearing ── host ──▶ given ── took ──▶ closed here
//!                │  ▲     known      │ ▲
//!      late, bad,│  │     no worker  │ │ a worker is ready
//!      evicted   ▼  │       ready    ▼ │
//!             closed│              queued ── late ──▶ closed
//!                   └── given back by a worker ◀── declined, or died: given again
//! ```
//! Nothing here waits; the tasks around it do ([`crate::tasks`]).

mod back;
mod look;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use skep_core::route::{HostRoute, HostTable};
use skep_core::{ConnectionLimits, Dispatch, PoolName, WorkerId};
use skep_sys::{Board, LocalAddress, Peer};
use skep_wire::{DispatchCounts, Spoken};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::acceptor::{Acceptor, Connection};
use crate::choose::{Mixers, choose};
use crate::peek;
use crate::read_ahead::{Kept, ReadAhead};

pub(crate) use look::{Look, Refusal};

/// How long a connection waits for a worker of its pool. As long as a slow
/// start with a few attempts takes.
pub(crate) const WORKER_PATIENCE: Duration = Duration::from_secs(30);

/// Most connections that wait for their head. Each costs a descriptor and some
/// hundred bytes.
const MAX_HEARING: usize = 16 << 10;

/// Most connections that wait for a worker of one pool, so that a pool without
/// one does not use up what belongs to the others.
const MAX_QUEUED: usize = 2048;

/// All that a dispatcher knows.
pub(crate) struct Exchange {
    pub(crate) limits: ConnectionLimits,
    /// Where its listener listens, and its connections end.
    local: LocalAddress,
    pools: BTreeMap<PoolName, Pool>,
    hosts: Option<Hosts>,
    acceptors: BTreeMap<WorkerId, Acceptor>,
    /// Connections that wait for their head, in the order in which they began,
    /// with the cookies of their sockets.
    hearing: BTreeMap<u64, (AbortHandle, u64)>,
    max_hearing: usize,
    mixers: Mixers,
    pub(crate) counts: DispatchCounts,
    /// Clients that were refused and are still read from.
    pub(crate) lingering: usize,
    /// Workers that are talked with no more, and why; not told of yet.
    distrusted: Vec<(WorkerId, String)>,
    /// The first number that was given, and the next one.
    first: u64,
    next: u64,
    /// What is peeked at, one connection at a time.
    buffer: Vec<u8>,
    /// Something waits for a worker.
    queued: Rc<Notify>,
}

/// A pool that the listener serves.
struct Pool {
    dispatch: Dispatch,
    board: Board,
    workers: Vec<WorkerId>,
    /// Where the search for a worker begins.
    turn: usize,
    queue: VecDeque<Connection>,
    /// What its workers had read of connections that they gave back.
    read_ahead: Kept,
}

struct Hosts {
    table: HostTable,
    otherwise: PoolName,
    /// Whether there is more than one pool to choose from.
    matter: bool,
}

impl Exchange {
    /// `descriptors` is how many this process may have; `first` is a number
    /// that no dispatcher of this listener has given yet, nor will have: the
    /// clock's nanoseconds are one, of which there are more than connections.
    pub(crate) fn new(
        limits: ConnectionLimits,
        local: LocalAddress,
        descriptors: u64,
        first: u64,
    ) -> Self {
        // Half for those that wait, half for those that are on their way.
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let mut exchange = Self {
            limits: ConnectionLimits::default(),
            local,
            pools: BTreeMap::new(),
            hosts: None,
            acceptors: BTreeMap::new(),
            hearing: BTreeMap::new(),
            max_hearing: MAX_HEARING.min(half),
            mixers: Mixers::default(),
            counts: DispatchCounts::default(),
            lingering: 0,
            distrusted: Vec::new(),
            first,
            next: first,
            buffer: Vec::new(),
            queued: Rc::new(Notify::new()),
        };
        exchange.limit(limits);
        exchange
    }

    pub(crate) fn limit(&mut self, limits: ConnectionLimits) {
        // What workers read of a head is never more than they let through.
        self.buffer = vec![0; peek::most(&limits) * 2];
        self.limits = limits;
    }

    pub(crate) fn pool(&mut self, name: PoolName, dispatch: Dispatch, board: Board) {
        match self.pools.get_mut(&name) {
            Some(pool) => (pool.dispatch, pool.board) = (dispatch, board),
            None => {
                let pool = Pool {
                    dispatch,
                    board,
                    workers: Vec::new(),
                    turn: 0,
                    queue: VecDeque::new(),
                    read_ahead: Kept::default(),
                };
                self.pools.insert(name, pool);
            }
        }
    }

    /// What waits for the pool goes where its hosts go now.
    pub(crate) fn pool_gone(&mut self, name: &PoolName) {
        let Some(pool) = self.pools.remove(name) else {
            return;
        };
        for connection in pool.queue {
            self.give(connection, name, None);
        }
    }

    pub(crate) fn hosts(&mut self, routes: &[HostRoute], otherwise: PoolName) {
        let matter = routes.iter().any(|route| route.pool != otherwise);
        let table = HostTable::new(routes);
        self.hosts = Some(Hosts {
            table,
            otherwise,
            matter,
        });
        for acceptor in self.acceptors.values_mut() {
            acceptor.hosts(matter);
        }
    }

    pub(crate) fn worker(&mut self, worker: WorkerId, mut acceptor: Acceptor) {
        if let Some(hosts) = &self.hosts {
            acceptor.hosts(hosts.matter);
        }
        if let Some(pool) = self.pools.get_mut(&acceptor.pool) {
            acceptor.read_ahead = pool.read_ahead.clone();
            pool.workers.push(worker);
            self.acceptors.insert(worker, acceptor);
        } else {
            acceptor.end();
        }
    }

    /// A worker is no more. What it had not acknowledged goes to others.
    pub(crate) fn worker_gone(&mut self, worker: WorkerId) {
        let Some(acceptor) = self.acceptors.remove(&worker) else {
            return;
        };
        let name = acceptor.pool.clone();
        if let Some(pool) = self.pools.get_mut(&name) {
            pool.workers.retain(|other| *other != worker);
        }
        for connection in acceptor.end() {
            self.counts.again += 1;
            self.give(connection, &name, None);
        }
    }

    /// Whether a connection that is accepted now would have somewhere to go.
    /// Where hosts matter it may have; where they do not, it had better wait in
    /// the kernel.
    pub(crate) fn may_accept(&self) -> bool {
        match &self.hosts {
            None => false,
            Some(hosts) if hosts.matter => true,
            Some(hosts) => {
                let pool = self.pools.get(&hosts.otherwise);
                pool.is_some_and(|pool| self.loads(pool, None).iter().any(Option::is_some))
            }
        }
    }

    /// Whether connections are handed out by their host.
    pub(crate) fn hosts_matter(&self) -> bool {
        self.hosts.as_ref().is_some_and(|hosts| hosts.matter)
    }

    /// A connection has come, or has come back, and its host does not matter.
    pub(crate) fn arrived(&mut self, connection: Connection) {
        match self.pool_of(None) {
            Some(pool) => self.give(connection, &pool, None),
            None => self.counts.unserved += 1,
        }
    }

    /// The host of a connection is known.
    pub(crate) fn heard(&mut self, mut connection: Connection, host: String) {
        let Some(pool) = self.pool_of(Some(&host)) else {
            self.counts.unserved += 1;
            return;
        };
        let now = Instant::now();
        if connection.from.take().is_some_and(|from| from != pool) {
            self.mixers.note(connection.peer, now);
        }
        connection.once = self.mixers.mixes(connection.peer, now);
        connection.host = Some(host);
        self.give(connection, &pool, None);
    }

    fn pool_of(&self, host: Option<&str>) -> Option<PoolName> {
        let hosts = self.hosts.as_ref()?;
        let found = hosts.table.pool_of(host);
        Some(found.unwrap_or(&hosts.otherwise).clone())
    }

    /// Gives a connection to a worker of the pool, another one than `except`, or
    /// has it wait for one.
    fn give(&mut self, mut connection: Connection, name: &PoolName, except: Option<WorkerId>) {
        let Some(pool) = self.pools.get(name) else {
            // It is served no longer: its hosts are somebody else's now.
            match self.pool_of(connection.host.as_deref()) {
                Some(other) if self.pools.contains_key(&other) => {
                    self.give(connection, &other, except);
                }
                _ => self.counts.unserved += 1,
            }
            return;
        };
        let loads = self.loads(pool, except);
        let pool = self.pools.get_mut(name).expect("it was there just now");
        if let Some(index) = choose(pool.dispatch, &loads, &mut pool.turn)
            && let Some(acceptor) = self.acceptors.get_mut(&pool.workers[index])
        {
            // Whoever had a copy may have changed that, and whoever gets it may
            // not.
            if skep_sys::make_nonblocking(connection.socket.as_fd()).is_ok() {
                acceptor.take(self.next, connection);
                self.next += 1;
            }
            return;
        }
        connection
            .until
            .get_or_insert_with(|| Instant::now() + WORKER_PATIENCE);
        pool.queue.push_back(connection);
        self.queued.notify_one();
        if pool.queue.len() > MAX_QUEUED {
            pool.queue.pop_front();
            self.counts.unserved += 1;
        }
    }

    /// How many connections each worker has, `None` where it takes no more.
    fn loads(&self, pool: &Pool, except: Option<WorkerId>) -> Vec<Option<u32>> {
        let load = |worker: &WorkerId| {
            let acceptor = self.acceptors.get(worker)?;
            let cell = pool.board.cell(acceptor.cell)?;
            let limit = self.limits.max_connections;
            let ready = cell.is_ready() && cell.owner() == worker.0 && Some(*worker) != except;
            if !ready || !acceptor.may_take(limit) {
                return None;
            }
            let unacknowledged = u32::try_from(acceptor.unacknowledged()).unwrap_or(u32::MAX);
            let load = cell.connections().saturating_add(unacknowledged);
            (load < limit).then_some(load)
        };
        pool.workers.iter().map(load).collect()
    }

    /// Gives what waits to workers that have become ready, and closes what has
    /// waited for too long.
    pub(crate) fn pump(&mut self, now: Instant) {
        let names: Vec<_> = self.pools.keys().cloned().collect();
        for name in names {
            let Some(pool) = self.pools.get_mut(&name) else {
                continue;
            };
            let mut queue = std::mem::take(&mut pool.queue);
            let waited = queue.len();
            queue.retain(|connection| connection.until.is_none_or(|until| until > now));
            self.counts.unserved += (waited - queue.len()) as u64;
            // Those that still find nobody queue up again, in order.
            for connection in queue {
                self.give(connection, &name, None);
            }
        }
    }

    /// Is told when something begins to wait for a worker.
    pub(crate) fn queued(&self) -> Rc<Notify> {
        Rc::clone(&self.queued)
    }

    /// Whether something waits for a worker.
    pub(crate) fn is_queueing(&self) -> bool {
        self.pools.values().any(|pool| !pool.queue.is_empty())
    }

    /// Whether nothing waits at all.
    pub(crate) fn is_quiet(&self) -> bool {
        let given = |acceptor: &Acceptor| acceptor.unacknowledged() > 0;
        self.hearing.is_empty()
            && self.lingering == 0
            && !self.is_queueing()
            && !self.acceptors.values().any(given)
    }

    /// The worker has exited. It is gone once what it said last was heard.
    pub(crate) fn exited(&self, worker: WorkerId) {
        if let Some(acceptor) = self.acceptors.get(&worker) {
            acceptor.exited();
        }
    }

    /// Ends when the worker's channel takes something again.
    pub(crate) fn room(
        &self,
        worker: WorkerId,
    ) -> Option<impl Future<Output = io::Result<()>> + use<>> {
        Some(self.acceptors.get(&worker)?.room())
    }

    /// The first number that this dispatcher gave.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Says what there is to say to the workers.
    pub(crate) fn flush(&mut self) {
        let mut gone = Vec::new();
        for (worker, acceptor) in &mut self.acceptors {
            if acceptor.flush().is_err() {
                gone.push(*worker);
            }
        }
        if !gone.is_empty() {
            for worker in gone {
                self.worker_gone(worker);
            }
            self.flush();
        }
    }

    /// Notes that a connection waits for its head, and closes the one that has
    /// waited longest if there are too many.
    pub(crate) fn hears(&mut self, id: u64, task: AbortHandle, cookie: u64) {
        self.hearing.insert(id, (task, cookie));
        if self.hearing.len() > self.max_hearing
            && let Some((_, (oldest, _))) = self.hearing.pop_first()
        {
            oldest.abort();
            self.counts.evicted += 1;
        }
    }

    pub(crate) fn hears_no_more(&mut self, id: u64) {
        self.hearing.remove(&id);
    }

    /// A number that nothing else has.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> DispatchCounts {
        let queued = self.pools.values().map(|pool| pool.queue.len());
        let waiting = self.hearing.len() + queued.sum::<usize>();
        DispatchCounts {
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            ..self.counts
        }
    }
}

/// A connection that has just come.
///
/// # Errors
///
/// It is broken already.
pub(crate) fn fresh(socket: OwnedFd, peer: Peer) -> io::Result<Connection> {
    Ok(Connection {
        cookie: skep_sys::cookie_of(socket.as_fd())?,
        socket,
        peer: address(peer),
        host: None,
        once: false,
        read: ReadAhead::default(),
        spoken: Spoken::Nothing,
        from: None,
        until: None,
    })
}

fn address(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_waited_longest_makes_room() {
        let local = LocalAddress::Unix("/nowhere".into());
        let mut exchange = Exchange::new(ConnectionLimits::default(), local, 4, 0);
        let tasks: Vec<_> = (0..4)
            .map(|_| tokio::spawn(std::future::pending::<()>()))
            .collect();
        for task in &tasks {
            let id = exchange.number();
            exchange.hears(id, task.abort_handle(), id);
        }
        let counts = exchange.counts();
        assert_eq!((counts.evicted, counts.waiting), (2, 2));
        for (index, task) in tasks.into_iter().enumerate() {
            if index < 2 {
                assert!(task.await.unwrap_err().is_cancelled());
            } else {
                assert!(!task.is_finished());
            }
        }
    }
}
