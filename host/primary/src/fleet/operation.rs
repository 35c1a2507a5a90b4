//! What one operator has under way and others must wait for: at most one thing
//! at a time in the whole fleet, each with a deadline.

use std::collections::BTreeSet;
use std::fmt;

use skep_core::converge::Pace;
use skep_core::rollout::Input;
use skep_core::supervise::{BreakerState, Event, Patience, RollFailure};
use skep_core::{AppName, HandlerId, Moment, PoolName, WorkerId};
use skep_wire::ControlReply;

use super::reload::Reloading;
use super::{Fleet, Phase, now};
use crate::control::Asker;

/// The exit codes of SPEC §1 for what was not done.
pub(super) const FAILED: u8 = 1;
pub(super) const NO_SUCH: u8 = 2;
pub(super) const REFUSED: u8 = 5;

/// What is under way.
#[derive(Debug)]
pub(super) enum Operation {
    /// An app gets another revision, and is not live yet.
    Deploy(AppName),
    /// The fleet gets another generation.
    Reload(Box<Reloading>),
    /// Workers are replaced.
    Roll {
        /// What was asked for, in words.
        what: String,
        /// Pools that are not done.
        pools: BTreeSet<PoolName>,
        replaced: u16,
        failures: Vec<String>,
        /// The exit code for the failures.
        code: u8,
        asker: Asker,
    },
    /// A pool gets another size.
    Scale {
        pool: PoolName,
        workers: u16,
        by: Moment,
        asker: Asker,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy(app) => write!(f, "a deploy of {app}"),
            Self::Reload(_) => f.write_str("a reload"),
            Self::Roll { what, .. } => f.write_str(what),
            Self::Scale { pool, workers, .. } => write!(f, "scaling {pool} to {workers}"),
        }
    }
}

impl Operation {
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self {
            // The rollout and the supervisor have deadlines of their own.
            Self::Deploy(_) | Self::Roll { .. } => None,
            Self::Reload(reloading) => reloading.deadline(),
            Self::Scale { by, .. } => Some(*by),
        }
    }

    /// Handlers that no plan may name yet.
    pub(super) fn handlers(&self) -> Vec<HandlerId> {
        match self {
            Self::Reload(reloading) => reloading.handlers(),
            Self::Deploy(_) | Self::Roll { .. } | Self::Scale { .. } => Vec::new(),
        }
    }
}

impl Fleet {
    /// Why nothing can be begun now, if so.
    pub(super) fn busy(&self) -> Option<ControlReply> {
        let message = match (&self.operation, self.phase) {
            (_, Phase::Ending(_) | Phase::Ended) => "skep is stopping".to_owned(),
            (Some(operation), _) => format!(
                "{operation} is under way{}; try again when it is done",
                self.stage_of(operation)
            ),
            (None, Phase::Running) => return None,
        };
        let code = REFUSED;
        Some(ControlReply::Refused { message, code })
    }

    fn stage_of(&self, operation: &Operation) -> String {
        match operation {
            Operation::Deploy(app) => self
                .passage(app)
                .map(|passage| format!(" ({})", passage.rollout.stage()))
                .unwrap_or_default(),
            _ => String::new(),
        }
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
            let known: Vec<_> = self.apps.keys().map(AppName::as_str).collect();
            no_such("app", name, &known)
        })
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
        if let Some(reply) = self.busy() {
            return asker.answer(reply);
        }
        self.operation = Some(Operation::Roll {
            what,
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
        match &mut self.operation {
            Some(Operation::Roll {
                pools,
                replaced,
                failures,
                code,
                ..
            }) => {
                if !pools.remove(pool) {
                    return;
                }
                match result {
                    Ok(count) => *replaced += count,
                    Err(reason) => {
                        if !matches!(reason, RollFailure::Tripped) {
                            *code = FAILED;
                        }
                        failures.push(format!("pool {pool}: {reason}"));
                    }
                }
            }
            Some(Operation::Reload(reloading)) => reloading.rolled(pool, result),
            _ => {}
        }
    }

    /// Gives a pool another size.
    pub(super) fn scale(&mut self, pool: &str, workers: u16, asker: Asker) {
        if let Some(reply) = self.busy() {
            return asker.answer(reply);
        }
        let pool = match self.find_pool(pool) {
            Ok(pool) => pool,
            Err(reply) => return asker.answer(reply),
        };
        if !(1..=256).contains(&workers) {
            return asker.answer(ControlReply::Refused {
                message: format!("a pool has 1 to 256 workers, not {workers}"),
                code: NO_SUCH,
            });
        }
        let entry = self.pools.get_mut(&pool).expect("pools of the spec exist");
        let before = std::mem::replace(&mut entry.spec.workers, workers);
        // Workers that start do so one after the other once one has failed.
        let patience = entry.spec.supervision.start_timeout * u32::from(workers.max(2));
        self.operation = Some(Operation::Scale {
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
    pub(super) fn check_operation(&mut self) {
        match &self.operation {
            Some(Operation::Roll { pools, .. }) if pools.is_empty() => {
                if let Some(Operation::Roll {
                    what,
                    replaced,
                    failures,
                    code,
                    asker,
                    ..
                }) = self.operation.take()
                {
                    asker.answer(rolled(&what, replaced, &failures, code));
                }
            }
            Some(Operation::Scale { pool, workers, .. }) => {
                let (pool, workers) = (pool.clone(), *workers);
                let Some(view) = self.supervisor.pool(&pool) else {
                    return;
                };
                if view.serving == workers && self.is_settled(&pool) {
                    let message = format!("pool {pool} has {workers} workers");
                    self.scaled(ControlReply::Done {
                        message: Some(message),
                    });
                } else if view.breaker != BreakerState::Admitting {
                    self.scaled(ControlReply::Refused {
                        message: format!(
                            "the breaker of pool {pool} is tripped; {} of {workers} workers serve",
                            view.serving
                        ),
                        code: REFUSED,
                    });
                }
            }
            Some(Operation::Reload(_)) => self.check_reload(),
            Some(Operation::Deploy(_) | Operation::Roll { .. }) | None => {}
        }
    }

    fn scaled(&mut self, reply: ControlReply) {
        if let Some(Operation::Scale { asker, .. }) = self.operation.take() {
            asker.answer(reply);
        }
    }

    /// The deadline of what is under way may have passed.
    pub(super) fn press_operation(&mut self, now: Moment) {
        let late = self
            .operation
            .as_ref()
            .and_then(Operation::deadline)
            .is_some_and(|by| by <= now);
        if !late {
            return;
        }
        match &self.operation {
            Some(Operation::Scale { pool, workers, .. }) => {
                let message =
                    format!("pool {pool} has not {workers} serving workers yet; it goes on");
                let code = FAILED;
                self.scaled(ControlReply::Refused { message, code });
            }
            Some(Operation::Reload(_)) => self.late_reload(),
            Some(Operation::Deploy(_) | Operation::Roll { .. }) | None => {}
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
