//! What operators ask of a running fleet, by signal or at the control socket.
//!
//! How it ends, in order of strength: drain, stop, kill. Asking for the end
//! again, or for the end now, goes one step up; a second `stop` without `now`
//! at the control socket does not, for two operators who want a drain are of
//! one mind.

use skep_core::LogLevel;
use skep_core::supervise::{Event, Strength};
use skep_wire::{ControlReply, ControlRequest, FleetStatus};

use super::{Fleet, Phase, now};
use crate::control::Asked;
use crate::signals::Wish;
use crate::status;

/// The exit code for a request about something that does not exist (SPEC §1,
/// usage).
const NO_SUCH: u8 = 2;

impl Fleet {
    /// Does what a signal asks for.
    pub(super) fn grant(&mut self, wish: Wish) {
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
            Wish::Reload => self.log.record(LogLevel::Warn, "config.rejected", |line| {
                line.text("reason", "reload is not available in this version")
            }),
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
        self.log.record(LogLevel::Info, "primary.stopping", |line| {
            line.text(
                "strength",
                match strength {
                    Strength::Drain => "drain",
                    Strength::Stop => "stop",
                    Strength::Kill => "kill",
                },
            )
        });
        self.listeners.close();
        self.step(Event::Shutdown { strength });
    }

    /// Does what a client asks for, and answers now or in the end.
    pub(super) fn answer(&mut self, asked: Asked) {
        let Asked { request, asker } = asked;
        match request {
            ControlRequest::Status => {
                asker.answer(ControlReply::Status(Box::new(self.status())));
            }
            ControlRequest::Stop { now } => {
                self.waiting.push(asker);
                match (now, self.phase) {
                    (true, _) => self.shut_down(self.strength_of_now()),
                    (false, Phase::Running) => self.shut_down(Strength::Drain),
                    (false, Phase::Ending(_) | Phase::Ended) => {}
                }
            }
            ControlRequest::Reset { pool } => {
                let Some(name) = self.pools.keys().find(|name| name.as_str() == pool) else {
                    return asker.answer(ControlReply::Refused {
                        message: format!("there is no pool named '{pool}'"),
                        code: NO_SUCH,
                    });
                };
                let pool = name.clone();
                self.step(Event::Reset { pool });
                asker.answer(ControlReply::Done);
            }
        }
    }

    fn status(&self) -> FleetStatus {
        let now = now();
        let pools = self.supervisor.pools().map(|view| {
            let pid = view
                .last_exit
                .as_ref()
                .and_then(|exit| self.pools[&view.name].pid_of_gone(exit.worker));
            status::of_pool(view, pid, now)
        });
        let workers = self.supervisor.workers().filter_map(|view| {
            let worker = self.workers.get(&view.id)?;
            let cell = self.pools[&worker.pool].cell_of(view.id);
            Some(status::of_worker(view, worker.link.pid(), cell, now))
        });
        FleetStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: now.since(self.started).as_secs_f64(),
            generation: self.spec.generation,
            stopping: self.phase != Phase::Running,
            listeners: self.listeners.statuses().to_vec(),
            pools: pools.collect(),
            workers: workers.collect(),
            apps: status::of_apps(&self.spec, &self.artifacts),
        }
    }

    /// Tells those who waited, and the log, how it ended.
    pub(super) fn farewell(&mut self) {
        for (name, pool) in &self.pools {
            let counts = pool.counts();
            self.log.record(LogLevel::Info, "pool.ended", |line| {
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
            asker.answer(ControlReply::Done);
        }
    }
}
