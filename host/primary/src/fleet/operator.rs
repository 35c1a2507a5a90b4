//! What operators ask of a running fleet, by signal or at the control socket.
//!
//! How it ends, in order of strength: drain, stop, kill. Asking for the end
//! again, or for the end now, goes one step up; a second `stop` without `now`
//! at the control socket does not, for two operators who want a drain are of
//! one mind.

use std::time::Duration;

use skep_core::LogLevel;
use skep_core::rollout::Input;
use skep_core::solo::{self, Solo, State};
use skep_core::supervise::{Event, Strength};
use skep_wire::{ControlReply, ControlRequest};

use super::deploy::Deploy;
use super::{Fleet, Phase};
use crate::control::{Asked, Asker};
use crate::signals::Wish;
use crate::status;

/// How long dispatchers hand out what they have before the workers are told to
/// drain: as long as those linger for their clients.
const HAND_OUT: Duration = Duration::from_secs(5);

impl Fleet {
    /// Does what a signal asks for.
    pub(super) fn grant(&mut self, wish: Wish) {
        self.untold.all();
        match wish {
            Wish::Finish => {
                let strength = match self.phase {
                    Phase::Running => Strength::Drain,
                    Phase::Ending(Strength::Drain) => Strength::Stop,
                    Phase::Ending(_) | Phase::Ended => Strength::Kill,
                };
                self.shut_down(strength);
            }
            Wish::EndNow => self.shut_down(self.strength_of_now()),
            Wish::Reload => {
                self.fill_rest();
                self.reload(None);
            }
        }
    }

    /// To end now is to stop, and to kill what was told so before.
    fn strength_of_now(&self) -> Strength {
        match self.phase {
            Phase::Running | Phase::Ending(Strength::Drain) => Strength::Stop,
            Phase::Ending(_) | Phase::Ended => Strength::Kill,
        }
    }

    fn shut_down(&mut self, strength: Strength) {
        self.phase = Phase::Ending(strength);
        self.unfilled.clear();
        self.reload_wanted = false;
        self.journal
            .event(LogLevel::Info, "primary.stopping", |line| {
                line.text(
                    "strength",
                    match strength {
                        Strength::Drain => "drain",
                        Strength::Stop => "stop",
                        Strength::Kill => "kill",
                    },
                )
            });
        for app in self.passing.clone() {
            self.feed(&app, Input::Abandon);
        }
        self.hold_nothing();
        self.abandon_operations();
        let trials: Vec<_> = self.trials.keys().copied().collect();
        for trial in trials {
            self.end_trial(trial);
        }
        self.listeners.close();
        // The workers follow once there is nobody who hands them anything.
        self.end_dispatchers(&match strength {
            Strength::Drain => solo::Event::Unwanted { within: HAND_OUT },
            Strength::Stop | Strength::Kill => solo::Event::Ended,
        });
        self.go_on_ending();
    }

    /// The order of the end: first those who hand connections out, then the
    /// workers, who may be asked to take some until then, then the connector.
    pub(super) fn go_on_ending(&mut self) {
        let Phase::Ending(strength) = self.phase else {
            return;
        };
        let handing_out = !self.dispatchers.is_empty() && strength == Strength::Drain;
        if !handing_out && self.workers_end != Some(strength) {
            self.workers_end = Some(strength);
            self.step(Event::Shutdown { strength });
        }
        if self.workers_gone {
            self.step_connector(solo::Event::Ended);
            let absent = |(_, solo): (_, &Solo)| solo.state() == State::Absent;
            if self.solos().all(absent) {
                self.phase = Phase::Ended;
            }
        }
    }

    /// Does what a client asks for, and answers now or in the end.
    pub(super) fn answer(&mut self, asked: Asked) {
        let Asked { request, asker } = asked;
        if !is_question(&request) {
            self.untold.all();
            if !matches!(request, ControlRequest::Stop { .. }) {
                self.fill_rest();
            }
        }
        match request {
            ControlRequest::Status => {
                asker.answer(ControlReply::Status(Box::new(self.status())));
            }
            ControlRequest::History { app } => self.history(&app, asker),
            ControlRequest::Events { follow } => self.tell_events(follow, asker),
            ControlRequest::Gc { dry_run } => self.gc(dry_run, asker),
            ControlRequest::Stop { now } => {
                self.waiting.push(asker);
                match (now, self.phase) {
                    (true, _) => self.shut_down(self.strength_of_now()),
                    (false, Phase::Running) => self.shut_down(Strength::Drain),
                    (false, Phase::Ending(_) | Phase::Ended) => {}
                }
            }
            ControlRequest::Deploy {
                app,
                source,
                strategy,
                canary,
                force,
                dry_run,
                detach,
            } => {
                let deploy = Deploy {
                    app,
                    source,
                    strategy,
                    canary,
                    force,
                    dry_run,
                    detach,
                };
                self.deploy(deploy, asker);
            }
            ControlRequest::Promote { app } => self.promote(&app, asker),
            ControlRequest::Rollback { app, revision } => self.roll_back(&app, revision, asker),
            ControlRequest::Reload => self.reload(Some(asker)),
            ControlRequest::Restart { pool } => self.restart(pool.as_deref(), asker),
            ControlRequest::Scale { pool, workers } => self.scale(&pool, workers, asker),
            ControlRequest::Rotate { worker } => self.rotate(worker, asker),
            ControlRequest::Reset { target } => self.reset(&target, asker),
            ControlRequest::Pause { app } => self.pause(&app, true, asker),
            ControlRequest::Resume { app } => self.pause(&app, false, asker),
        }
    }

    fn reset(&mut self, target: &str, asker: Asker) {
        let pool = match (self.find_pool(target), self.find_app(target)) {
            (Ok(pool), _) => pool,
            (Err(_), Ok(app)) => self.spec.apps[&app].pool.clone(),
            (Err(reply), Err(_)) => return asker.answer(reply),
        };
        // Workers that died of a damaged artifact would die again.
        self.when_verified(&pool.clone(), move |fleet| {
            fleet.step(Event::Reset { pool: pool.clone() });
            asker.answer(ControlReply::Done {
                message: Some(format!("pool {pool} is reset")),
            });
        });
    }

    /// The newest events, and those to come.
    fn tell_events(&self, follow: bool, asker: Asker) {
        let (recent, mut events) = self.journal.follow();
        for event in recent {
            if !asker.event(event) {
                break;
            }
        }
        if !follow {
            return asker.answer(ControlReply::Done { message: None });
        }
        tokio::spawn(async move {
            // Ends with the client, or with the journal.
            while let Some(event) = events.next().await {
                if asker.event_in_time(event).await.is_err() {
                    return;
                }
            }
            asker.answer(ControlReply::Done { message: None });
        });
    }

    /// Tells those who waited, and the log, how it ended.
    pub(super) fn farewell(&mut self) {
        for (name, pool) in &self.pools {
            let counts = pool.counts();
            self.journal.event(LogLevel::Info, "pool.ended", |line| {
                let line = line
                    .text("pool", name.as_str())
                    .number("accepted", counts.accepted)
                    .number("requests", counts.requests);
                status::outcomes(&counts.outcomes)
                    .iter()
                    .fold(line, |line, (name, count)| line.number(name, count))
            });
        }
        for asker in self.waiting.drain(..) {
            asker.answer(ControlReply::Done { message: None });
        }
    }
}

/// Whether a request changes nothing.
const fn is_question(request: &ControlRequest) -> bool {
    matches!(
        request,
        ControlRequest::Status | ControlRequest::History { .. } | ControlRequest::Events { .. }
    )
}
