//! What operators have under way, who has to wait for whom, and operations on
//! whole pools: restarts, rotations and sizes.
//!
//! What an operation needs for itself is its [`Claim`]. That of an app's way to
//! another revision is kept with it (`app::Passage`), that of a reload with the
//! reload, those of pools here.

use std::collections::BTreeSet;
use std::fmt;

use skep_core::claims::Claim;
use skep_core::converge::Pace;
use skep_core::rollout::Input;
use skep_core::supervise::{BreakerState, Event, Patience, RollFailure};
use skep_core::{AppName, HandlerId, Moment, PoolName, WorkerId};
use skep_wire::ControlReply;

use super::{Fleet, Phase, now};
use crate::control::Asker;

/// The exit codes of SPEC §1 for what was not done.
pub(super) const FAILED: u8 = 1;
pub(super) const NO_SUCH: u8 = 2;
pub(super) const REFUSED: u8 = 5;

/// Workers that are being replaced.
#[derive(Debug)]
pub(super) struct Roll {
    /// What was asked for, in words.
    what: String,
    claim: Claim,
    /// Pools that are not done.
    pools: BTreeSet<PoolName>,
    replaced: u16,
    failures: Vec<String>,
    /// The exit code for the failures.
    code: u8,
    asker: Asker,
}

/// A pool that gets another size.
#[derive(Debug)]
pub(super) struct Scale {
    claim: Claim,
    pool: PoolName,
    workers: u16,
    by: Moment,
    asker: Asker,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, workers, .. } = self;
        write!(f, "scaling {pool} to {workers}")
    }
}

impl Fleet {
    /// Everything that is under way, in words, with what it needs for itself.
    pub(super) fn operations(&self) -> impl Iterator<Item = (String, &Claim)> {
        let reload = self.claim_of_reloading();
        let reload = reload.map(|claim| ("a reload".to_owned(), claim));
        self.operations_but_reload().chain(reload)
    }

    pub(super) fn operations_but_reload(&self) -> impl Iterator<Item = (String, &Claim)> {
        let passing = self.passages().filter_map(|(name, passage)| {
            let what = format!("a deploy of {name} ({})", passage.rollout.stage());
            Some((what, passage.claim.as_ref()?))
        });
        let scales = self.scales.iter();
        passing
            .chain(
                self.rolls
                    .iter()
                    .map(|roll| (roll.what.clone(), &roll.claim)),
            )
            .chain(scales.map(|scale| (scale.to_string(), &scale.claim)))
    }

    /// Why an operation that needs this cannot be begun now, if so.
    pub(super) fn conflict(&self, claim: &Claim) -> Option<ControlReply> {
        let message = if self.phase == Phase::Running {
            let (what, _) = self.operations().find(|(_, of)| of.conflicts(claim))?;
            format!("{what} is under way; try again when it is done")
        } else {
            "skep is stopping".to_owned()
        };
        let code = REFUSED;
        Some(ControlReply::Refused { message, code })
    }

    /// When one of them is late.
    pub(super) fn operations_deadline(&self) -> Option<Moment> {
        // Rollouts and the supervisor have deadlines of their own.
        let scales = self.scales.iter().map(|scale| scale.by);
        let reload = self.reloading.as_ref().and_then(|it| it.deadline());
        scales.chain(reload).min()
    }

    /// Handlers that no plan may name yet.
    pub(super) fn handlers_under_way(&self) -> Vec<HandlerId> {
        let reloading = self.reloading.as_ref();
        reloading
            .map(|it| it.material.handlers())
            .unwrap_or_default()
    }

    /// Whoever waits for what will not be is told so by being hung up on.
    pub(super) fn abandon_operations(&mut self) {
        self.rolls.clear();
        self.scales.clear();
        self.reloading = None;
    }

    pub(super) fn find_pool(&self, name: &str) -> Result<PoolName, ControlReply> {
        let found = self.spec.pools.keys().find(|pool| pool.as_str() == name);
        found.cloned().ok_or_else(|| {
            let known: Vec<_> = self.spec.pools.keys().map(PoolName::as_str).collect();
            no_such("pool", name, &known)
        })
    }

