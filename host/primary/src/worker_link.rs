//! The conversation with one worker, from its birth to its reaping.
//!
//! A task per worker owns the process and our end of its channel. It turns what
//! happens there into [`News`] for the fleet's loop and the loop's [`Order`]s
//! into messages and signals. It decides nothing, but for one thing: a worker
//! that can no longer be talked to is killed, because nobody could ever ask it
//! to go.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use skep_core::WorkerId;
use skep_core::supervise::EndStatus;
use skep_sys::{Channel, Child, Ended, Signal, Spawn};
use skep_wire::{FromWorker, ToWorker};
use tokio::io::unix::AsyncFd;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::line::{Line, LineError};

/// What a worker's task tells the loop.
#[derive(Debug)]
pub(crate) enum News {
    /// The worker said something.
    Said(FromWorker),
    /// The worker could not be talked to any more and was killed for it.
    Mute(Mute),
    /// The process ended and was reaped. The last news of a worker.
    Exited(EndStatus),
}

/// Why a worker cannot be talked to.
#[derive(Debug)]
pub(crate) enum Mute {
    /// It closed its end of the channel, as it does when it exits, and lived.
    HungUp,
    /// Its words make no sense.
    Garbled(LineError),
}

/// What the loop tells a worker's task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Tell the worker this, with these descriptors.
    Say(ToWorker, Vec<Arc<OwnedFd>>),
    /// Ask the worker to go at once and kill it if it does not within the grace
    /// it was born with: for workers that the supervisor does not watch.
    End,
    /// Kill it.
    Kill,
}

impl Order {
    /// Ask the worker to finish and go.
    pub(crate) const fn drain() -> Self {
        Self::Say(ToWorker::Drain, Vec::new())
    }

    /// Ask it to go at once.
    pub(crate) const fn stop() -> Self {
        Self::Say(ToWorker::Stop, Vec::new())
    }
}

/// The loop's handle of a worker. Dropping it kills the worker.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    pid: u32,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a worker is born with.
#[derive(Debug)]
pub(crate) struct Birth {
    /// The worker.
    pub(crate) worker: WorkerId,
    /// What `ps` shows.
    pub(crate) title: String,
    /// What it is told first, with the descriptors of each message.
    pub(crate) messages: Vec<(ToWorker, Vec<Arc<OwnedFd>>)>,
    /// How long it may live after it hung up.
    pub(crate) grace: Duration,
}

impl WorkerLink {
    /// Starts a worker process and the task that talks with it.
    ///
    /// # Errors
    ///
    /// No process could be made; none is left then.
    pub(crate) fn start(birth: Birth, news: mpsc::Sender<(WorkerId, News)>) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        // First of all: while the new program is loaded, the rest goes on.
        let child = skep_sys::spawn(Spawn {
            role: "worker",
            title: &birth.title,
            channel: theirs,
            identity: None,
        })?;
        let pid = child.pid();
        let mut line = Line::new(ours)?;
        for (message, fds) in birth.messages {
            line.say(&message, fds).map_err(io::Error::other)?;
        }
        let (orders, inbox) = mpsc::unbounded_channel();
        let task = Task {
            worker: birth.worker,
            child: skep_sys::watch(child)?,
            line,
            orders: inbox,
            news,
            grace: birth.grace,
            end_by: None,
        };
        tokio::spawn(task.run());
        Ok(Self { pid, orders })
    }

    /// The worker's process.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells the worker's task to do something. They are as many as changes that
    /// operators make, so they need no bound; one that has ended ignores them.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

struct Task {
    worker: WorkerId,
    child: AsyncFd<Child>,
    line: Line,
    orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::Sender<(WorkerId, News)>,
    grace: Duration,
    /// When it is killed unless it has gone.
    end_by: Option<Instant>,
}

/// Whether there is somebody to talk to.
enum Ear {
    Open,
    /// Nobody: to be killed at this time, unless it exits before.
    Shut(Instant, Mute),
    /// Nobody: killed for it.
    Gone,
}

impl Task {
    async fn run(mut self) {
        let mut ear = Ear::Open;
        loop {
            select! {
                // In this order, so that a worker's end is told at once.
                biased;
                _ = self.child.readable() => {
                    self.bury().await;
                    return;
                }
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order, &mut ear),
                    // The fleet is gone; dropping the child kills it.
                    None => return,
                },
                said = self.line.next(), if matches!(ear, Ear::Open) => {
                    let mute = match said {
                        Ok(Some(words)) => {
                            self.tell(News::Said(words)).await;
                            continue;
                        }
                        Ok(None) => Mute::HungUp,
                        Err(error) => Mute::Garbled(error),
                    };
                    let grace = match mute {
                        Mute::HungUp => self.grace,
                        Mute::Garbled(_) => Duration::ZERO,
                    };
                    ear = Ear::Shut(Instant::now() + grace, mute);
                }
                () = until(self.end_by) => {
                    self.end_by = None;
                    self.kill();
                }
                () = kill_time(&ear) => {
                    self.kill();
                    if let Ear::Shut(_, mute) = std::mem::replace(&mut ear, Ear::Gone) {
                        self.tell(News::Mute(mute)).await;
                    }
                }
            }
        }
    }

    fn obey(&mut self, order: Order, ear: &mut Ear) {
        let (message, fds) = match order {
            Order::Say(message, fds) => (message, fds),
            Order::End => {
                let grace = self.grace;
                self.end_by.get_or_insert_with(|| Instant::now() + grace);
                (ToWorker::Stop, Vec::new())
            }
            Order::Kill => return self.kill(),
        };
        match ear {
            Ear::Open => {
                // What cannot be said (it is too large) cannot be done without.
                if let Err(error) = self.line.say(&message, fds) {
                    *ear = Ear::Shut(Instant::now(), Mute::Garbled(error.into()));
                }
            }
            // It goes soon, whatever it was to do.
            Ear::Shut(..) | Ear::Gone => {}
        }
    }

    fn kill(&self) {
        // Fails only for a worker that was reaped, and this task would be over.
        let _ = self.child.get_ref().signal(Signal::Kill);
    }

    async fn bury(mut self) {
        let status = match self.child.get_mut().try_wait() {
            Ok(Some(Ended::Code(code))) => EndStatus::Code(code),
            Ok(Some(Ended::Signal(signal))) => EndStatus::Signal(signal),
            // A readable pidfd is a process that has ended, and nobody else
            // waits for it.
            Ok(None) | Err(_) => EndStatus::Code(-1),
        };
        for words in self.line.last_words() {
            self.tell(News::Said(words)).await;
        }
        self.tell(News::Exited(status)).await;
    }

    async fn tell(&self, news: News) {
        // Nobody listens once the fleet is gone.
        let _ = self.news.send((self.worker, news)).await;
    }
}

async fn kill_time(ear: &Ear) {
    match ear {
        Ear::Shut(at, _) => until(Some(*at)).await,
        Ear::Open | Ear::Gone => until(None).await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
