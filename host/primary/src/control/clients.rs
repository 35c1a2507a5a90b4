//! Who is connected to the control socket, and who goes when others come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Clients at a time. People and scripts are few; when one more comes, the one
/// goes that has been idle or has not read its reply for longest, so that nobody
/// keeps an operator out.
const MAX_CLIENTS: usize = 64;

/// Clients at a time where none is idle. More of them wait to be accepted.
const MOST_WAITING: usize = 256;

/// The clients that are connected.
#[derive(Debug, Default)]
pub(super) struct Clients {
    places: Mutex<BTreeMap<u64, Seated>>,
    left: Notify,
}

/// What is known of one client.
#[derive(Debug)]
struct Seated {
    /// Tells it to go.
    leave: Arc<Notify>,
    /// Since when it has asked for nothing or has not read its reply; `None` for
    /// one that waits for an answer.
    idle_since: Option<Instant>,
}

/// A client's place among the others, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    number: u64,
    leave: Arc<Notify>,
}

impl Clients {
    fn places(&self) -> MutexGuard<'_, BTreeMap<u64, Seated>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(clients: &Arc<Self>) -> Place {
        let mut places = clients.places();
        let number = places.last_key_value().map_or(0, |(last, _)| last + 1);
        let leave = Arc::new(Notify::new());
        let seated = Seated {
            leave: Arc::clone(&leave),
            idle_since: Some(Instant::now()),
        };
        places.insert(number, seated);
        Place {
            clients: Arc::clone(clients),
            number,
            leave,
        }
    }

    /// Ends when one more may come, however many wait for answers.
    pub(super) async fn not_full(&self) {
        loop {
            let left = self.left.notified();
            if self.places().len() < MOST_WAITING {
                return;
            }
            left.await;
        }
    }

    /// Ends when nobody is left.
    pub(super) async fn gone(&self) {
        loop {
            let left = self.left.notified();
            if self.places().is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl Place {
    /// If there are too many with this one, the one goes that has been idle for
    /// longest; nobody, if all others wait for answers.
    pub(super) fn make_room(&self) {
        let mut places = self.clients.places();
        if places.len() <= MAX_CLIENTS {
            return;
        }
        let others = places.iter().filter(|(number, _)| **number != self.number);
        let idle = others.filter_map(|(number, seated)| Some((seated.idle_since?, *number)));
        // It counts no more from now on: its task may go a little later.
        let longest = idle.min().and_then(|(_, number)| places.remove(&number));
        if let Some(longest) = longest {
            longest.leave.notify_one();
        }
    }

    /// Is told when this client is to go.
    pub(super) fn leave(&self) -> Arc<Notify> {
        Arc::clone(&self.leave)
    }

    pub(super) fn note_idle(&self, is_idle: bool) {
        if let Some(seated) = self.clients.places().get_mut(&self.number) {
            seated.idle_since = is_idle.then(Instant::now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.places().remove(&self.number);
        // Kept for whoever looks next.
        self.clients.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_silent_clients_leaves_room() {
        let clients = Arc::new(Clients::default());
        let places: Vec<_> = (0..MOST_WAITING * 2)
            .map(|_| {
                let place = Clients::enter(&clients);
                place.make_room();
                assert!(clients.places().len() <= MAX_CLIENTS);
                place
            })
            .collect();
        // The last ones stay; the first ones were told to go.
        assert!(
            clients
                .places()
                .contains_key(&places[places.len() - 1].number)
        );
        places[0].leave().notified().await;
        clients.not_full().await;
        drop(places);
        clients.gone().await;
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_stays() {
        let clients = Arc::new(Clients::default());
        let enter = || {
            let place = Clients::enter(&clients);
            place.make_room();
            place
        };
        let busy: Vec<_> = (0..MAX_CLIENTS).map(|_| enter()).collect();
        busy.iter().for_each(|place| place.note_idle(false));
        let idle = enter();
        let _newest = enter();
        idle.leave().notified().await;
        assert_eq!(clients.places().len(), MAX_CLIENTS + 1);
    }
}
