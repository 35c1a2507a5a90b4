//! What an app's rollout needs done, done: builds, canary workers, plans,
//! records, and the words for whoever waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_core::converge::Pace;
use skep_core::rollout::{By, Ending, FailedStep, Input, Output, Stage, Wanted};
use skep_core::supervise::{Event, Patience};
use skep_core::{AppName, LogLevel, PoolName};
use skep_wire::{ControlReply, Refusal};

use super::app::{Passage, Purpose};
use super::trial::Whose;
use super::words::{called_off, unserved, verdict, worded};
use super::{Consequence, Fleet, now};
use crate::artifacts::Artifact;

impl Fleet {
    /// Tells an app's rollout something, and does what it says.
    pub(super) fn feed(&mut self, name: &AppName, input: Input) {
        let Some(passage) = self.apps.get_mut(name).and_then(|app| app.passage.as_mut()) else {
            return;
        };
        let outputs = passage.rollout.step(now(), input);
        self.carry_out(name, outputs);
    }

    /// Does what an app's rollout says, in order.
    pub(super) fn carry_out(&mut self, name: &AppName, outputs: Vec<Output>) {
        let stage = |fleet: &Self| Some(fleet.passage(name)?.rollout.stage());
        if stage(self) != Some(Stage::Validating) {
            self.end_trial_of(name);
        }
        if let Some(backlog) = self.passage_mut(name).and_then(|p| p.backlog.as_mut()) {
            // Something must be written down before.
            backlog.extend(outputs);
            return;
        }
        let mut outputs = outputs.into_iter();
        while let Some(output) = outputs.next() {
            match output {
                Output::Build => self.build(name),
                Output::Validate => self.validate(name),
                Output::Validated => self.app_event(name, LogLevel::Info, "app.validated", None),
                Output::Forced { reason } => {
                    self.tell(
                        name,
                        format!("validation failed, and is overruled: {reason}"),
                    );
                }
                Output::Want(wanted) => {
                    let pace = match wanted {
                        // Workers have both already.
                        Wanted::Old | Wanted::Both => Pace::AllAtOnce,
                        Wanted::Canary(_) | Wanted::New { .. } => Pace::OneByOne,
                    };
                    self.want(name, wanted, pace);
                }
                Output::Roll { patient } => self.roll_for(name, patient),
                Output::Canary => self.canary_serves(name),
                Output::Holding => self.holding(name),
                Output::Commit => self.commit(name),
                Output::Live => self.live(name),
                Output::Comparing { reason } => {
                    let why = Some((FailedStep::Observe, reason.as_str()));
                    self.app_event(name, LogLevel::Info, "app.comparing", why);
                }
                Output::Unclear { reason } => self.unclear(name, &reason),
                Output::Restoring { step, reason, .. } => {
                    let message = format!("{step}: {reason}; going back to the revision before");
                    self.tell(name, message);
                }
                Output::Revert => return self.revert(name, outputs.collect()),
                Output::Ended(ending) => self.passed(name, &ending),
            }
        }
    }

    pub(super) fn passage(&self, name: &AppName) -> Option<&Passage> {
        self.apps.get(name)?.passage.as_ref()
    }

    pub(super) fn passage_mut(&mut self, name: &AppName) -> Option<&mut Passage> {
        self.apps.get_mut(name)?.passage.as_mut()
    }

    /// Sends an app on its way.
    pub(super) fn set_out(&mut self, name: &AppName, passage: Passage) {
        if let Some(app) = self.apps.get_mut(name) {
            app.passage = Some(passage);
            self.passing.insert(name.clone());
        }
    }

    /// Takes the passage of an app that has arrived.
    fn arrived(&mut self, name: &AppName) -> Option<Passage> {
        self.passing.remove(name);
        self.apps.get_mut(name)?.passage.take()
    }

    /// All apps that are on their way to another revision.
    pub(super) fn passages(&self) -> impl Iterator<Item = (&AppName, &Passage)> {
        let names = self.passing.iter();
        names.filter_map(|name| Some((name, self.passage(name)?)))
    }

    /// Those of a pool.
    pub(super) fn passing(&self, pool: &PoolName) -> Vec<AppName> {
        let names = self.passages().map(|(name, _)| name);
        let of_pool = |name: &&AppName| {
            let spec = self.spec.apps.get(*name);
            spec.is_some_and(|spec| spec.pool == *pool)
        };
        names.filter(of_pool).cloned().collect()
    }

