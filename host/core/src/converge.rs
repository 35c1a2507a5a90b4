//! How the workers of one pool come to serve the plan that is wanted.
//!
//! [`Convergence`] is level-triggered: it compares what every worker has with
//! what is wanted *now* and says the next [`Step`]s. A newer plan may be wanted
//! at any moment; whatever a worker was about to do for an older one is
//! finished where it cannot be taken back, and is of no consequence. It decides
//! nothing about which plan is wanted (the rollouts and the operator do) or
//! which workers exist (the supervisor does); the primary reports both.
//!
//! ```text
//! one worker   Starting ──ready──▶ Serving{beside, awaited} ──nothing is missing──▶ Switching{to}
//!                                    │  ▲  ▲ missing: Load      Serve                   │
//!                                    │  │  └───────────────── serving{to} ──────────────┘
//!                            refused │  │ another plan is wanted
//!                                    ▼  │
//!                                Serving{stuck}
//! ```
//!
//! - A worker that acknowledged a plan has exactly its handlers; those that it
//!   loaded since come beside.
//! - Nothing is sent to a worker that was told to switch and has not answered,
//!   and none is told to switch while the answer to a load is out: in which
//!   order a worker drops and loads makes no difference then.
//! - A worker that starts has its plan from its first words. It is waited for
//!   only if that plan is not the one that is wanted any more.
//! - A worker may serve a plan and *lack* a handler of it: one that it could
//!   not load when it started, or that was [excused](Convergence::excuse). It
//!   tries that one again by itself, and says when it has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::name::{HandlerId, SlotIndex, WorkerId};

/// Brings the workers of one pool to one plan. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Convergence {
    wanted: Arc<Target>,
    pace: Pace,
    /// Handlers without which workers may serve.
    excused: BTreeSet<HandlerId>,
    /// Those that count, until they leave.
    members: BTreeMap<WorkerId, Member>,
    /// Whose turn it is while they go one by one.
    turn: Option<WorkerId>,
}

/// How workers that run come to another plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pace {
    /// In the order of their slots, each when the one before it serves the
    /// plan. After a refusal nobody else begins: what one worker cannot load is
    /// not tried on the next.
    OneByOne,
    /// All at the same time, each as fast as it can.
    AllAtOnce,
    /// Not at all, because they are being replaced: only workers that are born
    /// from now on have the plan.
    AtBirth,
}

/// What it means that a worker cannot load a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Nothing: the worker was not told to load it, or has it.
    Unasked,
    /// Nothing: no plan that is wanted needs it any more.
    Unneeded,
    /// The worker stays with the plan that it has.
    Stuck,
    /// The worker serves, or will serve, without it.
    Lacking,
}

/// What the driver shall tell a worker, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Load this handler. Answered by [`Convergence::loaded`] or
    /// [`Convergence::refused`].
    Load {
        /// The worker.
        worker: WorkerId,
        /// What it shall load beside what it has.
        handler: HandlerId,
    },
    /// Serve the newest plan, all of whose handlers it has. Answered by
    /// [`Convergence::serving`].
    Serve {
        /// The worker.
        worker: WorkerId,
    },
}

impl Convergence {
    /// Without workers; `plan` is what those will be born with.
    #[must_use]
    pub fn new(plan: u64, handlers: BTreeSet<HandlerId>) -> Self {
        Self {
            wanted: Arc::new(Target {
                number: plan,
                handlers,
            }),
            pace: Pace::AllAtOnce,
            excused: BTreeSet::new(),
            members: BTreeMap::new(),
            turn: None,
        }
    }

    /// Another plan is wanted, which needs these handlers. Workers that were
    /// stuck try again. A number that is not higher than the last one is
    /// ignored.
    pub fn want(&mut self, plan: u64, handlers: BTreeSet<HandlerId>, pace: Pace) -> Vec<Step> {
        if plan <= self.wanted.number {
            return Vec::new();
        }
        self.wanted = Arc::new(Target {
            number: plan,
            handlers,
        });
        self.pace = pace;
        for member in self.members.values_mut() {
            if let Standing::Serving { stuck, .. } = &mut member.standing {
                *stuck = false;
            }
        }
        self.advance()
    }

    /// Workers need not have these handlers to serve a plan that names them, and
    /// lack them until they have: what they are of does not work anyway.
    pub fn excuse(&mut self, handlers: BTreeSet<HandlerId>) {
        self.excused = handlers;
    }

    /// A worker was created. With its first words it was told the newest plan
    /// and that plan's handlers, and it loads them by itself.
    pub fn born(&mut self, worker: WorkerId, slot: SlotIndex) {
        let at = &self.wanted;
        self.members.entry(worker).or_insert_with(|| Member {
            slot,
            at: Arc::clone(at),
            lacks: BTreeSet::new(),
            standing: Standing::Starting,
        });
    }

