//! A connector on real channels, with a DNS server and servers on loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

mod dns;

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use skep_connector::{Ended, NameFiles, Names, serve};
use skep_core::egress::{OpenFailure, OutboundGrant, Scheme};
use skep_core::{AppName, PoolName, Sandbox, WorkerId};
use skep_sys::{Board, Channel};
use skep_wire::{AppGrants, Decoder, FromConnector, FromOpener, Message, ToConnector, ToOpener};

use self::dns::{Dns, Says};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other end of a channel.
struct End {
    channel: Channel,
    decoder: Decoder<OwnedFd>,
}

impl End {
    fn pair() -> (Self, OwnedFd) {
        let (channel, theirs) = Channel::pair().unwrap();
        let socket = UnixStream::from(channel.as_fd().try_clone_to_owned().unwrap());
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let decoder = Decoder::default();
        (Self { channel, decoder }, theirs)
    }

    fn say<M: Message>(&self, message: &M, fd: Option<&OwnedFd>) {
        let frame = skep_wire::encode(message).unwrap();
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        assert_eq!(self.channel.send(&frame, &fds).unwrap(), frame.len());
    }

    /// The next message, or `None` at the end.
    fn hear<M: Message>(&mut self) -> Option<(M, Option<OwnedFd>)> {
        loop {
            if let Some((message, mut fds)) = self.decoder.message::<M>().unwrap() {
                return Some((message, fds.pop()));
            }
            let (mut buffer, mut fds) = ([0; 4096], Vec::new());
            match self.channel.recv(&mut buffer, &mut fds) {
                Ok(0) => return None,
                Ok(read) => self.decoder.push(&buffer[..read], fds),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}

/// A running connector and what is around it.
struct Fleet {
    primary: End,
    dns: Dns,
    files: NameFiles,
    thread: JoinHandle<Result<Ended, String>>,
    _dir: tempfile::TempDir,
}

impl Fleet {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dns = Dns::start();
        let files = NameFiles {
            resolv: dir.path().join("resolv.conf"),
            hosts: dir.path().join("hosts"),
            port: dns.port(),
        };
        std::fs::write(&files.resolv, "nameserver 127.0.0.1\n").unwrap();
        let (mut primary, theirs) = End::pair();
        let thread = run(theirs, files.clone(), |_| Ok(vec!["nothing".into()]));
        let board = Board::create(1).unwrap();
        primary.say(&begin(), Some(&fd_of(&board)));
        let (ready, _) = primary.hear::<FromConnector>().unwrap();
        let missing = vec!["nothing".to_owned()];
        assert_eq!(ready, FromConnector::Ready { missing });
        let began = std::time::Instant::now();
        while board.cell(0).unwrap().heartbeat().is_zero() {
            assert!(began.elapsed() < PATIENCE, "it gives no sign of life");
            std::thread::yield_now();
        }
        Self {
            primary,
            dns,
            files,
            thread,
            _dir: dir,
        }
    }

    /// Grants to the app `app` of the pool `pool`.
    fn grant(&self, grants: &[String], connections: u32) {
        let grants = grants.iter().map(|text| OutboundGrant::new(text).unwrap());
        let app = AppGrants {
            app: AppName::new("app").unwrap(),
            grants: grants.collect(),
            connections,
        };
        let pool = PoolName::new("pool").unwrap();
        self.primary.say(
            &ToConnector::Grants {
                pool,
                apps: vec![app],
            },
            None,
        );
    }

    fn worker(&self, worker: u64, pool: &str) -> Worker {
        let (end, theirs) = End::pair();
        let introduction = ToConnector::Worker {
            worker: WorkerId(worker),
            pool: PoolName::new(pool).unwrap(),
        };
        self.primary.say(&introduction, Some(&theirs));
        Worker {
            end,
            next: 0,
            heard: VecDeque::new(),
        }
    }
}

fn fd_of(board: &Board) -> OwnedFd {
    board.as_fd().try_clone_to_owned().unwrap()
}

fn begin() -> ToConnector {
    ToConnector::Begin {
        sandbox: Sandbox::BestEffort,
    }
}

fn run(
    channel: OwnedFd,
    files: NameFiles,
    confine: impl FnOnce(Sandbox) -> anyhow::Result<Vec<String>> + Send + 'static,
) -> JoinHandle<Result<Ended, String>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let channel = Channel::from_fd(channel).unwrap();
            let names = Names::new(files).unwrap();
            let ended = serve(channel, names, confine).await;
            ended.map_err(|error| format!("{error:#}"))
        })
    })
}

