//! The primary's loop: receive, make an event, step what decides, perform its
//! actions.

use std::collections::VecDeque;
use std::time::Duration;

use skep_core::rollout::Input;
use skep_core::solo::{self, Solo};
use skep_core::supervise::{Action, Event};
use skep_core::{AppName, FleetSpec, ListenerName, Moment};
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::app::Passage;
use super::{Consequence, Fleet, Phase, now};
use crate::alert::Alerts;
use crate::control::Asked;
use crate::process::Command;
use crate::rejection::Rejection;
use crate::scribe::Scribe;
use crate::signals::Signals;

/// How often heartbeats are read: a tenth of the default `hang_timeout`.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

impl Fleet {
    /// Prepares the first generation, until it only has to be served.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub(crate) async fn prepare(&mut self, spec: FleetSpec) -> Result<(), Rejection> {
        let mut continuations = self.continuations.take().expect("it does not run yet");
        let mut prepared = self.begin_first(spec);
        let result = loop {
            select! {
                result = &mut prepared => break result,
                Some(continuation) = continuations.recv() => continuation(self),
            }
        };
        self.continuations = Some(continuations);
        result.expect("who prepares says how it went")
    }

    /// Runs until every worker is gone after a shutdown. Returns what outlives
    /// the fleet.
    pub(crate) async fn run(
        mut self,
        signals: &mut Signals,
        mut asked: mpsc::Receiver<Asked>,
    ) -> (Scribe, Alerts) {
        let mut inbox = self.inbox.take().expect("a fleet runs once");
        let mut continuations = self.continuations.take().expect("a fleet runs once");
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.serve_first();
        while self.phase != Phase::Ended {
            self.settle();
            if self.phase == Phase::Ended {
                break;
            }
            select! {
                Some(heard) = inbox.recv() => self.hear(heard),
                Some(continuation) = continuations.recv() => continuation(&mut self),
                wish = signals.next() => self.grant(wish),
                Some(asked) = asked.recv() => self.answer(asked),
                () = tick(&mut beats, self.workers.is_empty()) => self.read_beats(),
                () = until(self.deadline()) => self.fire(),
                () = yield_now(), if !self.unfilled.is_empty() => self.fill_next(),
            }
        }
        self.farewell();
        (self.scribe, self.alerts)
    }

    /// When something must be done though nothing happens.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let passages = self.passages();
        let rollouts = passages.filter_map(|(_, passage)| passage.rollout.deadline());
        let operation = self.operations_deadline();
        self.supervisor
            .deadline()
            .into_iter()
            .chain(rollouts)
            .chain(operation)
            .chain(self.solos().filter_map(|(_, solo)| solo.deadline()))
            .chain(self.lingering.deadline())
            .chain(self.unbuilt_deadline())
            .min()
    }

    /// Processes of which there is one; that of no listener is the connector.
    pub(super) fn solos(&self) -> impl Iterator<Item = (Option<&ListenerName>, &Solo)> {
        let dispatchers = self.dispatchers.iter();
        dispatchers
            .map(|(name, dispatcher)| (Some(name), dispatcher.single.solo()))
            .chain([(None, self.connector.single.solo())])
    }

    pub(super) fn next_seed(&mut self) -> u64 {
        self.last_seed = self.last_seed.wrapping_add(1);
        self.last_seed
    }

    pub(super) fn fire(&mut self) {
        let now = now();
        // Heartbeats that are there go first, or a primary that was held up
        // would have its workers killed for it.
        self.read_due_beats(now);
        if self.supervisor.deadline().is_some_and(|at| at <= now) {
            self.step(Event::Timer);
        }
        let is_due = |passage: &Passage| passage.rollout.deadline().is_some_and(|at| at <= now);
        let due = self.passages().filter(|(_, passage)| is_due(passage));
        let due: Vec<AppName> = due.map(|(name, _)| name.clone()).collect();
        for app in due {
            self.feed(&app, Input::Timer);
        }
        let late: Vec<Option<ListenerName>> = self
            .solos()
            .filter(|(_, solo)| solo.deadline().is_some_and(|at| at <= now))
            .map(|(name, _)| name.cloned())
            .collect();
        for name in late {
            self.read_solo_beat(name.as_ref());
            self.step_solo(name.as_ref(), solo::Event::Timer);
        }
        if self.lingering.deadline().is_some_and(|at| at <= now) {
            self.forget_all_lingering();
        }
        self.press_operations(now);
        if self.unbuilt_deadline().is_some_and(|at| at <= now) {
            self.build_unbuilt();
        }
    }

    pub(super) fn step(&mut self, event: Event) {
        let mut actions: VecDeque<_> = self.supervisor.step(now(), event).into();
        while let Some(action) = actions.pop_front() {
            actions.extend(self.perform(action));
        }
    }

    /// Performs one action; returns those that follow from its result.
    fn perform(&mut self, action: Action) -> Vec<Action> {
        match action {
            Action::Spawn {
                worker,
                pool,
                slot,
                generation,
                attempt: _,
            } => {
                let event = match self.spawn(worker, &pool, slot, generation) {
                    Ok(()) => Event::Spawned { worker },
                    Err(error) => Event::SpawnFailed {
                        worker,
                        message: error.to_string(),
                    },
                };
                return self.supervisor.step(now(), event);
            }
            Action::Drain { worker } => self.command(worker, Command::drain()),
            Action::Stop { worker } => self.stop(worker),
            Action::Kill { worker } => self.command(worker, Command::Kill),
            Action::Notice(notice) => self.notice(&notice),
            Action::Finished => self.workers_gone = true,
        }
        Vec::new()
    }

    /// Deals with what the last event brought about, until there is nothing
    /// left of it.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some(consequence) = self.consequences.pop_front() {
                match consequence {
                    Consequence::Feed(app, input) => self.feed(&app, input),
                    Consequence::RollEnded(pool, result) => self.roll_ended(&pool, &result),
                }
            }
            self.feed_settled();
            self.check_quarantine();
            self.check_operations();
            self.reload_if_wanted();
            self.introduce_all();
            self.go_on_ending();
            if self.consequences.is_empty() {
                return;
            }
        }
    }

    /// Has work done beside the loop, and goes on with its result in it.
    pub(super) fn later<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(&mut Self, T) + Send + 'static,
    ) {
        let later = self.later.clone();
        tokio::spawn(async move {
            let result = work.await;
            // Fails only when the fleet has ended.
            let _ = later.send(Box::new(move |fleet: &mut Self| then(fleet, result)));
        });
    }
}

async fn until(deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => sleep(deadline.since(now())).await,
        None => std::future::pending().await,
    }
}

/// Without workers there is nothing to look at.
async fn tick(beats: &mut Interval, idle: bool) {
    if idle {
        std::future::pending::<()>().await;
    }
    beats.tick().await;
}
