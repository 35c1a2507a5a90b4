//! Permits shared fairly between clients: who has the next one, and who has a
//! place in a queue whose length is bounded.
//!
//! Pure: no clock, no waiting. Whoever drives it tells what happens and wakes
//! those whose tickets come back. A *client* is whatever the caller tells apart
//! (an address, a network).
//!
//! ```text
//!            gather            admit, or wait and grant
//!   arrives ───────▶ gathers ─────────────────────────▶ holds ──give_back──▶ gone
//!      │                │ leave, or displaced             ▲
//!      │                ▼                                 │ grant
//!      │  wait        gone ◀── leave, or displaced ── in line
//!      └───────────────────────────────────────────────▶──┘
//! ```
//!
//! - *A free permit is not kept from anybody who waits*, except that a client
//!   which holds some leaves a few to those that hold fewer ([`reserve`]). So one
//!   client, or several, can never hold all permits of an app with calls that do
//!   not end, and a newcomer is served at once.
//! - *Who holds least goes first*; of several that hold as many, the one that
//!   waits for longest since it last had one. So a client with a thousand requests in line
//!   delays another's one request by one permit at most. Requests of one client
//!   go in the order in which they came.
//! - *A full queue has room for whoever has fewer places*: the newest request of
//!   the client with most places is displaced, unless the newcomer's client
//!   would then have as many.

use std::collections::{BTreeMap, BTreeSet};

/// A client that holds fewer than this may take the last permit: of three
/// permits, one that is kept free would be a third of the app.
const FREELY_HELD: u32 = 3;

/// Permits of a client for each that it leaves free. One in eight is little for
/// a client that is alone, such as a proxy, and enough for those that come while
/// another holds the rest.
const HELD_PER_FREE: u32 = 7;

/// Permits that must stay free after a client that holds so many has taken
/// another.
///
/// It depends on what this client holds, not on how many there are: where two
/// hold as much as they may there are still some for a third, and so on.
#[must_use]
pub const fn reserve(held: u32) -> u32 {
    if held < FREELY_HELD {
        0
    } else if held < HELD_PER_FREE {
        1
    } else {
        held / HELD_PER_FREE
    }
}

/// A request that has a place and no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket<C> {
    client: C,
    number: u64,
    kind: Kind,
}

/// What a request does in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It wants a permit.
    InLine,
    /// It waits for something else behind the same queue.
    Aside,
    /// It is not whole enough to be run.
    Gathers,
}

/// A request got a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered<C> {
    /// Its ticket.
    pub ticket: Ticket<C>,
    /// Whose place it is: that request is refused by it.
    pub instead_of: Option<Ticket<C>>,
}

/// There is no place for this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// The permits of one app and the places of its queue.
#[derive(Clone, Debug)]
pub struct Permits<C> {
    concurrency: u32,
    queue: u32,
    /// Permits that are held; more than there are after there were more.
    held: u32,
    /// Clients that hold a permit or have a place.
    clients: BTreeMap<C, Client>,
    /// Those that have a request in line, by who is next.
    turns: BTreeSet<(Turn, C)>,
    /// Requests in line.
    line: BTreeSet<(C, u64)>,
    /// Places of those in line and aside.
    waiting: Room<C>,
    /// Places of those that gather.
    gathering: Room<C>,
    next: u64,
}

/// How many permits a client holds, and when it last got one or gave one back;
/// of one that is new, when it came.
type Turn = (u32, u64);

#[derive(Clone, Copy, Debug, Default)]
struct Client {
    held: u32,
    in_line: u32,
    places: u32,
    last: u64,
}

impl<C> Ticket<C> {
    /// No other ticket of these permits has it, ever.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whose it is.
    pub const fn client(&self) -> &C {
        &self.client
    }
}

impl Client {
    fn turn(&self) -> Option<Turn> {
        (self.in_line > 0).then_some((self.held, self.last))
    }
}

impl<C: Copy + Ord> Permits<C> {
    /// So many permits and places.
    #[must_use]
    pub const fn new(concurrency: u32, queue: u32) -> Self {
        Self {
            concurrency,
            queue,
            held: 0,
            clients: BTreeMap::new(),
            turns: BTreeSet::new(),
            line: BTreeSet::new(),
            waiting: Room::new(),
            gathering: Room::new(),
            next: 1,
        }
    }

    /// Other limits from now on. Permits and places that are had stay valid;
    /// what is too much is withdrawn as it is given back. There may be a
    /// [`grant`](Self::grant) now.
    pub const fn resize(&mut self, concurrency: u32, queue: u32) {
        self.concurrency = concurrency;
        self.queue = queue;
    }