    pub(super) fn find_app(&self, name: &str) -> Result<AppName, ControlReply> {
        let found = self.apps.keys().find(|app| app.as_str() == name);
        found.cloned().ok_or_else(|| {
            if let Some(reply) = self.is_unbuilt(name) {
                return reply;
            }
            let known: Vec<_> = self.apps.keys().map(AppName::as_str).collect();
            no_such("app", name, &known)
        })
    }

    /// Whether a pool has crashed too often and was not brought back since.
    pub(super) fn tripped(&self, pool: &PoolName) -> bool {
        let mut pools = self.supervisor.pools();
        let view = pools.find(|view| view.name == *pool);
        view.is_some_and(|view| view.breaker != BreakerState::Admitting)
    }

    /// Replaces the workers of one pool, or of all.
    pub(super) fn restart(&mut self, pool: Option<&str>, asker: Asker) {
        let pools: BTreeSet<PoolName> = match pool {
            None => self.spec.pools.keys().cloned().collect(),
            Some(name) => match self.find_pool(name) {
                Ok(pool) => BTreeSet::from([pool]),
                Err(reply) => return asker.answer(reply),
            },
        };
        let what = match pool {
            None => "a restart of all pools".to_owned(),
            Some(pool) => format!("a restart of pool {pool}"),
        };
        self.roll(what, pools, &[], asker);
    }

    /// Replaces one worker.
    pub(super) fn rotate(&mut self, worker: WorkerId, asker: Asker) {
        let view = self.supervisor.worker(worker);
        let Some(view) = view.filter(|view| view.state.is_in_slot()) else {
            return asker.answer(ControlReply::Refused {
                message: format!("there is no worker {worker} in a slot; `skep status` lists them"),
                code: NO_SUCH,
            });
        };
        let what = format!("a replacement of worker {worker}");
        self.roll(what, BTreeSet::from([view.pool]), &[worker], asker);
    }

    fn roll(
        &mut self,
        what: String,
        pools: BTreeSet<PoolName>,
        workers: &[WorkerId],
        asker: Asker,
    ) {
        let claim = Claim::of_workers(pools.clone());
        if let Some(reply) = self.conflict(&claim) {
            return asker.answer(reply);
        }
        self.rolls.push(Roll {
            what,
            claim,
            pools: pools.clone(),
            replaced: 0,
            failures: Vec::new(),
            code: REFUSED,
            asker,
        });
        for pool in pools {
            self.step(Event::Roll {
                pool,
                workers: workers.to_vec(),
                patience: Patience::OneTry,
            });
        }
    }

    /// A pool's rolling replacement has ended.
    pub(super) fn roll_ended(&mut self, pool: &PoolName, result: &Result<u16, RollFailure>) {
        for app in self.passing(pool) {
            if let Some(passage) = self.apps.get_mut(&app).and_then(|app| app.passage.as_mut()) {
                passage.by_birth = false;
            }
            let input = match result {
                Ok(_) => Input::Rolled,
                Err(reason) => Input::RollFailed {
                    reason: reason.to_string(),
                },
            };
            self.feed(&app, input);
        }
        self.rolled_for_reload(pool, result);
        // No two of them replace the workers of one pool.
        let roll = self.rolls.iter_mut().find(|roll| roll.pools.contains(pool));
        let Some(roll) = roll else { return };
        roll.pools.remove(pool);
        match result {
            Ok(count) => roll.replaced += count,
            Err(reason) => {
                if !matches!(reason, RollFailure::Tripped) {
                    roll.code = FAILED;
                }
                roll.failures.push(format!("pool {pool}: {reason}"));
            }
        }
    }

