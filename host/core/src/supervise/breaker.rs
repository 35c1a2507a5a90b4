//! When a pool stops replacing its workers.
//!
//! ```text
//! Admitting ──max_crashes of one kind in the window──▶ Tripped{probe_at}
//!     ▲                                                  │         ▲
//!     │ a worker newer than the trip is stable, or reset │ probe   │ probe failed
//!     └───────────────────────────────────────────── Probing{worker}
//! ```

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::name::WorkerId;
use crate::supervise::event::FailureKind;
use crate::supervise::window::CrashWindow;

/// The state of a pool's breakers, as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Workers are replaced as they end.
    Admitting,
    /// Too many crashes.
    Tripped {
        /// Of which kind; `Runtime` if of both.
        kind: FailureKind,
        /// When one worker will be tried.
        probe_at: Moment,
    },
    /// One worker is being tried.
    Probing {
        /// Which kind had tripped; `Runtime` if both.
        kind: FailureKind,
        /// The worker.
        worker: WorkerId,
    },
}

/// The startup and the runtime breaker of a pool's generation.
///
/// Windows are separate. Once the runtime breaker is tripped, the state of the
/// startup breaker makes no difference, hence one state with a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Breaker {
    startup: CrashWindow,
    runtime: CrashWindow,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    Admitting,
    Tripped { trip: Trip, probe_at: Moment },
    Probing { trip: Trip, worker: WorkerId },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Trip {
    kind: FailureKind,
    /// The first worker that did not exist yet.
    newer: WorkerId,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            startup: CrashWindow::default(),
            runtime: CrashWindow::default(),
            state: State::Admitting,
        }
    }

    /// Counts a crash. Returns the number in the window if it trips a breaker;
    /// `next` is the worker that will be created next.
    pub(super) fn record(
        &mut self,
        now: Moment,
        kind: FailureKind,
        next: WorkerId,
        settings: &SupervisionSettings,
    ) -> Option<u32> {
        let window = match kind {
            FailureKind::Startup => &mut self.startup,
            FailureKind::Runtime => &mut self.runtime,
        };
        let crashes = window.record(now, settings.crash_window);
        if crashes < settings.max_crashes {
            return None;
        }
        match &mut self.state {
            State::Admitting => {
                self.state = State::Tripped {
                    trip: Trip { kind, newer: next },
                    probe_at: now + settings.probe_interval,
                };
                Some(crashes)
            }
            State::Tripped { trip, .. } | State::Probing { trip, .. } => {
                let worse = trip.kind == FailureKind::Startup && kind == FailureKind::Runtime;
                worse.then(|| {
                    trip.kind = kind;
                    crashes
                })
            }
        }
    }

    pub(super) fn view(&self) -> BreakerState {
        match self.state {
            State::Admitting => BreakerState::Admitting,
            State::Tripped { trip, probe_at } => BreakerState::Tripped {
                kind: trip.kind,
                probe_at,
            },
            State::Probing { trip, worker } => BreakerState::Probing {
                kind: trip.kind,
                worker,
            },
        }
    }

    /// The pool works again. Crashes go on counting for their time: one that
    /// fails as before trips at once.
    pub(super) fn admit(&mut self) {
        self.state = State::Admitting;
    }

    /// Whether a worker that was stable may be replaced at once.
    pub(super) fn replaces_at_once(&self) -> bool {
        match self.view() {
            BreakerState::Admitting => true,
            BreakerState::Tripped { kind, .. } | BreakerState::Probing { kind, .. } => {
                kind == FailureKind::Startup
            }
        }
    }

    pub(super) fn crashes(&self, now: Moment, settings: &SupervisionSettings) -> u32 {
        let length = settings.crash_window;
        self.startup.count(now, length) + self.runtime.count(now, length)
    }

    /// The probe was created.
    pub(super) fn probe(&mut self, worker: WorkerId) {
        if let State::Tripped { trip, .. } = self.state {
            self.state = State::Probing { trip, worker };
        }
    }

    /// If `worker` is the probe, the next one comes at `probe_at`.
    pub(super) fn probe_ended(&mut self, worker: WorkerId, probe_at: Moment) {
        if let State::Probing {
            trip,
            worker: probe,
        } = self.state
            && probe == worker
        {
            self.state = State::Tripped { trip, probe_at };
        }
    }

    /// Whether it proves that the pool works again that this worker is stable.
    pub(super) fn is_proved_by(&self, worker: WorkerId) -> bool {
        match self.state {
            State::Admitting => false,
            State::Tripped { trip, .. } | State::Probing { trip, .. } => worker >= trip.newer,
        }
    }
}
