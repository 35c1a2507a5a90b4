//! The control socket: operators' requests in, replies out, one JSON object a
//! line.
//!
//! Each client has a task of its own with a limit for everything that it does,
//! so a slow, silent or garrulous one harms neither the fleet nor the others.
//! What is asked is answered by the fleet's loop.

mod binding;
mod clients;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_wire::{ControlReply, ControlRequest, decode_line, encode_reply};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::binding::Binding;
use self::clients::{Clients, Place};

/// Bytes of one request; the largest of today has about 100.
const MAX_REQUEST: u64 = 64 << 10;

/// How long a client may be connected without asking anything.
const SILENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether a client is still there that has ended its own
/// writing, which may mean either.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to read one reply.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long the last replies may take at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Replies that may wait for one client: all events that are remembered.
const REPLIES: usize = 1024;

/// Requests that may wait for the loop.
const REQUESTS: usize = 64;

/// One request and where its replies go.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What is asked.
    pub(crate) request: ControlRequest,
    /// Where the answer goes.
    pub(crate) asker: Asker,
}

/// A client that waits for its answer.
#[derive(Debug)]
pub(crate) struct Asker(mpsc::Sender<ControlReply>);

impl Asker {
    /// Tells what happens on the way; forgotten if the client reads too slowly.
    pub(crate) fn progress(&self, message: String) {
        // One place is always left for the answer.
        if self.0.capacity() > 1 {
            let _ = self.0.try_send(ControlReply::Progress { message });
        }
    }

    /// Tells of an event, if there is room; whether the client is still there.
    pub(crate) fn event(&self, event: serde_json::Value) -> bool {
        if self.0.capacity() > 1 {
            let _ = self.0.try_send(ControlReply::Event { event });
        }
        !self.is_gone()
    }

    /// Tells of an event as soon as there is room.
    ///
    /// # Errors
    ///
    /// The client is gone, or reads more slowly than it may.
    pub(crate) async fn event_in_time(&self, event: serde_json::Value) -> io::Result<()> {
        let sent = self.0.send(ControlReply::Event { event });
        match timeout(WRITE_DEADLINE, sent).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Answers.
    pub(crate) fn answer(self, reply: ControlReply) {
        // Fails only for a client that is gone.
        let _ = self.0.try_send(reply);
    }

    /// Whether the client is still there.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Somebody answers there.
    #[error("another process listens at {0}")]
    InUse(PathBuf),
    /// The path cannot be used.
    #[error("{path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The control socket, answering.
#[derive(Debug)]
pub(crate) struct Control {
    closing: watch::Sender<bool>,
    clients: Arc<Clients>,
    binding: Binding,
}

impl Control {
    /// Binds the socket, for its owner only, and answers from now on. A socket
    /// file that nobody listens at is replaced. One that somebody removes is bound
    /// anew, which `rebound` is told of.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    pub(crate) fn start(
        path: &Path,
        rebound: impl Fn() + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Asked>), ControlError> {
        let io_at = |source| ControlError::Io {
            path: path.to_owned(),
            source,
        };
        let (binding, listener) = Binding::new(path)?;
        let listener = UnixListener::from_std(listener).map_err(io_at)?;
        let owner = fs::symlink_metadata(path).map_err(io_at)?.uid();
        let (asked, requests) = mpsc::channel(REQUESTS);
        let (closing, closed) = watch::channel(false);
        let (other, others) = mpsc::channel(1);
        let clients = Arc::new(Clients::default());
        tokio::spawn(binding.clone().keep(other, rebound, closed.clone()));
        let door = Door {
            listener,
            others,
            owner,
        };
        tokio::spawn(accept(door, asked, closed, Arc::clone(&clients)));
        let control = Self {
            closing,
            clients,
            binding,
        };
        Ok((control, requests))
    }

    /// Accepts nobody any more, lets go of idle clients, waits a moment for the
    /// others to take their last reply, and removes the socket file.
    pub(crate) async fn finish(self) {
        let _ = self.closing.send(true);
        let _ = timeout(FAREWELL, self.clients.gone()).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.binding.end();
    }
}

/// Where clients come in.
struct Door {
    listener: UnixListener,
    /// Sockets that take its place.
    others: mpsc::Receiver<UnixListener>,
    /// The user who may come in, besides root.
    owner: u32,
}

impl Door {
    /// The next client that may come in.
    async fn next(&mut self) -> io::Result<UnixStream> {
        loop {
            select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted?;
                    // The mode keeps others out; this is the second lock of the door.
                    if is_allowed(&stream, self.owner) {
                        return Ok(stream);
                    }
                }
                Some(other) = self.others.recv() => self.listener = other,
            }
        }
    }
}

