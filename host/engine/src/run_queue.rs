//! The queue of guests that wait for their turn on this worker's one thread.
//!
//! Responsible for doing what [`Fair`] decides. A guest's poll asks here first
//! ([`RunQueue::may_go`]); one that may not, or that met a tick, is queued with
//! its waker. One task, which exists only while it has something to do, lets
//! them go on, one after the other:
//!
//! ```text
//! look at the sockets ──▶ what is ready runs ──▶ one queued runs ───▶ …another, if it was short
//!        ▲                                                                  │ the allowance is used up
//!        └──────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use skep_core::Moment;
use skep_core::fair::{Fair, Member, Next};

use crate::event_loop::{self, behind_the_sockets, behind_what_is_ready};

/// How long a guest runs before it yields, where its tenant has the worker to
/// itself.
const SLICE: Duration = Duration::from_millis(1);

/// The same while tenants share the worker and one of them computes: what the
/// others wait for at most. Shorter ones would spend more than a hundredth of
/// the CPU on ticks.
const SHORT_SLICE: Duration = Duration::from_micros(250);

/// Guests that wait, and whose turn it is.
pub(crate) struct RunQueue {
    state: Mutex<State>,
    /// Where moments are counted from.
    origin: Instant,
    /// Changes the period of the ticks.
    pace: fn(Duration),
}

struct State {
    fair: Fair,
    waiting: BTreeMap<(Member, u64), Waker>,
    next_entry: u64,
    /// Whether the task is there.
    driven: bool,
    slice: Duration,
    /// The last look at the sockets that is known.
    look: u64,
}

/// A guest's entry in the queue, if it has one. To be given up through
/// [`RunQueue::leave`] when the guest goes.
#[derive(Debug, Default)]
pub(crate) enum Entry {
    /// Not queued.
    #[default]
    None,
    /// Queued, or let go on and not there yet.
    Number(u64),
}

/// A guest may run now.
pub(crate) struct Go {
    /// Whether other tenants want the worker, too.
    pub(crate) contended: bool,
}

/// What the task does next.
enum Step {
    /// Nothing is left to do.
    Rest,
    /// The sockets come first.
    Look,
    /// This one goes on.
    Wake(Waker),
}

impl RunQueue {
    pub(crate) fn new(pace: fn(Duration)) -> Self {
        Self {
            state: Mutex::new(State {
                fair: Fair::default(),
                waiting: BTreeMap::new(),
                next_entry: 0,
                driven: false,
                slice: SLICE,
                look: 0,
            }),
            origin: Instant::now(),
            pace,
        }
    }

    pub(crate) fn join(&self, weight: NonZeroU32) -> Member {
        self.state().fair.join(weight)
    }

    /// The tenant is gone, and so are its guests.
    pub(crate) fn part(&self, member: Member) {
        self.state().fair.leave(member);
    }

    /// Whether a guest of `member` may run, which else is queued afterwards.
    pub(crate) fn may_go(
        self: &Arc<Self>,
        member: Member,
        entry: &mut Entry,
        now: Instant,
        cx: &Context<'_>,
    ) -> Option<Go> {
        let moment = self.moment(now);
        let mut state = self.state();
        // One that is not driven is not told by its task.
        let look = event_loop::turn();
        if std::mem::replace(&mut state.look, look) != look && !state.driven {
            state.fair.turn();
        }
        match *entry {
            Entry::None if state.fair.begin(member, moment) => {}
            Entry::None => {
                self.enqueue(&mut state, member, entry, moment, cx);
                return None;
            }
            Entry::Number(number) => {
                if let Some(waker) = state.waiting.get_mut(&(member, number)) {
                    waker.clone_from(cx.waker());
                    return None;
                }
                *entry = Entry::None;
            }
        }
        Some(Go {
            contended: state.fair.is_contended(),
        })
    }

    /// A guest of `member` met a tick: others may go first.
    pub(crate) fn preempted(
        self: &Arc<Self>,
        member: Member,
        entry: &mut Entry,
        now: Instant,
        cx: &Context<'_>,
    ) {
        let moment = self.moment(now);
        self.enqueue(&mut self.state(), member, entry, moment, cx);
    }

    /// A guest of `member` has run for so long.
    pub(crate) fn charge(self: &Arc<Self>, member: Member, now: Instant, spent: Duration) {
        let moment = self.moment(now);
        let mut state = self.state();
        state.fair.charge(member, moment, spent);
        if state.fair.is_contended() {
            // Somebody must tell one turn of the loop from the next.
            self.drive(&mut state);
        }
    }

    /// The guest is gone.
    pub(crate) fn leave(&self, member: Member, entry: &mut Entry) {
        if let Entry::Number(number) = std::mem::take(entry) {
            let mut state = self.state();
            // Otherwise it was let go on and has left the queue by that.
            if state.waiting.remove(&(member, number)).is_some() {
                state.fair.unqueue(member);
            }
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        state: &mut State,
        member: Member,
        entry: &mut Entry,
        now: Moment,
        cx: &Context<'_>,
    ) {
        let number = state.next_entry;
        state.next_entry += 1;
        state.waiting.insert((member, number), cx.waker().clone());
        state.fair.queue(member, now);
        *entry = Entry::Number(number);
        self.drive(state);
    }

    /// Sees to it that the task is there.
    fn drive(self: &Arc<Self>, state: &mut State) {
        if !state.driven
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            state.driven = true;
            runtime.spawn(drive(Driving(Arc::clone(self))));
        }
    }

    /// The sockets have been looked at.
    fn turn(&self) {
        let now = self.moment(Instant::now());
        let mut state = self.state();
        state.fair.turn();
        let slice = if state.fair.wants_short_slices(now) {
            SHORT_SLICE
        } else {
            SLICE
        };
        if slice != state.slice {
            state.slice = slice;
            (self.pace)(slice);
        }
    }

    fn step(&self) -> Step {
        let now = self.moment(Instant::now());
        let mut state = self.state();
        match state.fair.next(now) {
            Next::Nobody if state.fair.is_turn_used() => Step::Look,
            Next::Nobody => {
                state.driven = false;
                Step::Rest
            }
            Next::HoldBack => Step::Look,
            Next::Go(member) => {
                let first = state.waiting.range((member, 0)..).next();
                let first = first.map(|(key, _)| *key).filter(|key| key.0 == member);
                match first.and_then(|key| state.waiting.remove(&key)) {
                    Some(waker) => Step::Wake(waker),
                    // Counted and not there, which cannot be.
                    None => Step::Look,
                }
            }
        }
    }

    /// Whether another one in the queue may go on before the sockets are looked at.
    fn goes_on(&self) -> bool {
        let state = self.state();
        // One that has not come to run yet will not by waiting here.
        state.fair.is_turn_used() && !state.fair.is_turn_over()
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment::after_origin(now.saturating_duration_since(self.origin))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's hold on its queue.
struct Driving(Arc<RunQueue>);

impl Drop for Driving {
    fn drop(&mut self) {
        // Also when its runtime ends before it does.
        self.0.state().driven = false;
    }
}

/// Lets guests go on until the queue is empty.
async fn drive(driving: Driving) {
    let queue = &driving.0;
    loop {
        behind_the_sockets().await;
        queue.turn();
        loop {
            match queue.step() {
                Step::Rest => return,
                Step::Look => break,
                Step::Wake(waker) => waker.wake(),
            }
            behind_what_is_ready().await;
            if !queue.goes_on() {
                break;
            }
        }
    }
}
