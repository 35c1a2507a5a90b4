//! The right to call an app: permits of this worker's share, and a queue for
//! those that find none.
//!
//! All handlers of an app share one of these, so that an app has never more
//! calls in flight than its limit, whatever is swapped. The limits are those of
//! its stable handler; a plan that changes them changes them in place.
//! [`skep_core::permits`] decides whose turn it is and who has a place; this
//! module keeps the requests that wait for that.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use skep_core::permits::{Entered, Permits, QueueFull, Ticket};
use skep_core::{AppLimits, Outcome};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

use crate::budget::Origin;

/// One worker's share of an app's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Calls at one time; at least 1.
    pub(crate) concurrency: u32,
    /// Requests that may wait.
    pub(crate) queue: u32,
}

impl Share {
    /// The share of one of so many workers, rounded up.
    pub(crate) fn of(limits: &AppLimits, workers: u16) -> Self {
        let workers = u32::from(workers.max(1));
        Self {
            concurrency: limits.concurrency.div_ceil(workers).max(1),
            queue: limits.queue.div_ceil(workers),
        }
    }
}

/// The permits of one app.
#[derive(Debug)]
pub(crate) struct Admission {
    state: Mutex<State>,
    /// A request has to wait.
    pressed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    permits: Permits<Origin>,
    /// Those that have a place, by the numbers of their tickets.
    told: BTreeMap<u64, Told>,
}

/// What was decided about a request that has a place.
#[derive(Debug)]
enum Told {
    /// Nothing yet.
    Nothing(Option<Waker>),
    /// It has a permit.
    Admitted,
    /// Its place was given to another.
    Displaced,
}

impl State {
    /// Takes a place as the permits give it. Says whom to wake.
    fn enter(
        &mut self,
        entered: Result<Entered<Origin>, QueueFull>,
    ) -> Result<(Ticket<Origin>, Option<Waker>), QueueFull> {
        let Entered { ticket, instead_of } = entered?;
        self.told.insert(ticket.number(), Told::Nothing(None));
        let displaced = instead_of.and_then(|whose| self.tell(whose, Told::Displaced));
        Ok((ticket, displaced))
    }

    fn tell(&mut self, whose: Ticket<Origin>, told: Told) -> Option<Waker> {
        match std::mem::replace(self.told.get_mut(&whose.number())?, told) {
            Told::Nothing(waker) => waker,
            Told::Admitted | Told::Displaced => None,
        }
    }
}

