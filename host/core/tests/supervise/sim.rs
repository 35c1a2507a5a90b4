//! A driver with simulated time and processes.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_core::supervise::{
    Action, EndStatus, Event, FailureKind, Notice, Patience, Strength, WorkerState,
};
use skep_core::{ExitReason, Generation, Moment, PoolName, SupervisionSettings, WorkerId};

use crate::checked::Checked;

pub(crate) fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub(crate) fn name(pool: &str) -> PoolName {
    PoolName::new(pool).unwrap()
}

/// How a simulated process behaves.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// The process cannot be created.
    Unborn,
    /// It ends before it is ready.
    Stillborn { after: Duration },
    /// It says that it cannot serve, then exits.
    Unfit { after: Duration },
    /// It neither becomes ready nor exits.
    Stuck,
    /// It becomes ready.
    Serves {
        ready: Duration,
        /// Whether it answers a request well, at once.
        well: bool,
        /// When it crashes, counted from ready.
        life: Option<Duration>,
        /// When it stops beating, counted from ready.
        hangs: Option<Duration>,
    },
}

impl Fate {
    pub(crate) fn healthy() -> Self {
        Self::Serves {
            ready: secs(0.01),
            well: true,
            life: None,
            hangs: None,
        }
    }

    pub(crate) fn lives(life: f64, well: bool) -> Self {
        Self::Serves {
            ready: secs(0.01),
            well,
            life: Some(secs(life)),
            hangs: None,
        }
    }
}

/// How a process takes being asked to go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manners {
    /// It drains for this long, and stops at once.
    Polite(Duration),
    /// It does not drain, but stops.
    Busy,
    /// Only a kill helps.
    Deaf,
}

#[derive(Clone, Debug)]
struct Process {
    ready_at: Option<Moment>,
    well: bool,
    hangs_at: Option<Moment>,
}

/// The supervisor and its world.
pub(crate) struct Sim {
    pub(crate) checked: Checked,
    queue: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
    processes: BTreeMap<WorkerId, Process>,
    fate: Box<dyn FnMut(&Action) -> Fate>,
    pub(crate) manners: Manners,
    /// What a worker has read and holds, by the time that it has been ready.
    pub(crate) usage: fn(Duration) -> (u64, u64),
    next_poll: Moment,
}

/// How often the driver reads the scoreboard.
const POLL: Duration = Duration::from_secs(1);
/// How long the system takes to end a killed process.
const DEATH: Duration = Duration::from_millis(2);

impl Sim {
    pub(crate) fn new(seed: u64, fate: impl FnMut(&Action) -> Fate + 'static) -> Self {
        Self {
            checked: Checked::new(seed),
            queue: BTreeMap::new(),
            sequence: 0,
            processes: BTreeMap::new(),
            fate: Box::new(fate),
            manners: Manners::Polite(secs(0.1)),
            usage: |_| (0, 0),
            next_poll: Moment::ORIGIN,
        }
    }

    /// With a pool "p" of the default settings.
    pub(crate) fn pool(
        seed: u64,
        workers: u16,
        fate: impl FnMut(&Action) -> Fate + 'static,
    ) -> Self {
        let mut sim = Self::new(seed, fate);
        sim.add("p", workers, SupervisionSettings::default(), 1);
        sim
    }

    pub(crate) fn add(
        &mut self,
        pool: &str,
        workers: u16,
        settings: SupervisionSettings,
        generation: u64,
    ) {
        self.send(Event::PoolAdded {
            pool: name(pool),
            workers,
            settings,
            generation: Generation(generation),
        });
    }

    pub(crate) fn now(&self) -> Moment {
        self.checked.now
    }

    /// Takes one event at once.
    pub(crate) fn send(&mut self, event: Event) -> Vec<Action> {
        if let Event::Exited { worker, .. } = &event {
            self.processes.remove(worker);
        }
        let actions = self.checked.step(event);
        for action in &actions {
            self.perform(action);
        }
        actions
    }

    /// `kill -9` from outside.
    pub(crate) fn kill(&mut self, worker: WorkerId) -> Vec<Action> {
        self.send(Event::Exited {
            worker,
            status: EndStatus::Signal(9),
        })
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now() + duration;
        loop {
            let event_at = self.queue.keys().next().map(|(at, _)| *at);
            let timer_at = self.checked.deadline();
            let at = event_at
                .into_iter()
                .chain(timer_at)
                .chain([self.next_poll])
                .min();
            let at = at.unwrap().max(self.now());
            if at > end {
                break;
            }
            self.checked.now = at;
            if self.next_poll <= at {
                self.next_poll = at + POLL;
                self.beat();
            } else if event_at.is_some_and(|event_at| event_at <= at) {
                let (_, event) = self.queue.pop_first().unwrap();
                self.deliver(event);
            } else {
                self.beat();
                self.send(Event::Timer);
            }
        }
        self.checked.now = end;
    }

    fn deliver(&mut self, event: Event) {
        match &event {
            // What a process that is gone had in mind does not happen.
            Event::Ready { worker }
            | Event::Exited { worker, .. }
            | Event::Unfit { worker, .. }
                if !self.processes.contains_key(worker) => {}
            Event::Ready { worker } => {
                let now = self.now();
                self.processes.get_mut(worker).unwrap().ready_at = Some(now);
                self.send(event);
            }
            _ => {
                self.send(event);
            }
        }
    }

