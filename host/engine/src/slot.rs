//! Where a call lives: owned by nobody who could forget it.
//!
//! A call has two sides that end by themselves, in either order, and ends at the
//! latest when its time is over, whatever its client does:
//!
//! ```text
//!          ┌───────────────────────── Live ─────────────────────────┐
//!  guest   Waiting ⇄ Polled ──returned───────────────────▶ Returned  │  fault, deadline,
//!          Placed ───────────────┘                                   │  patience, cut,
//!                                                                    ├─ client gone ──▶ Over
//!  reply   Awaited ─▶ Given ─▶ Flowing ───────taken──────▶ Whole     │
//!             │          └──────────┴─▶ Swallowed ──read──▶┘         │
//!             └─▶ Refused                                            │
//!          └───────── Returned and Whole: Over, ok ──────────────────┘
//! ```
//!
//! The guest is polled once by who calls it, and from then on by a task of its own
//! or by that of the instance that it shares. The response's body is a window on
//! the slot: polling it takes frames that the guest has written, dropping it gives
//! the call up. The time is kept by the handler's [`Watch`]. Whoever ends the call
//! drops the guest with its store, then tells the witness, then wakes whoever
//! waits for the response.

mod client;
mod guest;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::response::Parts;
use skep_core::Outcome;

use crate::call::{Ended, Witness};
use crate::fault::Verdict;
use crate::flow::Flow;
use crate::watch::{Watch, Watched};

use guest::Guest;

/// One call.
pub(crate) struct Slot<W: Witness> {
    state: Mutex<State<W>>,
    watch: Arc<Watch>,
    terms: Terms,
}

/// What a call was promised.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) deadline: Instant,
    /// What the deadline came from.
    pub(crate) timeout: Duration,
    pub(crate) patience: Duration,
    /// Whether the request was a HEAD.
    pub(crate) headless: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a call is live for almost all of its slot's life"
)]
enum State<W> {
    Live(Live<W>),
    Over(Outcome),
}

struct Live<W> {
    witness: W,
    guest: Guest,
    reply: Reply,
    /// What the client was told.
    status: Option<StatusCode>,
    /// Who waits for the head or for a frame.
    caller: Option<Waker>,
    task: Task,
    /// Its number in the watch.
    watched: Option<usize>,
}

/// The task of this slot.
enum Task {
    None,
    Spawned(Option<Waker>),
}

/// How far the response is.
enum Reply {
    Awaited,
    /// The guest answered with something that is no response. The call ends with
    /// that, at once or when the guest has returned.
    Refused {
        verdict: Verdict,
        at_once: bool,
    },
    /// The guest has answered, and nobody has come for it yet.
    Given(Parts, Flow),
    /// The client has the head. `due` says since when a frame is the client's to
    /// take; otherwise it waits for the guest.
    Flowing {
        flow: Flow,
        due: Option<Instant>,
    },
    /// Nothing more is the client's; the rest is read so that the guest is not
    /// held up.
    Swallowed(Flow),
    Whole,
}

impl<W: Witness> Slot<W> {
    pub(crate) fn new(witness: W, watch: &Arc<Watch>, terms: Terms) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Live(Live {
                witness,
                guest: Guest::Polled,
                reply: Reply::Awaited,
                status: None,
                caller: None,
                task: Task::None,
                watched: None,
            })),
            watch: Arc::clone(watch),
            terms,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        // Whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that what the call still needs happens without its caller: that
    /// it is watched and that somebody polls it.
    pub(crate) fn settle(self: &Arc<Self>) {
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return;
        };
        let until = live.until(&self.terms);
        match live.watched {
            Some(number) => self.watch.renew(number, until),
            None => {
                let watched = Arc::clone(self) as Arc<dyn Watched>;
                live.watched = Some(self.watch.add(until, watched));
            }
        }
        let needed =
            matches!(live.guest, Guest::Waiting(_)) || matches!(live.reply, Reply::Swallowed(_));
        match &mut live.task {
            Task::None if needed => {
                live.task = Task::Spawned(None);
                let slot = Arc::clone(self);
                tokio::spawn(std::future::poll_fn(move |cx| slot.drive(cx)));
            }
            Task::Spawned(waker) if matches!(live.reply, Reply::Swallowed(_)) => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
            _ => {}
        }
    }

    /// Ends the call.
    fn end(&self, mut state: MutexGuard<'_, State<W>>, verdict: Verdict) {
        let before = std::mem::replace(&mut *state, State::Over(verdict.outcome));
        drop(state);
        let State::Live(live) = before else {
            return;
        };
        // The guest is gone with its store before anybody hears of the end, or its store
        // is spent, so that its instance is free for whoever waits for it.
        let cpu = live.guest.end();
        drop(live.reply);
        if let Some(number) = live.watched {
            self.watch.remove(number);
        }
        match verdict.outcome {
            Outcome::ClientGone => drop(live.witness),
            outcome => live.witness.ended(Ended {
                outcome,
                detail: verdict.detail,
                cpu,
                status: live.status,
            }),
        }
        if let Task::Spawned(Some(task)) = live.task {
            task.wake();
        }
        if let Some(caller) = live.caller {
            caller.wake();
        }
    }
}

impl<W: Witness> Live<W> {
    /// Since when the client takes nothing, where a frame is its to take.
    fn untaken_since(&self) -> Option<Instant> {
        match &self.reply {
            Reply::Flowing { due, .. } => {
                let since = (*due)?;
                Some(self.witness.last_taken().map_or(since, |at| at.max(since)))
            }
            _ => None,
        }
    }

    /// When its time is over, as things are now.
    fn until(&self, terms: &Terms) -> Instant {
        let due = self.untaken_since();
        let due = due.and_then(|since| since.checked_add(terms.patience));
        due.map_or(terms.deadline, |due| due.min(terms.deadline))
    }

    /// Who is to blame that its time is over: an app must not look broken because
    /// a client takes nothing.
    fn overdue(&self, terms: &Terms, now: Instant) -> Verdict {
        let timeout = terms.timeout;
        match self.untaken_since() {
            Some(since) => Verdict {
                outcome: Outcome::TooSlow,
                detail: Some(format!(
                    "the client took nothing for {:?} (of {:?}), or not all within {timeout:?}",
                    now.saturating_duration_since(since),
                    terms.patience,
                )),
            },
            None => Verdict {
                outcome: Outcome::Deadline,
                detail: Some(format!("no end within {timeout:?}")),
            },
        }
    }
}

impl<W: Witness> Watched for Slot<W> {
    fn expire(&self, now: Instant) {
        let state = self.lock();
        let State::Live(live) = &*state else {
            return;
        };
        let until = live.until(&self.terms);
        if now >= until {
            let verdict = live.overdue(&self.terms, now);
            self.end(state, verdict);
        } else if let Some(number) = live.watched {
            // Its client has taken some meanwhile.
            self.watch.renew(number, until);
        }
    }

    fn cut(&self) {
        let state = self.lock();
        if let State::Live(live) = &*state {
            let Verdict { outcome, .. } = live.overdue(&self.terms, Instant::now());
            self.end(
                state,
                Verdict {
                    outcome,
                    detail: Some(CUT.into()),
                },
            );
        }
    }
}

/// Why calls end when their handler is cut.
pub(crate) const CUT: &str = "cut: its handler was replaced, and the drain has had its time";
