//! An operator's deploys, promotions and returns to earlier revisions, and what
//! reloads make live, until the rollout that decides the rest has begun.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_core::claims::Claim;
use skep_core::converge::Pace;
use skep_core::history::RevisionOutcome;
use skep_core::rollout::{Deadlines, Input, Order, Rollout, Rules, Stage};
use skep_core::{AppName, LogLevel, Portion, Revision, Strategy};
use skep_wire::ControlReply;

use super::app::{Passage, Purpose};
use super::material::Old;
use super::operation::{FAILED, NO_SUCH, REFUSED};
use super::words::detach;
use super::{Fleet, now};
use crate::artifacts::MAKE_DEADLINE;
use crate::control::Asker;

/// What is to be deployed, and how.
#[derive(Debug)]
pub(super) struct Deploy {
    pub(super) app: String,
    pub(super) source: PathBuf,
    pub(super) strategy: Option<Strategy>,
    pub(super) canary: Option<Portion>,
    pub(super) force: bool,
    pub(super) dry_run: bool,
    pub(super) detach: bool,
}

impl Fleet {
    /// Begins the rollout of a component as a new revision.
    pub(super) fn deploy(&mut self, deploy: Deploy, asker: Asker) {
        let name = match self.ready_to_pass(&deploy.app) {
            Ok(name) => name,
            Err(reply) => return asker.answer(reply),
        };
        let rules = &self.spec.apps[&name].rollout;
        let app = &self.apps[&name];
        let order = Order {
            from: Some(app.revision),
            to: app.saved.history().next(),
            strategy: deploy.strategy.unwrap_or(rules.strategy),
            canary: deploy.canary.or(rules.canary),
            force: deploy.force,
            dry_run: deploy.dry_run,
            observe: rules.observe,
            rules: Rules::from(rules),
            deadlines: self.deadlines(&name, deploy.force),
        };
        if let Some(reply) = self.conflict(&self.claim_of(&name, &order)) {
            return asker.answer(reply);
        }
        let begun = format!(
            "revision {} of {name} is on its way; `skep status` shows it",
            order.to
        );
        let asker = if deploy.detach {
            detach(asker, begun);
            None
        } else {
            Some(asker)
        };
        self.begin(&name, Purpose::Deploy, order, deploy.source, asker);
    }

    /// Gives a canary all requests, or lets go of what is observed.
    pub(super) fn promote(&mut self, app: &str, asker: Asker) {
        let name = match self.find_app(app) {
            Ok(name) => name,
            Err(reply) => return asker.answer(reply),
        };
        let stage = self.passage(&name).map(|passage| passage.rollout.stage());
        match stage {
            Some(Stage::Canary) => {
                let Some(passage) = self.passage(&name) else {
                    return;
                };
                let claim = self.claim_of(&name, passage.rollout.order());
                if let Some(reply) = self.conflict(&claim) {
                    return asker.answer(reply);
                }
                if let Some(passage) = self.passage_mut(&name) {
                    passage.claim = Some(claim);
                }
            }
            Some(Stage::Observing) => {}
            Some(stage) => {
                return asker.answer(refused(format!(
                    "the rollout of {name} is {stage}: there is nothing to promote yet"
                )));
            }
            None => return asker.answer(failed(format!("{name} has no canary to promote"))),
        }
        self.wait_for(&name, asker);
        self.feed(&name, Input::Promote);
    }

