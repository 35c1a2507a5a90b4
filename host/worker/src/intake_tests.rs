//! A worker between a client and a dispatcher that are both this test. No app
//! is loaded: what is at home is answered with 404, and what is not must never
//! get as far as an answer, which would be 421.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use skep_core::ConnectionLimits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use skep_wire::Spoken;

use super::*;
use crate::connection::tests::desk;

/// Long enough for anything that happens.
const LONG: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.unwrap()
}

/// The dispatcher's end.
struct Hand {
    link: Link<FromAcceptor, ToAcceptor>,
    /// Of what was given back last.
    spoken: Spoken,
}

impl Hand {
    fn meets(intake: &Intake, limits: ConnectionLimits) -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        intake.meet(Terms::new(limits), theirs);
        Self {
            link: Link::new(ours).unwrap(),
            spoken: Spoken::Nothing,
        }
    }

    async fn say(&mut self, message: &ToAcceptor, sockets: &[OwnedFd]) {
        let sockets: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        let by = Instant::now() + LONG;
        self.link.tell(message, &sockets, by).await.unwrap();
    }

    async fn hear(&mut self) -> (FromAcceptor, Vec<OwnedFd>) {
        soon(self.link.next()).await.unwrap().unwrap()
    }

    /// Hands a connection out without waiting for what becomes of it.
    async fn offer(&mut self, socket: OwnedFd, host: Option<&str>, once: bool, read: &[u8]) -> u64 {
        // Those of a listener are never the same, whoever gives them.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Relaxed);
        let handout = Handout {
            id,
            host: host.map(str::to_owned),
            once,
            read: read.to_vec(),
            spoken: Spoken::Nothing,
        };
        self.say(&ToAcceptor::Take(vec![handout]), &[socket]).await;
        id
    }

    async fn hand_out(&mut self, socket: OwnedFd, host: Option<&str>, once: bool, read: &[u8]) {
        let id = self.offer(socket, host, once, read).await;
        let (answer, _) = self.hear().await;
        assert_eq!(answer, FromAcceptor::Took { ids: vec![id] });
    }

    /// What is given back next; acknowledged.
    async fn back(&mut self) -> (OwnedFd, Vec<u8>) {
        let (id, socket, read) = self.back_unacknowledged().await;
        self.say(&ToAcceptor::GotBack { ids: vec![id] }, &[]).await;
        (socket, read)
    }

    async fn back_unacknowledged(&mut self) -> (u64, OwnedFd, Vec<u8>) {
        match self.hear().await {
            (FromAcceptor::GaveBack { id, read, spoken }, mut fds) => {
                self.spoken = spoken;
                (id, fds.pop().unwrap(), read)
            }
            (other, _) => panic!("{other:?}"),
        }
    }
}

fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (UnixStream::from_std(ours).unwrap(), theirs.into())
}

/// A client's end, which counts what it is told.
struct Client {
    socket: UnixStream,
    read: String,
}

impl Client {
    fn new(socket: UnixStream) -> Self {
        let read = String::new();
        Self { socket, read }
    }

    async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// The id of the request that is answered next, with 404.
    async fn answered(&mut self) -> String {
        loop {
            if let Some((_, body)) = self.read.split_once("\r\n\r\n")
                && let Some((status, rest)) = body.split_once('\n')
                && let Some((id, rest)) = rest.split_once('\n')
            {
                assert_eq!(status, "404 Not Found", "{}", self.read);
                let id = id.strip_prefix("request ").unwrap().to_owned();
                self.read = rest.to_owned();
                return id;
            }
            let mut buffer = [0; 4096];
            let bytes = soon(self.socket.read(&mut buffer)).await.unwrap();
            assert_ne!(bytes, 0, "{:?}", self.read);
            self.read
                .push_str(std::str::from_utf8(&buffer[..bytes]).unwrap());
        }
    }
}

fn request(host: &str, id: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {id}\r\n\r\n")
}

