//! The conversation with one process that serves (a worker, a dispatcher, the
//! connector), from its birth to its reaping.
//!
//! A task per process owns it and our end of its channel. It turns what
//! happens there into [`News`] for the fleet's loop and the loop's [`Command`]s
//! into messages and signals. It decides nothing, but for one thing: a process
//! that can no longer be talked to is killed, because nobody could ever ask it
//! to go.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

use skep_core::supervise::EndStatus;
use skep_core::{Allowance, ListenerName, WorkerId};
use skep_sys::cgroup::Cgroup;
use skep_sys::{Channel, Child, Ended, Output, Signal, Spawn};
use skep_wire::{
    FrameError, FromConnector, FromDispatcher, FromWorker, Message, ToConnector, ToDispatcher,
    ToWorker,
};
use tokio::io::unix::AsyncFd;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::channel_end::{ChannelEnd, ChannelEndError};
use crate::fleet::now;
use crate::log::{Listening, Log, Speaker};
use crate::shelf::Descriptor;
use crate::walls::Wall;

/// Bytes that are heard of one process in a second, and at once: far more than
/// an honest one says. What it says beyond waits in the channel, and so does the
/// process.
const SPEECH: u64 = 1 << 20;

/// What a message costs at least, in bytes: it has the loop look at the fleet,
/// however short it is.
const MESSAGE: usize = 256;

/// How long a process that has said too much is not heard.
const PAUSE: Duration = Duration::from_millis(20);

/// What a process of ours is.
pub(crate) trait Role: Debug + 'static {
    /// The hidden subcommand.
    const NAME: &'static str;
    /// What tells one from the others of its role.
    type Id: Clone + Debug + Send + Sync;
    /// What it is told.
    type To: Message + Debug + Send + Sync;
    /// What it says.
    type From: Message + Debug + Send;

    /// Asks it to go; `None` for one that has nothing to finish and is killed.
    fn stop() -> Option<Self::To>;

    /// News of it for the loop.
    fn heard(id: Self::Id, news: News<Self::From>) -> Heard;
}

/// Serves requests.
#[derive(Debug)]
pub(crate) struct WorkerRole;

/// Hands out the connections of one listener.
#[derive(Debug)]
pub(crate) struct DispatcherRole;

/// Opens outbound connections.
#[derive(Debug)]
pub(crate) struct ConnectorRole;

impl Role for WorkerRole {
    const NAME: &'static str = "worker";
    type Id = WorkerId;
    type To = ToWorker;
    type From = FromWorker;

    fn stop() -> Option<ToWorker> {
        Some(ToWorker::Stop)
    }

    fn heard(id: WorkerId, news: News) -> Heard {
        Heard::Worker(id, news)
    }
}

impl Role for DispatcherRole {
    const NAME: &'static str = "dispatcher";
    type Id = ListenerName;
    type To = ToDispatcher;
    type From = FromDispatcher;

    fn stop() -> Option<ToDispatcher> {
        Some(ToDispatcher::Drain)
    }

    fn heard(id: ListenerName, news: News<FromDispatcher>) -> Heard {
        Heard::Dispatcher(id, news)
    }
}

impl Role for ConnectorRole {
    const NAME: &'static str = "connector";
    type Id = ();
    type To = ToConnector;
    type From = FromConnector;

    fn stop() -> Option<ToConnector> {
        None
    }

    fn heard((): (), news: News<FromConnector>) -> Heard {
        Heard::Connector(news)
    }
}

/// Whom the loop has heard of, and what.
#[derive(Debug)]
pub(crate) enum Heard {
    Worker(WorkerId, News),
    Dispatcher(ListenerName, News<FromDispatcher>),
    Connector(News<FromConnector>),
}

/// What a process's task tells the loop.
#[derive(Debug)]
pub(crate) enum News<F = FromWorker> {
    /// The process said something.
    Said(F),
    /// It could not be talked to any more and was killed for it.
    Mute(Mute),
    /// It ended and was reaped. The last news of a process.
    Exited(EndStatus),
}

/// Why a process cannot be talked to.
#[derive(Debug)]
pub(crate) enum Mute {
    /// It closed its end of the channel, as it does when it exits, and lived.
    HungUp,
    /// Its words make no sense.
    Garbled(ChannelEndError),
}