    fn pool_of(&self, name: &AppName) -> PoolName {
        self.spec.apps[name].pool.clone()
    }

    /// Tells whoever waits for an app.
    fn tell(&self, name: &AppName, message: String) {
        if let Some(asker) = self
            .passage(name)
            .and_then(|passage| passage.asker.as_ref())
        {
            asker.progress(message);
        }
    }

    /// Tells those who wait for apps of a pool how many of its workers have come along.
    pub(super) fn tell_spread(&mut self, pool: &PoolName) {
        let Some(entry) = self.pools.get(pool) else {
            return;
        };
        let all = usize::from(entry.spec.workers);
        let there = all.saturating_sub(entry.convergence.laggards().len());
        for name in self.passing(pool) {
            let Some(passage) = self.passage_mut(&name) else {
                continue;
            };
            let rolls = passage.rollout.stage() == Stage::RollingOut;
            if rolls && passage.spread.replace(there) != Some(there) {
                self.tell(&name, format!("rolling out, {there} of {all} workers"));
            }
        }
    }

    /// Publishes what happened to the passage of an app.
    fn app_event(
        &self,
        name: &AppName,
        level: LogLevel,
        event: &str,
        failure: Option<(FailedStep, &str)>,
    ) {
        let Some(passage) = self.passage(name) else {
            return;
        };
        let revision = passage.to;
        self.journal.event(level, event, |line| {
            let line = line
                .text("pool", self.pool_of(name).as_str())
                .number("generation", self.spec.generation)
                .text("app", name.as_str())
                .number("revision", revision);
            match failure {
                Some((step, reason)) => line.text("step", step.name()).text("reason", reason),
                None => line,
            }
        });
        if event == "app.live" && self.tripped(&self.pool_of(name)) {
            // It is the one to serve, and nobody serves: the answer says so.
            return;
        }
        let message = match failure {
            None => format!(
                "revision {revision} of {name}: {}",
                event.trim_start_matches("app.")
            ),
            Some((step, reason)) => format!("revision {revision} of {name}: {step}: {reason}"),
        };
        self.tell(name, message);
    }

    fn build(&mut self, name: &AppName) {
        self.app_event(name, LogLevel::Info, "app.deploying", None);
        self.list_attempt(name);
        let Some(passage) = self.passage(name) else {
            return;
        };
        let (workshop, source) = (Arc::clone(&self.workshop), passage.source.clone());
        self.tell(name, format!("compiling {}", source.display()));
        let name = name.clone();
        let number = passage.number;
        self.later(
            async move { workshop.make(source).await },
            move |fleet, made| fleet.built(&name, number, made),
        );
    }

    fn built(&mut self, name: &AppName, number: u64, made: Result<Arc<Artifact>, Refusal>) {
        let Some(passage) = self.passage(name).filter(|one| one.number == number) else {
            return;
        };
        let to = passage.to;
        let failed = |step, reason| Input::BuildFailed { step, reason };
        let artifact = match made {
            Ok(artifact) => artifact,
            Err(refusal) => return self.feed(name, failed(FailedStep::Build, worded(refusal))),
        };
        if let Some(passage) = self.passage_mut(name) {
            passage.component = Some(artifact.component);
        }
        let app = &self.apps[name];
        let digest = artifact.component.to_string();
        let passage = app.passage.as_ref().expect("looked at above");
        if let Some(refused) = app.saved.history().refusal_of(&digest)
            && passage.purpose == Purpose::Deploy
            && !passage.force
        {
            let reason = format!(
                "this component was rolled back before, as revision {} ({}); --force deploys it all the same",
                refused.revision,
                refused.reason.as_deref().unwrap_or("no reason is recorded"),
            );
            return self.feed(name, failed(FailedStep::Check, reason));
        }
        if passage.rollout.order().dry_run {
            // Nothing is changed, so nothing is written down.
            return self.begun(name, number, artifact, Ok(()));
        }
        let recorded = app.saved.history().get(to).map(|record| &record.digest);
        if passage.purpose == Purpose::Return && recorded != Some(&digest) {
            let reason = format!("the kept component of revision {to} is not what it was");
            return self.feed(name, failed(FailedStep::Check, reason));
        }
        let mut history = app.saved.history().clone();
        let mut component = None;
        if passage.purpose == Purpose::Deploy {
            passage.take_up(&mut history);
            component = Some((passage.source.clone(), artifact.component));
        }
        self.write(name, history, component, move |fleet, name, written| {
            fleet.begun(name, number, artifact, written.map(drop));
        });
    }