fn post(host: &str, id: &str, body: &str) -> String {
    format!(
        "POST /x HTTP/1.1\r\nx-request-id: {id}\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// All that is still to be read from a socket that was given back.
fn rest(socket: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    match skep_sys::peek(socket.as_fd(), &mut buffer) {
        Ok(bytes) => buffer.truncate(bytes),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            buffer.clear();
        }
    }
    buffer
}

async fn closed_connections(desk: &Desk) {
    soon(async {
        while desk.cell().connections() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_of_others_goes_back_byte_for_byte_however_it_is_cut() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let ours = format!("{}{}", post("a", "1", "hello"), request("A.:80", "2"));
    let foreign = post("b", "3", "some of its body");
    let both = format!("{ours}{foreign}");
    // A 404 does not wait for a body that has not come, and closes.
    let body = both.find("hello").unwrap();
    for cut in (0..body).chain(body + 5..both.len()) {
        let (client, socket) = pair();
        let mut client = Client::new(client);
        hand.hand_out(socket, Some("a"), false, b"").await;
        client.send(&both[..cut]).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        client.send(&both[cut..]).await;
        assert_eq!(client.answered().await, "1");
        assert_eq!(client.answered().await, "2");
        let (socket, read) = hand.back().await;
        let got = [read, rest(&socket)].concat();
        assert_eq!(String::from_utf8_lossy(&got), foreign, "cut at {cut}");
        assert_eq!(client.read, "");
    }
    closed_connections(&desk).await;
}

#[tokio::test]
async fn once_is_once_and_nothing_more_is_read() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let (client, socket) = pair();
    let mut client = Client::new(client);
    // What was read elsewhere comes first.
    let first = request("a", "1");
    client.send(&first[30..]).await;
    hand.hand_out(socket, Some("a"), true, &first.as_bytes()[..30])
        .await;
    assert_eq!(client.answered().await, "1");
    // It rests with the worker until more comes, also if that is ours.
    client.send(&request("a", "2").repeat(2)).await;
    let (socket, read) = hand.back().await;
    let got = [&read[..], &rest(&socket)].concat();
    assert_eq!(got, request("a", "2").repeat(2).as_bytes());
    hand.hand_out(socket, Some("a"), true, &read).await;
    assert_eq!(client.answered().await, "2");
    let (socket, read) = hand.back().await;
    let got = [read, rest(&socket)].concat();
    assert_eq!(got, request("a", "2").as_bytes());
    assert_eq!(desk.cell().requests(), 2);
    drop(socket);
    assert_eq!(soon(client.socket.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn without_hosts_all_is_ours_until_they_matter() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let (client, socket) = pair();
    let mut client = Client::new(client);
    hand.hand_out(socket, None, false, b"").await;
    client.send(&request("a", "1")).await;
    assert_eq!(client.answered().await, "1");
    client.send(&request("b", "2")).await;
    assert_eq!(client.answered().await, "2");
    hand.say(&ToAcceptor::Hosts { matter: true }, &[]).await;
    // The worker has heard of it when it has answered the next message.
    let (other, socket) = pair();
    hand.hand_out(socket, None, false, b"").await;
    client.send(&request("b", "3")).await;
    let (socket, read) = hand.back().await;
    assert_eq!(read, request("b", "3").as_bytes());
    drop((socket, other));
}

#[tokio::test]
async fn a_drain_gives_back_what_is_idle_and_declines_the_rest() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let (used, socket) = pair();
    let mut used = Client::new(used);
    hand.hand_out(socket, None, false, b"").await;
    used.send(&request("a", "1")).await;
    used.answered().await;
    let (fresh, socket) = pair();
    hand.hand_out(socket, Some("a"), false, b"").await;
    let (half, socket) = pair();
    let mut half = Client::new(half);
    hand.hand_out(socket, Some("a"), false, b"").await;
    half.send(&request("a", "2")[..30]).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }

    desk.drain();
    // One whose request had begun goes with what there is of it.
    let back = [hand.back().await, hand.back().await, hand.back().await];
    let mut read: Vec<_> = back.iter().map(|(_, read)| &read[..]).collect();
    read.sort_unstable();
    assert_eq!(read, [b"", b"", &request("a", "2").as_bytes()[..30]]);

    let (_client, socket) = pair();
    let id = hand.offer(socket, None, false, b"").await;
    let (answer, _) = hand.hear().await;
    assert_eq!(answer, FromAcceptor::Declined { ids: vec![id] });
    soon(desk.all_quiet()).await;
    drop((back, fresh, half));
}

#[tokio::test]
async fn a_connection_on_its_way_back_outlives_the_dispatcher() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let limits = ConnectionLimits {
        max_connections: 1,
        ..ConnectionLimits::default()
    };
    let mut hand = Hand::meets(&intake, limits.clone());
    let (client, socket) = pair();
    let mut client = Client::new(client);
    hand.hand_out(socket, Some("a"), true, b"").await;
    let (_other, socket) = pair();
    let id = hand.offer(socket, Some("a"), true, b"").await;
    let (answer, _) = hand.hear().await;
    assert_eq!(answer, FromAcceptor::Declined { ids: vec![id] });

    client.send(&request("a", "1")).await;
    client.answered().await;
    client.send(&request("b", "2")).await;
    let lost = hand.back_unacknowledged().await;
    let kept = FromAcceptor::Kept { ids: vec![lost.0] };
    drop((hand, lost));
    let mut hand = Hand::meets(&intake, limits);
    assert_eq!(hand.hear().await.0, kept);
    let (socket, read) = hand.back().await;
    closed_connections(&desk).await;
    hand.hand_out(socket, Some("b"), false, &read).await;
    assert_eq!(client.answered().await, "2");
}

#[tokio::test]
async fn what_has_ended_is_told_when_it_is_many_and_what_is_kept_first() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let mut ended = Vec::new();
    for _ in 0..ENDED {
        let (client, socket) = pair();
        ended.push(hand.offer(socket, Some("a"), false, b"").await);
        hand.hear().await;
        drop(client);
        closed_connections(&desk).await;
    }
    let (told, _) = hand.hear().await;
    assert_eq!(told, FromAcceptor::Ended { ids: ended });

    // The next dispatcher is told of what is open, and not of what has ended.
    let (kept, socket) = pair();
    let id = hand.offer(socket, Some("a"), true, b"").await;
    hand.hear().await;
    let (short, socket) = pair();
    hand.hand_out(socket, Some("a"), true, b"").await;
    drop(short);
    while desk.cell().connections() > 1 {
        tokio::task::yield_now().await;
    }
    let mut next = Hand::meets(&intake, ConnectionLimits::default());
    let (told, _) = next.hear().await;
    assert_eq!(told, FromAcceptor::Kept { ids: vec![id] });
    let mut kept = Client::new(kept);
    kept.send(&request("a", "1")).await;
    kept.answered().await;
    kept.send(&request("a", "2")).await;
    let (back, ..) = next.back_unacknowledged().await;
    assert_eq!((back, next.spoken), (id, Spoken::Http1));
}