    /// Returns to an earlier revision.
    pub(super) fn roll_back(&mut self, app: &str, to: Option<Revision>, asker: Asker) {
        let name = match self.find_app(app) {
            Ok(name) => name,
            Err(reply) => return asker.answer(reply),
        };
        if let Some(passage) = self.passage(&name) {
            if to.is_some_and(|to| Some(to) != passage.rollout.order().from) {
                return asker.answer(refused(format!(
                    "revision {} of {name} is {}; roll that back first, without a number",
                    passage.to,
                    passage.rollout.stage()
                )));
            }
            return self.call_off(&name, asker);
        }
        let name = match self.ready_to_pass(app) {
            Ok(name) => name,
            Err(reply) => return asker.answer(reply),
        };
        let app = &self.apps[&name];
        let Some(to) = to.or_else(|| app.saved.history().previous()) else {
            return asker.answer(failed(format!(
                "{name} has no earlier revision that was live"
            )));
        };
        let Some(record) = app.saved.history().get(to) else {
            return asker.answer(ControlReply::Refused {
                message: format!("{name} has no revision {to}; `skep history {name}` lists them"),
                code: NO_SUCH,
            });
        };
        if to == app.revision {
            let message = match &app.quarantine {
                Some(why) => format!(
                    "revision {to} of {name} is the one to serve already, and in quarantine: {why}"
                ),
                None => format!("revision {to} of {name} is live already"),
            };
            return asker.answer(failed(message));
        }
        if record.outcome == RevisionOutcome::Rejected {
            return asker.answer(refused(format!(
                "revision {to} of {name} was rejected and is not kept; deploy it again"
            )));
        }
        let Some(source) = self.scribe.component_path(&record.digest) else {
            return asker.answer(failed(format!("the digest of revision {to} is none")));
        };
        let rules = &self.spec.apps[&name].rollout;
        let order = Order {
            from: Some(app.revision),
            to,
            strategy: rules.strategy,
            canary: None,
            force: false,
            dry_run: false,
            // It was live before: it is known.
            observe: Duration::ZERO,
            rules: Rules::from(rules),
            deadlines: self.deadlines(&name, false),
        };
        if let Some(reply) = self.conflict(&self.claim_of(&name, &order)) {
            return asker.answer(reply);
        }
        self.begin(&name, Purpose::Return, order, source, Some(asker));
    }

    /// Ends a rollout that an operator does not want any more. Whoever waited
    /// for it is told that it failed, whoever called it off that this is done.
    fn call_off(&mut self, name: &AppName, asker: Asker) {
        if let Some(passage) = self.apps.get_mut(name).and_then(|app| app.passage.as_mut()) {
            passage.called_off.push(asker);
        }
        let reason = "an operator called it off".to_owned();
        self.feed(name, Input::Rollback { reason });
    }

    fn wait_for(&mut self, name: &AppName, asker: Asker) {
        if let Some(passage) = self.apps.get_mut(name).and_then(|app| app.passage.as_mut()) {
            // Whoever waited before waits no longer than the first.
            match &mut passage.asker {
                Some(_) => passage.called_off.push(asker),
                none => *none = Some(asker),
            }
        }
    }

    /// Whether an app can be sent on its way to another revision.
    fn ready_to_pass(&self, app: &str) -> Result<AppName, ControlReply> {
        let name = self.find_app(app)?;
        if let Some(passage) = self.passage(&name) {
            let stage = passage.rollout.stage();
            let promote = match stage {
                Stage::Canary | Stage::Observing => format!("`skep promote {name}` or "),
                _ => String::new(),
            };
            return Err(refused(format!(
                "revision {} of {name} is {stage}; {promote}`skep rollback {name}` ends that",
                passage.to,
            )));
        }
        Ok(name)
    }

    /// What an app's way to another revision needs for itself.
    fn claim_of(&self, name: &AppName, order: &Order) -> Claim {
        let pool = self.spec.apps[name].pool.clone();
        // One that is forced may come to replace the workers.
        let replaces = order.strategy == Strategy::Restart || order.force;
        Claim::of_app(name.clone(), pool, replaces && !order.dry_run)
    }

    fn deadlines(&self, name: &AppName, force: bool) -> Deadlines {
        let pool = &self.pools[&self.spec.apps[name].pool].spec;
        let settings = &pool.supervision;
        // Each worker loads or starts in turn, and may first have to let go of
        // a handler that still drains.
        let each = settings.start_timeout * u32::from(pool.workers.saturating_add(1));
        let tries = if force {
            (settings.start_timeout + settings.backoff_max) * settings.max_crashes
        } else {
            Duration::ZERO
        };
        Deadlines {
            build: MAKE_DEADLINE,
            validate: settings.start_timeout,
            roll_out: each + settings.drain_timeout + tries,
            restore: settings.start_timeout,
        }
    }

