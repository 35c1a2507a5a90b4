//! Model workers that do what they are told, late and in any order, and a
//! driver between them and the convergence that checks its laws.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use skep_core::converge::{Convergence, Pace, Step};
use skep_core::{HandlerId, SlotIndex, WorkerId};

use crate::random::Random;

type Handlers = BTreeSet<HandlerId>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Load(HandlerId),
    Serve(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Ready,
    Loaded(HandlerId),
    Refused(HandlerId),
    Serving(u64),
}

/// One worker process.
struct Model {
    slot: SlotIndex,
    /// What it serves; what it was born with while it starts.
    plan: u64,
    starting: bool,
    loaded: Handlers,
    loading: Handlers,
    inbox: VecDeque<Told>,
    outbox: VecDeque<Said>,
    /// What it was told and what did not come back yet.
    unanswered: usize,
}

/// The workers of a pool, their driver, and the convergence.
pub(crate) struct Fleet {
    pub(crate) random: Random,
    pub(crate) convergence: Convergence,
    workers: BTreeMap<WorkerId, Model>,
    /// Said by workers that left meanwhile.
    late: Vec<(WorkerId, Said)>,
    plans: BTreeMap<u64, Handlers>,
    pace: Pace,
    next: u64,
    /// How many of a hundred loads are refused.
    refusals: u64,
    pub(crate) settled: u64,
}

const SLOTS: u64 = 4;

impl Fleet {
    pub(crate) fn new(seed: u64) -> Self {
        let first: Handlers = [HandlerId(1), HandlerId(2)].into();
        let mut fleet = Self {
            random: Random::new(seed),
            convergence: Convergence::new(1, first.clone()),
            workers: BTreeMap::new(),
            late: Vec::new(),
            plans: [(1, first)].into(),
            pace: Pace::AllAtOnce,
            next: 1,
            refusals: 0,
            settled: 0,
        };
        fleet.refusals = fleet.random.pick(&[0, 0, 5, 40]).unwrap();
        fleet
    }

    /// One thing happens.
    pub(crate) fn step(&mut self) {
        match self.random.below(100) {
            0..4 => self.want(),
            4..8 if self.workers.len() < 6 => self.born(),
            8..11 => self.leave(),
            11..14 => self.nonsense(),
            14..40 => self.deliver(),
            40..75 => self.work(),
            _ => self.answer(),
        }
        self.check();
    }

    /// Whatever workers have to do and say is done and said, and they refuse
    /// nothing that they did not refuse yet.
    pub(crate) fn drain(&mut self) {
        self.refusals = 0;
        for _ in 0..100_000 {
            let quiet = self.workers.values().all(|worker| {
                !worker.starting
                    && worker.inbox.is_empty()
                    && worker.loading.is_empty()
                    && worker.outbox.is_empty()
            });
            if quiet {
                return;
            }
            self.work();
            self.answer();
            self.deliver();
            self.check();
        }
        panic!("workers do not come to rest");
    }

    /// Another plan is wanted, and every worker gets there.
    pub(crate) fn finish(&mut self) {
        self.drain();
        let pace = self.random.pick(&[Pace::OneByOne, Pace::AllAtOnce]);
        self.want_at(pace.unwrap());
        self.drain();
        assert!(
            self.convergence.is_settled(),
            "{:?} are left behind",
            self.convergence.laggards()
        );
    }

    fn newest(&self) -> u64 {
        *self.plans.keys().next_back().unwrap()
    }

    fn any(&mut self) -> Option<WorkerId> {
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        self.random.pick(&all)
    }

    pub(crate) fn want(&mut self) {
        let pace = match self.random.below(10) {
            0 => Pace::AtBirth,
            1..4 => Pace::AllAtOnce,
            _ => Pace::OneByOne,
        };
        self.want_at(pace);
    }

    fn want_at(&mut self, pace: Pace) {
        let number = self.newest() + 1 + self.random.below(2);
        let handlers: Handlers = (1..=8)
            .map(HandlerId)
            .filter(|_| self.random.percent(40))
            .collect();
        self.plans.insert(number, handlers.clone());
        self.pace = pace;
        let steps = self.convergence.want(number, handlers, pace);
        self.perform(&steps);
    }

    fn born(&mut self) {
        let worker = WorkerId(self.next);
        self.next += 1;
        let slot = SlotIndex(u16::try_from(self.random.below(SLOTS)).unwrap());
        self.convergence.born(worker, slot);
        let plan = self.newest();
        self.workers.insert(
            worker,
            Model {
                slot,
                plan,
                starting: true,
                loaded: self.plans[&plan].clone(),
                loading: Handlers::new(),
                inbox: VecDeque::new(),
                outbox: VecDeque::new(),
                unanswered: 0,
            },
        );
    }

    fn leave(&mut self) {
        if let Some(worker) = self.any() {
            let gone = self.workers.remove(&worker).unwrap();
            self.late
                .extend(gone.outbox.into_iter().map(|said| (worker, said)));
            let steps = self.convergence.leaving(worker);
            self.perform(&steps);
        }
    }