#[tokio::test]
async fn a_socket_that_would_block_this_worker_is_not_served() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut client = UnixStream::from_std(ours).unwrap();
    hand.hand_out(theirs.into(), Some("a"), false, b"").await;
    assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0);
    closed_connections(&desk).await;
}

#[tokio::test]
async fn who_was_greeted_acknowledges_twice_and_is_served() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let (mut client, socket) = pair();
    let handout = Handout {
        id: 1 << 60,
        host: Some("a".to_owned()),
        once: false,
        read: Vec::new(),
        spoken: Spoken::Http2 { greeted: true },
    };
    hand.say(&ToAcceptor::Take(vec![handout]), &[socket]).await;
    hand.hear().await;
    let acknowledged = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend(acknowledged);
    client.write_all(&bytes).await.unwrap();
    // Of the greeting, then of what the worker itself says.
    let mut read = Vec::new();
    while read.len() < 9 {
        assert_ne!(soon(client.read_buf(&mut read)).await.unwrap(), 0);
    }
    client.write_all(&acknowledged).await.unwrap();
    let mut stream = vec![0, 0, 6, 1, 5, 0, 0, 0, 1];
    stream.extend_from_slice(&[0x82, 0x86, 0x84, 0x01, 1, b'a']);
    client.write_all(&stream).await.unwrap();
    while !String::from_utf8_lossy(&read).contains("404 Not Found") {
        assert_ne!(
            soon(client.read_buf(&mut read)).await.unwrap(),
            0,
            "{read:?}"
        );
    }
}