    fn beat(&mut self) {
        let now = self.now();
        let beats: Vec<Event> = self
            .processes
            .iter()
            .filter_map(|(worker, process)| {
                let at = process.hangs_at.unwrap_or(now).min(now);
                let (requests, memory) = (self.usage)(at.since(process.ready_at?));
                Some(Event::Beat {
                    worker: *worker,
                    at,
                    served: process.well,
                    requests,
                    memory,
                })
            })
            .collect();
        for beat in beats {
            self.send(beat);
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.queue
            .insert((self.now() + delay, self.sequence), event);
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::Spawn { worker, .. } => {
                let fate = (self.fate)(action);
                self.create(*worker, &fate);
            }
            Action::Kill { worker } => self.exit(*worker, DEATH, EndStatus::Signal(9)),
            Action::Stop { worker } => {
                if !matches!(self.manners, Manners::Deaf) {
                    self.exit(*worker, DEATH, EndStatus::Code(0));
                }
            }
            Action::Drain { worker } => {
                if let Manners::Polite(duration) = self.manners {
                    self.after(duration, Event::Drained { worker: *worker });
                    self.exit(*worker, duration + DEATH, EndStatus::Code(1));
                }
            }
            Action::Notice(_) | Action::Finished => {}
        }
    }

    fn exit(&mut self, worker: WorkerId, delay: Duration, status: EndStatus) {
        self.after(delay, Event::Exited { worker, status });
    }

    fn create(&mut self, worker: WorkerId, fate: &Fate) {
        if let Fate::Unborn = fate {
            let message = "resource temporarily unavailable".to_owned();
            return self.after(Duration::ZERO, Event::SpawnFailed { worker, message });
        }
        let mut process = Process {
            ready_at: None,
            well: false,
            hangs_at: None,
        };
        self.after(Duration::ZERO, Event::Spawned { worker });
        match fate {
            Fate::Unborn | Fate::Stuck => {}
            Fate::Stillborn { after } => self.exit(worker, *after, EndStatus::Code(1)),
            Fate::Unfit { after } => {
                let message = "no such key".to_owned();
                self.after(*after, Event::Unfit { worker, message });
                self.exit(worker, *after + DEATH, EndStatus::Code(1));
            }
            Fate::Serves {
                ready,
                well,
                life,
                hangs,
            } => {
                process.well = *well;
                process.hangs_at = hangs.map(|hangs| self.now() + *ready + hangs);
                self.after(*ready, Event::Ready { worker });
                if let Some(life) = life {
                    if *well {
                        let at = self.now() + *ready;
                        self.after(
                            *ready,
                            Event::Beat {
                                worker,
                                at,
                                served: true,
                                requests: 1,
                                memory: 0,
                            },
                        );
                    }
                    self.exit(worker, *ready + *life, EndStatus::Signal(11));
                }
            }
        }
        self.processes.insert(worker, process);
    }

    /// Asks for a roll of pool "p"; no workers are all of them.
    pub(crate) fn roll(&mut self, workers: &[u64], patience: Patience) -> Vec<Action> {
        self.send(Event::Roll {
            pool: name("p"),
            workers: workers.iter().copied().map(WorkerId).collect(),
            patience,
        })
    }

    /// Records of rolls, with their times.
    pub(crate) fn rolls(&self) -> Vec<Notice> {
        let notices = self.checked.notices().map(|(_, notice)| notice.clone());
        notices
            .filter(|notice| matches!(notice, Notice::Rolled { .. } | Notice::RollFailed { .. }))
            .collect()
    }

    pub(crate) fn serving(&self) -> Vec<WorkerId> {
        let workers = self.checked.workers().into_iter();
        workers
            .filter(|w| w.state == WorkerState::Serving)
            .map(|w| w.id)
            .collect()
    }

    pub(crate) fn spawns(&self) -> Vec<Moment> {
        let log = self.checked.log.iter();
        log.filter(|(_, action)| matches!(action, Action::Spawn { .. }))
            .map(|(at, _)| *at)
            .collect()
    }

    pub(crate) fn tripped(&self) -> Vec<FailureKind> {
        let notices = self.checked.notices();
        notices
            .filter_map(|(_, notice)| match notice {
                Notice::Tripped { kind, .. } => Some(*kind),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn exits(&self) -> Vec<(WorkerId, ExitReason)> {
        let notices = self.checked.notices();
        notices
            .filter_map(|(_, notice)| match notice {
                Notice::Exited { worker, reason, .. } => Some((*worker, reason.clone())),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn finish(&mut self, strength: Strength) {
        self.send(Event::Shutdown { strength });
        self.run(secs(120.0));
        assert!(matches!(
            self.checked.log.last(),
            Some((_, Action::Finished))
        ));
    }
}

/// The most of `moments` that lie within any half-open stretch of `length`.
pub(crate) fn densest(moments: &[Moment], length: Duration) -> usize {
    let from = |start: &Moment| {
        moments
            .iter()
            .filter(|at| **at >= *start && at.since(*start) < length)
            .count()
    };
    moments.iter().map(from).max().unwrap_or(0)
}
