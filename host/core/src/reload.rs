//! From one generation to the next: read, build, try, apply, and back if the
//! workers do not come along. A start is the reload from nothing.
//!
//! ```text
//! Reading ──▶ Building ──▶ Waiting{until} ──free──▶ Composing ──▶ Trying{trials, until}
//!    └────────────┴──────────────┴──────────────────────┴──────────────┤      │
//!                                              failed, invalid, late:  ▼      │ all valid
//!                                              rejected; nothing was changed  ▼
//!            rejected ◀── Restoring{until} ◀── refused, tripped, late ── Applying{until}
//!                                                                             │ all have followed
//!                                                                             ▼
//!                                                                          in force
//! ```
//! Responsible for the order of these steps and for what ends it, not for how a
//! step is done: whoever drives it does what an [`Output`] says and tells it the
//! result. `E` is why a step of the driver failed.
//!
//! The first generation is in force once it is applied: there is nothing to go
//! back to, and an app or a pool that fails keeps no other from serving.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::time::Duration;

use crate::moment::Moment;
use crate::name::{AppName, PoolName, WorkerId};
use crate::supervise::RollFailure;

/// How long a reload waits for operations on what it changes: longer than a large
/// component takes to be built and rolled out.
pub const TURN_DEADLINE: Duration = Duration::from_secs(1800);

/// One reload, from its beginning to its end. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Reload<E> {
    now: Moment,
    first: bool,
    state: State<E>,
}

#[derive(Clone, Debug)]
enum State<E> {
    Reading,
    Building,
    Waiting {
        until: Moment,
    },
    Composing,
    Trying {
        /// Canary workers that have not said how it went, with what they try.
        trials: BTreeMap<WorkerId, BTreeSet<AppName>>,
        until: Moment,
    },
    Applying {
        /// `None` until it is applied.
        following: Option<Following>,
        /// Why it has to go back, which it does once that is safe.
        failure: Option<Rejected<E>>,
    },
    Restoring {
        /// `None` until the generation before is what is to be.
        until: Option<Moment>,
        why: Rejected<E>,
    },
    Ended,
}

/// Workers follow.
#[derive(Clone, Debug)]
struct Following {
    /// Pools whose workers are being replaced.
    rolls: BTreeSet<PoolName>,
    until: Moment,
}

/// Where a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The configuration is read.
    Reading,
    /// Components are built.
    Building,
    /// Others work on what it changes.
    Waiting,
    /// The next generation is made of what was read and built.
    Composing,
    /// Canary workers try what is new.
    Trying,
    /// The workers follow.
    Applying,
    /// The workers go back.
    Restoring,
    /// It is in force, or was rejected.
    Ended,
}

/// What happened. An input that a state does not expect changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<E> {
    /// The configuration was read, or cannot follow the one that is in force.
    Read(Result<(), E>),
    /// The components were built, or cannot be served.
    Built(Result<(), E>),
    /// Nobody else works on what it changes.
    Free,
    /// The next generation is known and can be had on this machine, or not.
    Composed(Result<(), E>),
    /// What is new is being tried, for at most so long; or that cannot be done.
    Trying {
        /// The canary workers, with what each tries; none if nothing is new.
        trials: Result<BTreeMap<WorkerId, BTreeSet<AppName>>, E>,
        /// How long they may take.
        within: Duration,
    },
    /// A canary worker has tried all it was to try.
    Tried {
        /// Which one.
        worker: WorkerId,
        /// The apps that are not valid and why, or why it could not try.
        verdict: Result<BTreeMap<AppName, String>, String>,
        /// Apps that did not work before: they become no worse.
        excused: BTreeSet<AppName>,
    },
    /// The generation is what is to be, and the workers follow, for at most so long.
    Applied {
        /// Pools whose workers are being replaced for it.
        rolls: BTreeSet<PoolName>,
        /// How long they may take.
        within: Duration,
    },
    /// A worker cannot serve what is new.
    Refused {
        /// The app.
        app: AppName,
        /// Why.
        reason: String,
    },
    /// A pool's rolling replacement has ended.
    RollEnded {
        /// The pool.
        pool: PoolName,
        /// Why it was given up, if it was.
        result: Result<(), RollFailure>,
    },
    /// How far the workers are; delivered whenever that may have changed.
    Progress(Progress),
    /// The generation before is what is to be again, and the workers go back, for at
    /// most so long.
    Restored {
        /// How long they may take.
        within: Duration,
    },
    /// The deadline may have passed.
    Timer,
}

/// How far the workers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether every worker serves its pool's plan.
    pub settled: bool,
    /// Whether pools that get new workers have all of them.
    pub full: bool,
    /// Whether the listeners have the dispatchers that they need.
    pub handed_out: bool,
    /// A pool that gets new workers and has tripped.
    pub tripped: Option<PoolName>,
}

