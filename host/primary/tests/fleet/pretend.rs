//! Workers, builders, dispatchers and connectors that keep to the protocol, or
//! break it as told. They say on standard error what the tests want to know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use skep_core::Plan;
use skep_core::egress::OpenFailure;
use skep_sys::{Board, Channel, clock};
use skep_wire::{
    Decoder, DispatchCounts, Flavor, FromBuilder, FromConnector, FromDispatcher, FromOpener,
    FromWorker, Message, Peer, Refusal, ToAcceptor, ToBuilder, ToConnector, ToDispatcher, ToWorker,
    encode,
};

/// Says something on standard error, in one piece among what others say there.
macro_rules! note {
    ($($what:tt)*) => {
        {
            let at = skep_sys::clock::monotonic().as_nanos();
            let line = format!("{} at={at}\n", format_args!($($what)*));
            io::stderr().write_all(line.as_bytes()).unwrap()
        }
    };
}

/// How often a pretended worker gives a sign of life.
const BEAT: Duration = Duration::from_millis(100);

/// The same for one of very many.
const SELDOM: Duration = Duration::from_secs(1);

/// When a worker meets somebody.
const FIRST: &str = "before its first plan";
const LATER: &str = "later";

struct Talk {
    channel: Channel,
    /// The same socket, for what `Channel` does not offer.
    socket: UnixStream,
    decoder: Decoder<OwnedFd>,
}

impl Talk {
    fn new() -> Self {
        Self::over(Channel::inherited().unwrap())
    }