    /// Permits that are held.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// Requests that could go on if others ended: those in line and aside.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.places.len()
    }

    /// Gives this client a permit, if it may have one at once. Says whether it
    /// did. Nobody is passed over by it: whoever is in line may have none.
    pub fn admit(&mut self, client: C) -> bool {
        let (held, waits) = self
            .clients
            .get(&client)
            .map_or((0, false), |one| (one.held, one.in_line > 0));
        if waits || !self.may_take(held) {
            return false;
        }
        let number = self.number();
        self.held += 1;
        self.change(client, |one| {
            one.held += 1;
            one.last = number;
        });
        true
    }

    /// Takes a permit back. There may be a [`grant`](Self::grant) now.
    pub fn give_back(&mut self, client: C) {
        let number = self.number();
        self.held -= 1;
        self.change(client, |one| {
            one.held -= 1;
            one.last = number;
        });
    }

    /// Puts a request in line that was not admitted.
    ///
    /// # Errors
    ///
    /// The queue is full, and this client has no claim to the place of another.
    pub fn wait(&mut self, client: C) -> Result<Entered<C>, QueueFull> {
        self.enter(client, Kind::InLine)
    }

    /// Gives a request a place in the queue that waits for something other than
    /// a permit.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub fn aside(&mut self, client: C) -> Result<Entered<C>, QueueFull> {
        self.enter(client, Kind::Aside)
    }

    /// Gives a request a place that cannot be run yet. There are as many of
    /// these as requests that may run and wait, and they are in nobody's way.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub fn gather(&mut self, client: C) -> Result<Entered<C>, QueueFull> {
        self.enter(client, Kind::Gathers)
    }

    /// Takes a place back: of one that gives up, or needs it no more.
    pub fn leave(&mut self, ticket: Ticket<C>) {
        let place = (ticket.client, ticket.number);
        let room = match ticket.kind {
            Kind::Gathers => &mut self.gathering,
            Kind::InLine | Kind::Aside => &mut self.waiting,
        };
        if room.leave(place) {
            self.left(place);
        }
    }

    /// Gives a permit to the next in line, if there is one for it. To be asked
    /// until there is none.
    pub fn grant(&mut self) -> Option<Ticket<C>> {
        let &((held, _), client) = self.turns.first()?;
        // Who holds more may even less.
        if !self.may_take(held) {
            return None;
        }
        let &(_, number) = self
            .line
            .range((client, 0)..)
            .next()
            .expect("who has a turn has a request in line");
        let ticket = Ticket {
            client,
            number,
            kind: Kind::InLine,
        };
        let now = self.number();
        // Before it leaves: the client is to be known all the time.
        self.held += 1;
        self.change(client, |one| {
            one.held += 1;
            one.last = now;
        });
        self.leave(ticket);
        Some(ticket)
    }

    fn may_take(&self, held: u32) -> bool {
        self.concurrency.saturating_sub(self.held) > reserve(held)
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn enter(&mut self, client: C, kind: Kind) -> Result<Entered<C>, QueueFull> {
        let (room, limit) = match kind {
            Kind::Gathers => (
                &mut self.gathering,
                self.queue.saturating_add(self.concurrency),
            ),
            Kind::InLine | Kind::Aside => (&mut self.waiting, self.queue),
        };
        let number = self.next;
        let displaced = room.enter(limit, (client, number))?;
        self.next += 1;
        let instead_of = displaced.map(|place| self.displaced(place, kind));
        if kind == Kind::InLine {
            self.line.insert((client, number));
        }
        self.change(client, |one| {
            one.places += 1;
            if kind == Kind::InLine {
                one.in_line += 1;
                if one.in_line == 1 && one.held == 0 {
                    one.last = number;
                }
            }
        });
        Ok(Entered {
            ticket: Ticket {
                client,
                number,
                kind,
            },
            instead_of,
        })
    }

    /// The place was taken by another of this kind of place.
    fn displaced(&mut self, place: (C, u64), by: Kind) -> Ticket<C> {
        let in_line = self.line.contains(&place);
        self.left(place);
        let kind = match by {
            Kind::Gathers => Kind::Gathers,
            Kind::InLine | Kind::Aside if in_line => Kind::InLine,
            Kind::InLine | Kind::Aside => Kind::Aside,
        };
        Ticket {
            client: place.0,
            number: place.1,
            kind,
        }
    }

    /// It has left its room.
    fn left(&mut self, place: (C, u64)) {
        let in_line = self.line.remove(&place);
        self.change(place.0, |one| {
            one.places -= 1;
            one.in_line -= u32::from(in_line);
        });
    }

    /// Changes what is known of a client, and its turn with it.
    fn change(&mut self, client: C, change: impl FnOnce(&mut Client)) {
        let one = self.clients.entry(client).or_default();
        let before = one.turn();
        change(one);
        let after = one.turn();
        if one.held == 0 && one.places == 0 {
            self.clients.remove(&client);
        }
        if before != after {
            if let Some(turn) = before {
                self.turns.remove(&(turn, client));
            }
            if let Some(turn) = after {
                self.turns.insert((turn, client));
            }
        }
    }
}

/// A bounded number of places, and who has most of them.
#[derive(Clone, Debug)]
struct Room<C> {
    places: BTreeSet<(C, u64)>,
    counts: BTreeMap<C, u32>,
    order: BTreeSet<(u32, C)>,
}

impl<C: Copy + Ord> Room<C> {
    const fn new() -> Self {
        Self {
            places: BTreeSet::new(),
            counts: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Takes a place. Says whose, if it was not free.
    fn enter(&mut self, limit: u32, place: (C, u64)) -> Result<Option<(C, u64)>, QueueFull> {
        let mut instead_of = None;
        if self.places.len() >= limit as usize {
            let own = self.counts.get(&place.0).copied().unwrap_or(0);
            let &(most, whose) = self.order.last().ok_or(QueueFull)?;
            // Not where the two would only change sides.
            if own + 1 >= most {
                return Err(QueueFull);
            }
            let newest = self
                .places
                .range((whose, 0)..=(whose, u64::MAX))
                .next_back();
            let newest = *newest.expect("a client that is counted has a place");
            self.leave(newest);
            instead_of = Some(newest);
        }
        self.places.insert(place);
        self.count(place.0, |count| count + 1);
        Ok(instead_of)
    }

    /// Gives a place back. Whether it was had.
    fn leave(&mut self, place: (C, u64)) -> bool {
        let had = self.places.remove(&place);
        if had {
            self.count(place.0, |count| count - 1);
        }
        had
    }

    fn count(&mut self, client: C, change: impl FnOnce(u32) -> u32) {
        let count = self.counts.entry(client).or_default();
        self.order.remove(&(*count, client));
        *count = change(*count);
        if *count == 0 {
            self.counts.remove(&client);
        } else {
            self.order.insert((*count, client));
        }
    }
}

#[cfg(test)]
mod tests;