/// What to do, one thing at a time. The driver answers all but the last two with the
/// input that has their result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<E> {
    /// Build the components.
    Build,
    /// Say when nobody works on what it changes: [`Input::Free`].
    AwaitTurn,
    /// Make the next generation of what was read and built.
    Compose,
    /// Have what is new tried.
    Try,
    /// Make it what is to be.
    Apply,
    /// Make the generation before what is to be.
    Restore,
    /// It is in force; what it does not have any more goes.
    InForce,
    /// It is not in force, for this reason.
    Rejected(Rejected<E>),
}

/// Why a reload was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected<E> {
    /// A step could not be done.
    Step(E),
    /// Others still worked on what it changes.
    Busy,
    /// Canary workers found apps not to be valid, each for a reason.
    Invalid(BTreeMap<AppName, String>),
    /// A canary worker could not try.
    Untried(String),
    /// Canary workers with these apps did not say in time.
    Silent(BTreeSet<AppName>),
    /// A worker could not serve an app.
    Refused {
        /// The app.
        app: AppName,
        /// Why.
        reason: String,
    },
    /// The workers of a pool could not be replaced.
    Roll(PoolName, RollFailure),
    /// A pool has tripped.
    Tripped(PoolName),
    /// The workers did not follow in time.
    Late,
    /// It was rejected for a reason, and not all workers are back in time.
    Unrestored(Box<Self>),
}

impl<E> Reload<E> {
    /// The one from nothing. The configuration is being read.
    #[must_use]
    pub const fn first(now: Moment) -> Self {
        Self {
            now,
            first: true,
            state: State::Reading,
        }
    }

    /// One from what is in force. The configuration is being read.
    #[must_use]
    pub const fn next(now: Moment) -> Self {
        Self {
            now,
            first: false,
            state: State::Reading,
        }
    }

