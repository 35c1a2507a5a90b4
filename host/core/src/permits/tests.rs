use proptest::prelude::*;

use super::*;

type Id = u8;

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap()
}

fn alone(concurrency: u32) -> u32 {
    let mut permits = Permits::new(concurrency, 0);
    let got = (0..=concurrency).take_while(|_| permits.admit(1));
    number(got.count())
}

#[test]
fn a_client_alone_has_all_but_an_eighth() {
    for concurrency in 1..=3 {
        assert_eq!(alone(concurrency), concurrency);
    }
    for concurrency in 4..2000 {
        let left = concurrency - alone(concurrency);
        let eighth = concurrency.div_ceil(8);
        assert!((1..=eighth).contains(&left), "{left} of {concurrency}");
    }
    assert_eq!(alone(100), 88);
}

#[test]
fn who_comes_while_others_hold_all_they_may_is_served_at_once() {
    // Up to seven clients that hold on to whatever they can have.
    for greedy in 1..=7 {
        let mut permits = Permits::new(50, 1000);
        for _ in 0..50 {
            for client in 0..greedy {
                if !permits.admit(client) {
                    permits.wait(client).unwrap();
                }
            }
        }
        assert_eq!(permits.grant(), None);
        assert!(permits.admit(100), "{greedy}");
    }
}

#[test]
fn a_thousand_in_line_delay_one_of_another_by_one() {
    let mut permits = Permits::new(2, 2000);
    assert!(permits.admit(1) && permits.admit(1));
    for _ in 0..1000 {
        permits.wait(1).unwrap();
    }
    let one = permits.wait(2).unwrap().ticket;
    assert_eq!(permits.grant(), None);
    permits.give_back(1);
    assert_eq!(permits.grant(), Some(one));
    // And so on, in turns, also where there is one permit only.
    let second = permits.wait(2).unwrap().ticket;
    permits.give_back(2);
    assert_eq!(permits.grant(), Some(second));
    permits.give_back(1);
    assert_eq!(*permits.grant().unwrap().client(), 1);
    let mut permits = Permits::new(1, 2000);
    assert!(permits.admit(1));
    for client in [1, 1, 2, 1, 2, 3] {
        permits.wait(client).unwrap();
    }
    for client in [2, 3, 1, 2, 1, 1] {
        permits.give_back(
            *permits
                .clients
                .iter()
                .find(|(_, one)| one.held > 0)
                .unwrap()
                .0,
        );
        assert_eq!(permits.grant().unwrap().client, client);
    }
}

#[test]
fn a_full_queue_has_room_for_who_has_fewer_places() {
    let mut permits = Permits::new(1, 4);
    assert!(permits.admit(1));
    let hoard: Vec<_> = (0..4).map(|_| permits.wait(1).unwrap().ticket).collect();
    assert_eq!(permits.wait(1), Err(QueueFull));
    let one = permits.wait(2).unwrap();
    assert_eq!(one.instead_of, Some(hoard[3]));
    // Displaced: leaving is nothing any more.
    permits.leave(hoard[3]);
    let aside = permits.aside(2).unwrap();
    assert_eq!(aside.instead_of, Some(hoard[2]));
    // As many as the other has now: they would only change sides.
    assert_eq!(permits.wait(2), Err(QueueFull));
    assert_eq!(permits.aside(1), Err(QueueFull));
    // As long as anybody has two.
    assert!(permits.wait(3).unwrap().instead_of.is_some());
    assert!(permits.wait(4).unwrap().instead_of.is_some());
    assert_eq!(permits.wait(5), Err(QueueFull));
}

#[test]
fn those_that_gather_are_in_nobodys_way() {
    let mut permits = Permits::new(2, 0);
    let slow: Vec<_> = (0..2).map(|_| permits.gather(1).unwrap().ticket).collect();
    assert_eq!(permits.gather(1), Err(QueueFull));
    assert!(permits.admit(2) && permits.admit(2));
    assert_eq!(permits.gather(2).unwrap().instead_of, Some(slow[1]));
    assert_eq!(permits.wait(1), Err(QueueFull));
    permits.leave(slow[0]);
    permits.give_back(2);
    assert!(permits.admit(1));
}

#[derive(Clone, Debug)]
enum Event {
    /// Asks for a permit, and waits if there is none.
    Arrive(Id),
    Aside(Id),
    Gather(Id),
    /// One of those that wait gives up.
    Leave(usize),
    /// One that holds a permit has ended.
    End(usize),
    Resize(u32, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..5_u8).prop_map(Event::Arrive),
        4 => Just(Event::Arrive(0)),
        1 => (0..5_u8).prop_map(Event::Aside),
        2 => (0..5_u8).prop_map(Event::Gather),
        2 => any::<usize>().prop_map(Event::Leave),
        6 => any::<usize>().prop_map(Event::End),
        1 => (1..20_u32, 0..12_u32).prop_map(|(c, q)| Event::Resize(c, q)),
    ]
}

/// What is known from outside.
struct Model {
    permits: Permits<Id>,
    concurrency: u32,
    queue: u32,
    held: Vec<Id>,
    places: Vec<Ticket<Id>>,
    /// For each client that waits and holds nothing: whom permits were given to
    /// since.
    passed: BTreeMap<Id, Vec<Id>>,
}

impl Model {
    fn places_of(&self, room: bool, client: Id) -> usize {
        let places = self.places.iter();
        places
            .filter(|one| (one.kind == Kind::Gathers) == room && one.client == client)
            .count()
    }

    fn held_by(&self, client: Id) -> u32 {
        number(self.held.iter().filter(|one| **one == client).count())
    }

