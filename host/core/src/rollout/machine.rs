//! The machine itself: inputs in, outputs out.

use std::mem;
use std::time::Duration;

use crate::moment::Moment;
use crate::rollout::order::{Ending, FailedStep, Input, Order, Output, Stage, Wanted};
use crate::rollout::state::{Failure, Hold, Part, SETTLE_LEAST, State, Watched};
use crate::rollout::words::Span;
use crate::spec::{Portion, Strategy};

/// How long writing down which revision is active may take: one small file,
/// but a flush waits for everything else that the disk has to do.
pub const RECORD_DEADLINE: Duration = Duration::from_secs(10);

/// One rollout, from its order to its end. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Rollout {
    pub(super) order: Order,
    pub(super) now: Moment,
    wanted: Wanted,
    /// Whether the disk may say that the new revision is active.
    committed: bool,
    state: State,
    /// Whether the last comparison ended without a verdict.
    pub(super) unclear: bool,
}

impl Rollout {
    /// Begins; the outputs are the first things to do.
    #[must_use]
    pub fn begin(now: Moment, order: Order) -> (Self, Vec<Output>) {
        let until = now + order.deadlines.build;
        let rollout = Self {
            order,
            now,
            wanted: Wanted::Old,
            committed: false,
            state: State::Building { until },
            unclear: false,
        };
        (rollout, vec![Output::Build])
    }

    /// Begins where a revision is live and written down already: a reload made
    /// it so together with all else, and it is only to be observed. Neither
    /// `from` nor `observe` of the order may be nothing.
    #[must_use]
    pub fn observe(now: Moment, order: Order) -> Self {
        let until = now + order.observe;
        Self {
            order,
            now,
            wanted: Wanted::New { standby_old: true },
            committed: true,
            state: State::Observing {
                until,
                watched: None,
                again: now,
            },
            unclear: false,
        }
    }

    /// Takes one input and returns what to do about it, in order.
    ///
    /// What time alone brings about waits for [`Input::Timer`]: an answer that
    /// comes after the deadline but before the timer is in time. Time that runs
    /// backwards stands still.
    #[must_use]
    pub fn step(&mut self, now: Moment, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Ended);
        self.state = self.take(state, input, &mut out);
        out
    }

    /// When [`Input::Timer`] must be delivered next; changes with every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.state.deadline()
    }

    /// Where it is.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.state {
            State::Building { .. } => Stage::Building,
            State::Validating { .. } => Stage::Validating,
            State::RollingOut { .. } | State::Committing { .. } => Stage::RollingOut,
            State::Observing { .. } | State::Comparing { .. } => Stage::Observing,
            State::Canary { .. } => Stage::Canary,
            State::Restoring { .. } => Stage::Restoring,
            State::Ended => Stage::Ended,
        }
    }

    /// What there is to say of the judgement on its latency, for status.
    #[must_use]
    pub const fn remark(&self) -> Option<&'static str> {
        match self.state {
            State::Comparing { .. } => Some("compared side by side"),
            _ if self.unclear => Some("too noisy to tell"),
            _ => None,
        }
    }

    /// Which handlers of the app every plan made now shall have.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// What was ordered.
    #[must_use]
    pub const fn order(&self) -> &Order {
        &self.order
    }
}

