//! A dispatcher between clients, workers and a primary that are all this test.
//! The dispatcher is a process of its own, confined as it always is: this
//! executable in another role.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use skep_core::route::{HostRoute, RoutePattern};
use skep_core::{ConnectionLimits, Dispatch, ListenerName, PoolName, Sandbox, WorkerId};
use skep_sys::{Board, Channel, Child, Ended, LocalAddress, Spawn};
use skep_wire::{
    Decoder, DispatchCounts, FromDispatcher, FromTaker, Message, Taken, ToDispatcher, ToTaker,
};

/// Long enough for anything that happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// As which this executable is a dispatcher.
const ROLE: &str = "dispatcher";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(ROLE) {
        return skep_dispatcher::run();
    }
    let tests: [(&str, fn()); 10] = [
        (
            "round_robin_is_exact_and_no_head_is_awaited",
            round_robin_is_exact_and_no_head_is_awaited,
        ),
        (
            "the_least_loaded_gets_the_next_one_before_it_has_acknowledged_the_last",
            the_least_loaded_gets_the_next_one_before_it_has_acknowledged_the_last,
        ),
        (
            "connections_go_by_host_with_every_byte_still_in_them",
            connections_go_by_host_with_every_byte_still_in_them,
        ),
        (
            "what_is_no_request_is_answered_and_closed",
            what_is_no_request_is_answered_and_closed,
        ),
        (
            "thousands_of_silent_clients_keep_nobody_waiting",
            thousands_of_silent_clients_keep_nobody_waiting,
        ),
        (
            "a_head_has_so_much_time_and_no_more",
            a_head_has_so_much_time_and_no_more,
        ),
        (
            "what_a_worker_has_not_acknowledged_goes_to_another",
            what_a_worker_has_not_acknowledged_goes_to_another,
        ),
        (
            "a_connection_that_is_given_back_goes_to_whom_its_next_request_is_for",
            a_connection_that_is_given_back_goes_to_whom_its_next_request_is_for,
        ),
        (
            "when_hosts_change_workers_hear_of_it_before_anything_else",
            when_hosts_change_workers_hear_of_it_before_anything_else,
        ),
        (
            "without_a_worker_connections_wait_in_the_kernel",
            without_a_worker_connections_wait_in_the_kernel,
        ),
    ];
    let running = tests.map(|(name, test)| {
        let thread = std::thread::Builder::new().name(name.to_owned());
        (name, thread.spawn(test).unwrap())
    });
    let failed = running.map(|(name, test)| test.join().is_err().then_some(name));
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:?}");
    ExitCode::SUCCESS
}

/// Blocking messages over a channel.
struct Talk {
    channel: Channel,
    decoder: Decoder<OwnedFd>,
}

impl Talk {
    fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = Channel::pair().unwrap();
        let socket = UnixStream::from(ours.as_fd().try_clone_to_owned().unwrap());
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let talk = Self {
            channel: ours,
            decoder: Decoder::default(),
        };
        (talk, theirs)
    }

    fn say<M: Message>(&self, message: &M, fds: &[BorrowedFd<'_>]) {
        let frame = skep_wire::encode(message).unwrap();
        let mut sent = self.channel.send(&frame, fds).unwrap();
        while sent < frame.len() {
            sent += self.channel.send(&frame[sent..], &[]).unwrap();
        }
    }

    fn hear<M: Message>(&mut self) -> (M, Vec<OwnedFd>) {
        loop {
            if let Some(message) = self.decoder.message::<M>().unwrap() {
                return message;
            }
            let (mut buffer, mut fds) = ([0; 4096], Vec::new());
            let bytes = self.channel.recv(&mut buffer, &mut fds).unwrap();
            assert_ne!(bytes, 0, "hung up");
            self.decoder.push(&buffer[..bytes], fds);
        }
    }
}

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

/// A worker that does as the test says.
struct Worker {
    id: WorkerId,
    talk: Talk,
    /// What was handed over and not looked at yet.
    taken: Vec<(Taken, TcpStream)>,
}

impl Worker {
    /// The next connection, unacknowledged.
    fn offered(&mut self) -> (Taken, TcpStream) {
        while self.taken.is_empty() {
            if let (ToTaker::Take(taken), fds) = self.talk.hear() {
                assert_eq!(taken.len(), fds.len());
                let sockets = fds.into_iter().map(|fd| {
                    let socket = TcpStream::from(fd);
                    socket.set_nonblocking(false).unwrap();
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket
                });
                self.taken.extend(taken.into_iter().zip(sockets));
            }
        }
        self.taken.remove(0)
    }

    fn took(&self, taken: &Taken) {
        let ids = vec![taken.id];
        self.talk.say(&FromTaker::Took { ids }, &[]);
    }