#[tokio::test]
async fn streams_of_other_hosts_are_misdirected() {
    let desk = desk();
    let intake = Intake::begin(&desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let server = server.into_std().unwrap().into();
    hand.hand_out(server, Some("a"), true, b"").await;
    let stream = |stream, host| {
        // GET, http, /, and the authority as a literal that is not indexed.
        let mut frame = vec![0, 0, 6, 1, 5, 0, 0, 0, stream];
        frame.extend_from_slice(&[0x82, 0x86, 0x84, 0x01, 1, host]);
        frame
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend(stream(1, b'a'));
    bytes.extend(stream(3, b'b'));
    bytes.extend(stream(5, b'a'));
    client.write_all(&bytes).await.unwrap();
    let mut read = Vec::new();
    let mut bodies = 0;
    while bodies < 3 {
        assert_ne!(soon(client.read_buf(&mut read)).await.unwrap(), 0);
        let text = String::from_utf8_lossy(&read);
        bodies = text.matches("\nrequest ").count();
    }
    let text = String::from_utf8_lossy(&read);
    assert_eq!(text.matches("404 Not Found").count(), 2);
    assert_eq!(text.matches("421 Misdirected Request").count(), 1);
}

/// What a dispatcher does with a connection that it got back: waits for its
/// next host, which must be there in whole, and says what it is.
async fn next_host(socket: &OwnedFd, read: &[u8]) -> Option<String> {
    soon(async {
        loop {
            let bytes = [read, &rest(socket)].concat();
            let text = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
            if text.is_empty() && matches!(skep_sys::peek(socket.as_fd(), &mut [0]), Ok(0)) {
                return None;
            }
            if let Some((_, host)) = text.split_once("host: ")
                && let Some((host, _)) = host.split_once("\r\n")
            {
                return Some(host.to_owned());
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Looks like a head.
const BODY: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Requests in some order of hosts, cut into pieces, over one connection that
/// goes back and forth: each is answered once and in order.
async fn conversation(desk: &Arc<Desk>, hosts: &[u8], cuts: &[usize], once: &[bool]) {
    let intake = Intake::begin(desk);
    let mut hand = Hand::meets(&intake, ConnectionLimits::default());
    let (client, socket) = pair();
    let mut client = Client::new(client);
    let text: String = hosts
        .iter()
        .enumerate()
        .map(|(id, host)| {
            let (host, id) = (["a", "b", "c"][usize::from(*host)], id.to_string());
            match id.len() + usize::from(host == "a") {
                2 => post(host, &id, BODY),
                _ => request(host, &id),
            }
        })
        .collect();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    // A 404 does not wait for a body that has not come, and closes.
    let bodies: Vec<_> = text.match_indices(BODY).map(|(at, _)| at).collect();
    cuts.retain(|cut| !bodies.iter().any(|at| (*at..at + BODY.len()).contains(cut)));
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();

    let expected = hosts.len();
    let answers = async {
        for cut in cuts.windows(2) {
            client.send(&text[cut[0]..cut[1]]).await;
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        for id in 0..expected {
            assert_eq!(client.answered().await, id.to_string());
        }
        assert_eq!(client.read, "");
        drop(client);
    };
    let dispatcher = async {
        let mut once: VecDeque<_> = once.iter().copied().collect();
        let mut at_hand = (socket, Vec::new());
        // Ends when the client has hung up, which somebody finds out.
        while let Some(host) = next_host(&at_hand.0, &at_hand.1).await {
            let once = once.pop_front().unwrap_or(false);
            let (socket, read) = at_hand;
            hand.hand_out(socket, Some(&host), once, &read).await;
            let back = tokio::select! {
                back = hand.back() => back,
                () = closed_connections(desk) => return,
            };
            at_hand = back;
        }
    };
    soon(async { tokio::join!(answers, dispatcher) }).await;
}

#[test]
fn every_request_is_answered_once_and_in_order_whatever_the_pieces() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let hosts = prop::collection::vec(0_u8..3, 1..12);
    let cuts = prop::collection::vec(0_usize..2000, 0..20);
    let once = prop::collection::vec(any::<bool>(), 0..12);
    let desk_of = || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        (runtime, desk())
    };
    let (runtime, desk) = desk_of();
    let ran = runner.run(&(hosts, cuts, once), |(hosts, cuts, once)| {
        runtime.block_on(conversation(&desk, &hosts, &cuts, &once));
        Ok(())
    });
    ran.unwrap();
}