impl Admission {
    pub(crate) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                permits: Permits::new(share.concurrency, share.queue),
                told: BTreeMap::new(),
            }),
            pressed: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves it consistent; it is held for one step only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit, if one is free for this client.
    pub(crate) fn try_admit(self: &Arc<Self>, origin: Origin) -> Option<Permit> {
        let admitted = self.state().permits.admit(origin);
        admitted.then(|| Permit {
            of: Arc::clone(self),
            origin,
        })
    }

    /// A permit, at once or after a wait in the queue that is bounded in time.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        origin: Origin,
        until: Instant,
    ) -> Result<Permit, Outcome> {
        if let Some(permit) = self.try_admit(origin) {
            return Ok(permit);
        }
        let mut place = self.enter(|permits| permits.wait(origin))?;
        self.pressed.notify_one();
        match timeout_at(until, poll_fn(|cx| place.poll_told(cx))).await {
            Ok(true) => Ok(Permit {
                of: Arc::clone(self),
                origin,
            }),
            Ok(false) | Err(_) => Err(Outcome::QueueFull),
        }
    }

    /// A place in the queue for a request that waits for something other than a
    /// permit.
    pub(crate) fn aside(self: &Arc<Self>, origin: Origin) -> Result<Place, Outcome> {
        let place = self.enter(|permits| permits.aside(origin))?;
        self.pressed.notify_one();
        Ok(place)
    }

    /// A place for a request that cannot be run yet.
    pub(crate) fn gather(self: &Arc<Self>, origin: Origin) -> Result<Place, Outcome> {
        self.enter(|permits| permits.gather(origin))
    }

    fn enter(
        self: &Arc<Self>,
        entered: impl FnOnce(&mut Permits<Origin>) -> Result<Entered<Origin>, QueueFull>,
    ) -> Result<Place, Outcome> {
        let mut state = self.state();
        let entered = entered(&mut state.permits);
        let entered = state.enter(entered);
        drop(state);
        let (ticket, displaced) = entered.map_err(|QueueFull| Outcome::QueueFull)?;
        if let Some(waker) = displaced {
            waker.wake();
        }
        Ok(Place {
            of: Arc::clone(self),
            ticket,
        })
    }

    /// Whether nobody holds a permit or waits.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state();
        state.permits.held() == 0 && state.permits.waiting() == 0
    }

    /// Whether requests wait for others to end.
    pub(crate) fn is_pressed(&self) -> bool {
        self.state().permits.waiting() > 0
    }

    /// The next time that a request has to wait. Of those that await this, one
    /// is told of each.
    pub(crate) fn pressed(&self) -> OwnedNotified {
        Arc::clone(&self.pressed).notified_owned()
    }

    /// Changes the limits. Permits that are held stay valid; where there are
    /// too many of them, they are withdrawn as they are given back.
    pub(crate) fn resize(&self, share: Share) {
        let Share { concurrency, queue } = share;
        self.state().permits.resize(concurrency, queue);
        self.settle();
    }

    /// Gives permits to those that are next.
    fn settle(&self) {
        loop {
            let mut state = self.state();
            let Some(next) = state.permits.grant() else {
                return;
            };
            let waker = state.tell(next, Told::Admitted);
            // A request that is woken may lock this again.
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn give_back(&self, origin: Origin) {
        self.state().permits.give_back(origin);
        self.settle();
    }
}

/// The right to make one call. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit {
    of: Arc<Admission>,
    origin: Origin,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.give_back(self.origin);
    }
}

/// A place in the queue; given back also when the client goes while it waits.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Admission>,
    ticket: Ticket<Origin>,
}

impl Place {
    /// Resolves when the place was given to a client that had fewer: then this
    /// request is to be refused.
    pub(crate) async fn displaced(&mut self) {
        poll_fn(|cx| self.poll_told(cx)).await;
    }