    fn take(&mut self) -> (Taken, TcpStream) {
        let (taken, socket) = self.offered();
        self.took(&taken);
        (taken, socket)
    }

    fn give_back(&mut self, id: u64, socket: &TcpStream, read: &[u8]) {
        let read = read.to_vec();
        let message = FromTaker::GaveBack { id, read };
        self.talk.say(&message, &[socket.as_fd()]);
        loop {
            match self.talk.hear() {
                (ToTaker::GotBack { ids }, _) => return assert_eq!(ids, [id]),
                (ToTaker::Hosts { .. }, _) => {}
                (other, _) => panic!("{other:?}"),
            }
        }
    }
}

/// The primary, and the dispatcher on its thread.
struct Primary {
    talk: Talk,
    address: SocketAddr,
    boards: HashMap<String, Board>,
    workers: u64,
    dispatcher: Child,
}

impl Primary {
    fn start(limits: ConnectionLimits) -> Self {
        let (mut talk, theirs) = Talk::pair();
        let dispatcher = skep_sys::spawn(Spawn {
            role: ROLE,
            title: "skep dispatcher of a test",
            channel: theirs,
            output: None,
            identity: None,
        });
        let bound = skep_sys::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let LocalAddress::Tcp(address) = bound.local else {
            panic!("{:?}", bound.local);
        };
        let begin = ToDispatcher::Begin {
            listener: ListenerName::new("web").unwrap(),
            limits,
            sandbox: Sandbox::BestEffort,
        };
        talk.say(&begin, &[bound.socket.as_fd()]);
        let (ready, _) = talk.hear::<FromDispatcher>();
        assert!(matches!(ready, FromDispatcher::Ready { .. }), "{ready:?}");
        Self {
            talk,
            address,
            boards: HashMap::new(),
            workers: 0,
            dispatcher: dispatcher.unwrap(),
        }
    }

    fn pool(&mut self, name: &str, dispatch: Dispatch) {
        let board = Board::create(8).unwrap();
        board.use_up_to(8);
        let pool = pool(name);
        self.talk
            .say(&ToDispatcher::Pool { pool, dispatch }, &[board.as_fd()]);
        self.boards.insert(name.to_owned(), board);
    }

    fn hosts(&self, hosts: &[(&str, &str)], otherwise: &str) {
        let hosts = hosts.iter().map(|(host, name)| HostRoute {
            host: RoutePattern::new(host).unwrap(),
            pool: pool(name),
        });
        let (hosts, otherwise) = (hosts.collect(), pool(otherwise));
        self.talk
            .say(&ToDispatcher::Hosts { hosts, otherwise }, &[]);
    }

    /// A worker that is ready, in the next cell.
    fn worker(&mut self, name: &str) -> Worker {
        let (talk, theirs) = Talk::pair();
        self.workers += 1;
        let (worker, cell) = (WorkerId(self.workers), u16::try_from(self.workers).unwrap());
        let board = &self.boards[name];
        board.cell(cell).unwrap().reset(worker.0);
        board.cell(cell).unwrap().set_ready(true);
        let pool = pool(name);
        let message = ToDispatcher::Worker { worker, pool, cell };
        self.talk.say(&message, &[theirs.as_fd()]);
        Worker {
            id: worker,
            talk,
            taken: Vec::new(),
        }
    }

    fn gone(&self, worker: Worker) {
        let id = worker.id;
        drop(worker);
        self.talk.say(&ToDispatcher::WorkerGone { worker: id }, &[]);
    }

    /// Two pools, `a` for a.example and `b` for the rest, with one worker each.
    fn with_two_pools(limits: ConnectionLimits) -> (Self, Worker, Worker) {
        let mut primary = Self::start(limits);
        primary.pool("a", Dispatch::RoundRobin);
        primary.pool("b", Dispatch::RoundRobin);
        primary.hosts(&[("a.example/*", "a"), ("b.example/*", "b")], "b");
        let a = primary.worker("a");
        let b = primary.worker("b");
        (primary, a, b)
    }

