//! The places for calls on a shared instance: who waits for one, who has one, and
//! who has left.
//!
//! The instance lives here, too, so that whoever gives it a call lets it run at once:
//! the call costs no wake-up of the instance's task, nor one of its caller. Between
//! that, and for whatever it waits for, its task lets it run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use skep_core::{InstancePolicy, Outcome};

use crate::fault::Verdict;
use crate::world::{Job, Reception};

/// The life of a shared instance: ends when the instance does.
pub(crate) type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The places of one instance.
pub(crate) struct Places {
    occupancy: Mutex<Occupancy>,
    /// Not here while it runs, nor once it has ended.
    life: Mutex<Option<Life>>,
}

struct Occupancy {
    /// Whether it takes calls.
    open: bool,
    /// Calls that it was given.
    taken: u32,
    /// Those that its guest has not been asked yet.
    queue: VecDeque<Job>,
    /// Those that its guest works on.
    calls: Vec<OnIt>,
    /// Somebody has left of whom it does not know yet.
    deserted: bool,
    /// The guest may still work on calls that were given up.
    haunted: bool,
    /// Its task's, once that has begun.
    driver: Option<Waker>,
}

/// A call that a guest works on.
struct OnIt {
    reception: Arc<dyn Reception>,
    request_id: Arc<str>,
}

impl Places {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            occupancy: Mutex::new(Occupancy {
                open: true,
                taken: 0,
                queue: VecDeque::new(),
                calls: Vec::new(),
                deserted: false,
                haunted: false,
                driver: None,
            }),
            life: Mutex::default(),
        })
    }

    fn occupancy(&self) -> MutexGuard<'_, Occupancy> {
        // Whole at every step.
        self.occupancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        // Whole at every step.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a task of its own let the instance live this life to its end.
    pub(crate) fn live(self: &Arc<Self>, life: Life) {
        *self.life() = Some(life);
        let living = Living(Arc::clone(self));
        tokio::spawn(std::future::poll_fn(move |cx| living.0.go_on(cx)));
    }

    /// Lets the instance run.
    fn go_on(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Out of its place: it may lead back here, and is not polled again if it panics.
        let life = self.life().take();
        let Some(mut life) = life else {
            return Poll::Ready(());
        };
        let polled = life.as_mut().poll(cx);
        if polled.is_pending() {
            *self.life() = Some(life);
        }
        polled
    }

    /// Lets the instance run in this turn of whoever gave it a call, unless its task has
    /// not begun yet, which it does by itself.
    pub(crate) fn run(&self) {
        let Some(driver) = self.occupancy().driver.clone() else {
            return;
        };
        let mut cx = Context::from_waker(&driver);
        // What makes the host panic is not this call's alone, and must not end its
        // connection: the instance ends, and all its calls with it.
        let go_on = AssertUnwindSafe(|| self.go_on(&mut cx));
        if !matches!(catch_unwind(go_on), Ok(Poll::Pending)) {
            // It has ended, and its task is to end, too; or it runs, which is how this
            // was called, and looks for the call when it is polled again.
            driver.wake();
        }
    }

    /// Whether it takes another call.
    pub(crate) fn has_room(&self, policy: &InstancePolicy) -> bool {
        let mut occupancy = self.occupancy();
        occupancy.see_who_left();
        let now = occupancy.queue.len() + occupancy.calls.len();
        let room = usize::try_from(policy.concurrent).unwrap_or(usize::MAX);
        occupancy.open && now < room && occupancy.taken < policy.reuse
    }

    /// Takes a call, which the instance sees when it [runs](Self::run).
    pub(crate) fn take(self: &Arc<Self>, job: Job) {
        let reception = Arc::clone(&job.reception);
        let mut occupancy = self.occupancy();
        occupancy.taken += 1;
        occupancy.queue.push_back(job);
        // What the call does with its place may lead back here.
        drop(occupancy);
        reception.placed(Place(Some(Arc::clone(self))));
    }

    pub(crate) fn is_open(&self) -> bool {
        self.occupancy().open
    }

    /// Takes no more calls.
    pub(crate) fn close(&self) {
        let mut occupancy = self.occupancy();
        occupancy.open = false;
        occupancy.wake();
    }

    /// The next call that the guest has not been asked yet.
    pub(crate) fn next(&self) -> Option<Job> {
        let mut occupancy = self.occupancy();
        loop {
            let job = occupancy.queue.pop_front()?;
            if job.reception.is_wanted() {
                occupancy.calls.push(OnIt {
                    reception: Arc::clone(&job.reception),
                    request_id: Arc::clone(&job.request_id),
                });
                return Some(job);
            }
        }
    }

    /// The request that the guest works on, if there is but one.
    pub(crate) fn only_request(&self) -> Option<Arc<str>> {
        let occupancy = self.occupancy();
        match &occupancy.calls[..] {
            [only] if !occupancy.haunted => Some(Arc::clone(&only.request_id)),
            _ => None,
        }
    }

    /// Whether no call is on it.
    pub(crate) fn is_empty(&self) -> bool {
        self.occupancy().is_empty()
    }

    /// Closes an instance that no call is on, if it is spent or closed already, or
    /// if it has been idle `for_long`. Whether it did: no call has come in between
    /// then.
    pub(crate) fn close_empty(&self, reuse: u32, for_long: bool) -> bool {
        let mut occupancy = self.occupancy();
        let spent = !occupancy.open || occupancy.taken >= reuse;
        let over = occupancy.is_empty() && (spent || for_long);
        if over {
            occupancy.open = false;
        }
        over
    }

    /// What the instance does before each of its turns. Whether nobody is left who
    /// waits for the instance, nor will be.
    pub(crate) fn look(&self, cx: &Context<'_>) -> bool {
        let mut occupancy = self.occupancy();
        match &mut occupancy.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        occupancy.see_who_left();
        !occupancy.open && occupancy.is_empty()
    }

    /// Ends a call that the guest has been asked, like this.
    pub(crate) fn end(&self, call: &Arc<dyn Reception>, verdict: Verdict) {
        if verdict.outcome != Outcome::Ok {
            // Before anybody hears of it, who may have a call for an instance.
            self.occupancy().open = false;
        }
        call.ended(verdict);
        self.occupancy()
            .calls
            .retain(|other| !Arc::ptr_eq(&other.reception, call));
    }
}