async fn accept(
    mut door: Door,
    asked: mpsc::Sender<Asked>,
    mut closing: watch::Receiver<bool>,
    clients: Arc<Clients>,
) {
    loop {
        let next = async {
            clients.not_full().await;
            door.next().await
        };
        let accepted = select! {
            next = next => next,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match accepted {
            Ok(stream) => {
                let place = Clients::enter(&clients);
                place.make_room();
                let client = Client::new(stream, asked.clone(), closing.clone(), place);
                tokio::spawn(client.serve());
            }
            // No descriptors left: others must end first. Not a busy loop, for
            // the pause is not for anything to happen but to let time pass.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn is_allowed(stream: &UnixStream, owner: u32) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
}

struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    asked: mpsc::Sender<Asked>,
    closing: watch::Receiver<bool>,
    place: Place,
}

impl Client {
    fn new(
        stream: UnixStream,
        asked: mpsc::Sender<Asked>,
        closing: watch::Receiver<bool>,
        place: Place,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            asked,
            closing,
            place,
        }
    }

    async fn serve(mut self) {
        let leave = self.place.leave();
        select! {
            () = self.converse() => {}
            () = leave.notified() => {}
        }
    }

    async fn converse(&mut self) {
        while let Some(line) = self.read_line().await {
            let answered = match decode_line(&line) {
                Ok(request) => self.ask(request).await,
                Err(why) => self.write(&refused(format!("not a request: {why}"))).await,
            };
            if answered.is_err() {
                return;
            }
        }
    }

    /// The next line; `None` when there will be none that we want.
    async fn read_line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(MAX_REQUEST);
        let read = timeout(SILENCE, limited.read_until(b'\n', &mut line));
        let count = select! {
            read = read => read.ok()?.ok()?,
            _ = self.closing.wait_for(|closing| *closing) => return None,
        };
        let whole = line.last() == Some(&b'\n');
        if count as u64 == MAX_REQUEST && !whole {
            let _ = self
                .write(&refused("the request is too long".to_owned()))
                .await;
            return None;
        }
        whole.then_some(line)
    }

    async fn ask(&mut self, request: ControlRequest) -> io::Result<()> {
        let (asker, mut replies) = mpsc::channel(REPLIES);
        // Who follows events waits for no answer.
        let waits = !matches!(request, ControlRequest::Events { follow: true });
        let asked = Asked {
            request,
            asker: Asker(asker),
        };
        if self.asked.send(asked).await.is_err() {
            return self
                .write(&refused("the primary is ending".to_owned()))
                .await;
        }
        loop {
            self.place.note_idle(!waits);
            let reply = select! {
                biased;
                reply = replies.recv() => reply,
                () = gone(&mut self.reader, self.writer.as_ref()) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            };
            self.place.note_idle(true);
            match reply {
                Some(reply) => self.write(&reply).await?,
                None => return Ok(()),
            }
        }
    }

    async fn write(&mut self, reply: &ControlReply) -> io::Result<()> {
        timeout(WRITE_DEADLINE, self.writer.write_all(&encode_reply(reply)))
            .await
            .map_err(io::Error::other)?
    }
}

/// Ends when the client has gone. One that has ended its own writing still wants
/// its answer.
async fn gone(reader: &mut BufReader<OwnedReadHalf>, stream: &UnixStream) {
    // What it asks next stays where it is.
    let _ = reader.fill_buf().await;
    while !skep_sys::is_hung_up(stream.as_fd()) {
        tokio::time::sleep(LOOK).await;
    }
}

/// What a request gets that makes no sense: the exit code of wrong usage.
fn refused(message: String) -> ControlReply {
    ControlReply::Refused { message, code: 2 }
}

#[cfg(test)]
mod tests;