    fn over(channel: Channel) -> Self {
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
            pool,
            listeners: roles,
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
    let me = format!("pretend worker {worker} of {pool}");
    for role in roles {
        note!("{me} accepts from {}", role.name);
    }
    let (mut left, mut pause) = (loads, BEAT);
    while left > 0 {
        let (app, fds) = match talk.next(|| ()) {
            Some((ToWorker::Load(app), fds)) => (app, fds),
            Some((ToWorker::Meet(peer), fds)) => {
                meet(&me, FIRST, peer, fds);
                continue;
            }
            _ => panic!("no app"),
        };
        left -= 1;
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
            "quiet" => pause = SELDOM,
            "serve" => assert!(artifact.starts_with("compiled "), "{artifact}"),
            "exit" => return ExitCode::from(3),
            "unfit" => {
                talk.say(&FromWorker::Unfit {
                    message: "it will not do".to_owned(),
                });
                return ExitCode::from(1);
            }
            "garbage" => talk.socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(),
            "hog" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                }
            }
            "hang-up" => {
                talk.socket.shutdown(std::net::Shutdown::Both).unwrap();
                loop {
                    std::thread::park();
                }
            }
            other => panic!("no mode {other}"),
        }
    }
    let plan = match talk.next(|| ()) {
        Some((ToWorker::Serve(plan), _)) => plan,
        Some((ToWorker::Meet(peer), fds)) => {
            meet(&me, FIRST, peer, fds);
            let Some((ToWorker::Serve(plan), _)) = talk.next(|| ()) else {
                panic!("no plan");
            };
            plan
        }
        _ => panic!("no plan"),
    };
    tell(&me, &plan);
    cell.set_ready(true);
    cell.beat(clock::monotonic());
    talk.say(&FromWorker::Ready { late: Vec::new() });
    talk.socket.set_read_timeout(Some(pause)).unwrap();
    loop {
        match talk.next(|| cell.beat(clock::monotonic())) {
            Some((ToWorker::Load(app), _)) => talk.say(&FromWorker::Loaded {
                handler: app.handler,
            }),
            Some((ToWorker::Meet(peer), fds)) => meet(&me, LATER, peer, fds),
            Some((ToWorker::Listen { listeners }, _)) => {
                for role in listeners {
                    note!("{me} accepts from {}", role.name);
                }
            }
            Some((ToWorker::Unlisten { listeners }, _)) => {
                for name in listeners {
                    note!("{me} accepts no more from {name}");
                }
            }
            Some((ToWorker::Serve(plan), _)) => {
                tell(&me, &plan);
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

fn tell(me: &str, plan: &Plan) {
    let routes: Vec<_> = plan
        .apps
        .iter()
        .flat_map(|app| app.routes.iter().map(ToString::to_string))
        .collect();
    let tenants: Vec<_> = plan
        .tenants
        .iter()
        .map(|tenant| format!("{}:{}", tenant.tenant, tenant.limits.concurrency))
        .collect();
    let (routes, tenants) = (routes.join(" "), tenants.join(" "));
    note!("{me} serves [{routes}] of [{tenants}]");
}

/// Hears what the other end says, which proves whose it is.
fn meet(me: &str, when: &'static str, peer: Peer, mut fds: Vec<OwnedFd>) {
    let me = me.to_owned();
    let mut talk = Talk::over(Channel::from_fd(fds.remove(0)).unwrap());
    let hear = move || match peer {
        Peer::Dispatcher(role) => {
            if let Some((ToAcceptor::Take(handouts), _)) = talk.next(|| ()) {
                assert!(handouts.is_empty());
                note!("{me} met the dispatcher of {} {when}", role.name);
            }
        }
        Peer::Connector => {
            if let Some((FromOpener::Failed { id, .. }, _)) = talk.next(|| ()) {
                note!("{me} met the connector, which calls it {id}, {when}");
            }
        }
    };
    if when == LATER {
        std::thread::spawn(hear);
    } else {
        // Before it could be ready and, being a canary worker, be gone.
        hear();
    }
}

/// Gives the one sign of life that holds for ever: of the future, which counts
/// as now whenever it is looked at.
fn live(board: &Board) {
    board.cell(0).unwrap().beat(std::time::Duration::MAX);
}

/// Accepts nothing. To every worker it says something; hosts are switched at
/// once.
pub(crate) fn dispatcher() -> ExitCode {
    let mut talk = Talk::new();
    let Some((ToDispatcher::Begin { listener, .. }, mut fds)) = talk.next(|| ()) else {
        panic!("no beginning");
    };
    let board = Board::open(fds.remove(1)).unwrap();
    live(&board);
    let me = format!("pretend dispatcher of {listener}");
    talk.say(&FromDispatcher::Ready {
        missing: Vec::new(),
    });
    let mut boards = BTreeMap::new();
    let mut workers = BTreeMap::new();
    loop {
        let Some((message, mut fds)) = talk.next(|| ()) else {
            return ExitCode::SUCCESS;
        };
        match message {
            ToDispatcher::Pool { pool, dispatch } => {
                note!("{me} has pool {pool} {dispatch:?}");
                boards.insert(pool, Board::open(fds.remove(0)).unwrap());
            }
            ToDispatcher::PoolGone { pool } => {
                assert!(boards.remove(&pool).is_some());
                note!("{me} has not pool {pool}");
            }
            ToDispatcher::Hosts { hosts, otherwise } => {
                let hosts: Vec<_> = hosts
                    .iter()
                    .inspect(|host| assert!(boards.contains_key(&host.pool)))
                    .map(|host| format!("{}={}", host.host, host.pool))
                    .collect();
                assert!(boards.contains_key(&otherwise));
                note!("{me} has hosts [{}] else {otherwise}", hosts.join(" "));
                talk.say(&FromDispatcher::Switched);
                talk.say(&FromDispatcher::Counts(DispatchCounts {
                    accepted: 7,
                    ..DispatchCounts::default()
                }));
            }
            ToDispatcher::Worker { worker, pool, cell } => {
                assert_eq!(boards[&pool].cell(cell).unwrap().owner(), worker.0);
                let mut other = Talk::over(Channel::from_fd(fds.remove(0)).unwrap());
                other.say(&ToAcceptor::Take(Vec::new()));
                workers.insert(worker, other);
                note!("{me} has worker {worker} of {pool}");
            }
            ToDispatcher::WorkerGone { worker } => {
                assert!(workers.remove(&worker).is_some());
                note!("{me} has not worker {worker}");
            }
            ToDispatcher::Drain => {
                note!("{me} drains");
                talk.say(&FromDispatcher::Drained);
                return ExitCode::SUCCESS;
            }
            ToDispatcher::Limits(limits) => {
                note!("{me} has limits of {} headers", limits.max_headers);
            }
            ToDispatcher::Begin { .. } => panic!("it began twice"),
        }
    }
}

/// Opens nothing. To every worker it says something.
pub(crate) fn connector() -> ExitCode {
    let mut talk = Talk::new();
    let Some((ToConnector::Begin { .. }, mut fds)) = talk.next(|| ()) else {
        panic!("no beginning");
    };
    let board = Board::open(fds.remove(0)).unwrap();
    live(&board);
    talk.say(&FromConnector::Ready {
        missing: Vec::new(),
    });
    let mut workers = BTreeMap::new();
    while let Some((message, mut fds)) = talk.next(|| ()) {
        match message {
            ToConnector::Grants { pool, apps } => {
                let apps: Vec<_> = apps
                    .iter()
                    .map(|app| format!("{}:{:?}:{}", app.app, app.grants, app.connections))
                    .collect();
                note!("pretend connector grants {pool} {}", apps.join(" "));
            }
            ToConnector::PoolGone { pool } => note!("pretend connector has not pool {pool}"),
            ToConnector::Worker { worker, pool } => {
                let mut other = Talk::over(Channel::from_fd(fds.remove(0)).unwrap());
                other.say(&FromOpener::Failed {
                    id: worker.0,
                    why: OpenFailure::Denied,
                });
                workers.insert(worker, other);
                note!("pretend connector has worker {worker} of {pool}");
            }
            ToConnector::WorkerGone { worker } => {
                assert!(workers.remove(&worker).is_some());
                note!("pretend connector has not worker {worker}");
            }
            ToConnector::Begin { .. } => panic!("it began twice"),
        }
    }
    ExitCode::SUCCESS
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
