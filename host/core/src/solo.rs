//! The supervision of a process of which there is one: a dispatcher, the
//! connector.
//!
//! [`Solo::step`] takes what happened and says what to do; [`Solo::deadline`]
//! says when it wants to be asked again. It never gives up, because without the
//! process nobody is served. Its forks are bounded by a backoff, and by minute.
//!
//! ```text
//! Absent ──wanted──▶ Starting{by} ──ready──▶ Serving{since, beat}
//!   ▲                  ▲   │  │ late       hung │  │   │
//!   │      until passed│   │  └──▶ Killed ◀─────┘  │   │
//!   │                  │   │ exit     │ exit       │   │
//!   │                Waiting{until} ◀─┴────exit────┘   │ unwanted
//!   │                                                  ▼
//!   └────────────────────exit──────────────── Leaving{kill_at}
//! ```
//! - The first crash of a process that was stable for `min_uptime` is replaced
//!   at once. Those that follow before the next is stable wait, each longer.
//! - Late to be ready is not ready: it is killed and counted. So is one that
//!   serves and gives no sign of life for `hang_timeout`.
//! - One that is not wanted any more is asked to finish, and killed if it does
//!   not in time. If it is wanted again meanwhile, another one follows it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::supervise::{EndStatus, SplitMix64, jittered};

/// The time in which forks are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// How one process is waited for and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time from spawn to ready; late means not ready.
    pub start_timeout: Duration,
    /// How long it may give no sign of life while it serves.
    pub hang_timeout: Duration,
    /// How long it must serve to count as stable.
    pub min_uptime: Duration,
    /// First delay before a respawn; doubles up to `backoff_max`, full jitter.
    pub backoff: Duration,
    /// Longest delay before a respawn.
    pub backoff_max: Duration,
    /// Forks in any minute; at least 1.
    pub forks_a_minute: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(10),
            hang_timeout: Duration::from_secs(10),
            min_uptime: Duration::from_secs(10),
            // Shorter than a worker's: nobody else stands in for it.
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            // Above what a short trouble takes, and no load for any machine.
            forks_a_minute: 10,
        }
    }
}

/// What happened. What does not fit the state is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There shall be one from now on.
    Wanted,
    /// There shall be none: it is asked to finish within this time. One that
    /// was asked already has no more than that.
    Unwanted {
        /// The time.
        within: Duration,
    },
    /// There shall be none, at once: it is killed.
    Ended,
    /// The process exists.
    Spawned,
    /// The process could not be created; no exit follows.
    SpawnFailed {
        /// What the system said.
        message: String,
    },
    /// It serves.
    Ready,
    /// The newest sign of life that was seen; the future counts as now. Those
    /// that are at hand go in before [`Event::Timer`].
    Beat(Moment),
    /// It reported that it cannot serve; its exit follows.
    Unfit {
        /// What it said.
        message: String,
    },
    /// The process was reaped.
    Exited(EndStatus),
    /// The deadline has passed.
    Timer,
}

/// What the driver shall do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the process. Answered by [`Event::Spawned`] or
    /// [`Event::SpawnFailed`].
    Spawn,
    /// Ask it to finish and go.
    Drain,
    /// Kill it.
    Kill,
    /// Publish what happened.
    Notice(Notice),
}

/// Something that happened and that events and log tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The process exists.
    Spawned,
    /// It serves.
    Ready {
        /// How long that took.
        after: Duration,
    },
    /// It is gone, or could not be made.
    Exited(Exit),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// Whether we had asked for it.
    pub voluntary: bool,
    /// When.
    pub at: Moment,
    /// When its successor comes; `None` if none is wanted.
    pub next: Option<Moment>,
}

/// What it does, for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none, and none is wanted.
    Absent,
    /// It is not ready yet.
    Starting,
    /// It serves.
    Serving,
    /// The next one comes later.
    Waiting,
    /// It finishes what it began, or was killed.
    Leaving,
}

impl State {
    /// The stable name used in status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Waiting => "waiting",
            Self::Leaving => "leaving",
        }
    }
}