/// A worker that asks.
struct Worker {
    end: End,
    next: u64,
    heard: VecDeque<(FromOpener, Option<OwnedFd>)>,
}

type Answer = Result<(u64, TcpStream, SocketAddr), OpenFailure>;

impl Worker {
    fn ask(&mut self, host: &str, port: u16, timeout: Duration) -> u64 {
        self.next += 1;
        let question = ToOpener::Open {
            id: self.next,
            app: AppName::new("app").unwrap(),
            scheme: Scheme::Http,
            host: host.into(),
            port,
            timeout,
        };
        self.end.say(&question, None);
        self.next
    }

    fn open(&mut self, host: &str, port: u16) -> Answer {
        let id = self.ask(host, port, PATIENCE);
        self.answer(id)
    }

    /// The answer with this number; others are kept.
    fn answer(&mut self, wanted: u64) -> Answer {
        let is_it = |answer: &FromOpener| match answer {
            FromOpener::Opened { id, .. } | FromOpener::Failed { id, .. } => *id == wanted,
        };
        let at = self.heard.iter().position(|(answer, _)| is_it(answer));
        let (answer, fd) = match at.and_then(|at| self.heard.remove(at)) {
            Some(answer) => answer,
            None => loop {
                let answer = self.end.hear::<FromOpener>().expect("it was dropped");
                if is_it(&answer.0) {
                    break answer;
                }
                self.heard.push_back(answer);
            },
        };
        match answer {
            FromOpener::Failed { why, .. } => Err(why),
            FromOpener::Opened { id, address } => {
                let stream = TcpStream::from(fd.unwrap());
                assert_eq!(stream.peer_addr().unwrap(), address);
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Ok((id, stream, address))
            }
        }
    }

    fn fails(&mut self, host: &str, port: u16) -> OpenFailure {
        self.open(host, port)
            .map(|(.., address)| address)
            .unwrap_err()
    }