    fn waits(&self, client: Id) -> bool {
        let places = self.places.iter();
        places
            .filter(|one| one.kind == Kind::InLine)
            .any(|one| one.client == client)
    }

    fn granted(&mut self, client: Id) {
        // Never more than there are.
        assert!(self.held.len() < self.concurrency as usize);
        for (waiting, passed) in &mut self.passed {
            if *waiting != client {
                assert!(!passed.contains(&client), "{client} twice before {waiting}");
                passed.push(client);
            }
        }
        self.held.push(client);
        self.passed.remove(&client);
    }

    fn enter(&mut self, gathers: bool, client: Id, entered: Result<Entered<Id>, QueueFull>) {
        let in_room = self
            .places
            .iter()
            .filter(|one| (one.kind == Kind::Gathers) == gathers)
            .count();
        let limit = self.queue + if gathers { self.concurrency } else { 0 };
        let most = (0..5)
            .map(|other| self.places_of(gathers, other))
            .max()
            .unwrap();
        let own = self.places_of(gathers, client);
        match entered {
            Ok(Entered {
                ticket,
                instead_of: None,
            }) => {
                assert!(in_room < limit as usize);
                self.places.push(ticket);
            }
            Ok(Entered {
                ticket,
                instead_of: Some(displaced),
            }) => {
                assert!(in_room >= limit as usize);
                assert!(own + 1 < most);
                // The newest of one that has most.
                assert_eq!(self.places_of(gathers, displaced.client), most);
                let newest = self
                    .places
                    .iter()
                    .filter(|one| (one.kind == Kind::Gathers) == gathers)
                    .filter(|one| one.client == displaced.client)
                    .max_by_key(|one| one.number);
                assert_eq!(newest, Some(&displaced));
                self.places.retain(|one| *one != displaced);
                self.places.push(ticket);
            }
            Err(QueueFull) => {
                assert!(in_room >= limit as usize);
                assert!(own + 1 >= most);
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Arrive(client) => {
                let order = self.waits(client);
                if self.permits.admit(client) {
                    assert!(!order, "past its own requests");
                    self.granted(client);
                } else {
                    let entered = self.permits.wait(client);
                    self.enter(false, client, entered);
                }
            }
            Event::Aside(client) => {
                let entered = self.permits.aside(client);
                self.enter(false, client, entered);
            }
            Event::Gather(client) => {
                let entered = self.permits.gather(client);
                self.enter(true, client, entered);
            }
            Event::Leave(which) => {
                if !self.places.is_empty() {
                    let ticket = self.places.swap_remove(which % self.places.len());
                    self.permits.leave(ticket);
                }
            }
            Event::End(which) => {
                if !self.held.is_empty() {
                    let client = self.held.swap_remove(which % self.held.len());
                    self.permits.give_back(client);
                }
            }
            Event::Resize(concurrency, queue) => {
                self.permits.resize(concurrency, queue);
                (self.concurrency, self.queue) = (concurrency, queue);
            }
        }
        while let Some(ticket) = self.permits.grant() {
            self.settle(ticket);
        }
        self.check();
    }

    /// The next one was given a permit.
    fn settle(&mut self, ticket: Ticket<Id>) {
        // In the order in which they came.
        let line = self.places.iter().filter(|one| one.kind == Kind::InLine);
        let first = line
            .clone()
            .filter(|one| one.client == ticket.client)
            .min_by_key(|one| one.number);
        assert_eq!(first, Some(&ticket));
        // Nobody who waits holds less.
        let held = self.held_by(ticket.client);
        assert!(line.clone().all(|one| self.held_by(one.client) >= held));
        self.places.retain(|one| *one != ticket);
        self.granted(ticket.client);
    }

    fn check(&mut self) {
        for client in 0..5 {
            if !self.waits(client) || self.held_by(client) > 0 {
                self.passed.remove(&client);
            } else {
                self.passed.entry(client).or_default();
            }
            // A permit that is free is kept from nobody but who holds many.
            let free = self.concurrency.saturating_sub(number(self.held.len()));
            if self.waits(client) {
                assert!(free <= reserve(self.held_by(client)));
            }
        }
        assert_eq!(self.permits.held() as usize, self.held.len());
        // Nothing is remembered of who is gone.
        let known = |client: &Id| {
            self.held.contains(client) || self.places.iter().any(|one| one.client == *client)
        };
        assert!(self.permits.clients.keys().all(known));
        assert_eq!(
            self.permits.waiting.places.len() + self.permits.gathering.places.len(),
            self.places.len()
        );
        assert_eq!(
            self.permits.turns.len(),
            (0..5).filter(|client| self.waits(*client)).count()
        );
    }
}

proptest! {
    /// Whatever comes in whatever order: permits are never kept back for
    /// nothing, go to who holds least and round, requests of one client in
    /// their order, and places from who has most to who has fewer.
    #[test]
    fn permits_and_places_are_shared_fairly(
        concurrency in 1..20_u32,
        queue in 0..12_u32,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut model = Model {
            permits: Permits::new(concurrency, queue),
            concurrency,
            queue,
            held: Vec::new(),
            places: Vec::new(),
            passed: BTreeMap::new(),
        };
        for event in events {
            model.apply(&event);
        }
        // All of it comes to an end.
        while !model.held.is_empty() || !model.places.is_empty() {
            model.apply(&Event::End(0));
            if model.held.is_empty() {
                model.apply(&Event::Leave(0));
            }
        }
        prop_assert!(model.permits.clients.is_empty());
        prop_assert_eq!(model.permits.waiting(), 0);
        prop_assert!(model.permits.line.is_empty());
        prop_assert!(model.permits.gathering.order.is_empty());
    }
}