    /// Gives a pool another size.
    pub(super) fn scale(&mut self, pool: &str, workers: u16, asker: Asker) {
        let pool = match self.find_pool(pool) {
            Ok(pool) => pool,
            Err(reply) => return asker.answer(reply),
        };
        if self.tripped(&pool) {
            return asker.answer(ControlReply::Refused {
                message: format!(
                    "pool {pool} has tripped and keeps its size; `skep reset {pool}` probes it at \
                     once"
                ),
                code: REFUSED,
            });
        }
        if !(1..=256).contains(&workers) {
            return asker.answer(ControlReply::Refused {
                message: format!("a pool has 1 to 256 workers, not {workers}"),
                code: NO_SUCH,
            });
        }
        let claim = Claim::of_workers(BTreeSet::from([pool.clone()]));
        if let Some(reply) = self.conflict(&claim) {
            return asker.answer(reply);
        }
        let entry = self.pools.get_mut(&pool).expect("pools of the spec exist");
        let before = std::mem::replace(&mut entry.spec.workers, workers);
        // Workers that start do so one after the other once one has failed.
        let patience = entry.spec.supervision.start_timeout * u32::from(workers.max(2));
        self.scales.push(Scale {
            claim,
            pool: pool.clone(),
            workers,
            by: now() + patience,
            asker,
        });
        self.journal
            .event(skep_core::LogLevel::Info, "pool.scaled", |line| {
                line.text("pool", pool.as_str())
                    .number("workers", workers)
                    .number("before", before)
            });
        // In this order: those that are born have the new shares of limits.
        self.replan(&pool, Pace::OneByOne);
        self.step(Event::Scale { pool, workers });
    }

    /// Ends what is under way when it is done.
    pub(super) fn check_operations(&mut self) {
        for roll in self.rolls.extract_if(.., |roll| roll.pools.is_empty()) {
            let reply = rolled(&roll.what, roll.replaced, &roll.failures, roll.code);
            roll.asker.answer(reply);
        }
        for scale in std::mem::take(&mut self.scales) {
            match self.scaled(&scale) {
                Some(reply) => scale.asker.answer(reply),
                None => self.scales.push(scale),
            }
        }
        self.check_reload();
    }

    /// What became of another size, once that is known.
    fn scaled(&self, scale: &Scale) -> Option<ControlReply> {
        let Scale { pool, workers, .. } = scale;
        let view = self.supervisor.pool(pool)?;
        if view.serving == *workers && self.is_settled(pool) {
            let message = Some(format!("pool {pool} has {workers} workers"));
            return Some(ControlReply::Done { message });
        }
        if view.breaker == BreakerState::Admitting {
            return None;
        }
        Some(ControlReply::Refused {
            message: format!(
                "pool {pool} is to have {workers} workers now, but it has tripped: {} serve; \
                 `skep reset {pool}` probes it at once",
                view.serving
            ),
            code: FAILED,
        })
    }

    /// The deadline of what is under way may have passed.
    pub(super) fn press_operations(&mut self, now: Moment) {
        for scale in self.scales.extract_if(.., |scale| scale.by <= now) {
            let Scale { pool, workers, .. } = &scale;
            let message = format!("pool {pool} has not {workers} serving workers yet; it goes on");
            let code = FAILED;
            scale.asker.answer(ControlReply::Refused { message, code });
        }
        let reload = self.reloading.as_ref().and_then(|it| it.deadline());
        if reload.is_some_and(|by| by <= now) {
            self.step_reload(skep_core::reload::Input::Timer);
        }
    }
}

fn rolled(what: &str, replaced: u16, failures: &[String], code: u8) -> ControlReply {
    if failures.is_empty() {
        let plural = if replaced == 1 { "" } else { "s" };
        return ControlReply::Done {
            message: Some(format!(
                "{what} is done: {replaced} worker{plural} replaced"
            )),
        };
    }
    ControlReply::Refused {
        message: format!("{what} was given up: {}", failures.join("; ")),
        code,
    }
}

fn no_such(kind: &str, name: &str, known: &[&str]) -> ControlReply {
    let message = match known {
        [] => format!("there is no {kind} named '{name}', and no other"),
        known if known.len() <= 10 => {
            format!(
                "there is no {kind} named '{name}'; there is: {}",
                known.join(", ")
            )
        }
        _ => format!("there is no {kind} named '{name}'; `skep status` lists them"),
    };
    ControlReply::Refused {
        message,
        code: NO_SUCH,
    }
}