/// What each input does in each state.
impl Rollout {
    fn take(&mut self, state: State, input: Input, out: &mut Vec<Output>) -> State {
        match (state, input) {
            (State::Ended, _) => State::Ended,
            (_, Input::Abandon) => end(Ending::Abandoned, out),
            (state, Input::Timer) => match state.deadline() {
                Some(until) if until <= self.now => self.late(state, out),
                _ => state,
            },
            (state, Input::Rollback { reason }) => self.fail(state, Failure::operator(reason), out),

            (State::Building { .. }, Input::Built) => {
                out.push(Output::Validate);
                State::Validating {
                    until: self.now + self.order.deadlines.validate,
                }
            }
            (state @ State::Building { .. }, Input::BuildFailed { step, reason }) => {
                self.fail(state, Failure::of(step, reason), out)
            }

            (State::Validating { .. }, Input::Validated) => {
                out.push(Output::Validated);
                self.valid(out)
            }
            (state @ State::Validating { .. }, Input::ValidationFailed { reason }) => {
                self.invalid(state, reason, out)
            }

            (State::RollingOut { part, .. }, Input::Settled) if !part.is_restart() => {
                self.arrived(part, out)
            }
            (State::RollingOut { part, .. }, Input::Rolled) if part.is_restart() => {
                self.arrived(part, out)
            }
            (state @ State::RollingOut { .. }, Input::Refused { worker, reason }) => {
                let reason = format!("worker {worker}: {reason}");
                self.fail(state, Failure::of(FailedStep::RollOut, reason), out)
            }
            // A worker that was born since cannot serve it.
            (
                state @ (State::Committing { .. } | State::Canary { .. } | State::Observing { .. }),
                Input::Refused { worker, reason },
            ) => {
                let reason = format!("worker {worker}: {reason}");
                self.fail(state, Failure::of(FailedStep::Observe, reason), out)
            }
            (State::RollingOut { part, until }, Input::RollFailed { reason })
                if part.is_restart() =>
            {
                let state = State::RollingOut { part, until };
                self.fail(state, Failure::of(FailedStep::RollOut, reason), out)
            }

            (State::Committing { .. }, Input::Recorded) => self.live(out),
            (state @ State::Committing { .. }, Input::RecordFailed { reason }) => {
                self.fail(state, Failure::of(FailedStep::Record, reason), out)
            }

            (state, Input::Tripped { reason }) => match state {
                State::RollingOut { .. } | State::Committing { .. } => {
                    self.fail(state, Failure::of(FailedStep::RollOut, reason), out)
                }
                State::Canary { .. } | State::Observing { .. } | State::Comparing { .. } => {
                    self.fail(state, Failure::of(FailedStep::Observe, reason), out)
                }
                state => state,
            },

            (state, Input::Tallies { old, new }) => {
                let state = state.counted(Watched { old, new });
                self.watch(state, false, out)
            }
            (State::Canary { .. }, Input::Promote) => self.roll_out(self.full(), out),
            (State::Observing { .. } | State::Comparing { .. }, Input::Promote) => self.done(out),

            (State::Restoring { failure, .. }, Input::Settled) => end(failure.rolled_back(), out),
            (state, _) => state,
        }
    }

    /// The deadline of a state has passed.
    fn late(&mut self, state: State, out: &mut Vec<Output>) -> State {
        let deadlines = self.order.deadlines;
        match state {
            State::Building { .. } => {
                let failure = Failure::late(FailedStep::Build, "building", deadlines.build);
                self.fail(state, failure, out)
            }
            State::Validating { .. } => {
                let late = Failure::late(FailedStep::Validate, "validation", deadlines.validate);
                self.invalid(state, late.reason, out)
            }
            State::RollingOut { .. } => {
                let failure =
                    Failure::late(FailedStep::RollOut, "the roll-out", deadlines.roll_out);
                self.fail(state, failure, out)
            }
            State::Committing { .. } => {
                let failure = Failure::late(
                    FailedStep::Record,
                    "recording the revision",
                    RECORD_DEADLINE,
                );
                self.fail(state, failure, out)
            }
            State::Canary { .. } => match self.watch(state, true, out) {
                State::Canary {
                    watched,
                    comparison,
                    ..
                } => {
                    self.conclude(&comparison, out);
                    out.push(Output::Holding);
                    State::Canary {
                        hold: Hold::Proven,
                        watched,
                        comparison,
                    }
                }
                failed => failed,
            },
            State::Observing { .. } => match self.watch(state, true, out) {
                State::Observing { .. } => self.done(out),
                other => other,
            },
            State::Comparing { .. } => match self.watch(state, true, out) {
                State::Comparing {
                    observe,
                    watched,
                    comparison,
                    ..
                } => {
                    self.conclude(&comparison, out);
                    self.compared(observe, watched, out)
                }
                other => other,
            },
            State::Restoring { mut failure, .. } => {
                let limit = Span(deadlines.restore);
                failure.reason +=
                    &format!("; the old revision was not back on all workers within {limit}");
                end(failure.rolled_back(), out)
            }
            State::Ended => State::Ended,
        }
    }

