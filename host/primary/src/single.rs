//! A process of which there is one, as the primary runs it: what supervises it,
//! and how it is talked with. What it is told is for the fleet to say.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use skep_core::solo::{Action, Event, Notice, Settings, Solo, State};
use skep_core::{LogLevel, Moment, Record};
use skep_sys::Board;
use skep_wire::SoloStatus;

use crate::journal::Journal;
use crate::notices::reason_of;
use crate::process::{Command, Process, Role, Words};

/// How long one that hung up may live.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// One process.
#[derive(Debug)]
pub(crate) struct Single<R: Role> {
    solo: Solo,
    process: Option<Process<R>>,
    /// Of one cell, into which the process beats: a new one for each.
    board: Option<Board>,
    /// What its events are about, besides itself.
    subject: Option<(&'static str, String)>,
}

impl<R: Role> Single<R> {
    /// One that is not wanted yet.
    pub(crate) fn new(seed: u64, subject: Option<(&'static str, String)>) -> Self {
        Self {
            solo: Solo::new(Settings::default(), seed),
            process: None,
            board: None,
            subject,
        }
    }

    /// What supervises it.
    pub(crate) const fn solo(&self) -> &Solo {
        &self.solo
    }

    /// Its process, if there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What operators are shown.
    pub(crate) fn status(&self) -> SoloStatus {
        SoloStatus {
            pid: self.pid(),
            state: self.solo.state().name().to_owned(),
            restarts: self.solo.restarts(),
            last_exit: self.solo.last_exit().map(|exit| exit.reason.clone()),
        }
    }

    /// Whether there is one that can be told something.
    pub(crate) const fn hears(&self) -> bool {
        matches!(self.solo.state(), State::Starting | State::Serving) && self.process.is_some()
    }

    /// Its newest sign of life, if it has given one.
    pub(crate) fn beat(&self) -> Option<Event> {
        let heartbeat = self.board.as_ref()?.cell(0)?.heartbeat();
        let at = Moment::after_origin(heartbeat);
        (!heartbeat.is_zero()).then_some(Event::Beat(at))
    }

    /// Tells it something, if there is one.
    pub(crate) fn say(&self, (message, fds): Words<R::To>) {
        if let Some(process) = &self.process {
            process.send(Command::Say(message, fds));
        }
    }

    /// Takes an event and does what follows from it. `start` makes the process,
    /// which beats into the scoreboard that it is given. Returns whether it is another process now, or none.
    pub(crate) fn step(
        &mut self,
        now: Moment,
        event: Event,
        journal: &Journal,
        mut start: impl FnMut(Arc<OwnedFd>) -> io::Result<Process<R>>,
    ) -> bool {
        let mut other = false;
        let mut actions: VecDeque<_> = self.solo.step(now, event).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Spawn => {
                    other = true;
                    let started = Board::create(1).and_then(|board| {
                        let theirs = Arc::new(board.as_fd().try_clone_to_owned()?);
                        Ok((start(theirs)?, board))
                    });
                    let event = match started {
                        Ok((process, board)) => {
                            self.process = Some(process);
                            self.board = Some(board);
                            Event::Spawned
                        }
                        Err(error) => Event::SpawnFailed {
                            message: error.to_string(),
                        },
                    };
                    actions.extend(self.solo.step(now, event));
                }
                Action::Drain => match R::stop() {
                    Some(stop) => self.say((stop, Vec::new())),
                    None => self.kill(),
                },
                Action::Kill => self.kill(),
                Action::Notice(notice) => {
                    self.write(journal, now, &notice);
                    if matches!(notice, Notice::Exited(_)) {
                        other = true;
                        self.process = None;
                        self.board = None;
                    }
                }
            }
        }
        other
    }

    fn kill(&self) {
        if let Some(process) = &self.process {
            process.send(Command::Kill);
        }
    }

    fn write(&self, journal: &Journal, now: Moment, notice: &Notice) {
        let about = |line: Record| {
            let line = match &self.subject {
                Some((key, value)) => line.text(key, value),
                None => line,
            };
            match self.pid() {
                Some(pid) => line.number("pid", pid),
                None => line,
            }
        };
        let named = |what| format!("{}.{what}", R::NAME);
        match notice {
            Notice::Spawned => journal.event(LogLevel::Info, &named("spawned"), about),
            Notice::Ready { after } => journal.event(LogLevel::Info, &named("ready"), |line| {
                about(line).text("after", &format!("{:.1}ms", after.as_secs_f64() * 1000.0))
            }),
            Notice::Exited(exit) => {
                let level = if exit.voluntary {
                    LogLevel::Info
                } else {
                    LogLevel::Error
                };
                journal.event(level, &named("exited"), |line| {
                    let line = about(line).number("voluntary", exit.voluntary);
                    let line = reason_of(line, &exit.reason);
                    match exit.next {
                        Some(next) => {
                            let pause = next.since(now).as_secs_f64() * 1000.0;
                            line.text("next_in", &format!("{pause:.1}ms"))
                        }
                        None => line,
                    }
                });
            }
        }
    }
}