    /// Whether it is the one from nothing.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.first
    }

    /// Where it is.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.state {
            State::Reading => Stage::Reading,
            State::Building => Stage::Building,
            State::Waiting { .. } => Stage::Waiting,
            State::Composing => Stage::Composing,
            State::Trying { .. } => Stage::Trying,
            State::Applying { .. } => Stage::Applying,
            State::Restoring { .. } => Stage::Restoring,
            State::Ended => Stage::Ended,
        }
    }

    /// When [`Input::Timer`] must be delivered next. Reading and building have
    /// deadlines of their own.
    #[must_use]
    pub const fn deadline(&self) -> Option<Moment> {
        match &self.state {
            State::Reading | State::Building | State::Composing | State::Ended => None,
            State::Waiting { until } | State::Trying { until, .. } => Some(*until),
            State::Applying { following, .. } => match following {
                Some(following) => Some(following.until),
                None => None,
            },
            State::Restoring { until, .. } => *until,
        }
    }

    /// Takes one input and returns what to do about it. Time that runs backwards
    /// stands still.
    #[must_use]
    pub fn step(&mut self, now: Moment, input: Input<E>) -> Option<Output<E>> {
        self.now = self.now.max(now);
        let state = mem::replace(&mut self.state, State::Ended);
        let (state, output) = match state {
            State::Trying { trials, until } => self.trying(trials, until, input),
            State::Applying { following, failure } => self.applying(following, failure, input),
            State::Restoring { until, why } => self.restoring(until, why, input),
            state => self.preparing(state, input),
        };
        self.state = state;
        output
    }

    /// Nothing was changed yet, and nobody tries anything.
    fn preparing(&self, state: State<E>, input: Input<E>) -> Step<E> {
        match (state, input) {
            (State::Reading, Input::Read(Ok(()))) => (State::Building, Some(Output::Build)),
            (State::Building, Input::Built(Ok(()))) => {
                let until = self.now + TURN_DEADLINE;
                (State::Waiting { until }, Some(Output::AwaitTurn))
            }
            (State::Waiting { .. }, Input::Free) => (State::Composing, Some(Output::Compose)),
            (State::Composing, Input::Composed(Ok(()))) => {
                // Nothing is tried yet, and the driver says at once for how long.
                let (trials, until) = (BTreeMap::new(), self.now);
                (State::Trying { trials, until }, Some(Output::Try))
            }
            (State::Reading, Input::Read(Err(why)))
            | (State::Building, Input::Built(Err(why)))
            | (State::Composing, Input::Composed(Err(why))) => reject(Rejected::Step(why)),
            (State::Waiting { until }, Input::Timer) if until <= self.now => reject(Rejected::Busy),
            (state, _) => (state, None),
        }
    }

    fn trying(
        &self,
        mut trials: BTreeMap<WorkerId, BTreeSet<AppName>>,
        mut until: Moment,
        input: Input<E>,
    ) -> Step<E> {
        match input {
            Input::Trying {
                trials: begun,
                within,
            } => match begun {
                Ok(begun) => (trials, until) = (begun, self.now + within),
                Err(why) => return reject(Rejected::Step(why)),
            },
            Input::Tried {
                worker,
                verdict,
                excused,
            } => {
                if trials.remove(&worker).is_none() {
                    return (State::Trying { trials, until }, None);
                }
                match verdict {
                    Err(why) => return reject(Rejected::Untried(why)),
                    Ok(mut invalid) => {
                        invalid.retain(|app, _| !excused.contains(app));
                        if !invalid.is_empty() {
                            return reject(Rejected::Invalid(invalid));
                        }
                    }
                }
            }
            Input::Timer if until <= self.now => {
                return reject(Rejected::Silent(trials.into_values().flatten().collect()));
            }
            _ => return (State::Trying { trials, until }, None),
        }
        if !trials.is_empty() {
            return (State::Trying { trials, until }, None);
        }
        let (following, failure) = (None, None);
        (State::Applying { following, failure }, Some(Output::Apply))
    }

    fn applying(
        &self,
        mut following: Option<Following>,
        mut failure: Option<Rejected<E>>,
        input: Input<E>,
    ) -> Step<E> {
        match (input, &mut following) {
            (Input::Applied { .. }, None) if self.first => {
                return (State::Ended, Some(Output::InForce));
            }
            (Input::Applied { rolls, within }, None) => {
                let until = self.now + within;
                following = Some(Following { rolls, until });
            }
            (Input::Refused { app, reason }, _) => {
                failure.get_or_insert(Rejected::Refused { app, reason });
            }
            (Input::RollEnded { pool, result }, Some(following)) => {
                if following.rolls.remove(&pool)
                    && let Err(why) = result
                {
                    failure.get_or_insert(Rejected::Roll(pool, why));
                }
            }
            (Input::Progress(progress), Some(following)) => {
                let tripped = progress.tripped.map(Rejected::Tripped);
                if let Some(why) = failure.take().or(tripped) {
                    return restore(why);
                }
                let followed = following.rolls.is_empty() && progress.settled;
                if followed && progress.full && progress.handed_out {
                    return (State::Ended, Some(Output::InForce));
                }
            }
            (Input::Timer, Some(following)) if following.until <= self.now => {
                return restore(failure.unwrap_or(Rejected::Late));
            }
            _ => {}
        }
        (State::Applying { following, failure }, None)
    }

    fn restoring(&self, until: Option<Moment>, why: Rejected<E>, input: Input<E>) -> Step<E> {
        match (input, until) {
            (Input::Restored { within }, None) => {
                let until = Some(self.now + within);
                (State::Restoring { until, why }, None)
            }
            (Input::Progress(Progress { settled: true, .. }), Some(_)) => reject(why),
            (Input::Timer, Some(at)) if at <= self.now => {
                reject(Rejected::Unrestored(Box::new(why)))
            }
            _ => (State::Restoring { until, why }, None),
        }
    }
}

/// The next state, and what to do.
type Step<E> = (State<E>, Option<Output<E>>);

fn reject<E>(why: Rejected<E>) -> Step<E> {
    (State::Ended, Some(Output::Rejected(why)))
}

fn restore<E>(why: Rejected<E>) -> Step<E> {
    let until = None;
    (State::Restoring { until, why }, Some(Output::Restore))
}

impl<E: fmt::Display> fmt::Display for Rejected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(why) => write!(f, "{why}"),
            Self::Busy => f.write_str("others still work on what it changes"),
            Self::Invalid(invalid) => {
                f.write_str("validate: ")?;
                for (at, (app, why)) in invalid.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "; " };
                    write!(f, "{separator}app {app}: {why}")?;
                }
                Ok(())
            }
            Self::Untried(why) => write!(f, "validate: {why}"),
            Self::Silent(apps) => {
                f.write_str("validate: the canary worker was not ready in time")?;
                for (at, app) in apps.iter().enumerate() {
                    let separator = if at == 0 { ", with app " } else { ", " };
                    write!(f, "{separator}{app}")?;
                }
                Ok(())
            }
            Self::Refused { app, reason } => write!(f, "app {app}: {reason}"),
            Self::Roll(pool, why) => write!(f, "pool {pool}: {why}"),
            Self::Tripped(pool) => write!(f, "pool {pool} has tripped"),
            Self::Late => f.write_str("the workers did not follow in time"),
            Self::Unrestored(why) => write!(f, "{why}; not all workers are back yet"),
        }
    }
}

#[cfg(test)]
mod tests;
