//! Dispatchers: one process for each listener whose connections are handed
//! out. Who there must be, and what they are told.
//!
//! A dispatcher that is gone loses nothing that the kernel queues: the listener
//! stays open here, and its successor is told everything again, with new
//! channels to the workers. It accepts nothing before it has hosts; whoever
//! wants it to wait leaves them out of `Fleet::hosts`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use skep_core::identity::Role;
use skep_core::solo::{Event, State};
use skep_core::{ListenerName, LogLevel, PoolName, WorkerId};
use skep_sys::Channel;
use skep_wire::{DispatchCounts, FromDispatcher, ListenerRole, Peer, ToDispatcher, ToWorker};

use super::{Fleet, Phase, now};
use crate::listeners::Bound;
use crate::log::Speaker;
use crate::pool::Pool;
use crate::process::{Birth, Command, DispatcherRole, News, Process, Words};
use crate::single::{GRACE, Single};
use crate::told::{Hosts, Told, Wanted, Word};
use crate::walls::Walls;

/// What a dispatcher needs beyond the time that heads have: workers may take a
/// moment to be ready.
const HAND_OUT: Duration = Duration::from_secs(15);

/// The dispatcher of one listener.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) single: Single<DispatcherRole>,
    /// What it hands out. That of the next generation is not it until that is
    /// in force; `None` once the fleet ends.
    socket: Option<Arc<OwnedFd>>,
    role: ListenerRole,
    pub(super) told: Told,
    /// The pools that it hands out to, as they were when it was last told all.
    pub(super) serving: BTreeSet<PoolName>,
    /// What those before it counted.
    before: DispatchCounts,
    counts: DispatchCounts,
}

/// What a worker is told of others when it is born, and what they are told of
/// it once it is.
#[derive(Debug, Default)]
pub(super) struct Introduction {
    /// For the worker.
    pub(super) words: Vec<Words>,
    pub(super) dispatchers: Vec<(ListenerName, Arc<OwnedFd>)>,
    pub(super) connector: Option<Arc<OwnedFd>>,
}

impl Dispatcher {
    fn new(role: ListenerRole, socket: Option<Arc<OwnedFd>>, seed: u64) -> Self {
        let subject = ("listener", role.name.to_string());
        Self {
            single: Single::new(seed, Some(subject)),
            socket,
            told: Told::begun(role.limits.clone()),
            role,
            serving: BTreeSet::new(),
            before: DispatchCounts::default(),
            counts: DispatchCounts::default(),
        }
    }

    /// What all of this listener counted.
    pub(super) fn counts(&self) -> DispatchCounts {
        sum(self.before, self.counts)
    }
}