    /// The revision was written down, so that nothing that follows is unheard
    /// of after a crash.
    fn begun(
        &mut self,
        name: &AppName,
        number: u64,
        artifact: Arc<Artifact>,
        written: Result<(), String>,
    ) {
        let Some(passage) = self.passage(name).filter(|one| one.number == number) else {
            return;
        };
        let to = passage.to;
        let input = match written {
            Ok(()) => {
                let spec = &self.spec.apps[name];
                let patience = self.pools[&spec.pool].spec.supervision.start_timeout;
                let handler = self
                    .catalog
                    .add(name, spec, to, Arc::clone(&artifact), patience);
                if let Some(passage) = self.passage_mut(name) {
                    passage.new = Some((handler, artifact));
                }
                Input::Built
            }
            Err(reason) => Input::BuildFailed {
                step: FailedStep::Record,
                reason,
            },
        };
        self.feed(name, input);
    }

    fn validate(&mut self, name: &AppName) {
        let observed = self.passage(name).is_some_and(|passage| {
            let order = passage.rollout.order();
            order.from.is_some() && (!order.observe.is_zero() || order.canary.is_some())
        });
        let pool = self.pool_of(name);
        if observed && let Some(app) = self.apps.get_mut(name) {
            // What the old revision counts is what the new one is judged by.
            app.observed = true;
            self.replan(&pool, Pace::AllAtOnce);
        }
        let Some((handler, _)) = self.passage(name).and_then(|passage| passage.new.as_ref()) else {
            return;
        };
        let handlers = BTreeMap::from([(name.clone(), *handler)]);
        match self.try_out(&pool, &handlers, Whose::App(name.clone())) {
            Ok(worker) => {
                if let Some(passage) = self.passage_mut(name) {
                    passage.trial = Some(worker);
                }
                self.tell(name, format!("validating in canary worker {worker}"));
            }
            Err(error) => {
                let reason = format!("no canary worker can be started: {error}");
                let failed = Input::ValidationFailed { reason };
                self.consequences
                    .push_back(Consequence::Feed(name.clone(), failed));
            }
        }
    }

    fn end_trial_of(&mut self, name: &AppName) {
        if let Some(trial) = self
            .passage_mut(name)
            .and_then(|passage| passage.trial.take())
        {
            self.end_trial(trial);
        }
    }

    /// Says which handlers of an app its pool's plan shall have.
    fn want(&mut self, name: &AppName, wanted: Wanted, pace: Pace) {
        let pool = self.pool_of(name);
        let Some(app) = self.apps.get_mut(name) else {
            return;
        };
        let Some(passage) = &app.passage else { return };
        let old = passage.old;
        let Some((new, _)) = passage.new else { return };
        app.want(wanted, old, new);
        let by_birth = pace == Pace::AtBirth;
        let rolled = self
            .passage_mut(name)
            .is_some_and(|passage| std::mem::replace(&mut passage.by_birth, by_birth));
        if rolled && wanted == Wanted::Old {
            // What replaces workers for it must stop.
            self.step(Event::RollCancelled { pool: pool.clone() });
        }
        self.replan(&pool, pace);
    }

    fn roll_for(&mut self, name: &AppName, patient: bool) {
        let pool = self.pool_of(name);
        if let Some(wanted) = self.passage(name).map(|passage| passage.rollout.wanted()) {
            // Only those that are born from now on have it.
            self.want(name, wanted, Pace::AtBirth);
        }
        self.step(Event::Roll {
            pool,
            workers: Vec::new(),
            patience: if patient {
                Patience::UntilTripped
            } else {
                Patience::OneTry
            },
        });
    }

    fn canary_serves(&mut self, name: &AppName) {
        self.app_event(name, LogLevel::Info, "app.canary", None);
        self.give_up_claim(name);
    }

