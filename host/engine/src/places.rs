//! The places for calls on a shared instance: who waits for one, who has one, and
//! who has left.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use skep_core::{InstancePolicy, Outcome};

use crate::fault::Verdict;
use crate::world::{Job, Reception};

/// The places of one instance.
pub(crate) struct Places(Mutex<Occupancy>);

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
    driver: Option<Waker>,
}

/// A call that a guest works on.
struct OnIt {
    reception: Arc<dyn Reception>,
    request_id: Arc<str>,
}

impl Places {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Occupancy {
            open: true,
            taken: 0,
            queue: VecDeque::new(),
            calls: Vec::new(),
            deserted: false,
            haunted: false,
            driver: None,
        })))
    }

    fn occupancy(&self) -> MutexGuard<'_, Occupancy> {
        // Whole at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes another call.
    pub(crate) fn has_room(&self, policy: &InstancePolicy) -> bool {
        let occupancy = self.occupancy();
        let now = occupancy.queue.len() + occupancy.calls.len();
        let room = usize::try_from(policy.concurrent).unwrap_or(usize::MAX);
        occupancy.open && now < room && occupancy.taken < policy.reuse
    }

    /// Takes a call.
    pub(crate) fn take(self: &Arc<Self>, job: Job) {
        let reception = Arc::clone(&job.reception);
        let mut occupancy = self.occupancy();
        occupancy.taken += 1;
        occupancy.queue.push_back(job);
        occupancy.wake();
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

    /// What the driver does before each of its turns. Whether nobody is left who
    /// waits for the instance, nor will be.
    pub(crate) fn look(&self, cx: &Context<'_>) -> bool {
        let mut occupancy = self.occupancy();
        match &mut occupancy.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if std::mem::take(&mut occupancy.deserted) {
            // Those that its guest has not seen leave nothing behind.
            occupancy.queue.retain(|job| job.reception.is_wanted());
            let before = occupancy.calls.len();
            occupancy.calls.retain(|call| call.reception.is_wanted());
            if occupancy.calls.len() < before {
                occupancy.open = false;
                occupancy.haunted = true;
            }
        }
        !occupancy.open && occupancy.is_empty()
    }

    /// Ends a call that the guest has been asked, like this.
    pub(crate) fn end(&self, call: &Arc<dyn Reception>, verdict: Verdict) {
        let failed = verdict.outcome != Outcome::Ok;
        call.ended(verdict);
        let mut occupancy = self.occupancy();
        occupancy
            .calls
            .retain(|other| !Arc::ptr_eq(&other.reception, call));
        if failed {
            occupancy.open = false;
        }
    }
}

impl Occupancy {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.calls.is_empty()
    }

    fn wake(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
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

/// The driver's hold on its instance's places.
pub(crate) struct Occupied(pub(crate) Arc<Places>);

impl Occupied {
    /// Nothing can be done on this instance any more: ends the calls that its guest
    /// works on, and gives those back that it was not asked.
    pub(crate) fn end(&self, verdict: Option<&Verdict>) -> VecDeque<Job> {
        let (calls, queue) = {
            let mut occupancy = self.0.occupancy();
            occupancy.open = false;
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
