//! Conversations with builders, the short-lived processes that compile.
//!
//! Responsible for starting one, saying what it should do, giving it a
//! deadline, and making a refusal of whatever ends it otherwise than well. A
//! builder answers one message and exits; its word counts only after its end,
//! because until then it could still write to the artifact.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use skep_core::identity::Role;
use skep_sys::{Channel, Child, Ended, Output, Schedule, Signal, Spawn};
use skep_wire::{FromBuilder, Refusal, ToBuilder};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::cache::Built;
use crate::channel_end::{ChannelEnd, ChannelEndError};
use crate::log::{Listening, Log, Speaker};
use crate::walls::identity_of;

/// Wall time for one compilation. The largest components, of about 40 MiB,
/// take some 20 seconds on one core, and what a builder computes is limited by its
/// CPU time; but where others serve it runs at a low priority, and on a busy machine
/// gets a small part of a core. So this is for one that hangs.
pub(crate) const COMPILE_DEADLINE: Duration = Duration::from_secs(600);

/// Wall time to say a fingerprint, which takes milliseconds.
const FINGERPRINT_DEADLINE: Duration = Duration::from_secs(20);

/// Wall time from a builder's answer to its end.
const EXIT_DEADLINE: Duration = Duration::from_secs(5);

/// Signals by which builders die, as Linux numbers them everywhere we run.
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;
const SIGSYS: i32 = 31;

/// Who compiles: processes, or something quick in tests.
pub(crate) trait Build: Sync {
    /// What artifacts depend on besides their component.
    fn fingerprint(&self) -> impl Future<Output = Result<String, Refusal>> + Send;

    /// Compiles a component from one file to the other. Nobody can write to
    /// the artifact any more when this returns.
    fn compile(
        &self,
        component: OwnedFd,
        artifact: OwnedFd,
    ) -> impl Future<Output = Result<Built, Refusal>> + Send;
}

/// Builders as processes of this executable.
#[derive(Clone, Debug)]
pub(crate) struct BuilderProcesses {
    /// Wall time for one compilation.
    pub(super) deadline: Duration,
    /// Where what they write to their standard error goes.
    pub(super) log: Log,
    /// Whether others serve meanwhile, and come first.
    pub(super) others_serve: Arc<AtomicBool>,
}

impl BuilderProcesses {
    fn schedule(&self) -> Schedule {
        if self.others_serve.load(Relaxed) {
            Schedule::Background
        } else {
            // Somebody waits for it, and nobody else.
            Schedule::Usual
        }
    }

    /// Starts a builder, asks it one thing, and returns its answer once it is gone.
    async fn converse(
        &self,
        question: &ToBuilder,
        fds: Vec<Arc<OwnedFd>>,
        deadline: Duration,
    ) -> Result<FromBuilder, Refusal> {
        // Dropped after the child, so that it has ended by then.
        let (_listening, child, mut channel) =
            start(self.schedule(), &self.log).map_err(|error| Refusal {
                problem: format!("the compiler cannot be started: {error}"),
                hint: None,
            })?;
        channel
            .say(question, fds)
            .expect("questions are small and carry their descriptors");
        let by = Instant::now() + deadline;
        let Ok(answer) = timeout_at(by, channel.next()).await else {
            // Dropping the child kills and reaps it.
            return Err(Refusal {
                problem: format!("compilation took longer than {} s", deadline.as_secs()),
                hint: Some(
                    "a smaller component, or one built with optimisation, compiles faster"
                        .to_owned(),
                ),
            });
        };
        let ended = reap(child).await;
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(why_it_died(ended)),
            Err(error) => Err(said_nonsense(&error)),
        }
    }
}