    fn holding(&mut self, name: &AppName) {
        let Some(passage) = self.passage_mut(name) else {
            return;
        };
        let share = passage.rollout.order().canary;
        let to = passage.to;
        if let Some(asker) = passage.asker.take() {
            asker.answer(ControlReply::Done {
                message: Some(format!(
                    "revision {to} of {name} holds as a canary at {}; `skep promote {name}` or `skep rollback {name}`",
                    share.map(|share| share.to_string()).unwrap_or_default(),
                )),
            });
        }
    }

    fn live(&mut self, name: &AppName) {
        if let Some(app) = self.apps.get_mut(name)
            && let Some(passage) = &app.passage
            && let Some((_, artifact)) = &passage.new
        {
            let (to, artifact) = (passage.to, Arc::clone(artifact));
            app.answer_with(to, app.stable, artifact);
        }
        self.app_event(name, LogLevel::Info, "app.live", None);
        self.give_up_claim(name);
    }

    /// A revision stays although nobody can say that it is quick enough.
    fn unclear(&mut self, name: &AppName, reason: &str) {
        let why = Some((FailedStep::Observe, reason));
        self.app_event(name, LogLevel::Warn, "app.unclear", why);
        let Some(app) = self.apps.get(name) else {
            return;
        };
        let Some(passage) = &app.passage else { return };
        let mut history = app.saved.history().clone();
        history.remarked(passage.to, format!("{}: {reason}", FailedStep::Observe));
        self.write(name, history, None, |fleet, name, written| {
            fleet.complain_unwritten(name, written.err());
        });
    }

    /// Others need no longer wait for it.
    fn give_up_claim(&mut self, name: &AppName) {
        if let Some(passage) = self.passage_mut(name) {
            passage.claim = None;
        }
    }

    /// A rollout is over.
    fn passed(&mut self, name: &AppName, ending: &Ending) {
        self.give_up_claim(name);
        let pool = self.pool_of(name);
        let pool_name = pool.clone();
        match ending {
            Ending::Rejected { step, reason } => {
                self.app_event(name, LogLevel::Warn, "app.rejected", Some((*step, reason)));
            }
            Ending::RolledBack { step, reason, by } => {
                let level = match by {
                    // Asked for.
                    By::Operator => LogLevel::Info,
                    By::Failure | By::Health => LogLevel::Error,
                };
                self.app_event(name, level, "app.rolled_back", Some((*step, reason)));
            }
            Ending::Done | Ending::Checked | Ending::Abandoned => {}
        }
        let Some(mut passage) = self.arrived(name) else {
            return;
        };
        let Some(app) = self.apps.get_mut(name) else {
            return;
        };
        let forced = passage.force;
        let order = passage.rollout.order();
        let (to, from) = (passage.to, order.from);
        let mut history = app.saved.history().clone();
        match ending {
            Ending::Rejected { step, reason } => {
                passage.take_up(&mut history);
                history.rejected(to, format!("{step}: {reason}"));
            }
            Ending::RolledBack { step, reason, by } => {
                // What was found wanting is not tried again unasked. A crash of
                // the workers does not say whose fault it was.
                let automatic = *by == By::Health;
                history.rolled_back(to, from, format!("{step}: {reason}"), automatic);
                if let Some(from) = from {
                    let artifact = Arc::clone(&passage.old_artifact);
                    app.answer_with(from, app.stable, artifact);
                }
            }
            Ending::Done | Ending::Checked | Ending::Abandoned => {}
        }
        let watched = std::mem::take(&mut app.observed);
        if history != *app.saved.history() {
            self.write(name, history, None, |fleet, name, written| {
                fleet.complain_unwritten(name, written.err());
            });
        }
        if watched {
            self.replan(&pool, Pace::OneByOne);
        }
        if forced && matches!(ending, Ending::RolledBack { .. }) {
            // What tripped the breaker is gone.
            self.step(Event::Reset { pool });
        }
        self.prune_catalog();
        self.prune_revisions(name);
        let (asker, called) = (
            passage.asker.take(),
            std::mem::take(&mut passage.called_off),
        );
        // What it held is not in use any more.
        drop(passage);
        self.sweep();
        if let Some(asker) = asker {
            let reply = match (ending, self.tripped(&pool_name)) {
                (Ending::Done, true) => unserved(name, to, &pool_name),
                _ => verdict(name, to, ending),
            };
            asker.answer(reply);
        }
        for asker in called {
            asker.answer(called_off(name, to, ending));
        }
    }
}