impl Fleet {
    /// Has a dispatcher for every listener that needs one. Those of listeners
    /// that do not any more, or that have another address, stay as they are
    /// while a reload may go back to them.
    pub(super) fn want_dispatchers(&mut self, going_back_is_possible: bool) {
        self.untold.all();
        let wanted: BTreeMap<ListenerName, (ListenerRole, Option<Arc<OwnedFd>>)> = self
            .listeners
            .dispatched()
            .map(|(name, bound)| {
                let socket = bound.socket().cloned();
                (name.clone(), (bound.role().clone(), socket))
            })
            .collect();
        for (name, (role, socket)) in &wanted {
            let seed = self.next_seed();
            let dispatcher = self
                .dispatchers
                .entry(name.clone())
                .or_insert_with(|| Dispatcher::new(role.clone(), socket.clone(), seed));
            let same = match (&dispatcher.socket, socket) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            };
            if same || !going_back_is_possible {
                dispatcher.socket.clone_from(socket);
                dispatcher.role = role.clone();
            }
            if !same && !going_back_is_possible {
                let within = self.time_to_hand_out(name);
                self.step_dispatcher(name, Event::Unwanted { within });
            }
            self.step_dispatcher(name, Event::Wanted);
        }
        if going_back_is_possible {
            return;
        }
        let surplus: Vec<_> = self
            .dispatchers
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in surplus {
            let within = self.time_to_hand_out(&name);
            self.step_dispatcher(&name, Event::Unwanted { within });
        }
        self.drop_ended_dispatchers();
    }

    /// How long a dispatcher that is not needed any more may go on with what it
    /// has accepted: heads may come as slowly as they always may.
    fn time_to_hand_out(&self, name: &ListenerName) -> Duration {
        let dispatcher = self.dispatchers.get(name);
        dispatcher.map_or(HAND_OUT, |is| is.role.limits.header_timeout + HAND_OUT)
    }

    /// Has the hosts of these listeners, as the specification has them, from
    /// now on; and those of no listener that is gone.
    pub(super) fn switch_hosts(&mut self) {
        let names: Vec<_> = self
            .listeners
            .dispatched()
            .map(|(name, _)| name.clone())
            .collect();
        let mut hosts = BTreeMap::new();
        for name in names {
            // Checked before the specification was adopted.
            if let Ok(Some(of)) = Hosts::of(&self.spec, &name) {
                hosts.insert(name, of);
            }
        }
        self.hosts = hosts;
        self.untold.all();
    }

    /// Whether a listener has the dispatcher that it needs, and that serves.
    pub(super) fn is_handed_out(&self, name: &ListenerName) -> bool {
        let needs = self.listeners.get(name).is_some_and(Bound::is_dispatched);
        let dispatcher = self.dispatchers.get(name);
        !needs || dispatcher.is_some_and(|is| is.single.solo().state() == State::Serving)
    }

    /// Ends all dispatchers: they hand out what they have, or are killed.
    pub(super) fn end_dispatchers(&mut self, event: &Event) {
        let names: Vec<_> = self.dispatchers.keys().cloned().collect();
        for name in names {
            if let Some(dispatcher) = self.dispatchers.get_mut(&name) {
                dispatcher.socket = None;
            }
            self.step_dispatcher(&name, event.clone());
        }
        self.drop_ended_dispatchers();
    }

    pub(super) fn hear_dispatcher(&mut self, name: &ListenerName, news: News<FromDispatcher>) {
        match news {
            News::Said(FromDispatcher::Ready { missing }) => {
                self.confined(&missing, |line| line.text("listener", name.as_str()));
                self.step_dispatcher(name, Event::Ready);
                self.announce();
            }
            News::Said(FromDispatcher::Unfit { message }) => {
                self.step_dispatcher(name, Event::Unfit { message });
            }
            News::Said(FromDispatcher::Counts(counts)) => {
                if let Some(dispatcher) = self.dispatchers.get_mut(name) {
                    dispatcher.counts = counts;
                }
            }
            News::Said(FromDispatcher::Distrusts { worker, why }) => {
                self.journal
                    .event(LogLevel::Error, "worker.distrusted", |line| {
                        line.number("worker", worker)
                            .text("listener", name.as_str())
                            .text("message", &why)
                    });
                // Its code is not skep's any more, whoever else it serves.
                if self.takes_from(worker, name) {
                    self.command(worker, Command::Kill);
                }
            }
            News::Said(FromDispatcher::Switched) => self.forget_lingering(name),
            // Its exit follows.
            News::Said(FromDispatcher::Drained) => {}
            News::Mute(mute) => {
                self.journal
                    .event(LogLevel::Error, "dispatcher.mute", |line| {
                        line.text("listener", name.as_str())
                            .text("message", &mute.reason())
                    });
            }
            News::Exited(status) => {
                self.step_dispatcher(name, Event::Exited(status));
                self.drop_ended_dispatchers();
            }
        }
    }

    pub(super) fn step_dispatcher(&mut self, name: &ListenerName, event: Event) {
        let Some(dispatcher) = self.dispatchers.get_mut(name) else {
            return;
        };
        let Dispatcher {
            single,
            socket,
            role,
            ..
        } = dispatcher;
        let heard = single.hears();
        let start = |board: Arc<OwnedFd>| {
            let socket = socket.clone().ok_or_else(closed)?;
            let begin = ToDispatcher::Begin {
                listener: role.name.clone(),
                limits: role.limits.clone(),
                sandbox: self.spec.server.sandbox,
            };
            let birth = Birth {
                id: name.clone(),
                title: format!("skep: dispatcher {name}"),
                messages: vec![(begin, vec![socket.into(), board.into()])],
                grace: GRACE,
                wall: Walls::around(Role::Dispatcher),
                log: (
                    self.journal.log().clone(),
                    Speaker::role("dispatcher", Some(("listener", name.to_string()))),
                ),
            };
            Process::<DispatcherRole>::start(birth, self.news.clone())
        };
        let other = single.step(now(), event, &self.journal, start);
        if other || single.hears() != heard {
            self.untold.all();
        }
        if other {
            dispatcher.told = Told::begun(dispatcher.role.limits.clone());
            let counts = std::mem::take(&mut dispatcher.counts);
            dispatcher.before = sum(dispatcher.before, counts);
            dispatcher.before.waiting = 0;
        }
    }

    /// Tells every dispatcher what it does not know yet. Returns whether that was
    /// anything.
    pub(super) fn tell_dispatchers(&mut self) -> bool {
        let mut any = false;
        let names: Vec<_> = self
            .dispatchers
            .iter()
            .filter(|(_, dispatcher)| dispatcher.single.hears())
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let (wanted, serving) = self.wanted_of(&name);
            let Some(dispatcher) = self.dispatchers.get_mut(&name) else {
                continue;
            };
            dispatcher.serving = serving;
            let words = dispatcher.told.catch_up(wanted);
            any |= !words.is_empty();
            for word in words {
                self.tell_dispatcher(&name, word);
            }
        }
        any
    }

    /// Whether a dispatcher was told of this worker.
    fn takes_from(&self, worker: WorkerId, name: &ListenerName) -> bool {
        let dispatcher = self.dispatchers.get(name);
        dispatcher.is_some_and(|dispatcher| dispatcher.told.knows_worker(worker))
    }

    /// What a dispatcher is to know, and to which pools it hands out.
    fn wanted_of(&self, name: &ListenerName) -> (Wanted, BTreeSet<PoolName>) {
        let dispatcher = &self.dispatchers[name];
        let bound = self.listeners.get(name).filter(|b| b.is_dispatched());
        let hosts = self.hosts.get(name);
        let serving: BTreeSet<PoolName> = bound
            .iter()
            .flat_map(|bound| bound.pools())
            .chain(hosts.iter().flat_map(|hosts| hosts.pools()))
            .cloned()
            .collect();
        let mut workers = BTreeMap::new();
        let of_pools = serving.iter().flat_map(|pool| {
            let workers = self.supervisor.workers_of(pool);
            workers.map(|worker| worker.id)
        });
        for id in of_pools.chain(dispatcher.told.workers()) {
            let worker = self.workers.get(&id);
            let pool = worker.and_then(|worker| self.pools.get(&worker.pool));
            let cell = pool.and_then(|pool| pool.cell_index(id));
            if let Some((worker, cell)) = worker.zip(cell) {
                workers.insert(id, (worker.pool.clone(), cell));
            }
        }
        // A pool that is served no more is known until its workers are gone:
        // they may have connections to give back.
        let pools = serving
            .iter()
            .chain(dispatcher.told.pools_of_workers())
            .filter_map(|name| Some((name.clone(), self.pools.get(name)?.spec.dispatch)));
        let wanted = Wanted {
            limits: bound.map_or_else(
                || dispatcher.role.limits.clone(),
                |bound| bound.role().limits.clone(),
            ),
            pools: pools.collect(),
            workers,
            hosts: hosts.cloned(),
        };
        (wanted, serving)
    }

    fn tell_dispatcher(&self, name: &ListenerName, word: Word) {
        let single = &self.dispatchers[name].single;
        let words = match word {
            Word::Limits(limits) => (ToDispatcher::Limits(limits), Vec::new()),
            Word::Pool(pool, dispatch) => {
                let Some(board) = self.pools.get(&pool).map(Pool::board_fd) else {
                    return;
                };
                (ToDispatcher::Pool { pool, dispatch }, vec![board.into()])
            }
            Word::Worker(worker, pool, cell) => {
                let peer = Peer::Dispatcher(self.dispatchers[name].role.clone());
                let Some((theirs, meet)) = self.pair("dispatcher", peer) else {
                    return;
                };
                self.command(worker, Command::Say(meet.0, meet.1));
                let word = ToDispatcher::Worker { worker, pool, cell };
                (word, vec![theirs.into()])
            }
            Word::Hosts(Hosts { hosts, otherwise }) => {
                (ToDispatcher::Hosts { hosts, otherwise }, Vec::new())
            }
            Word::WorkerGone(worker) => (ToDispatcher::WorkerGone { worker }, Vec::new()),
            Word::PoolGone(pool) => (ToDispatcher::PoolGone { pool }, Vec::new()),
        };
        single.say(words);
    }

    /// A channel between a worker and another process: that one's end, and the
    /// message that brings the worker its own.
    fn pair(&self, what: &str, peer: Peer) -> Option<(Arc<OwnedFd>, Words)> {
        // Neither end blocks, for a worker may not change that.
        match Channel::pair() {
            Ok((theirs, workers)) => {
                let meet = (ToWorker::Meet(peer), vec![Arc::new(workers).into()]);
                Some((Arc::new(OwnedFd::from(theirs)), meet))
            }
            Err(error) => {
                // The worker goes on without, as one would that starts now.
                let message = format!("no channel from a worker to the {what}: {error}");
                self.journal
                    .event(LogLevel::Error, "primary.limited", |line| {
                        line.text("message", &message)
                    });
                None
            }
        }
    }

    /// Whom a worker that is about to be born knows from the beginning.
    pub(super) fn introduction(&self, pool: &PoolName, takes_connections: bool) -> Introduction {
        let mut introduction = Introduction::default();
        for (name, dispatcher) in &self.dispatchers {
            let knows = dispatcher.single.hears() && dispatcher.told.knows(pool);
            let Some(hosts) = self.hosts.get(name).filter(|_| knows && takes_connections) else {
                continue;
            };
            let serves = self
                .listeners
                .get(name)
                .is_some_and(|bound| bound.is_dispatched() && bound.pools().contains(pool));
            if !serves && !hosts.pools().any(|named| named == pool) {
                continue;
            }
            let peer = Peer::Dispatcher(dispatcher.role.clone());
            if let Some((theirs, meet)) = self.pair("dispatcher", peer) {
                introduction.words.push(meet);
                introduction.dispatchers.push((name.clone(), theirs));
            }
        }
        if self.connector_knows(pool)
            && let Some((theirs, meet)) = self.pair("connector", Peer::Connector)
        {
            introduction.words.push(meet);
            introduction.connector = Some(theirs);
        }
        introduction
    }

    /// Tells those of a newborn worker that it was told of.
    pub(super) fn introduce(
        &mut self,
        worker: WorkerId,
        pool: &PoolName,
        introduction: Introduction,
    ) {
        let cell = self
            .pools
            .get(pool)
            .and_then(|pool| pool.cell_index(worker));
        for (name, theirs) in introduction.dispatchers {
            if let Some(dispatcher) = self.dispatchers.get_mut(&name)
                && let Some(cell) = cell
            {
                dispatcher.told.add_worker(worker, pool.clone());
                let pool = pool.clone();
                let word = ToDispatcher::Worker { worker, pool, cell };
                dispatcher.single.say((word, vec![theirs.into()]));
            }
        }
        if let Some(theirs) = introduction.connector {
            self.connect_newborn(worker, pool, theirs);
        }
    }

    /// A channel to the connector, for a worker that runs.
    pub(super) fn meet_connector(&self, worker: WorkerId) -> Option<Arc<OwnedFd>> {
        let (theirs, meet) = self.pair("connector", Peer::Connector)?;
        self.command_any(worker, Command::Say(meet.0, meet.1));
        Some(theirs)
    }

    fn drop_ended_dispatchers(&mut self) {
        let ending = self.phase != Phase::Running;
        let listeners = &self.listeners;
        self.dispatchers.retain(|name, dispatcher| {
            let wanted = listeners.get(name).is_some_and(Bound::is_dispatched);
            (wanted && !ending) || dispatcher.single.solo().state() != State::Absent
        });
    }
}

fn closed() -> std::io::Error {
    std::io::Error::other("the listener is closed")
}

fn sum(one: DispatchCounts, other: DispatchCounts) -> DispatchCounts {
    let DispatchCounts {
        accepted,
        handed_out,
        given_back,
        again,
        unheard,
        evicted,
        unserved,
        distrusted,
        waiting,
    } = other;
    DispatchCounts {
        accepted: one.accepted + accepted,
        handed_out: one.handed_out + handed_out,
        given_back: one.given_back + given_back,
        again: one.again + again,
        unheard: one.unheard + unheard,
        evicted: one.evicted + evicted,
        unserved: one.unserved + unserved,
        distrusted: one.distrusted + distrusted,
        waiting: one.waiting + waiting,
    }
}
