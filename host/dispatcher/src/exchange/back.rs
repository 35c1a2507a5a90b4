//! What workers say, none of whom is trusted: one may be run by a guest that has
//! left its sandbox, and a connection that it gives back goes to another pool.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use skep_core::{PoolName, WorkerId};
use skep_sys::LocalAddress;
use skep_wire::FromAcceptor;

use super::{Exchange, address};
use crate::acceptor::{Connection, GivenBack, Offence, Out, Said};
use crate::read_ahead::Kept;

impl Exchange {
    /// A worker says something. A connection that it gives back is the caller's
    /// to bring in.
    ///
    /// # Errors
    ///
    /// No worker says this.
    pub(crate) fn hear_worker(
        &mut self,
        worker: WorkerId,
        message: FromAcceptor,
        sockets: Vec<OwnedFd>,
    ) -> Result<Option<Connection>, Offence> {
        let Some(acceptor) = self.acceptors.get_mut(&worker) else {
            return Ok(None);
        };
        match acceptor.heard(message, sockets)? {
            Said::Took(took) => self.counts.handed_out += took,
            Said::Declined(declined) => {
                let pool = acceptor.pool.clone();
                for connection in declined {
                    self.give(connection, &pool, Some(worker));
                }
            }
            Said::GaveBack(back) => {
                let (id, pool) = (back.id, acceptor.pool.clone());
                let kept = acceptor.read_ahead.clone();
                let connection = self.returned(back, pool, &kept)?;
                self.counts.given_back += 1;
                if let Some(acceptor) = self.acceptors.get_mut(&worker) {
                    acceptor.got_back(id);
                }
                return Ok(connection);
            }
        }
        Ok(None)
    }

    /// The connection that a worker gave back, if it is one that it had; `None`
    /// if it is of no more use.
    fn returned(
        &mut self,
        back: GivenBack,
        pool: PoolName,
        kept: &Kept,
    ) -> Result<Option<Connection>, Offence> {
        let socket = back.socket.as_fd();
        let peer = match skep_sys::connected_peer(socket) {
            Ok(peer) => Some(peer),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(_) => return Err(Offence::NoConnection(back.id)),
        };
        let cookie = skep_sys::cookie_of(socket).map_err(|_| Offence::NoConnection(back.id))?;
        // What it had before this process began cannot be known, but that it is
        // of this listener.
        let is_it = match back.out {
            Out::Known { cookie: known, .. } => known == cookie,
            Out::Kept => self.is_of_listener(socket),
        };
        if !is_it {
            return Err(Offence::AnotherSocket(back.id));
        }
        if let Out::Known { spoken, .. } = back.out
            && !spoken.may_become(back.spoken)
        {
            return Err(Offence::Spoken(back.id));
        }
        // Of two workers that kept one connection, as they may where a dispatcher
        // died between the two, the first has given it back.
        if back.out == Out::Kept && self.has(cookie) {
            return Ok(None);
        }
        // The client has gone, or what was read is more than any worker reads.
        let Some(peer) = peer.filter(|_| back.read.len() < self.buffer.len()) else {
            return Ok(None);
        };
        // The pool's workers have read more than is kept for them.
        let Some(read) = kept.keep(back.read) else {
            self.counts.unserved += 1;
            return Ok(None);
        };
        Ok(Some(Connection {
            socket: back.socket,
            cookie,
            peer: address(peer),
            host: None,
            once: false,
            read,
            spoken: back.spoken,
            from: Some(pool),
            until: None,
        }))
    }

    fn is_of_listener(&self, socket: BorrowedFd<'_>) -> bool {
        match (skep_sys::local_of(socket), &self.local) {
            (Ok(LocalAddress::Tcp(end)), LocalAddress::Tcp(local)) => {
                end.port() == local.port()
                    && (local.ip().is_unspecified() || end.ip() == local.ip())
            }
            (Ok(end), local) => end == *local,
            (Err(_), _) => false,
        }
    }

    /// Whether a connection with this socket is here or with a worker.
    fn has(&self, cookie: u64) -> bool {
        self.hearing.values().any(|(_, other)| *other == cookie)
            || self.acceptors.values().any(|acceptor| acceptor.has(cookie))
            || self
                .pools
                .values()
                .flat_map(|pool| &pool.queue)
                .any(|connection| connection.cookie == cookie)
    }

    /// Ends the conversation with a worker for what it said.
    pub(crate) fn distrust(&mut self, worker: WorkerId, why: &Offence) {
        if self.acceptors.contains_key(&worker) {
            self.counts.distrusted += 1;
            self.distrusted.push((worker, why.to_string()));
            self.worker_gone(worker);
        }
    }

    /// Those whom it distrusts since this was last asked, and why.
    pub(crate) fn newly_distrusted(&mut self) -> Vec<(WorkerId, String)> {
        std::mem::take(&mut self.distrusted)
    }
}