    fn with_one_pool(dispatch: Dispatch) -> Self {
        let mut primary = Self::start(ConnectionLimits::default());
        primary.pool("a", dispatch);
        primary.hosts(&[], "a");
        primary
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A client that has said this.
    fn client(&self, text: &str) -> TcpStream {
        let mut client = self.connect();
        client.write_all(text.as_bytes()).unwrap();
        client
    }

    /// What was counted, once it is as expected.
    fn counts(&mut self, expected: impl Fn(&DispatchCounts) -> bool) {
        let began = Instant::now();
        loop {
            let (message, _) = self.talk.hear();
            let counts = match message {
                FromDispatcher::Counts(counts) => counts,
                FromDispatcher::Switched => continue,
                other => panic!("{other:?}"),
            };
            if expected(&counts) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{counts:?}");
        }
    }

    fn drain(mut self) {
        self.talk.say(&ToDispatcher::Drain, &[]);
        while !matches!(self.talk.hear().0, FromDispatcher::Drained) {}
        let began = Instant::now();
        loop {
            match self.dispatcher.try_wait().unwrap() {
                Some(ended) => return assert_eq!(ended, Ended::Code(0)),
                None => assert!(began.elapsed() < PATIENCE),
            }
            std::thread::yield_now();
        }
    }
}

/// What a socket has to say, byte for byte.
fn reads(socket: &mut TcpStream, expected: &str) {
    let mut got = vec![0; expected.len()];
    socket.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), expected);
}