    /// A worker serves the plan that it was born with, but for `late`: handlers
    /// of that plan that it still tries.
    pub fn ready(&mut self, worker: WorkerId, late: &[HandlerId]) -> Vec<Step> {
        if let Some(member) = self.members.get_mut(&worker)
            && matches!(member.standing, Standing::Starting)
        {
            let its = |handler: &&HandlerId| member.at.handlers.contains(*handler);
            member.lacks.extend(late.iter().filter(its));
            member.standing = Standing::settled();
        }
        self.advance()
    }

    /// A worker has loaded a handler.
    pub fn loaded(&mut self, worker: WorkerId, handler: HandlerId) -> Vec<Step> {
        if let Some(member) = self.members.get_mut(&worker) {
            let lacked = member.lacks.remove(&handler);
            if let Standing::Serving {
                beside, awaited, ..
            } = &mut member.standing
                && (awaited.remove(&handler) || lacked)
            {
                beside.insert(handler);
            }
        }
        self.advance()
    }

    /// A worker cannot load a handler. If the plan that is wanted needs it, and
    /// it is not excused, the worker cannot get there: it stays with its plan,
    /// stuck until another one is wanted or it leaves.
    pub fn refused(&mut self, worker: WorkerId, handler: HandlerId) -> (Refused, Vec<Step>) {
        let Some(member) = self.members.get_mut(&worker) else {
            return (Refused::Unasked, Vec::new());
        };
        let needed = self.wanted.handlers.contains(&handler);
        let of_its_birth =
            matches!(member.standing, Standing::Starting) && member.at.handlers.contains(&handler);
        let refused = if member.lacks.contains(&handler) || of_its_birth {
            Refused::Lacking
        } else if let Standing::Serving { awaited, stuck, .. } = &mut member.standing
            && awaited.remove(&handler)
        {
            *stuck |= needed;
            if needed {
                Refused::Stuck
            } else {
                Refused::Unneeded
            }
        } else {
            Refused::Unasked
        };
        if refused == Refused::Lacking {
            member.lacks.insert(handler);
        }
        (refused, self.advance())
    }

    /// A worker routes every request by this plan from now on. Only the plan
    /// that it was last told can be it; another number is ignored.
    pub fn serving(&mut self, worker: WorkerId, plan: u64) -> Vec<Step> {
        if let Some(member) = self.members.get_mut(&worker)
            && let Standing::Switching { to } = &member.standing
            && to.number == plan
        {
            member.at = Arc::clone(to);
            member.lacks.retain(|handler| to.handlers.contains(handler));
            member.standing = Standing::settled();
        }
        self.advance()
    }

    /// A worker was retired (and drains), was killed or is gone. Nobody waits
    /// for it any more, and nothing is told to it.
    pub fn leaving(&mut self, worker: WorkerId) -> Vec<Step> {
        self.members.remove(&worker);
        self.advance()
    }