    /// The revision is valid.
    fn valid(&mut self, out: &mut Vec<Output>) -> State {
        if self.order.dry_run {
            return end(Ending::Checked, out);
        }
        // A first revision has nothing to share requests with.
        let canary = self
            .order
            .canary
            .filter(|share| self.order.from.is_some() && *share < Portion::ALL);
        let part = canary.map_or_else(|| self.full(), Part::Canary);
        self.roll_out(part, out)
    }

    /// The revision is not valid.
    fn invalid(&mut self, state: State, reason: String, out: &mut Vec<Output>) -> State {
        if !self.order.force || self.order.dry_run {
            return self.fail(state, Failure::of(FailedStep::Validate, reason), out);
        }
        out.push(Output::Forced { reason });
        self.roll_out(Part::Restart { patient: true }, out)
    }

    /// How all workers come to it.
    const fn full(&self) -> Part {
        match self.order.strategy {
            Strategy::Swap => Part::Swap,
            Strategy::Restart => Part::Restart { patient: false },
        }
    }

    fn roll_out(&mut self, part: Part, out: &mut Vec<Output>) -> State {
        let new = Wanted::New {
            standby_old: self.order.from.is_some(),
        };
        match part {
            Part::Canary(share) => self.want(Wanted::Canary(share), out),
            Part::Swap => self.want(new, out),
            Part::Restart { patient } => {
                self.wanted = new;
                out.push(Output::Roll { patient });
            }
        }
        State::RollingOut {
            part,
            until: self.now + self.order.deadlines.roll_out,
        }
    }

    /// All workers are where the roll-out was to bring them.
    fn arrived(&mut self, part: Part, out: &mut Vec<Output>) -> State {
        match part {
            Part::Canary(_) => {
                out.push(Output::Canary);
                let hold = if self.order.observe.is_zero() {
                    out.push(Output::Holding);
                    Hold::Proven
                } else {
                    Hold::Until(self.now + self.order.observe)
                };
                State::Canary {
                    hold,
                    watched: None,
                    comparison: Box::new(self.comparison(self.now + SETTLE_LEAST)),
                }
            }
            Part::Swap | Part::Restart { .. } => {
                self.committed = true;
                out.push(Output::Commit);
                State::Committing {
                    until: self.now + RECORD_DEADLINE,
                }
            }
        }
    }

    /// All workers serve it, and that is written down.
    fn live(&mut self, out: &mut Vec<Output>) -> State {
        out.push(Output::Live);
        // A first revision stays however it does: there is no better one.
        if self.order.observe.is_zero() || self.order.from.is_none() {
            return self.done(out);
        }
        State::Observing {
            until: self.now + self.order.observe,
            watched: None,
            again: self.now,
        }
    }

    pub(super) fn done(&mut self, out: &mut Vec<Output>) -> State {
        self.want(Wanted::New { standby_old: false }, out);
        end(Ending::Done, out)
    }

    pub(super) fn fail(&mut self, state: State, failure: Failure, out: &mut Vec<Output>) -> State {
        match state {
            State::Building { .. } | State::Validating { .. } => {
                let Failure { step, reason, .. } = failure;
                end(Ending::Rejected { step, reason }, out)
            }
            State::RollingOut { .. }
            | State::Committing { .. }
            | State::Canary { .. }
            | State::Observing { .. }
            | State::Comparing { .. } => {
                out.push(Output::Restoring {
                    step: failure.step,
                    reason: failure.reason.clone(),
                    by: failure.by,
                });
                if self.committed {
                    out.push(Output::Revert);
                }
                self.want(Wanted::Old, out);
                State::Restoring {
                    failure,
                    until: self.now + self.order.deadlines.restore,
                }
            }
            state @ (State::Restoring { .. } | State::Ended) => state,
        }
    }

    pub(super) fn want(&mut self, wanted: Wanted, out: &mut Vec<Output>) {
        self.wanted = wanted;
        out.push(Output::Want(wanted));
    }
}

fn end(ending: Ending, out: &mut Vec<Output>) -> State {
    out.push(Output::Ended(ending));
    State::Ended
}