/// Supervises one process. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Solo {
    settings: Settings,
    stage: Stage,
    /// Exits nobody asked for since one was stable.
    failures: u32,
    forks: VecDeque<Moment>,
    spawns: u64,
    last_exit: Option<Exit>,
    random: SplitMix64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Absent,
    Starting {
        since: Moment,
        by: Moment,
        /// What it said is wrong with it.
        unfit: Option<String>,
    },
    Serving {
        since: Moment,
        /// Its newest sign of life.
        beat: Moment,
    },
    Waiting {
        until: Moment,
    },
    /// Killed for this, and its exit follows.
    Killed {
        reason: ExitReason,
        stable: bool,
    },
    Leaving {
        kill_at: Moment,
        killed: bool,
        /// Whether another one shall follow.
        again: bool,
    },
}

impl Solo {
    /// Of a process that is not wanted yet. `seed` is for the jitter.
    #[must_use]
    pub const fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            stage: Stage::Absent,
            failures: 0,
            forks: VecDeque::new(),
            spawns: 0,
            last_exit: None,
            random: SplitMix64::new(seed),
        }
    }

    /// Takes what happened and returns what to do.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        match event {
            Event::Wanted => self.wanted(now),
            Event::Unwanted { within } => self.unwanted(now + within),
            Event::Ended => self.end(),
            Event::Spawned => vec![Action::Notice(Notice::Spawned)],
            Event::SpawnFailed { message } => {
                vec![self.gone(now, ExitReason::SpawnFailed { message }, false)]
            }
            Event::Ready => match self.stage {
                Stage::Starting { since, .. } => {
                    self.stage = Stage::Serving {
                        since: now,
                        beat: now,
                    };
                    let after = now.since(since);
                    vec![Action::Notice(Notice::Ready { after })]
                }
                _ => Vec::new(),
            },
            Event::Beat(at) => {
                if let Stage::Serving { beat, .. } = &mut self.stage {
                    *beat = at.min(now).max(*beat);
                }
                Vec::new()
            }
            Event::Unfit { message } => {
                if let Stage::Starting { unfit, .. } = &mut self.stage {
                    *unfit = Some(message);
                }
                Vec::new()
            }
            Event::Exited(status) => self.exited(now, status),
            Event::Timer => self.timer(now),
        }
    }

    /// When [`Event::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match self.stage {
            Stage::Starting { by, .. } => Some(by),
            Stage::Serving { beat, .. } => Some(beat + self.settings.hang_timeout),
            Stage::Waiting { until } => Some(until),
            Stage::Leaving {
                kill_at,
                killed: false,
                ..
            } => Some(kill_at),
            Stage::Absent | Stage::Killed { .. } | Stage::Leaving { .. } => None,
        }
    }

    /// What it does.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.stage {
            Stage::Absent => State::Absent,
            Stage::Starting { .. } => State::Starting,
            Stage::Serving { .. } => State::Serving,
            Stage::Waiting { .. } => State::Waiting,
            Stage::Killed { .. } | Stage::Leaving { .. } => State::Leaving,
        }
    }

    /// Whether there shall be one.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Absent | Stage::Leaving { again: false, .. }
        )
    }

    /// Processes that were created in place of another.
    #[must_use]
    pub const fn restarts(&self) -> u64 {
        self.spawns.saturating_sub(1)
    }

    /// The newest exit.
    #[must_use]
    pub const fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_ref()
    }

    fn wanted(&mut self, now: Moment) -> Vec<Action> {
        match &mut self.stage {
            Stage::Absent => {
                let at = self.allowed_at(now).max(now);
                self.spawn_at(now, at)
            }
            Stage::Leaving { again, .. } => {
                *again = true;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn unwanted(&mut self, by: Moment) -> Vec<Action> {
        let leaving = |killed| Stage::Leaving {
            kill_at: by,
            killed,
            again: false,
        };
        match &mut self.stage {
            Stage::Starting { .. } | Stage::Serving { .. } => {
                self.stage = leaving(false);
                vec![Action::Drain]
            }
            Stage::Killed { .. } => {
                self.stage = leaving(true);
                Vec::new()
            }
            Stage::Waiting { .. } => {
                self.stage = Stage::Absent;
                Vec::new()
            }
            Stage::Leaving { again, kill_at, .. } => {
                *again = false;
                *kill_at = by.min(*kill_at);
                Vec::new()
            }
            Stage::Absent => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<Action> {
        // The kill is asked for, so its exit is not late.
        self.unwanted(Moment::after_origin(Duration::MAX));
        match &mut self.stage {
            Stage::Leaving {
                killed: killed @ false,
                ..
            } => {
                *killed = true;
                vec![Action::Kill]
            }
            _ => Vec::new(),
        }
    }

    fn exited(&mut self, now: Moment, status: EndStatus) -> Vec<Action> {
        let mut stable = false;
        let reason = match &mut self.stage {
            Stage::Absent | Stage::Waiting { .. } => return Vec::new(),
            Stage::Starting { unfit, .. } => match unfit.take() {
                Some(message) => ExitReason::ValidationFailed { message },
                None => status.unasked(),
            },
            Stage::Serving { since, .. } => {
                stable = now.since(*since) >= self.settings.min_uptime;
                status.unasked()
            }
            Stage::Killed {
                reason,
                stable: was,
            } => {
                stable = *was;
                reason.clone()
            }
            Stage::Leaving { kill_at, .. } if *kill_at <= now => ExitReason::DrainTimeout,
            Stage::Leaving { .. } => ExitReason::Requested,
        };
        let mut actions = vec![self.gone(now, reason, stable)];
        actions.extend(self.timer(now));
        actions
    }

    /// Decides what follows an end; `stable` is what the process had been.
    fn gone(&mut self, now: Moment, reason: ExitReason, stable: bool) -> Action {
        let voluntary = matches!(self.stage, Stage::Leaving { .. });
        if stable {
            self.failures = 0;
        }
        let next = match self.stage {
            Stage::Leaving { again: false, .. } => None,
            Stage::Leaving { again: true, .. } => Some(now),
            _ => {
                self.failures = self.failures.saturating_add(1);
                let pause = if stable {
                    Duration::ZERO
                } else {
                    let Settings {
                        backoff,
                        backoff_max,
                        ..
                    } = self.settings;
                    jittered(backoff, backoff_max, self.failures, &mut self.random)
                };
                Some(now + pause)
            }
        };
        let next = next.map(|next| next.max(self.allowed_at(now)));
        self.stage = match next {
            Some(until) => Stage::Waiting { until },
            None => Stage::Absent,
        };
        let exit = Exit {
            reason,
            voluntary,
            at: now,
            next,
        };
        self.last_exit = Some(exit.clone());
        Action::Notice(Notice::Exited(exit))
    }

    fn timer(&mut self, now: Moment) -> Vec<Action> {
        match &mut self.stage {
            Stage::Starting { by, .. } if *by <= now => {
                self.stage = Stage::Killed {
                    reason: ExitReason::StartTimeout,
                    stable: false,
                };
                vec![Action::Kill]
            }
            Stage::Serving { since, beat } if *beat + self.settings.hang_timeout <= now => {
                self.stage = Stage::Killed {
                    reason: ExitReason::Hung,
                    stable: beat.since(*since) >= self.settings.min_uptime,
                };
                vec![Action::Kill]
            }
            Stage::Waiting { until } if *until <= now => self.spawn_at(now, now),
            Stage::Leaving {
                kill_at,
                killed: killed @ false,
                ..
            } if *kill_at <= now => {
                *killed = true;
                vec![Action::Kill]
            }
            _ => Vec::new(),
        }
    }

    fn spawn_at(&mut self, now: Moment, at: Moment) -> Vec<Action> {
        if at > now {
            self.stage = Stage::Waiting { until: at };
            return Vec::new();
        }
        self.forks.retain(|at| now.since(*at) < MINUTE);
        self.forks.push_back(now);
        self.spawns += 1;
        self.stage = Stage::Starting {
            since: now,
            by: now + self.settings.start_timeout,
            unfit: None,
        };
        vec![Action::Spawn]
    }

    /// When one more fork is within the bound: a moment that may have passed.
    fn allowed_at(&self, now: Moment) -> Moment {
        let bound = usize::from(self.settings.forks_a_minute.max(1));
        let recent = self.forks.iter().filter(|at| now.since(**at) < MINUTE);
        match recent.clone().count().checked_sub(bound) {
            Some(over) => recent
                .clone()
                .nth(over)
                .map_or(Moment::ORIGIN, |at| *at + MINUTE),
            None => Moment::ORIGIN,
        }
    }
}

#[cfg(test)]
mod tests;