impl Mute {
    /// In words, for the log.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::HungUp => "it closed its channel and did not exit".to_owned(),
            Self::Garbled(error) => error.to_string(),
        }
    }
}

/// What the loop tells a process's task.
#[derive(Debug)]
pub(crate) enum Command<T = ToWorker> {
    /// Tell it this, with these descriptors.
    Say(T, Vec<Descriptor>),
    /// Ask it to go at once and kill it if it does not within the grace that it
    /// was born with: for those whom no supervisor watches.
    End,
    /// Kill it.
    Kill,
}

impl Command {
    /// Ask the worker to finish and go.
    pub(crate) const fn drain() -> Self {
        Self::Say(ToWorker::Drain, Vec::new())
    }

    /// Ask it to go at once.
    pub(crate) const fn stop() -> Self {
        Self::Say(ToWorker::Stop, Vec::new())
    }
}

/// The loop's handle of a process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Process<R: Role = WorkerRole> {
    pid: u32,
    commands: mpsc::UnboundedSender<Command<R::To>>,
}

/// A message with its descriptors.
pub(crate) type Words<T = ToWorker> = (T, Vec<Descriptor>);

/// What a process is born with.
#[derive(Debug)]
pub(crate) struct Birth<R: Role = WorkerRole> {
    /// Who it is.
    pub(crate) id: R::Id,
    /// What `ps` shows.
    pub(crate) title: String,
    /// What it is told first.
    pub(crate) messages: Vec<Words<R::To>>,
    /// How long it may live after it hung up.
    pub(crate) grace: Duration,
    /// What it is born behind.
    pub(crate) wall: Wall,
    /// Where what it writes to its standard error goes, and how it is named
    /// there.
    pub(crate) log: (Log, Speaker),
}

impl<R: Role> Process<R> {
    /// Starts a process and the task that talks with it.
    ///
    /// # Errors
    ///
    /// No process could be made; none is left then.
    pub(crate) fn start(birth: Birth<R>, news: mpsc::Sender<Heard>) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let (output, written) = Output::pipe()?;
        // First of all: while the new program is loaded, the rest goes on.
        let child = skep_sys::spawn(Spawn {
            role: R::NAME,
            title: &birth.title,
            channel: theirs,
            output: Some(written),
            identity: birth.wall.identity,
            schedule: birth.wall.schedule,
        })?;
        let pid = child.pid();
        let (log, speaker) = birth.log;
        let listening = log.listen(output, speaker, pid);
        if let Some(cgroup) = &birth.wall.cgroup {
            // Before it is told anything, so before it does anything.
            cgroup.add(pid)?;
        }
        let (commands, inbox) = mpsc::unbounded_channel();
        let mut task = Task::<R> {
            id: birth.id,
            child: skep_sys::watch(child)?,
            listening: Some(listening),
            channel: ChannelEnd::new(ours)?,
            outbox: birth.messages.into(),
            commands: inbox,
            news,
            grace: birth.grace,
            cgroup: birth.wall.cgroup,
            end_by: None,
            speech: Allowance::new(SPEECH, now()),
        };
        task.say_what_is_ready().map_err(io::Error::other)?;
        tokio::spawn(task.run());
        Ok(Self { pid, commands })
    }

    /// The process.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells the process's task to do something. Commands are as many as changes
    /// that operators make, so they need no bound; a task that has ended ignores
    /// them.
    pub(crate) fn send(&self, command: Command<R::To>) {
        let _ = self.commands.send(command);
    }
}

struct Task<R: Role> {
    id: R::Id,
    child: AsyncFd<Child>,
    /// After the child, so that it has ended when this is dropped.
    listening: Option<Listening>,
    channel: ChannelEnd,
    /// What is to be said once its descriptors are open, in order.
    outbox: VecDeque<Words<R::To>>,
    commands: mpsc::UnboundedReceiver<Command<R::To>>,
    news: mpsc::Sender<Heard>,
    grace: Duration,
    cgroup: Option<Cgroup>,
    /// When it is killed unless it has gone.
    end_by: Option<Instant>,
    /// How much more of what it says is heard now.
    speech: Allowance,
}

/// Whether there is somebody to talk to.
enum Ear {
    Open,
    /// Nobody: to be killed at this time, unless it exits before.
    Shut(Instant, Mute),
    /// Nobody: killed for it.
    Gone,
}