    /// What belongs to nothing: of workers that left or never were, or again.
    fn nonsense(&mut self) {
        let known = self.any();
        let (worker, said) = self.late.pop().unwrap_or_else(|| {
            let stranger = WorkerId(10_000 + self.random.below(5));
            let said = match self.random.below(4) {
                0 => Said::Ready,
                1 => Said::Loaded(HandlerId(self.random.below(9))),
                2 => Said::Refused(HandlerId(self.random.below(9))),
                _ => Said::Serving(self.random.below(9)),
            };
            (stranger, said)
        });
        self.tell(worker, said);
        if let Some(worker) = known {
            // A number that no plan has.
            self.tell(worker, Said::Serving(self.newest() + 1));
            self.tell(worker, Said::Loaded(HandlerId(99)));
            let slot = self.workers[&worker].slot;
            self.convergence.born(worker, slot);
        }
        let newest = self.newest();
        assert_eq!(
            self.convergence
                .want(newest, Handlers::new(), Pace::AllAtOnce),
            []
        );
    }

    fn tell(&mut self, worker: WorkerId, said: Said) {
        let steps = match said {
            Said::Ready => self.convergence.ready(worker, &[]),
            Said::Loaded(handler) => self.convergence.loaded(worker, handler),
            Said::Refused(handler) => self.convergence.refused(worker, handler).1,
            Said::Serving(plan) => self.convergence.serving(worker, plan),
        };
        self.perform(&steps);
    }

    /// The driver reads one message of a worker.
    fn deliver(&mut self) {
        if let Some(worker) = self.any()
            && let Some(said) = self.workers.get_mut(&worker).unwrap().outbox.pop_front()
        {
            let model = self.workers.get_mut(&worker).unwrap();
            if said != Said::Ready {
                model.unanswered -= 1;
            }
            self.tell(worker, said);
        }
    }

    /// A worker takes one message, or becomes ready.
    fn work(&mut self) {
        let Some(worker) = self.any() else { return };
        let model = self.workers.get_mut(&worker).unwrap();
        if model.starting {
            model.starting = false;
            model.outbox.push_back(Said::Ready);
            return;
        }
        match model.inbox.pop_front() {
            Some(Told::Load(handler)) => {
                let new = !model.loaded.contains(&handler) && model.loading.insert(handler);
                assert!(new, "{handler} is loaded twice by {worker}");
            }
            Some(Told::Serve(plan)) => {
                let needed = &self.plans[&plan];
                assert!(model.loading.is_empty(), "told to switch while it loads");
                assert!(
                    needed.is_subset(&model.loaded),
                    "{worker} is to serve {needed:?} with {:?}",
                    model.loaded
                );
                assert!(plan > model.plan, "back to plan {plan}");
                model.loaded = needed.clone();
                model.plan = plan;
                model.outbox.push_back(Said::Serving(plan));
            }
            None => {}
        }
    }

    /// A worker is done with one of the handlers that it loads, or refuses it.
    fn answer(&mut self) {
        let Some(worker) = self.any() else { return };
        let refuses = self.random.percent(self.refusals);
        let model = self.workers.get_mut(&worker).unwrap();
        let loading: Vec<HandlerId> = model.loading.iter().copied().collect();
        let Some(handler) = self.random.pick(&loading) else {
            return;
        };
        model.loading.remove(&handler);
        if refuses {
            model.outbox.push_back(Said::Refused(handler));
        } else {
            model.loaded.insert(handler);
            model.outbox.push_back(Said::Loaded(handler));
        }
    }

    fn perform(&mut self, steps: &[Step]) {
        assert!(
            steps.is_empty() || self.pace != Pace::AtBirth,
            "{steps:?} while workers are being replaced"
        );
        let newest = self.newest();
        for step in steps {
            let (worker, told) = match *step {
                Step::Load { worker, handler } => (worker, Told::Load(handler)),
                Step::Serve { worker } => (worker, Told::Serve(newest)),
            };
            if let Told::Load(handler) = told {
                assert!(
                    self.plans[&newest].contains(&handler),
                    "{handler} is not needed"
                );
            }
            if self.pace == Pace::OneByOne {
                let busy =
                    |(other, model): (&WorkerId, &Model)| *other != worker && model.unanswered > 0;
                assert!(!self.workers.iter().any(busy), "two at the same time");
            }
            let model = self.workers.get_mut(&worker);
            let model = model.expect("nothing is told to those that left");
            let read = !model.starting && !model.outbox.contains(&Said::Ready);
            assert!(read, "{worker} is told something before it is ready");
            model.unanswered += 1;
            model.inbox.push_back(told);
        }
    }

    fn check(&mut self) {
        let newest = self.newest();
        assert_eq!(self.convergence.wanted(), newest);
        let laggards = self.convergence.laggards();
        assert_eq!(laggards.is_empty(), self.convergence.is_settled());
        if self.convergence.is_settled() {
            self.settled += 1;
        }
        for (worker, model) in &self.workers {
            let acknowledged = self.convergence.plan_of(*worker).unwrap();
            // What it acknowledged is behind what it does by one answer at most.
            assert!(acknowledged <= model.plan, "{worker} is not there yet");
            assert_eq!(laggards.contains(worker), acknowledged != newest);
            if self.convergence.is_settled() {
                assert_eq!(model.plan, newest, "{worker} was not waited for");
                assert_eq!(model.loaded, self.plans[&newest]);
            }
        }
    }
}
