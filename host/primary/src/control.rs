//! The control socket: operators' requests in, replies out, one JSON object a
//! line.
//!
//! Each client has a task of its own with a limit for everything that it does,
//! so a slow, silent or garrulous one harms neither the fleet nor the others.
//! What is asked is answered by the fleet's loop.

mod clients;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_wire::{ControlReply, ControlRequest, decode_line, encode_line};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::clients::{Clients, Place};
use crate::socket_file::SocketFile;

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
    _file: SocketFile,
}

impl Control {
    /// Binds the socket, for its owner only, and answers from now on. A socket
    /// file that nobody listens at is replaced.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    pub(crate) fn start(path: &Path) -> Result<(Self, mpsc::Receiver<Asked>), ControlError> {
        let io_at = |source| ControlError::Io {
            path: path.to_owned(),
            source,
        };
        check_vacant(path)?;
        let (listener, file) = bind_closed_to_others(path).map_err(io_at)?;
        let owner = fs::symlink_metadata(path).map_err(io_at)?.uid();
        let (asked, requests) = mpsc::channel(REQUESTS);
        let (closing, closed) = watch::channel(false);
        let clients = Arc::new(Clients::default());
        tokio::spawn(accept(listener, owner, asked, closed, Arc::clone(&clients)));
        let control = Self {
            closing,
            clients,
            _file: file,
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

fn check_vacant(path: &Path) -> Result<(), ControlError> {
    let io_at = |source| ControlError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_at(error)),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            return Err(io_at(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "exists and is no socket",
            )));
        }
    }
    match std::os::unix::net::UnixStream::connect(path) {
        // A full backlog is somebody's, too.
        Ok(_) => Err(ControlError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ControlError::InUse(path.to_owned()))
        }
        Err(_) => Ok(()),
    }
}

/// Binds under another name, so that nobody can connect before the mode is
/// right, and renames over whatever was there.
fn bind_closed_to_others(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // As short as can be: socket paths have 107 bytes at most.
    let draft = path.with_file_name(format!(".{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&draft)?;
    let file = SocketFile::adopt(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, path)?;
    drop(file);
    let file = SocketFile::adopt(path)?;
    listener.set_nonblocking(true)?;
    Ok((UnixListener::from_std(listener)?, file))
}

async fn accept(
    listener: UnixListener,
    owner: u32,
    asked: mpsc::Sender<Asked>,
    mut closing: watch::Receiver<bool>,
    clients: Arc<Clients>,
) {
    loop {
        let next = async {
            clients.room().await;
            listener.accept().await
        };
        let accepted = select! {
            next = next => next,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match accepted {
            // The mode keeps others out; this is the second lock of the door.
            Ok((stream, _)) if is_allowed(&stream, owner) => {
                let place = Clients::enter(&clients);
                let client = Client::new(stream, asked.clone(), closing.clone(), place);
                tokio::spawn(client.serve());
            }
            Ok(_) => {}
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
            self.place.is_idle(!waits);
            let reply = select! {
                biased;
                reply = replies.recv() => reply,
                () = gone(&mut self.reader, self.writer.as_ref()) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            };
            self.place.is_idle(true);
            match reply {
                Some(reply) => self.write(&reply).await?,
                None => return Ok(()),
            }
        }
    }

    async fn write(&mut self, reply: &ControlReply) -> io::Result<()> {
        timeout(WRITE_DEADLINE, self.writer.write_all(&encode_line(reply)))
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
mod tests {
    use std::future::Future;

    use super::*;

    /// A control socket whose loop answers `Done` to everything.
    async fn with_control<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (control, mut requests) = Control::start(&path).unwrap();
        let answering = tokio::spawn(async move {
            while let Some(Asked { asker, .. }) = requests.recv().await {
                asker.progress("on the way".to_owned());
                asker.answer(ControlReply::Done { message: None });
            }
        });
        test(path.clone()).await;
        control.finish().await;
        assert!(!path.exists());
        answering.await.unwrap();
    }

    async fn exchange(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn requests_are_answered_in_turn() {
        with_control(|path| async move {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let status = encode_line(&ControlRequest::Status);
            let progress = r#"{"reply":"progress","message":"on the way"}"#;
            let once = format!("{progress}\n{{\"reply\":\"done\"}}\n");
            assert_eq!(exchange(&path, &status.repeat(2)).await, once.repeat(2));
        })
        .await;
    }

    #[tokio::test]
    async fn nonsense_is_refused_and_does_not_harm() {
        with_control(|path| async move {
            let answer = exchange(&path, b"GET / HTTP/1.1\n").await;
            assert!(answer.contains(r#""reply":"refused""#), "{answer}");
            let endless = vec![b'x'; usize::try_from(MAX_REQUEST).unwrap() + 10];
            let mut stream = UnixStream::connect(&path).await.unwrap();
            // The rest may meet a closed socket.
            let _ = stream.write_all(&endless).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(String::from_utf8_lossy(&answer).contains("too long"));
            assert_eq!(exchange(&path, b"{\"command\":\"sta").await, "");
            let status = encode_line(&ControlRequest::Status);
            assert!(
                exchange(&path, &status)
                    .await
                    .ends_with("{\"reply\":\"done\"}\n")
            );
        })
        .await;
    }

    #[tokio::test]
    async fn idle_clients_do_not_delay_the_end() {
        let begun = std::time::Instant::now();
        with_control(|path| async move {
            let _idle = UnixStream::connect(&path).await.unwrap();
        })
        .await;
        assert!(begun.elapsed() < FAREWELL);
    }

    #[tokio::test]
    async fn nobody_keeps_an_operator_out() {
        with_control(|path| async move {
            let status = encode_line(&ControlRequest::Status);
            let mut others = Vec::new();
            for number in 0..300 {
                let mut other = UnixStream::connect(&path).await.unwrap();
                // Silent ones, and some that do not read their reply.
                if number % 2 == 0 {
                    other.write_all(&status).await.unwrap();
                }
                others.push(other);
                if number % 50 == 0 {
                    let answer = exchange(&path, &status).await;
                    assert!(answer.ends_with("{\"reply\":\"done\"}\n"), "{answer}");
                }
            }
            let answer = exchange(&path, &status).await;
            assert!(answer.ends_with("{\"reply\":\"done\"}\n"), "{answer}");
        })
        .await;
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_and_goes_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (control, mut requests) = Control::start(&path).unwrap();
        let follow = encode_line(&ControlRequest::Events { follow: true });
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(&follow).await.unwrap();
        let asked = requests.recv().await.unwrap();
        // The end of its own writing is not its end.
        client.shutdown().await.unwrap();
        tokio::time::sleep(LOOK * 2).await;
        assert!(asked.asker.event(serde_json::json!(1)));
        let mut piece = [0; 64];
        assert!(client.read(&mut piece).await.unwrap() > 0);
        drop(client);
        let gone = async {
            while !asked.asker.is_gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LOOK * 5, gone).await.unwrap();
        control.finish().await;
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (control, _requests) = Control::start(&path).unwrap();
        assert!(matches!(Control::start(&path), Err(ControlError::InUse(_))));
        control.finish().await;

        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Control::start(&path),
            Err(ControlError::Io { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_answer_always_has_a_place() {
        let (sender, mut replies) = mpsc::channel(REPLIES);
        let asker = Asker(sender);
        for _ in 0..REPLIES * 2 {
            asker.progress("x".to_owned());
        }
        asker.answer(ControlReply::Done { message: None });
        let mut last = None;
        while let Ok(reply) = replies.try_recv() {
            last = Some(reply);
        }
        assert_eq!(last, Some(ControlReply::Done { message: None }));
    }
}