impl<R: Role> Task<R> {
    async fn run(mut self) {
        let mut ear = Ear::Open;
        loop {
            let may_speak = self.speech.is_open(now());
            select! {
                // In this order, so that its end is told at once.
                biased;
                _ = self.child.readable() => {
                    self.bury().await;
                    return;
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command, &mut ear),
                    // The fleet is gone; dropping the child kills it.
                    None => return,
                },
                // The times come before what it says: a process that never falls
                // silent would outlive them.
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
                () = opened(self.outbox.front_mut()) => self.say(&mut ear),
                () = sleep(PAUSE), if !may_speak => {
                    // Only hearing pauses: what it is told goes out.
                    if let Err(error) = self.channel.flush() && matches!(ear, Ear::Open) {
                        ear = Ear::Shut(Instant::now(), Mute::Garbled(error.into()));
                    }
                }
                said = self.channel.next(), if may_speak && matches!(ear, Ear::Open) => {
                    self.speech.spend(MESSAGE + self.channel.take_heard());
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
            }
        }
    }

    fn obey(&mut self, command: Command<R::To>, ear: &mut Ear) {
        let (message, fds) = match command {
            Command::Say(message, fds) => (message, fds),
            Command::End => {
                if self.end_by.is_some() {
                    return;
                }
                self.end_by = Some(Instant::now() + self.grace);
                match R::stop() {
                    Some(stop) => (stop, Vec::new()),
                    None => return self.kill(),
                }
            }
            Command::Kill => return self.kill(),
        };
        self.outbox.push_back((message, fds));
        self.say(ear);
    }

    /// Says what is ready to be said, if there is somebody to talk to.
    fn say(&mut self, ear: &mut Ear) {
        match ear {
            Ear::Open => {
                // What cannot be said (it is too large) cannot be done without.
                if let Err(error) = self.say_what_is_ready() {
                    *ear = Ear::Shut(Instant::now(), Mute::Garbled(error.into()));
                }
            }
            // It goes soon, whatever it was to do.
            Ear::Shut(..) | Ear::Gone => self.outbox.clear(),
        }
    }

    fn say_what_is_ready(&mut self) -> Result<(), FrameError> {
        while let Some((message, fds)) = self.outbox.pop_front() {
            let open: Option<Vec<_>> = fds.iter().map(Descriptor::get).collect();
            let Some(open) = open else {
                self.outbox.push_front((message, fds));
                break;
            };
            self.channel.say(&message, open)?;
        }
        Ok(())
    }

    fn kill(&self) {
        // Fails only for one that was reaped, and this task would be over.
        let _ = self.child.get_ref().signal(Signal::Kill);
    }

    /// Whether the kernel has killed somebody of its group for want of memory,
    /// of whom there was only one.
    fn ran_out_of_memory(&self) -> bool {
        let kills = self.cgroup.as_ref().map(Cgroup::oom_kills);
        matches!(kills, Some(Ok(1..)))
    }

    async fn bury(mut self) {
        let status = match self.child.get_mut().try_wait() {
            Ok(Some(Ended::Code(code))) => EndStatus::Code(code),
            Ok(Some(Ended::Signal(_))) if self.ran_out_of_memory() => EndStatus::OutOfMemory,
            Ok(Some(Ended::Signal(signal))) => EndStatus::Signal(signal),
            // A readable pidfd is a process that has ended, and nobody else
            // waits for it.
            Ok(None) | Err(_) => EndStatus::Code(-1),
        };
        // Its last words come before the record of its end.
        self.listening = None;
        if let Some(cgroup) = self.cgroup.take() {
            // The kernel may take a moment to let go of it.
            tokio::task::spawn_blocking(move || drop(cgroup));
        }
        for words in self.channel.last_words() {
            self.tell(News::Said(words)).await;
        }
        self.tell(News::Exited(status)).await;
    }

    async fn tell(&self, news: News<R::From>) {
        // Nobody listens once the fleet is gone.
        let _ = self.news.send(R::heard(self.id.clone(), news)).await;
    }
}

/// Waits until what is to be said next can be.
async fn opened<T>(next: Option<&mut Words<T>>) {
    let Some((_, fds)) = next else {
        return std::future::pending().await;
    };
    for fd in fds {
        fd.opened().await;
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