impl Build for BuilderProcesses {
    async fn fingerprint(&self) -> Result<String, Refusal> {
        let question = ToBuilder::Fingerprint;
        match self
            .converse(&question, vec![], FINGERPRINT_DEADLINE)
            .await?
        {
            FromBuilder::Fingerprint { fingerprint } => Ok(fingerprint),
            FromBuilder::Refused(refusal) => Err(refusal),
            FromBuilder::Built { .. } => Err(beside_the_point()),
        }
    }

    async fn compile(&self, component: OwnedFd, artifact: OwnedFd) -> Result<Built, Refusal> {
        let fds = vec![Arc::new(component), Arc::new(artifact)];
        match self
            .converse(&ToBuilder::Compile, fds, self.deadline)
            .await?
        {
            FromBuilder::Built {
                flavor,
                imports,
                digest,
                size,
            } => Ok(Built {
                flavor,
                imports,
                digest,
                size,
            }),
            FromBuilder::Refused(refusal) => Err(refusal),
            FromBuilder::Fingerprint { .. } => Err(beside_the_point()),
        }
    }
}

fn start(schedule: Schedule, log: &Log) -> io::Result<(Listening, AsyncFd<Child>, ChannelEnd)> {
    let (ours, theirs) = Channel::pair()?;
    let (output, written) = Output::pipe()?;
    let child = skep_sys::spawn(Spawn {
        role: "builder",
        title: "skep: builder",
        channel: theirs,
        output: Some(written),
        identity: identity_of(Role::Builder),
        schedule,
    })?;
    let speaker = Speaker::role("builder", None);
    let listening = log.listen(output, speaker, child.pid());
    Ok((listening, skep_sys::watch(child)?, ChannelEnd::new(ours)?))
}

/// Waits for a builder's end, which it has no reason to put off.
async fn reap(mut child: AsyncFd<Child>) -> Option<Ended> {
    let by = Instant::now() + EXIT_DEADLINE;
    if timeout_at(by, child.readable()).await.is_err() {
        // Cannot fail for a child that was not reaped; the drop reaps it.
        let _ = child.get_ref().signal(Signal::Kill);
        return None;
    }
    child.get_mut().try_wait().ok().flatten()
}

fn why_it_died(ended: Option<Ended>) -> Refusal {
    let (problem, hint) = match ended {
        Some(Ended::Signal(SIGABRT)) => (
            "the compiler gave up, most likely at its memory limit".to_owned(),
            Some("build the component without debug information, or in smaller parts"),
        ),
        Some(Ended::Signal(SIGXCPU)) => (
            "the compiler used up its CPU time".to_owned(),
            Some("a smaller component, or one built with optimisation, compiles faster"),
        ),
        Some(Ended::Signal(SIGXFSZ)) => (
            "the compiled component is larger than an artifact may be".to_owned(),
            None,
        ),
        Some(Ended::Signal(SIGKILL)) => (
            "the compiler was killed, most likely by the system for want of memory".to_owned(),
            Some("`dmesg` says whether the machine ran out of memory"),
        ),
        Some(Ended::Signal(SIGSYS)) => (
            "the compiler was killed for a system call that builders may not make".to_owned(),
            Some("please report this as a bug of skep"),
        ),
        Some(Ended::Signal(signal @ (SIGSEGV | SIGBUS))) => (
            format!("the compiler crashed (signal {signal})"),
            Some("please report this as a bug of skep"),
        ),
        Some(Ended::Signal(signal)) => (format!("the compiler was ended by signal {signal}"), None),
        Some(Ended::Code(code)) => (
            format!("the compiler exited with code {code} and without an answer"),
            None,
        ),
        None => ("the compiler stopped answering".to_owned(), None),
    };
    Refusal {
        problem,
        hint: hint.map(str::to_owned),
    }
}

fn said_nonsense(error: &ChannelEndError) -> Refusal {
    Refusal {
        problem: format!("the compiler's answer makes no sense: {error}"),
        hint: None,
    }
}

fn beside_the_point() -> Refusal {
    Refusal {
        problem: "the compiler answered another question".to_owned(),
        hint: None,
    }
}
