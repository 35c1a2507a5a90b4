//! Workers and builders that keep to the protocol, or break it as told.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use skep_sys::{Board, Channel, clock};
use skep_wire::{
    Decoder, Flavor, FromBuilder, FromWorker, Message, Refusal, ToBuilder, ToWorker, encode,
};

/// How often a pretended worker gives a sign of life.
const BEAT: Duration = Duration::from_millis(100);

struct Talk {
    channel: Channel,
    /// The same socket, for what `Channel` does not offer.
    socket: UnixStream,
    decoder: Decoder<OwnedFd>,
}

impl Talk {
    fn new() -> Self {
        let channel = Channel::inherited().unwrap();
        let socket = UnixStream::from(channel.as_fd().try_clone_to_owned().unwrap());
        socket.set_nonblocking(false).unwrap();
        Self {
            channel,
            socket,
            decoder: Decoder::default(),
        }
    }

    /// `None` at the end of the stream; calls `idle` while nothing comes.
    fn next<M: Message>(&mut self, mut idle: impl FnMut()) -> Option<(M, Vec<OwnedFd>)> {
        let mut piece = [0; 65536];
        loop {
            if let Some(message) = self.decoder.message().unwrap() {
                return Some(message);
            }
            let mut fds = Vec::new();
            match self.channel.recv(&mut piece, &mut fds) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&piece[..count], fds),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => idle(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn say<M: Message>(&mut self, message: &M) {
        self.socket.write_all(&encode(message).unwrap()).unwrap();
    }
}

pub(crate) fn worker() -> ExitCode {
    let mut talk = Talk::new();
    let Some((
        ToWorker::Begin {
            cell,
            loads,
            worker,
            ..
        },
        mut fds,
    )) = talk.next(|| ())
    else {
        panic!("no beginning");
    };
    let board = Board::open(fds.remove(0)).unwrap();
    let listeners = fds;
    let cell = board.cell(cell).unwrap();
    assert_eq!(cell.owner(), worker.0);
    for _ in 0..loads {
        let Some((ToWorker::Load(app), fds)) = talk.next(|| ()) else {
            panic!("no app");
        };
        // By its path, because the position is shared with all who have it.
        let path = format!("/proc/self/fd/{}", fds[0].as_raw_fd());
        let artifact = std::fs::read_to_string(path).unwrap();
        let mode = app
            .env
            .iter()
            .find(|(key, _)| key == "MODE")
            .unwrap()
            .1
            .clone();
        match mode.as_str() {
            "serve" => assert!(artifact.starts_with("compiled "), "{artifact}"),
            "exit" => return ExitCode::from(3),
            "unfit" => {
                talk.say(&FromWorker::Unfit {
                    app: Some(app.app.clone()),
                    message: "it will not do".to_owned(),
                });
                return ExitCode::from(1);
            }
            "garbage" => talk.socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(),
            "hang-up" => {
                talk.socket.shutdown(std::net::Shutdown::Both).unwrap();
                loop {
                    std::thread::park();
                }
            }
            other => panic!("no mode {other}"),
        }
    }
    let Some((ToWorker::Serve(_), _)) = talk.next(|| ()) else {
        panic!("no plan");
    };
    cell.set_ready(true);
    cell.beat(clock::monotonic());
    talk.say(&FromWorker::Ready);
    talk.socket.set_read_timeout(Some(BEAT)).unwrap();
    loop {
        match talk.next(|| cell.beat(clock::monotonic())) {
            Some((ToWorker::Load(app), _)) => talk.say(&FromWorker::Loaded {
                handler: app.handler,
            }),
            Some((ToWorker::Serve(plan), _)) => {
                talk.say(&FromWorker::Serving { plan: plan.number });
            }
            Some((ToWorker::Drain, _)) => {
                drop(listeners);
                talk.say(&FromWorker::Drained);
                return ExitCode::SUCCESS;
            }
            Some(_) | None => return ExitCode::SUCCESS,
        }
    }
}

pub(crate) fn builder() -> ExitCode {
    let mut talk = Talk::new();
    match talk.next(|| ()) {
        Some((ToBuilder::Fingerprint, _)) => talk.say(&FromBuilder::Fingerprint {
            fingerprint: "00ff".to_owned(),
        }),
        Some((ToBuilder::Compile, fds)) => {
            let mut fds = fds.into_iter().map(File::from);
            let (mut component, mut artifact) = (fds.next().unwrap(), fds.next().unwrap());
            let mut text = String::from("compiled ");
            component.read_to_string(&mut text).unwrap();
            if text.contains("abort") {
                std::process::abort();
            }
            if text.contains("bad") {
                talk.say(&FromBuilder::Refused(Refusal {
                    problem: "it is bad".to_owned(),
                    hint: None,
                }));
                return ExitCode::SUCCESS;
            }
            artifact.write_all(text.as_bytes()).unwrap();
            let digest = Sha256::digest(text.as_bytes());
            talk.say(&FromBuilder::Built {
                flavor: Flavor::P2,
                imports: Vec::new(),
                digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
                size: text.len() as u64,
            });
        }
        None => {}
    }
    ExitCode::SUCCESS
}