    pub(super) fn begin(
        &mut self,
        name: &AppName,
        purpose: Purpose,
        order: Order,
        source: PathBuf,
        asker: Option<Asker>,
    ) {
        let claim = self.claim_of(name, &order);
        let number = self.next_passage();
        let Some(app) = self.apps.get(name) else {
            return;
        };
        let (rollout, outputs) = Rollout::begin(now(), order);
        let old = (app.stable, Arc::clone(&app.artifact));
        let passage = Passage {
            asker,
            claim: Some(claim),
            ..Passage::new(number, rollout, purpose, source, old)
        };
        self.set_out(name, passage);
        self.carry_out(name, outputs);
    }

    /// Writes down that an app's new revision is live, and watches it.
    pub(super) fn observe_renewed(&mut self, name: &AppName, old: &Old) {
        let spec = &self.spec.apps[name];
        let (rules, source, pool) = (
            spec.rollout.clone(),
            spec.component.clone(),
            spec.pool.clone(),
        );
        let Some(app) = self.apps.get_mut(name) else {
            return;
        };
        if app.quarantine.is_some() {
            // It is live once it is valid, and has nothing to be compared with.
            app.unrecorded = true;
            return;
        }
        let compared = app.standby.is_some();
        let (to, stable, artifact) = (app.revision, app.stable, Arc::clone(&app.artifact));
        let mut history = app.saved.history().clone();
        history.live(to);
        // Its component was kept before anything was applied.
        self.write(name, history, None, |fleet, name, written| {
            fleet.complain_unwritten(name, written.err());
        });
        self.journal.event(LogLevel::Info, "app.live", |line| {
            line.text("pool", pool.as_str())
                .text("app", name.as_str())
                .number("revision", to)
        });
        if old.revision == to || rules.observe.is_zero() || !compared {
            return;
        }
        let order = Order {
            from: Some(old.revision),
            to,
            strategy: Strategy::Swap,
            canary: None,
            force: false,
            dry_run: false,
            observe: rules.observe,
            rules: Rules::from(&rules),
            deadlines: Deadlines {
                build: Duration::ZERO,
                validate: Duration::ZERO,
                roll_out: Duration::ZERO,
                restore: self.pools[&pool].spec.supervision.start_timeout,
            },
        };
        let number = self.next_passage();
        let rollout = Rollout::observe(now(), order);
        let before = (old.handler, Arc::clone(&old.artifact));
        let passage = Passage {
            new: Some((stable, artifact)),
            ..Passage::new(number, rollout, Purpose::Reload, source, before)
        };
        self.set_out(name, passage);
    }

    fn next_passage(&mut self) -> u64 {
        self.last_passage += 1;
        self.last_passage
    }

    /// Answers 503 for an app, or lets it answer again. Outlives skep.
    pub(super) fn pause(&mut self, app: &str, paused: bool, asker: Asker) {
        let name = match self.find_app(app) {
            Ok(name) => name,
            Err(reply) => return asker.answer(reply),
        };
        let word = if paused { "paused" } else { "resumed" };
        let mut history = self.apps[&name].saved.history().clone();
        if history.paused() == paused {
            return asker.answer(ControlReply::Done {
                message: Some(format!("{name} is {word} already")),
            });
        }
        history.set_paused(paused);
        self.write(&name, history, None, move |fleet, name, written| {
            // As it is written down, or, where that failed, as it was.
            if let Some(app) = fleet.spec.apps.get(name) {
                let pool = app.pool.clone();
                fleet.replan(&pool, Pace::AllAtOnce);
            }
            if let Err(why) = written {
                let message = format!("{name} is not {word}: it cannot be written down: {why}");
                fleet.complain_unwritten(name, Some(why));
                let code = FAILED;
                return asker.answer(ControlReply::Refused { message, code });
            }
            fleet
                .journal
                .event(LogLevel::Warn, &format!("app.{word}"), |line| {
                    line.text("app", name.as_str())
                });
            asker.answer(ControlReply::Done {
                message: Some(format!("{name} is {word}")),
            });
        });
    }
}

/// What cannot be done, now or later.
fn failed(message: String) -> ControlReply {
    ControlReply::Refused {
        message,
        code: FAILED,
    }
}

fn refused(message: String) -> ControlReply {
    ControlReply::Refused {
        message,
        code: REFUSED,
    }
}
