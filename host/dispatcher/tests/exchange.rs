//! A dispatcher between clients, workers and a primary that are all this test.
//! The dispatcher is a process of its own, confined as it always is: this
//! executable in another role.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
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
    Decoder, DispatchCounts, FromAcceptor, FromDispatcher, Handout, Message, Spoken, ToAcceptor,
    ToDispatcher,
};

/// Long enough for anything that happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// As which this executable is a dispatcher.
const ROLE: &str = "dispatcher";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(ROLE) {
        return skep_dispatcher::run();
    }
    let tests: [(&str, fn()); 20] = [
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
            "what_was_not_handed_out_is_not_taken_back",
            what_was_not_handed_out_is_not_taken_back,
        ),
        (
            "a_connection_is_taken_back_once_and_no_other_in_its_place",
            a_connection_is_taken_back_once_and_no_other_in_its_place,
        ),
        (
            "what_a_worker_kept_of_an_earlier_dispatcher_is_taken_back",
            what_a_worker_kept_of_an_earlier_dispatcher_is_taken_back,
        ),
        (
            "a_client_of_http2_is_greeted_once_and_who_serves_it_knows",
            a_client_of_http2_is_greeted_once_and_who_serves_it_knows,
        ),
        (
            "what_has_spoken_http1_never_becomes_http2",
            what_has_spoken_http1_never_becomes_http2,
        ),
        (
            "who_is_refused_while_it_sends_reads_the_answer",
            who_is_refused_while_it_sends_reads_the_answer,
        ),
        (
            "a_worker_that_hides_what_ended_gets_no_more_than_its_limit",
            a_worker_that_hides_what_ended_gets_no_more_than_its_limit,
        ),
        (
            "what_was_read_of_many_connections_cuts_nobody_off",
            what_was_read_of_many_connections_cuts_nobody_off,
        ),
        (
            "who_says_what_is_no_message_ends_alone",
            who_says_what_is_no_message_ends_alone,
        ),
        (
            "what_has_spoken_http1_is_not_given_back_as_new",
            what_has_spoken_http1_is_not_given_back_as_new,
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
        self.hear_or_end().expect("hung up")
    }

    /// `None` at the end.
    fn hear_or_end<M: Message>(&mut self) -> Option<(M, Vec<OwnedFd>)> {
        loop {
            if let Some(message) = self.decoder.message::<M>().unwrap() {
                return Some(message);
            }
            let (mut buffer, mut fds) = ([0; 4096], Vec::new());
            match self.channel.recv(&mut buffer, &mut fds) {
                Ok(0) => return None,
                Ok(bytes) => self.decoder.push(&buffer[..bytes], fds),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
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
    handouts: Vec<(Handout, TcpStream)>,
}

impl Worker {
    /// The next connection, unacknowledged.
    fn offered(&mut self) -> (Handout, TcpStream) {
        while self.handouts.is_empty() {
            if let (ToAcceptor::Take(handouts), fds) = self.talk.hear() {
                assert_eq!(handouts.len(), fds.len());
                let sockets = fds.into_iter().map(|fd| {
                    assert!(skep_sys::is_nonblocking(fd.as_fd()).unwrap());
                    let socket = TcpStream::from(fd);
                    // As a worker might that means ill: all who have a copy
                    // share this.
                    socket.set_nonblocking(false).unwrap();
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket
                });
                self.handouts.extend(handouts.into_iter().zip(sockets));
            }
        }
        self.handouts.remove(0)
    }

    fn took(&self, handout: &Handout) {
        let ids = vec![handout.id];
        self.talk.say(&FromAcceptor::Took { ids }, &[]);
    }

    fn take(&mut self) -> (Handout, TcpStream) {
        let (handout, socket) = self.offered();
        self.took(&handout);
        (handout, socket)
    }

    fn say_gave_back(&self, id: u64, socket: BorrowedFd<'_>, read: &[u8], spoken: Spoken) {
        let read = read.to_vec();
        let message = FromAcceptor::GaveBack { id, read, spoken };
        self.talk.say(&message, &[socket]);
    }

    /// That the dispatcher talks with it no more.
    fn hears_no_more(mut self) {
        while let Some((message, _)) = self.talk.hear_or_end::<ToAcceptor>() {
            assert!(
                !matches!(message, ToAcceptor::GotBack { .. }),
                "{message:?}"
            );
        }
    }

    fn give_back(&mut self, id: u64, socket: &TcpStream, read: &[u8]) {
        self.say_gave_back(id, socket.as_fd(), read, Spoken::Http1);
        loop {
            match self.talk.hear() {
                (ToAcceptor::GotBack { ids }, _) => return assert_eq!(ids, [id]),
                (ToAcceptor::Hosts { .. }, _) => {}
                (other, _) => panic!("{other:?}"),
            }
        }
    }
}

/// The primary, and the dispatcher on its thread.
struct Primary {
    talk: Talk,
    address: SocketAddr,
    listener: TcpListener,
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
            schedule: skep_sys::Schedule::default(),
        });
        let bound = skep_sys::bind("127.0.0.1:0".parse().unwrap(), &[]).unwrap();
        let LocalAddress::Tcp(address) = bound.local else {
            panic!("{:?}", bound.local);
        };
        let begin = ToDispatcher::Begin {
            listener: ListenerName::new("web").unwrap(),
            limits,
            sandbox: Sandbox::BestEffort,
        };
        let beats = Board::create(1).unwrap();
        talk.say(&begin, &[bound.socket.as_fd(), beats.as_fd()]);
        let (ready, _) = talk.hear::<FromDispatcher>();
        assert!(matches!(ready, FromDispatcher::Ready { .. }), "{ready:?}");
        let began = Instant::now();
        while beats.cell(0).unwrap().heartbeat().is_zero() {
            assert!(began.elapsed() < PATIENCE, "it gives no sign of life");
            std::thread::yield_now();
        }
        Self {
            talk,
            address,
            listener: TcpListener::from(bound.socket),
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
            handouts: Vec::new(),
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
                FromDispatcher::Switched | FromDispatcher::Distrusts { .. } => continue,
                other => panic!("{other:?}"),
            };
            if expected(&counts) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{counts:?}");
        }
    }

    /// Whom the dispatcher distrusts next, and why.
    fn distrusts(&mut self) -> (WorkerId, String) {
        loop {
            match self.talk.hear().0 {
                FromDispatcher::Distrusts { worker, why } => return (worker, why),
                FromDispatcher::Switched | FromDispatcher::Counts(_) => {}
                other => panic!("{other:?}"),
            }
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
        let (handout, mut socket) = workers[turn % 3].take();
        assert_eq!(
            (handout.host, handout.once, handout.read),
            (None, false, vec![])
        );
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
    let (handout, mut socket) = a.take();
    assert_eq!(handout.host.as_deref(), Some("a.example"));
    assert!(!handout.once);
    reads(&mut socket, GET_A);

    let _other = primary.client(GET_B);
    let (handout, mut socket) = b.take();
    assert_eq!(handout.host.as_deref(), Some("b.example"));
    reads(&mut socket, GET_B);

    // HTTP/2: settings, then a stream of which the authority is a literal.
    let mut http2 = primary.connect();
    http2.write_all(HTTP2).unwrap();
    let (handout, mut socket) = a.take();
    assert_eq!(handout.host.as_deref(), Some("a.example"));
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
    let (handout, kept) = first.offered();
    first.took(&handout);
    drop((lost, kept));
    // Nobody else is there yet; the one that was taken dies with its worker.
    primary.gone(first);
    is_closed(&mut taken_client);
    let mut second = primary.worker("a");
    let (handout, mut socket) = second.offered();
    reads(&mut socket, "x");
    socket.write_all(b"answer").unwrap();
    second.took(&handout);
    reads(&mut client, "answer");

    // One that takes no more says so.
    let mut third = primary.worker("a");
    let _client = primary.client("z");
    let (handout, _) = third.offered();
    let ids = vec![handout.id];
    third.talk.say(&FromAcceptor::Declined { ids }, &[]);
    let (_, mut socket) = second.take();
    reads(&mut socket, "z");
    primary.counts(|counts| (counts.again, counts.handed_out, counts.unserved) == (1, 3, 0));
}

fn a_connection_that_is_given_back_goes_to_whom_its_next_request_is_for() {
    let (mut primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.client(GET_A);
    let (handout, mut socket) = a.take();
    reads(&mut socket, GET_A);
    assert!(!handout.once);

    // Some of the next head was read, the rest is to come.
    let (read, rest) = GET_B.split_at(20);
    a.give_back(handout.id, &socket, read.as_bytes());
    drop(socket);
    client.write_all(rest.as_bytes()).unwrap();
    let (handout, mut socket) = b.take();
    assert_eq!(handout.host.as_deref(), Some("b.example"));
    assert_eq!(handout.read, read.as_bytes());
    assert!(handout.once);
    reads(&mut socket, rest);

    // All of it was read.
    b.give_back(handout.id, &socket, GET_A.as_bytes());
    drop(socket);
    let (handout, mut socket) = a.take();
    assert_eq!(handout.read, GET_A.as_bytes());
    assert!(handout.once);

    // None of it was, and it comes later.
    a.give_back(handout.id, &socket, b"");
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

fn what_was_not_handed_out_is_not_taken_back() {
    let (mut primary, a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let client = primary.client(GET_B);
    let (handout, theirs) = b.take();
    // Of another worker's number.
    let id = a.id;
    a.say_gave_back(handout.id, theirs.as_fd(), b"", Spoken::Http1);
    a.hears_no_more();
    let (worker, why) = primary.distrusts();
    assert_eq!(worker, id);
    assert!(why.contains("does not have"), "{why}");
    // Of one that was declined.
    let mut a = primary.worker("a");
    let _client = primary.client(GET_A);
    let (handout, socket) = a.offered();
    let ids = vec![handout.id];
    a.talk.say(&FromAcceptor::Declined { ids }, &[]);
    a.say_gave_back(handout.id, socket.as_fd(), b"", Spoken::Http1);
    a.hears_no_more();
    // Of one that ended.
    let mut a = primary.worker("a");
    let (handout, socket) = a.take();
    let ids = vec![handout.id];
    a.talk.say(&FromAcceptor::Ended { ids }, &[]);
    a.say_gave_back(handout.id, socket.as_fd(), b"", Spoken::Http1);
    a.hears_no_more();
    // Others are not concerned.
    let _more = primary.client(GET_B);
    b.take();
    primary.counts(|counts| (counts.distrusted, counts.given_back) == (3, 0));
    drop(client);
}

fn a_connection_is_taken_back_once_and_no_other_in_its_place() {
    let (mut primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.client(GET_A);
    let (handout, mut socket) = a.take();
    reads(&mut socket, GET_A);
    let (mine, _) = UnixStream::pair().unwrap();
    let own = File::open("/dev/null").unwrap();
    // Twice: by then it is another pool's.
    a.give_back(handout.id, &socket, b"");
    client.write_all(GET_B.as_bytes()).unwrap();
    let (other, mut theirs) = b.take();
    a.say_gave_back(handout.id, socket.as_fd(), b"", Spoken::Http1);
    a.hears_no_more();
    reads(&mut theirs, GET_B);
    theirs.write_all(b"answer").unwrap();
    reads(&mut client, "answer");
    // Something else in its place: of its own, or another connection.
    let (elsewhere, _) = UnixStream::pair().unwrap();
    let connection = theirs.as_fd();
    let things = [mine.as_fd(), own.as_fd(), elsewhere.as_fd(), connection];
    for thing in things {
        let mut a = primary.worker("a");
        let _client = primary.client(GET_A);
        let (handout, _socket) = a.take();
        a.say_gave_back(handout.id, thing, b"", Spoken::Http1);
        a.hears_no_more();
    }
    // What it was given, its client being gone, is nobody's fault.
    let mut a = primary.worker("a");
    let client = primary.client(GET_A);
    let (handout, socket) = a.take();
    drop(client);
    a.give_back(handout.id, &socket, b"");
    drop(other);
    primary.counts(|counts| (counts.distrusted, counts.given_back) == (5, 2));
}

fn what_a_worker_kept_of_an_earlier_dispatcher_is_taken_back() {
    let mut primary = Primary::start(ConnectionLimits::default());
    // As an earlier dispatcher did, before this one may.
    let mut client = primary.connect();
    primary.listener.set_nonblocking(false).unwrap();
    let (kept, _) = primary.listener.accept().unwrap();
    primary.listener.set_nonblocking(true).unwrap();
    primary.pool("a", Dispatch::RoundRobin);
    primary.pool("b", Dispatch::RoundRobin);
    primary.hosts(&[("a.example/*", "a"), ("b.example/*", "b")], "b");
    let mut b = primary.worker("b");
    let mut a = primary.worker("a");
    let ids = vec![3, 4, 5];
    a.talk.say(&FromAcceptor::Kept { ids: ids.clone() }, &[]);
    a.give_back(3, &kept, b"");
    client.write_all(GET_B.as_bytes()).unwrap();
    let (handout, mut socket) = b.take();
    assert!(handout.id > 5);
    reads(&mut socket, GET_B);
    // The same again is of no effect: it is somebody else's now.
    a.give_back(4, &kept, GET_A.as_bytes());
    // What is not of this listener is none.
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
    let (foreign, _) = elsewhere.accept().unwrap();
    a.say_gave_back(5, foreign.as_fd(), b"", Spoken::Http1);
    a.hears_no_more();
    // What is kept is said first, and was given earlier.
    let late = primary.worker("a");
    late.talk.say(&FromAcceptor::Took { ids: vec![] }, &[]);
    late.talk.say(&FromAcceptor::Kept { ids }, &[]);
    late.hears_no_more();
    let new = primary.worker("a");
    let ids = vec![handout.id];
    new.talk.say(&FromAcceptor::Kept { ids }, &[]);
    new.hears_no_more();
    primary.counts(|counts| (counts.distrusted, counts.handed_out) == (3, 1));
}

fn a_client_of_http2_is_greeted_once_and_who_serves_it_knows() {
    const EMPTY_SETTINGS: &str = "\0\0\0\x04\0\0\0\0\0";
    const ACKNOWLEDGED: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
    let (primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.connect();
    let (preface, rest) = HTTP2.split_at(24);
    let (settings, stream) = rest.split_at(9);
    client.write_all(&preface[..20]).unwrap();
    client.write_all(&preface[20..]).unwrap();
    reads(&mut client, EMPTY_SETTINGS);
    client.write_all(settings).unwrap();
    client.write_all(ACKNOWLEDGED).unwrap();
    client.write_all(stream).unwrap();
    let (handout, mut socket) = a.take();
    assert_eq!(handout.host.as_deref(), Some("a.example"));
    assert_eq!(handout.spoken, Spoken::Http2 { greeted: true });
    // All of it is there, and nothing more was said to the client.
    let all = [preface, settings, ACKNOWLEDGED, stream].concat();
    reads(&mut socket, std::str::from_utf8(&all[..42]).unwrap());
    socket.write_all(b"served").unwrap();
    reads(&mut client, "served");

    // Given back before anything was served, it is what it was.
    let mut client = primary.connect();
    client.write_all(preface).unwrap();
    reads(&mut client, EMPTY_SETTINGS);
    client.write_all(rest).unwrap();
    let (handout, socket) = a.take();
    a.say_gave_back(handout.id, socket.as_fd(), b"", handout.spoken);
    let (handout, _) = a.take();
    assert_eq!(handout.spoken, Spoken::Http2 { greeted: true });

    // Who says all at once waits for nothing.
    let mut client = primary.connect();
    client.write_all(HTTP2).unwrap();
    let (handout, mut socket) = a.take();
    assert_eq!(handout.spoken, Spoken::Http2 { greeted: false });
    socket.write_all(b"served").unwrap();
    reads(&mut client, "served");

    let _other = primary.client(GET_B);
    assert_eq!(b.take().0.spoken, Spoken::Nothing);
}

fn what_has_spoken_http1_never_becomes_http2() {
    let (primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.client(GET_A);
    let (handout, mut socket) = a.take();
    reads(&mut socket, GET_A);
    a.give_back(handout.id, &socket, b"");
    drop(socket);
    client.write_all(HTTP2).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");

    // Whoever serves it next knows.
    let mut client = primary.client(GET_A);
    let (handout, mut socket) = a.take();
    reads(&mut socket, GET_A);
    a.give_back(handout.id, &socket, b"");
    client.write_all(GET_B.as_bytes()).unwrap();
    assert_eq!(b.take().0.spoken, Spoken::Http1);
}

fn who_is_refused_while_it_sends_reads_the_answer() {
    let (primary, _a, _b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.client("HELO there\r\n\r\n");
    // The answer has come, and it goes on sending.
    client.peek(&mut [0]).unwrap();
    for _ in 0..10 {
        client.write_all(&[b'x'; 10_000]).unwrap();
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    // Not for ever.
    let began = Instant::now();
    while client.write_all(&[b'x'; 1000]).is_ok() {
        assert!(began.elapsed() < PATIENCE);
    }
}

fn a_worker_that_hides_what_ended_gets_no_more_than_its_limit() {
    let limits = ConnectionLimits {
        max_connections: 10,
        ..ConnectionLimits::default()
    };
    let mut primary = Primary::start(limits);
    primary.pool("a", Dispatch::RoundRobin);
    primary.hosts(&[], "a");
    let mut worker = primary.worker("a");
    // Its cell says that it has none open.
    let clients: Vec<_> = (0..600).map(|_| primary.client("x")).collect();
    let mut last = worker.take().0;
    for _ in 1..10 + 512 {
        last = worker.take().0;
    }
    primary.counts(|counts| counts.handed_out == 522 && counts.waiting == 0);
    // It says that one has ended, and gets one more.
    let ids = vec![last.id];
    worker.talk.say(&FromAcceptor::Ended { ids }, &[]);
    worker.take();
    primary.counts(|counts| counts.handed_out == 523);
    drop(clients);
}

fn what_was_read_of_many_connections_cuts_nobody_off() {
    let (mut primary, mut a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    // As much as a worker reads of a head, and more at once than a channel or
    // one message holds.
    let read = format!("{GET_B}{}", "z".repeat((60 << 10) - GET_B.len()));
    let clients: Vec<_> = (0..80).map(|_| primary.client(GET_A)).collect();
    let handouts: Vec<_> = clients.iter().map(|_| a.take()).collect();
    for (handout, socket) in &handouts {
        a.say_gave_back(handout.id, socket.as_fd(), read.as_bytes(), Spoken::Http1);
    }
    // What is kept for one pool has a limit.
    let kept = (4 << 20) / read.len();
    let closed = (clients.len() - kept) as u64;
    // Before anything is taken, which makes room.
    primary.counts(|counts| (counts.given_back, counts.unserved) == (80, closed));
    for _ in 0..kept {
        assert_eq!(b.take().0.read, read.as_bytes());
    }
    // Both are still there, and what is not kept any more is room again.
    let _more = [primary.client(GET_A), primary.client(GET_B)];
    let (handout, socket) = a.take();
    b.take();
    a.say_gave_back(handout.id, socket.as_fd(), read.as_bytes(), Spoken::Http1);
    assert_eq!(b.take().0.read, read.as_bytes());
    primary.counts(|counts| counts.distrusted == 0 && counts.waiting == 0);
}

fn who_says_what_is_no_message_ends_alone() {
    let (mut primary, a, mut b) = Primary::with_two_pools(ConnectionLimits::default());
    let payload = format!("\"{}\"", "a".repeat(1 << 20));
    let mut frame = b"SK\x01\0".to_vec();
    frame.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    frame.extend(payload.bytes());
    let mut sent = 0;
    while sent < frame.len() {
        match a.talk.channel.send(&frame[sent..], &[]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let id = a.id;
    a.hears_no_more();
    let (worker, why) = primary.distrusts();
    assert_eq!(worker, id);
    assert!(why.contains("malformed"), "{why}");
    assert!(why.len() < 5000, "{} bytes", why.len());
    let _more = primary.client(GET_B);
    b.take();
    primary.drain();
}

fn what_has_spoken_http1_is_not_given_back_as_new() {
    let (mut primary, mut a, _b) = Primary::with_two_pools(ConnectionLimits::default());
    let mut client = primary.client(GET_A);
    let (handout, mut socket) = a.take();
    reads(&mut socket, GET_A);
    a.give_back(handout.id, &socket, b"");
    client.write_all(GET_A.as_bytes()).unwrap();
    let (handout, socket) = a.take();
    assert_eq!(handout.spoken, Spoken::Http1);
    a.say_gave_back(handout.id, socket.as_fd(), b"", Spoken::Nothing);
    a.hears_no_more();
    let (_, why) = primary.distrusts();
    assert!(why.contains("speaks"), "{why}");
}

fn when_hosts_change_workers_hear_of_it_before_anything_else() {
    let mut primary = Primary::with_one_pool(Dispatch::RoundRobin);
    let mut a = primary.worker("a");
    let _before = primary.client(GET_A);
    assert_eq!(a.take().0.host, None);
    primary.pool("b", Dispatch::RoundRobin);
    primary.hosts(&[("b.example/*", "b")], "a");
    assert_eq!(
        a.talk.hear::<ToAcceptor>().0,
        ToAcceptor::Hosts { matter: true }
    );
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