    fn close(&self, id: u64) {
        self.end.say(&ToOpener::Closed { id }, None);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The same port on several loopback addresses.
fn listen<const N: usize>(addresses: [&str; N]) -> ([TcpListener; N], u16) {
    for _ in 0..100 {
        let first = TcpListener::bind((addresses[0], 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let rest = addresses[1..].iter();
        let rest: Option<Vec<_>> = rest.map(|ip| TcpListener::bind((*ip, port)).ok()).collect();
        let Some(rest) = rest else { continue };
        let all: Vec<_> = std::iter::once(first).chain(rest).collect();
        return (all.try_into().unwrap(), port);
    }
    panic!("no port is free on all of {addresses:?}");
}

#[test]
fn what_is_granted_is_opened_and_carries_bytes() {
    let fleet = Fleet::start();
    let ([server], port) = listen(["127.0.0.1"]);
    fleet.grant(&[format!("http://127.0.0.1:{port}")], 10);
    let mut worker = fleet.worker(1, "pool");
    let (_, mut stream, address) = worker.open("127.0.0.1", port).unwrap();
    assert_eq!(address, server.local_addr().unwrap());
    let (mut accepted, _) = server.accept().unwrap();
    stream.write_all(b"ping").unwrap();
    let mut heard = [0; 4];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
    drop(accepted);
    assert_eq!(stream.read(&mut heard).unwrap(), 0);

    for host in [
        "localhost",
        "127.0.0.2",
        "127.1",
        "2130706433",
        "0x7f.1",
        "",
        "[::1]",
    ] {
        assert_eq!(worker.fails(host, port), OpenFailure::Denied, "{host}");
    }
    assert_eq!(worker.fails("127.0.0.1", 1), OpenFailure::Denied);
    assert_eq!(worker.fails("127.0.0.1", 0), OpenFailure::Denied);
    // The same in other clothes is the same.
    worker.open("::ffff:127.0.0.1", port).unwrap();
    assert!(fleet.dns.asked().is_empty());
}

#[test]
fn a_worker_reaches_what_its_pool_may_and_no_more() {
    let fleet = Fleet::start();
    let ([_server], port) = listen(["127.0.0.1"]);
    let grant = [format!("http://127.0.0.1:{port}")];
    fleet.grant(&grant, 10);
    let mut other = fleet.worker(1, "other");
    assert_eq!(other.fails("127.0.0.1", port), OpenFailure::Denied);
    let mut worker = fleet.worker(2, "pool");
    worker.open("127.0.0.1", port).unwrap();
    fleet.grant(&[], 10);
    // Only what comes after this was said is sure to be heard after it.
    let mut later = fleet.worker(3, "pool");
    assert_eq!(later.fails("127.0.0.1", port), OpenFailure::Denied);
    fleet.grant(&grant, 10);
    let pool = PoolName::new("pool").unwrap();
    fleet.primary.say(&ToConnector::PoolGone { pool }, None);
    let mut last = fleet.worker(4, "pool");
    assert_eq!(last.fails("127.0.0.1", port), OpenFailure::Denied);
}

#[test]
fn names_lead_to_public_or_listed_addresses_only() {
    let fleet = Fleet::start();
    let ([one, two], port) = listen(["127.0.0.1", "127.0.0.2"]);
    for server in [&one, &two] {
        server.set_nonblocking(true).unwrap();
    }
    let name = |name: &str| format!("http://{name}:{port}");
    fleet.grant(
        &[
            name("private.test"),
            name("mixed.test"),
            name("rebinds.test"),
            name("127.0.0.2"),
        ],
        10,
    );
    let private = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "fd00:ec2::254",
    ];
    fleet
        .dns
        .say("private.test", Says::Always(private.map(ip).to_vec()));
    fleet.dns.say(
        "mixed.test",
        Says::Always(["127.0.0.1", "127.0.0.2", "10.0.0.1"].map(ip).to_vec()),
    );
    fleet.dns.say(
        "rebinds.test",
        Says::InTurn(vec![vec![ip("127.0.0.2")], vec![ip("127.0.0.1")]]),
    );
    let mut worker = fleet.worker(1, "pool");
    let why = worker.fails("private.test", port);
    assert_eq!(why, OpenFailure::DeniedAddress);

    let (.., address) = worker.open("mixed.test", port).unwrap();
    assert_eq!(address.ip(), ip("127.0.0.2"));

    // Each connection goes to the address that was checked for it.
    let (.., address) = worker.open("rebinds.test", port).unwrap();
    assert_eq!(address.ip(), ip("127.0.0.2"));
    let why = worker.fails("rebinds.test", port);
    assert_eq!(why, OpenFailure::DeniedAddress);
    assert_eq!(
        fleet.dns.asked(),
        ["private.test", "mixed.test", "rebinds.test", "rebinds.test"]
    );

    two.accept().unwrap();
    two.accept().unwrap();
    let nobody = one.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);

    // Who may not go there does not even ask the way.
    assert_eq!(worker.fails("secret.other.test", port), OpenFailure::Denied);
    assert_eq!(fleet.dns.asked().len(), 4);
}

#[test]
fn localhost_and_the_hosts_file_need_no_server() {
    let fleet = Fleet::start();
    let ([_server], port) = listen(["127.0.0.1"]);
    let name = |name: &str| format!("http://{name}:{port}");
    fleet.grant(
        &[name("localhost"), name("here.test"), name("127.0.0.1")],
        10,
    );
    let mut worker = fleet.worker(1, "pool");
    worker.open("localhost", port).unwrap();
    assert_eq!(worker.fails("here.test", port), OpenFailure::Name);
    std::fs::write(&fleet.files.hosts, "127.0.0.1 here.test # so\n").unwrap();
    // It looks once in a while.
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(why) = worker.open("here.test", port) {
        assert_eq!(why, OpenFailure::Name);
        assert!(std::time::Instant::now() < deadline, "it never looked");
    }
    assert!(!fleet.dns.asked().contains(&"localhost".to_owned()));
}

#[test]
fn an_app_has_so_many_connections_over_all_workers() {
    let fleet = Fleet::start();
    let ([_server], port) = listen(["127.0.0.1"]);
    fleet.grant(&[format!("http://127.0.0.1:{port}")], 3);
    let mut one = fleet.worker(1, "pool");
    let mut two = fleet.worker(2, "pool");
    let (first, ..) = one.open("127.0.0.1", port).unwrap();
    one.open("127.0.0.1", port).unwrap();
    two.open("127.0.0.1", port).unwrap();
    assert_eq!(one.fails("127.0.0.1", port), OpenFailure::TooMany);
    assert_eq!(two.fails("127.0.0.1", port), OpenFailure::TooMany);
    one.close(first);
    one.open("127.0.0.1", port).unwrap();
    assert_eq!(one.fails("127.0.0.1", port), OpenFailure::TooMany);

    // What a worker had is free once it has exited, or is said to have.
    drop(one);
    let deadline = std::time::Instant::now() + PATIENCE;
    while two.open("127.0.0.1", port).is_err() {
        assert!(std::time::Instant::now() < deadline, "nothing came free");
    }
    let worker = WorkerId(2);
    fleet.primary.say(&ToConnector::WorkerGone { worker }, None);
    assert!(two.end.hear::<FromOpener>().is_none());
    let mut three = fleet.worker(3, "pool");
    for _ in 0..3 {
        three.open("127.0.0.1", port).unwrap();
    }
    // What failed holds nothing.
    three.close(1);
    for _ in 0..5 {
        assert_eq!(three.fails("nowhere.test", port), OpenFailure::Denied);
    }
    three.open("127.0.0.1", port).unwrap();
}

#[test]
fn what_cannot_be_opened_says_why() {
    let fleet = Fleet::start();
    let (listeners, port) = listen(["127.0.0.1"]);
    drop(listeners);
    fleet.grant(
        &[format!("http://127.0.0.1:{port}"), "http://*.test:*".into()],
        2000,
    );
    fleet.dns.say("silent.test", Says::Silence);
    fleet.dns.say("empty.test", Says::Always(Vec::new()));
    let mut worker = fleet.worker(1, "pool");
    assert_eq!(worker.fails("127.0.0.1", port), OpenFailure::Refused);
    assert_eq!(worker.fails("unknown.test", port), OpenFailure::Name);
    assert_eq!(worker.fails("empty.test", port), OpenFailure::Name);
    let silent = worker.ask("silent.test", port, Duration::from_millis(50));
    assert_eq!(worker.answer(silent).unwrap_err(), OpenFailure::Timeout);

    // Many at a time are on their way, and not more.
    let asked: Vec<u64> = (0..600)
        .map(|_| worker.ask("silent.test", port, Duration::from_millis(500)))
        .collect();
    let why: Vec<_> = asked
        .into_iter()
        .map(|id| worker.answer(id).unwrap_err())
        .collect();
    let too_many = why.iter().filter(|why| **why == OpenFailure::TooMany);
    assert!(too_many.count() > 0);
    assert!(why.contains(&OpenFailure::Timeout));
}

#[test]
fn a_worker_that_garbles_is_dropped_and_others_are_served() {
    let fleet = Fleet::start();
    let ([_server], port) = listen(["127.0.0.1"]);
    fleet.grant(&[format!("http://127.0.0.1:{port}")], 1);
    let mut good = fleet.worker(1, "pool");
    for what in 0..3 {
        let mut bad = fleet.worker(2 + what, "pool");
        bad.open("127.0.0.1", port).unwrap();
        match what {
            0 => drop(bad.end.channel.send(b"GET / HTTP/1.1\r\n", &[]).unwrap()),
            1 => bad.close(77),
            _ => {
                bad.next = 0;
                bad.ask("127.0.0.1", port, PATIENCE);
            }
        }
        assert!(bad.end.hear::<FromOpener>().is_none(), "{what}");
    }
    good.open("127.0.0.1", port).unwrap();
}

#[test]
fn it_ends_after_its_primary_and_the_workers() {
    let fleet = Fleet::start();
    let ([_server], port) = listen(["127.0.0.1"]);
    fleet.grant(&[format!("http://127.0.0.1:{port}")], 1);
    let mut worker = fleet.worker(1, "pool");
    let Fleet {
        primary, thread, ..
    } = fleet;
    drop(primary);
    worker.open("127.0.0.1", port).unwrap();
    drop(worker);
    assert_eq!(thread.join().unwrap(), Ok(Ended::Alone));
}

#[test]
fn it_serves_nobody_unless_it_is_confined() {
    let files = NameFiles {
        resolv: PathBuf::from("/nonexistent/resolv.conf"),
        hosts: PathBuf::from("/nonexistent/hosts"),
        port: 53,
    };
    let (mut primary, theirs) = End::pair();
    let thread = run(theirs, files.clone(), |_| anyhow::bail!("no Landlock"));
    let board = Board::create(1).unwrap();
    primary.say(&begin(), Some(&fd_of(&board)));
    let (said, _) = primary.hear::<FromConnector>().unwrap();
    let message = "no Landlock".to_owned();
    assert_eq!(said, FromConnector::Unfit { message });
    assert!(primary.hear::<FromConnector>().is_none());
    assert!(thread.join().unwrap().is_err());

    let (primary, theirs) = End::pair();
    let thread = run(theirs, files, |_| Ok(Vec::new()));
    let pool = PoolName::new("pool").unwrap();
    primary.say(&ToConnector::PoolGone { pool }, None);
    assert!(thread.join().unwrap().is_err(), "told before it began");
}
