//! The worker's end of its channel to the connector.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use skep_capabilities::outbound::{Opened, Opener, Opening, Wanted};
use skep_core::egress::OpenFailure;
use skep_link::{Ears, Link, Voice};
use skep_sys::Channel;
use skep_wire::{FromOpener, ToOpener};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// How long the connector may take to take a question; longer means that it is
/// stuck, and another one may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a request for a connection is made: again if the connector goes
/// before it answers.
const ATTEMPTS: usize = 2;

/// How much longer than the connector we wait for its answer, so that it says
/// itself what took so long.
const GRACE: Duration = Duration::from_millis(500);

/// Asks the connector for connections.
pub(super) struct Asker {
    /// To the connector that was met last, if any was.
    lines: watch::Sender<Option<Line>>,
}

/// To one connector. Unbounded: what is asked is bounded by the connections
/// that apps may have, and so is what is closed.
type Line = mpsc::UnboundedSender<Say>;

type Answer = Result<Opened, OpenFailure>;

/// What is to be said to a connector.
enum Say {
    Open(Wanted, oneshot::Sender<Answer>),
    Closed(u64),
}

/// Tells that a connection is closed by being dropped.
struct Token {
    id: u64,
    line: Line,
}

/// Those who wait for an answer, by the number of their question.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, oneshot::Sender<Answer>>>);

impl Asker {
    pub(super) fn new() -> Self {
        Self {
            lines: watch::Sender::new(None),
        }
    }

    /// Asks the connector at the other end from now on.
    pub(super) fn meet(&self, channel: OwnedFd) -> anyhow::Result<()> {
        let channel = Channel::from_fd(channel).context("the connector's channel is none")?;
        let link = Link::new(channel).context("cannot watch the connector")?;
        let (ears, voice) = link.split();
        let (line, said) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let back = line.downgrade();
        tokio::spawn(async move {
            // Whichever ends first: there is no conversation any more. Those
            // who wait see that by their sender being dropped.
            tokio::select! {
                _ = speak(voice, said, &waiting) => {}
                _ = listen(ears, &back, &waiting) => {}
            }
        });
        self.lines.send_replace(Some(line));
        Ok(())
    }
}

impl Opener for Asker {
    fn open(&self, wanted: Wanted) -> Opening {
        let mut lines = self.lines.subscribe();
        Box::pin(async move {
            let by = Instant::now() + wanted.timeout;
            for _ in 0..ATTEMPTS {
                // The first one may be about to come, or the next one.
                let there = lines.wait_for(|line| line.as_ref().is_some_and(|it| !it.is_closed()));
                let line = match timeout_at(by, there).await {
                    Ok(Ok(line)) => line.clone(),
                    Ok(Err(_)) | Err(_) => return Err(OpenFailure::Timeout),
                };
                let mut wanted = wanted.clone();
                wanted.timeout = by.saturating_duration_since(Instant::now());
                let (answer, answered) = oneshot::channel();
                if line.is_none_or(|line| line.send(Say::Open(wanted, answer)).is_err()) {
                    continue;
                }
                match timeout_at(by + GRACE, answered).await {
                    Ok(Ok(answer)) => return answer,
                    // The connector has gone.
                    Ok(Err(_)) => {}
                    Err(_) => return Err(OpenFailure::Timeout),
                }
            }
            Err(OpenFailure::Unreachable)
        })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // A connector that is gone counts nothing any more.
        let _ = self.line.send(Say::Closed(self.id));
    }
}

impl Waiting {
    fn list(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is to be said, in order.
async fn speak(
    mut voice: Voice<ToOpener>,
    mut said: mpsc::UnboundedReceiver<Say>,
    waiting: &Waiting,
) -> anyhow::Result<()> {
    let mut last = 0;
    while let Some(say) = said.recv().await {
        let message = match say {
            // Whoever asked does not want it any more.
            Say::Open(_, answer) if answer.is_closed() => continue,
            Say::Open(wanted, answer) => {
                last += 1;
                waiting.list().insert(last, answer);
                ToOpener::Open {
                    id: last,
                    app: wanted.app,
                    scheme: wanted.scheme,
                    host: wanted.host,
                    port: wanted.port,
                    timeout: wanted.timeout,
                }
            }
            Say::Closed(id) => ToOpener::Closed { id },
        };
        let by = Instant::now() + PATIENCE;
        voice.tell(&message, &[], by.into_std()).await?;
    }
    Ok(())
}

/// Passes answers on.
async fn listen(
    mut ears: Ears<FromOpener>,
    line: &mpsc::WeakUnboundedSender<Say>,
    waiting: &Waiting,
) -> anyhow::Result<()> {
    while let Some((answer, fds)) = ears.next().await? {
        let (id, answer) = answer_of(&answer, fds, line)?;
        let Some(asked) = waiting.list().remove(&id) else {
            bail!("an answer to nobody");
        };
        // Whoever has gone lets it go, and says so.
        let _ = asked.send(answer);
    }
    bail!("the connector has gone")
}

fn answer_of(
    answer: &FromOpener,
    mut fds: Vec<OwnedFd>,
    line: &mpsc::WeakUnboundedSender<Say>,
) -> anyhow::Result<(u64, Answer)> {
    match *answer {
        FromOpener::Failed { id, why } => Ok((id, Err(why))),
        FromOpener::Opened { id, address } => {
            let socket = fds.pop().context("no socket came")?;
            let line = line.upgrade().context("nobody asks any more")?;
            let held = Box::new(Token { id, line });
            let opened = Opened {
                socket,
                address,
                held,
            };
            Ok((id, Ok(opened)))
        }
    }
}