impl Occupancy {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.calls.is_empty()
    }

    /// Takes those out that were given up. What a guest does for a call that it was asked
    /// goes on, and nobody is to come to it.
    fn see_who_left(&mut self) {
        if !std::mem::take(&mut self.deserted) {
            return;
        }
        // Those that its guest has not seen leave nothing behind.
        self.queue.retain(|job| job.reception.is_wanted());
        let before = self.calls.len();
        self.calls.retain(|call| call.reception.is_wanted());
        if self.calls.len() < before {
            self.open = false;
            self.haunted = true;
        }
    }

    fn wake(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }
}

/// The task's hold on the instance, which does not outlive its runtime.
struct Living(Arc<Places>);

impl Drop for Living {
    fn drop(&mut self) {
        let life = self.0.life().take();
        drop(life);
    }
}

/// A call's place on an instance. Dropped, the call is given up.
pub(crate) struct Place(Option<Arc<Places>>);

impl Place {
    /// The call has ended on the instance's side.
    pub(crate) fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = &self.0 {
            let mut occupancy = places.occupancy();
            occupancy.deserted = true;
            occupancy.wake();
        }
    }
}

/// The instance's hold on its places.
pub(crate) struct Occupied(pub(crate) Arc<Places>);

impl Occupied {
    /// Nothing can be done on this instance any more: ends the calls that its guest
    /// works on, and gives those back that it was not asked.
    pub(crate) fn end(&self, verdict: Option<&Verdict>) -> VecDeque<Job> {
        let (calls, queue) = {
            let mut occupancy = self.0.occupancy();
            occupancy.open = false;
            // Its task may be told by nobody else.
            occupancy.wake();
            let calls = std::mem::take(&mut occupancy.calls);
            (calls, std::mem::take(&mut occupancy.queue))
        };
        for call in calls {
            call.reception.ended(
                verdict
                    .cloned()
                    .unwrap_or_else(|| Verdict::trap("the instance ended with this call on it")),
            );
        }
        queue
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        for job in self.end(None) {
            job.reception
                .ended(Verdict::trap("the instance ended before this call"));
        }
    }
}