fn is_closed(socket: &mut TcpStream) {
    match socket.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

const GET_A: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const GET_B: &str = "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n";

fn round_robin_is_exact_and_no_head_is_awaited() {
    let mut primary = Primary::with_one_pool(Dispatch::RoundRobin);
    let mut workers = [
        primary.worker("a"),
        primary.worker("a"),
        primary.worker("a"),
    ];
    for turn in 0..9 {
        // It says nothing at all.
        let mut client = primary.connect();
        let (taken, mut socket) = workers[turn % 3].take();
        assert_eq!((taken.host, taken.once, taken.read), (None, false, vec![]));
        socket.write_all(b"hello").unwrap();
        reads(&mut client, "hello");
    }
    primary.counts(|counts| counts.accepted == 9 && counts.handed_out == 9);
    primary.drain();
}

fn the_least_loaded_gets_the_next_one_before_it_has_acknowledged_the_last() {
    let mut primary = Primary::with_one_pool(Dispatch::LeastConnections);
    let mut workers = [primary.worker("a"), primary.worker("a")];
    let first = primary.boards["a"].cell(1).unwrap();
    for _ in 0..4 {
        first.connection_opened();
    }
    let clients: Vec<_> = (0..4).map(|_| primary.connect()).collect();
    for _ in &clients {
        workers[1].offered();
    }
    let more = [primary.connect(), primary.connect()];
    workers[0].offered();
    workers[1].offered();
    drop((clients, more));
}

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \0\0\0\x04\0\0\0\0\0\
    \0\0\x0e\x01\x05\0\0\0\x01\x82\x86\x84\x41\x09a.example";

/// What a client of TLS says first.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

fn connections_go_by_host_with_every_byte_still_in_them() {
    let (primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut slow = primary.connect();
    for byte in GET_A.as_bytes() {
        slow.write_all(&[*byte]).unwrap();
    }
    let (taken, mut socket) = a.take();
    assert_eq!(taken.host.as_deref(), Some("a.example"));
    assert!(!taken.once);
    reads(&mut socket, GET_A);

    let _other = primary.client(GET_B);
    let (taken, mut socket) = b.take();
    assert_eq!(taken.host.as_deref(), Some("b.example"));
    reads(&mut socket, GET_B);

    // HTTP/2: settings, then a stream of which the authority is a literal.
    let mut http2 = primary.connect();
    http2.write_all(HTTP2).unwrap();
    let (taken, mut socket) = a.take();
    assert_eq!(taken.host.as_deref(), Some("a.example"));
    reads(&mut socket, &String::from_utf8_lossy(&HTTP2[..24]));

    let mut tls = primary.connect();
    tls.write_all(&client_hello("a.example")).unwrap();
    assert_eq!(a.take().0.host.as_deref(), Some("a.example"));

    let _unknown = primary.client("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(b.take().0.host.as_deref(), Some(""));
    primary.drain();
}

fn what_is_no_request_is_answered_and_closed() {
    let (mut primary, _a, _b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut bad = primary.client("HELO there\r\n\r\n");
    let mut answer = String::new();
    bad.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"));
    is_closed(&mut primary.client("\x16\x03\x01\0\x04\x02\0\0\0"));
    primary.counts(|counts| counts.unheard == 2 && counts.waiting == 0);
}

fn thousands_of_silent_clients_keep_nobody_waiting() {
    const SILENT: u32 = 4000;
    let (mut primary, mut a, _b) = Primary::with_two_pools(ConnectionLimits::default());
    let silent: Vec<_> = (0..SILENT)
        .map(|n| {
            primary.client(if n % 2 == 0 {
                ""
            } else {
                "GET / HTTP/1.1\r\nX"
            })
        })
        .collect();
    primary.counts(|counts| counts.waiting == SILENT);
    for _ in 0..20 {
        let began = Instant::now();
        let _good = primary.client(GET_A);
        a.take();
        let took = began.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
    drop(silent);
    primary.counts(|counts| counts.unheard == u64::from(SILENT) && counts.waiting == 0);
}

fn a_head_has_so_much_time_and_no_more() {
    let limits = ConnectionLimits {
        header_timeout: Duration::from_millis(500),
        ..ConnectionLimits::default()
    };
    let (mut primary, _a, _b) = Primary::with_two_pools(limits);
    let mut silent = primary.connect();
    let mut slow = primary.client("GET / HTTP/1.1\r\n");
    is_closed(&mut silent);
    is_closed(&mut slow);
    primary.counts(|counts| counts.unheard == 2 && counts.waiting == 0);
}

fn what_a_worker_has_not_acknowledged_goes_to_another() {
    let mut primary = Primary::with_one_pool(Dispatch::RoundRobin);
    let mut first = primary.worker("a");
    let mut client = primary.client("x");
    let mut taken_client = primary.client("y");
    let (_, lost) = first.offered();
    let (taken, kept) = first.offered();
    first.took(&taken);
    drop((lost, kept));
    // Nobody else is there yet; the one that was taken dies with its worker.
    primary.gone(first);
    is_closed(&mut taken_client);
    let mut second = primary.worker("a");
    let (taken, mut socket) = second.offered();
    reads(&mut socket, "x");
    socket.write_all(b"answer").unwrap();
    second.took(&taken);
    reads(&mut client, "answer");

    // One that takes no more says so.
    let mut third = primary.worker("a");
    let _client = primary.client("z");
    let (taken, _) = third.offered();
    let ids = vec![taken.id];
    third.talk.say(&FromTaker::Declined { ids }, &[]);
    let (_, mut socket) = second.take();
    reads(&mut socket, "z");
    primary.counts(|counts| (counts.again, counts.handed_out, counts.unserved) == (1, 3, 0));
}

fn a_connection_that_is_given_back_goes_to_whom_its_next_request_is_for() {
    let (mut primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.client(GET_A);
    let (taken, mut socket) = a.take();
    reads(&mut socket, GET_A);
    assert!(!taken.once);

    // Some of the next head was read, the rest is to come.
    let (read, rest) = GET_B.split_at(20);
    a.give_back(7, &socket, read.as_bytes());
    drop(socket);
    client.write_all(rest.as_bytes()).unwrap();
    let (taken, mut socket) = b.take();
    assert_eq!(taken.host.as_deref(), Some("b.example"));
    assert_eq!(taken.read, read.as_bytes());
    assert!(taken.once);
    reads(&mut socket, rest);

    // All of it was read.
    b.give_back(1, &socket, GET_A.as_bytes());
    drop(socket);
    let (taken, mut socket) = a.take();
    assert_eq!(taken.read, GET_A.as_bytes());
    assert!(taken.once);

    // None of it was, and it comes later.
    a.give_back(8, &socket, b"");
    drop(socket);
    primary.counts(|counts| counts.waiting == 1);
    client.write_all(GET_B.as_bytes()).unwrap();
    (_, socket) = b.take();
    reads(&mut socket, GET_B);

    // Others of the same address are known by now.
    let _other = primary.client(GET_B);
    assert!(b.take().0.once);
    primary.counts(|counts| (counts.given_back, counts.handed_out) == (3, 5));
}

fn when_hosts_change_workers_hear_of_it_before_anything_else() {
    let mut primary = Primary::with_one_pool(Dispatch::RoundRobin);
    let mut a = primary.worker("a");
    let _before = primary.client(GET_A);
    assert_eq!(a.take().0.host, None);
    primary.pool("b", Dispatch::RoundRobin);
    primary.hosts(&[("b.example/*", "b")], "a");
    assert_eq!(a.talk.hear::<ToTaker>().0, ToTaker::Hosts { matter: true });
    let mut b = primary.worker("b");
    let _after = primary.client(GET_B);
    assert_eq!(b.take().0.host.as_deref(), Some("b.example"));

    // A pool goes, and what waited for it goes where its hosts go now.
    primary.gone(b);
    let _waits = primary.client(GET_B);
    primary.counts(|counts| counts.waiting == 1);
    primary.hosts(&[], "a");
    let pool = pool("b");
    primary.talk.say(&ToDispatcher::PoolGone { pool }, &[]);
    let (_, mut socket) = a.take();
    reads(&mut socket, GET_B);
}

fn without_a_worker_connections_wait_in_the_kernel() {
    let mut primary = Primary::with_one_pool(Dispatch::RoundRobin);
    let clients: Vec<_> = (0..10).map(|_| primary.client("x")).collect();
    let mut worker = primary.worker("a");
    for _ in &clients {
        reads(&mut worker.take().1, "x");
    }
    primary.counts(|counts| counts.accepted == 10 && counts.handed_out == 10);
}