    /// Whether no worker serves, or will serve when it is ready, an older plan
    /// than the one that is wanted. Workers that left do not count, those that
    /// start with the wanted plan do not hold it up, and a pool without workers
    /// is settled: its next one is born with the plan.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.members
            .values()
            .all(|member| member.at.number == self.wanted.number)
    }

    /// Who holds it up, in the order of slots.
    #[must_use]
    pub fn laggards(&self) -> Vec<WorkerId> {
        let mut late: Vec<(SlotIndex, WorkerId)> = self
            .members
            .iter()
            .filter(|(_, member)| member.at.number != self.wanted.number)
            .map(|(worker, member)| (member.slot, *worker))
            .collect();
        late.sort_unstable();
        late.into_iter().map(|(_, worker)| worker).collect()
    }

    /// The plan that a worker acknowledged last, or was born with; `None` if it
    /// is unknown or left.
    #[must_use]
    pub fn plan_of(&self, worker: WorkerId) -> Option<u64> {
        self.members.get(&worker).map(|member| member.at.number)
    }

    /// The number of the plan that is wanted.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted.number
    }

    /// Whether a worker may have this handler: it is in the plan that it has, or
    /// was loaded, or is being loaded, beside it.
    #[must_use]
    pub fn may_have(&self, worker: WorkerId, handler: HandlerId) -> bool {
        self.members.get(&worker).is_some_and(|member| {
            let beside = match &member.standing {
                Standing::Serving {
                    beside, awaited, ..
                } => beside.contains(&handler) || awaited.contains(&handler),
                Standing::Switching { to } => to.handlers.contains(&handler),
                Standing::Starting => false,
            };
            beside || member.at.handlers.contains(&handler)
        })
    }

    /// Workers that serve without this handler, though their plan has it.
    pub fn lacking(&self, handler: HandlerId) -> impl Iterator<Item = WorkerId> {
        let lacking = move |(_, member): &(_, &Member)| member.lacks.contains(&handler);
        self.members
            .iter()
            .filter(lacking)
            .map(|(worker, _)| *worker)
    }

    /// Whether a worker serves a plan with this handler, and has it.
    #[must_use]
    pub fn is_served(&self, handler: HandlerId) -> bool {
        self.members.values().any(|member| {
            !matches!(member.standing, Standing::Starting)
                && member.at.handlers.contains(&handler)
                && !member.lacks.contains(&handler)
        })
    }

    /// What can be done now towards the wanted plan.
    fn advance(&mut self) -> Vec<Step> {
        let movers: Vec<WorkerId> = match self.pace {
            Pace::AtBirth => Vec::new(),
            Pace::AllAtOnce => self.members.keys().copied().collect(),
            Pace::OneByOne => self.next().into_iter().collect(),
        };
        let mut steps = Vec::new();
        for worker in movers {
            if let Some(member) = self.members.get_mut(&worker) {
                member.advance(worker, &self.wanted, &self.excused, &mut steps);
            }
        }
        steps
    }

    /// The one worker that may be told something, if one may. An earlier pace
    /// may have left several at work: their answers are waited for first.
    fn next(&mut self) -> Option<WorkerId> {
        if self.members.values().any(Member::is_stuck) {
            return None;
        }
        let moves = |worker: &WorkerId| {
            self.members
                .get(worker)
                .is_some_and(|member| member.can_move(&self.wanted))
        };
        let turn = self
            .turn
            .filter(moves)
            .or_else(|| self.laggards().into_iter().find(moves));
        self.turn = turn;
        let other_is_busy = self
            .members
            .iter()
            .any(|(worker, member)| Some(*worker) != turn && member.is_busy());
        turn.filter(|_| !other_is_busy)
    }
}

/// A plan, as far as it matters here. It is kept as long as a worker is at it
/// or on its way there.
#[derive(Debug)]
struct Target {
    number: u64,
    handlers: BTreeSet<HandlerId>,
}

#[derive(Clone, Debug)]
struct Member {
    slot: SlotIndex,
    /// What it acknowledged last, or was born with: it has these handlers.
    at: Arc<Target>,
    /// Handlers of `at`, or of what it is on its way to, that it does without.
    lacks: BTreeSet<HandlerId>,
    standing: Standing,
}

#[derive(Clone, Debug)]
enum Standing {
    /// It is loading what it was born with.
    Starting,
    /// It serves `at`, has loaded `beside` since, and was told to load
    /// `awaited`.
    Serving {
        beside: BTreeSet<HandlerId>,
        awaited: BTreeSet<HandlerId>,
        stuck: bool,
    },
    /// It serves either; it was told to serve `to` and has not answered.
    Switching { to: Arc<Target> },
}

impl Standing {
    const fn settled() -> Self {
        Self::Serving {
            beside: BTreeSet::new(),
            awaited: BTreeSet::new(),
            stuck: false,
        }
    }
}

impl Member {
    fn is_stuck(&self) -> bool {
        matches!(self.standing, Standing::Serving { stuck: true, .. })
    }

    /// Whether an answer of it is out.
    fn is_busy(&self) -> bool {
        match &self.standing {
            Standing::Starting => false,
            Standing::Serving { awaited, .. } => !awaited.is_empty(),
            Standing::Switching { .. } => true,
        }
    }

    fn can_move(&self, wanted: &Target) -> bool {
        self.at.number != wanted.number && !matches!(self.standing, Standing::Starting)
    }

    fn advance(
        &mut self,
        worker: WorkerId,
        wanted: &Arc<Target>,
        excused: &BTreeSet<HandlerId>,
        steps: &mut Vec<Step>,
    ) {
        if self.at.number == wanted.number {
            return;
        }
        let Standing::Serving {
            beside,
            awaited,
            stuck: false,
        } = &mut self.standing
        else {
            return;
        };
        for handler in &wanted.handlers {
            let has = self.at.handlers.contains(handler)
                || beside.contains(handler)
                || self.lacks.contains(handler);
            let told = !has
                && if excused.contains(handler) {
                    self.lacks.insert(*handler)
                } else {
                    awaited.insert(*handler)
                };
            if told {
                steps.push(Step::Load {
                    worker,
                    handler: *handler,
                });
            }
        }
        if awaited.is_empty() {
            self.standing = Standing::Switching {
                to: Arc::clone(wanted),
            };
            steps.push(Step::Serve { worker });
        }
    }
}