    /// What became of it: whether it has a permit, which is then the caller's.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.of.state();
        let told = &mut state.told;
        match told.get_mut(&self.ticket.number()) {
            Some(Told::Nothing(waker)) => {
                waker
                    .get_or_insert_with(|| cx.waker().clone())
                    .clone_from(cx.waker());
                Poll::Pending
            }
            Some(Told::Admitted) => {
                told.remove(&self.ticket.number());
                Poll::Ready(true)
            }
            Some(Told::Displaced) | None => Poll::Ready(false),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.state();
        match state.told.remove(&self.ticket.number()) {
            Some(Told::Nothing(_)) => state.permits.leave(self.ticket),
            Some(Told::Displaced) | None => {}
            Some(Told::Admitted) => {
                drop(state);
                self.of.give_back(*self.ticket.client());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::time::Duration;

    use skep_sys::Peer;

    use super::*;

    fn client(last: u8) -> Origin {
        Origin::of(&Peer::Tcp(([192, 0, 2, last], 80).into()))
    }

    fn admission(concurrency: u32, queue: u32) -> Arc<Admission> {
        Admission::new(Share { concurrency, queue })
    }

    fn resize(admission: &Admission, concurrency: u32) {
        admission.resize(Share {
            concurrency,
            queue: 1,
        });
    }

    /// Each for another client, so that all there are can be had.
    fn take_all(admission: &Arc<Admission>) -> Vec<Permit> {
        (0..=u8::MAX)
            .map_while(|one| admission.try_admit(client(one)))
            .collect()
    }

    /// A runtime to wait in, and a deadline that does not come.
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn shares_are_rounded_up_and_never_nothing() {
        let limits = AppLimits {
            concurrency: 10,
            queue: 9,
            ..AppLimits::default()
        };
        let share = |workers| {
            let share = Share::of(&limits, workers);
            (share.concurrency, share.queue)
        };
        assert_eq!(share(1), (10, 9));
        assert_eq!(share(4), (3, 3));
        assert_eq!(share(0), (10, 9));
        assert_eq!(share(100), (1, 1));
    }

    #[test]
    fn permits_follow_every_change_whoever_holds_them() {
        let admission = admission(4, 1);
        let mut held = take_all(&admission);
        assert_eq!(held.len(), 4);
        // Fewer than are held: they are withdrawn as they come back.
        resize(&admission, 1);
        held.truncate(2);
        assert!(admission.try_admit(client(9)).is_none());
        // Changed its mind while one is still owed.
        resize(&admission, 3);
        held.extend(take_all(&admission));
        assert_eq!(held.len(), 3);
        held.clear();
        assert_eq!(take_all(&admission).len(), 3);

        for concurrency in [1, 4, 1, 2, 100, 25, 100, 1, 1, 7] {
            let held = take_all(&admission);
            resize(&admission, concurrency);
            drop(held);
            assert_eq!(take_all(&admission).len(), concurrency as usize);
        }
        assert!(admission.is_idle());
    }

    #[test]
    fn who_waits_is_admitted_by_new_permits() {
        let runtime = runtime();
        let _inside = runtime.enter();
        let admission = admission(1, 1);
        let held = take_all(&admission);
        let mut first = Box::pin(admission.admit(client(1), later()));
        let mut second = Box::pin(admission.admit(client(1), later()));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(cx).is_pending());
        assert!(matches!(
            second.as_mut().poll(cx),
            Poll::Ready(Err(Outcome::QueueFull))
        ));
        assert!(admission.is_pressed());
        resize(&admission, 2);
        let Poll::Ready(Ok(permit)) = first.as_mut().poll(cx) else {
            panic!("there is a second permit now");
        };
        assert!(!admission.is_pressed());
        assert!(admission.try_admit(client(1)).is_none());
        drop((permit, held));
        assert_eq!(take_all(&admission).len(), 2);
    }

    #[test]
    fn a_permit_that_was_given_to_one_that_went_is_the_nexts() {
        let runtime = runtime();
        let _inside = runtime.enter();
        let admission = admission(1, 3);
        let held = admission.try_admit(client(1)).unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut waits: Vec<_> = [1, 2, 1]
            .map(|one| Box::pin(admission.admit(client(one), later())))
            .into();
        for one in &mut waits {
            assert!(one.as_mut().poll(cx).is_pending());
        }
        // Goes while it waits, and goes when it was given one.
        drop(waits.remove(2));
        drop(held);
        assert!(waits[0].as_mut().poll(cx).is_pending());
        drop(waits.remove(1));
        assert!(waits[0].as_mut().poll(cx).is_ready());
        drop(waits);
        assert!(admission.is_idle());
        assert!(admission.state().told.is_empty());
    }

    #[test]
    fn a_place_is_given_to_whoever_has_fewer_and_both_are_told() {
        let runtime = runtime();
        runtime.block_on(async {
            let admission = admission(1, 2);
            let _held = admission.try_admit(client(1)).unwrap();
            let mut waits = Box::pin(admission.admit(client(1), later()));
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(cx).is_pending());
            let mut aside = admission.aside(client(1)).unwrap();
            let mine = admission.aside(client(2)).unwrap();
            aside.displaced().await;
            drop(aside);
            assert!(admission.aside(client(3)).is_err());
            drop(mine);
            let _mine = admission.aside(client(3)).unwrap();
            assert!(waits.as_mut().poll(cx).is_pending());
            // Those that gather have places of their own.
            let mut slow: Vec<_> = (0..3)
                .map(|_| admission.gather(client(1)).unwrap())
                .collect();
            assert!(admission.gather(client(1)).is_err());
            let _mine = admission.gather(client(2)).unwrap();
            slow.pop().unwrap().displaced().await;
            let waits = tokio::time::timeout(Duration::from_millis(20), slow[1].displaced());
            assert!(waits.await.is_err());
        });
    }
}
