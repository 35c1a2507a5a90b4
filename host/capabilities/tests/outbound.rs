//! Outbound HTTP against servers on loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::any::Any;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use skep_capabilities::outbound::{
    AppOutbound, Denial, Opened, Opener, Opening, Outbound, OutboundError, OutboundLog,
    OutboundResult, RequestBody, ResponseBody, Roots, Timeouts, Wanted,
};
use skep_core::AppName;
use skep_core::egress::{OpenFailure, OutboundGrant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Opens connections to one server, whatever is asked for.
#[derive(Default)]
struct Door {
    to: Mutex<Option<SocketAddr>>,
    asked: Mutex<Vec<Wanted>>,
    open: Arc<AtomicUsize>,
}

struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Opener for Door {
    fn open(&self, wanted: Wanted) -> Opening {
        self.asked.lock().unwrap().push(wanted);
        let to = *self.to.lock().unwrap();
        let open = Arc::clone(&self.open);
        Box::pin(async move {
            let address = to.ok_or(OpenFailure::Name)?;
            let stream = TcpStream::connect(address).map_err(|_| OpenFailure::Refused)?;
            stream.set_nonblocking(true).unwrap();
            open.fetch_add(1, SeqCst);
            Ok(Opened {
                socket: stream.into(),
                address,
                held: Box::new(Held(open)) as Box<dyn Any + Send>,
            })
        })
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl OutboundLog for Log {
    fn denied(&self, denial: &Denial<'_>) {
        self.0.lock().unwrap().push(format!(
            "{} {} {} {} {}",
            denial.request,
            denial.scheme.as_str(),
            denial.host,
            denial.port,
            denial.reason
        ));
    }
}

/// An app and what is around it.
struct World {
    door: Arc<Door>,
    log: Arc<Log>,
    outbound: Outbound,
    app: Arc<AppOutbound>,
}

impl World {
    fn new(connections: u32) -> Self {
        Self::with_roots(connections, Roots::default())
    }

    fn with_roots(connections: u32, roots: Roots) -> Self {
        let (door, log) = (Arc::new(Door::default()), Arc::new(Log::default()));
        let outbound = Outbound::new(Arc::clone(&door) as _, roots);
        let app = handler(&outbound, connections, &log);
        Self {
            door,
            log,
            outbound,
            app,
        }
    }

    /// A world with a server, and that server.
    fn served(connections: u32) -> (Self, Server) {
        let world = Self::new(connections);
        let server = Server::start();
        *world.door.to.lock().unwrap() = Some(server.address);
        (world, server)
    }

    fn count(&self, wanted: OutboundResult) -> u64 {
        let counts = self.outbound.counts();
        let (app, counts) = &counts[0];
        assert_eq!(app.as_str(), "app");
        counts.iter().find(|(is, _)| *is == wanted).unwrap().1
    }

    /// Waits until so many connections are open.
    async fn open(&self, wanted: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.door.open.load(SeqCst) != wanted {
            let open = self.door.open.load(SeqCst);
            assert!(Instant::now() < deadline, "{open} open, not {wanted}");
            self.outbound.expire_idle();
            tokio::task::yield_now().await;
        }
    }
}

fn handler(outbound: &Outbound, connections: u32, log: &Arc<Log>) -> Arc<AppOutbound> {
    let grants = ["http://*.test", "https://*.test", "http://a.test:81"];
    outbound.app(
        AppName::new("app").unwrap(),
        grants
            .map(|grant| OutboundGrant::new(grant).unwrap())
            .to_vec(),
        connections,
        Arc::clone(log) as _,
    )
}

/// Answers by path. Each connection has a thread.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, SeqCst);
                std::thread::spawn(move || serve(&stream.unwrap()));
            }
        });
        Self { address, accepted }
    }
}

fn serve(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reader.read_line(&mut head), Ok(read) if read > 0) {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap();
        let length = head.lines().find_map(|line| {
            let line = line.to_lowercase();
            line.strip_prefix("content-length: ")?.parse::<usize>().ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        if head.contains("transfer-encoding: chunked") && path == "/echo" {
            body = unchunked(&mut reader);
        }
        let ok = "HTTP/1.1 200 OK\r\n";
        let say = |text: String, mut writer: &TcpStream| drop(writer.write_all(text.as_bytes()));
        let wait = |mut reader: BufReader<&TcpStream>| drop(reader.read(&mut [0]));
        match path {
            "/hello" => say(format!("{ok}content-length: 5\r\n\r\nhello"), writer),
            "/empty" => say("HTTP/1.1 204 No Content\r\n\r\n".into(), writer),
            "/chunked" => say(
                format!("{ok}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
                writer,
            ),
            "/head" => say(
                format!("{ok}content-length: {}\r\n\r\n{head}", head.len()),
                writer,
            ),
            "/echo" => {
                if length.is_some() {
                    reader.read_exact(&mut body).unwrap();
                }
                say(
                    format!("{ok}content-length: {}\r\n\r\n", body.len()),
                    writer,
                );
                writer.write_all(&body).unwrap();
            }
            "/late" => return wait(reader),
            "/drip" => {
                say(format!("{ok}content-length: 5\r\n\r\nh"), writer);
                return wait(reader);
            }
            "/incomplete" => return say(format!("{ok}content-length: 5\r\n\r\nh"), writer),
            "/closes" => return say(format!("{ok}content-length: 5\r\n\r\nhello"), writer),
            "/large" => {
                let line = format!("x: {}\r\n", "x".repeat(1000));
                return say(format!("{ok}{}\r\n", line.repeat(90)), writer);
            }
            "/garbage" => return say("SSH-2.0-no\r\n\r\n".into(), writer),
            "/upgrade" => {
                say("HTTP/1.1 101 Switching Protocols\r\n\r\n".into(), writer);
                return wait(reader);
            }
            _ => return,
        }
    }
}

fn unchunked(reader: &mut impl std::io::BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        reader.read_exact(&mut piece).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&piece[..size]);
    }
}

/// A body of these pieces, whose length nobody knows before.
fn pieces(pieces: &[&'static str]) -> RequestBody {
    let frames: Vec<_> = pieces
        .iter()
        .map(|piece| Ok(http_body::Frame::data(Bytes::from(*piece))))
        .collect();
    http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn get(uri: &str) -> Request<RequestBody> {
    Request::get(uri).body(empty()).unwrap()
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

async fn send(
    app: &Arc<AppOutbound>,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, OutboundError> {
    let sent = Arc::clone(app).send(request, Timeouts::default(), "r1");
    tokio::time::timeout(PATIENCE, sent).await.unwrap()
}

async fn text(app: &Arc<AppOutbound>, uri: &str) -> String {
    let response = send(app, get(uri)).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_by_its_handler() {
    let (world, server) = World::served(4);
    for _ in 0..3 {
        assert_eq!(text(&world.app, "http://a.test/hello").await, "hello");
        assert_eq!(text(&world.app, "http://a.test/chunked").await, "abcde");
        let response = send(&world.app, get("http://a.test/empty")).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        // Nobody has to read what is not there.
        drop(response);
    }
    let body = Full::from("body of a request").map_err(|never| match never {});
    let request = Request::post("http://a.test/echo").body(body.boxed_unsync());
    let echoed = send(&world.app, request.unwrap()).await.unwrap();
    let echoed = echoed.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(echoed, Bytes::from("body of a request"));
    assert_eq!(server.accepted.load(SeqCst), 1);
    assert_eq!(world.count(OutboundResult::Ok), 10);

    // Another place, and another handler, have others.
    assert_eq!(text(&world.app, "http://b.test/hello").await, "hello");
    let other = handler(&world.outbound, 4, &world.log);
    assert_eq!(text(&other, "http://a.test/hello").await, "hello");
    assert_eq!(server.accepted.load(SeqCst), 3);
    let asked: Vec<_> = world.door.asked.lock().unwrap().clone();
    assert_eq!(asked[1].host, "b.test");
    assert_eq!(asked[1].app.as_str(), "app");
    // What a handler leaves is closed.
    world.open(3).await;
    drop(other);
    world.open(2).await;
}

#[tokio::test]
async fn what_is_not_granted_is_denied_before_anybody_is_asked() {
    let (world, _server) = World::served(4);
    let long = "x".repeat(300);
    for uri in [
        "http://a.example/",
        "https://a.test:80/",
        "http://a.test:82/",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        &format!("http://{long}/"),
    ] {
        let denied = send(&world.app, get(uri)).await;
        assert!(
            matches!(denied, Err(OutboundError::Open(OpenFailure::Denied))),
            "{uri}: {denied:?}"
        );
    }
    assert_eq!(world.count(OutboundResult::Denied), 7);
    assert!(world.door.asked.lock().unwrap().is_empty());
    let log = world.log.0.lock().unwrap().clone();
    assert_eq!(log[0], "r1 http a.example 80 denied");
    assert_eq!(log[1], "r1 https a.test 80 denied");
    assert_eq!(log[5], "r1 http [::1] 80 denied");
    assert_eq!(log[6].len(), "r1 http  80 denied".len() + 256);
}

#[tokio::test]
async fn what_the_opener_says_is_passed_on() {
    let world = World::new(4);
    let failed = send(&world.app, get("http://a.test/")).await;
    assert!(matches!(
        failed,
        Err(OutboundError::Open(OpenFailure::Name))
    ));
    assert_eq!(world.count(OutboundResult::Name), 1);
    assert!(world.log.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn requests_that_make_no_sense_are_not_sent() {
    let (world, _server) = World::served(4);
    for uri in ["/path", "ftp://a.test/", "http://a.test@evil.test/"] {
        let failed = send(&world.app, get(uri)).await;
        assert!(matches!(failed, Err(OutboundError::Uri)), "{uri}");
    }
    let mut tunnel = get("http://a.test/");
    *tunnel.method_mut() = Method::CONNECT;
    let failed = send(&world.app, tunnel).await;
    assert!(matches!(failed, Err(OutboundError::Method)));
    assert_eq!(world.count(OutboundResult::Invalid), 4);
}

#[tokio::test]
async fn the_host_that_was_checked_is_the_one_that_is_asked_for() {
    let (world, _server) = World::served(4);
    let mut request = get("http://A.test.:81/head");
    request
        .headers_mut()
        .append("host", "evil.test".parse().unwrap());
    request
        .headers_mut()
        .append("host", "worse.test".parse().unwrap());
    let response = send(&world.app, request).await.unwrap();
    let head = response.into_body().collect().await.unwrap().to_bytes();
    let head = String::from_utf8(head.to_vec()).unwrap();
    assert!(head.starts_with("GET /head HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: a.test:81\r\n"), "{head}");
    assert_eq!(head.matches("host:").count(), 1, "{head}");
}

#[tokio::test]
async fn an_app_has_so_many_connections() {
    let (world, server) = World::served(1);
    let held = send(&world.app, get("http://a.test/drip")).await.unwrap();
    let short = Timeouts {
        connect: Some(Duration::from_millis(20)),
        ..Timeouts::default()
    };
    let late = Arc::clone(&world.app).send(get("http://a.test/hello"), short, "r2");
    assert!(matches!(
        late.await,
        Err(OutboundError::Open(OpenFailure::TooMany))
    ));
    assert_eq!(
        world.log.0.lock().unwrap()[..],
        ["r2 http a.test 80 too-many"]
    );

    // Those who wait for longer get it when it is free, and share it.
    let app = &world.app;
    let (first, second, third) = tokio::join!(
        text(app, "http://a.test/hello"),
        text(app, "http://b.test/hello"),
        async {
            tokio::task::yield_now().await;
            drop(held);
            text(app, "http://a.test/hello").await
        }
    );
    assert_eq!([first, second, third], ["hello"; 3]);
    assert!(server.accepted.load(SeqCst) >= 3);
    world.open(1).await;

    // There is no room for all who might wait.
    let _held = send(&world.app, get("http://a.test/drip")).await.unwrap();
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let app = Arc::clone(&world.app);
            tokio::spawn(app.status(get("http://a.test/hello")))
        })
        .collect();
    tokio::task::yield_now().await;
    let began = Instant::now();
    let crowded = send(&world.app, get("http://a.test/hello")).await;
    assert!(matches!(
        crowded,
        Err(OutboundError::Open(OpenFailure::TooMany))
    ));
    assert!(began.elapsed() < Duration::from_secs(5), "it waited");
    assert_eq!(world.count(OutboundResult::TooMany), 2);

    world.outbound.limit(&AppName::new("app").unwrap(), 2);
    assert_eq!(text(&world.app, "http://a.test/hello").await, "hello");
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap(), StatusCode::OK);
    }
}

/// For tasks, which must own what they use.
trait Status {
    async fn status(self, request: Request<RequestBody>) -> Result<StatusCode, OutboundError>;
}

impl Status for Arc<AppOutbound> {
    async fn status(self, request: Request<RequestBody>) -> Result<StatusCode, OutboundError> {
        Ok(send(&self, request).await?.status())
    }
}

#[tokio::test]
async fn a_guest_that_goes_leaves_nothing_open() {
    let (world, _server) = World::served(4);
    let unread = send(&world.app, get("http://a.test/drip")).await.unwrap();
    world.open(1).await;
    drop(unread);
    world.open(0).await;

    let app = Arc::clone(&world.app);
    let waiting = tokio::spawn(app.status(get("http://a.test/late")));
    world.open(1).await;
    waiting.abort();
    world.open(0).await;
    assert_eq!(world.count(OutboundResult::Cancelled), 1);
    assert_eq!(world.door.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn waits_are_as_long_as_the_guest_says() {
    let (world, _server) = World::served(4);
    let moment = Some(Duration::from_millis(30));
    let timeouts = Timeouts {
        connect: None,
        first_byte: moment,
        between_bytes: moment,
    };
    let late = Arc::clone(&world.app).send(get("http://a.test/late"), timeouts, "");
    assert!(matches!(late.await, Err(OutboundError::FirstByte)));
    let drips = Arc::clone(&world.app).send(get("http://a.test/drip"), timeouts, "");
    let body = drips.await.unwrap().into_body();
    assert!(matches!(
        body.collect().await,
        Err(OutboundError::BetweenBytes)
    ));
    world.open(0).await;
    assert_eq!(world.count(OutboundResult::Timeout), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_is_opened_again() {
    let (world, server) = World::served(4);
    for round in 1..=3 {
        assert_eq!(text(&world.app, "http://a.test/closes").await, "hello");
        assert_eq!(server.accepted.load(SeqCst), round);
    }
    world.open(0).await;
}

#[tokio::test]
async fn servers_that_break_the_rules_are_told_apart() {
    let (world, _server) = World::served(4);
    let fails = async |path: &str| {
        let uri = format!("http://a.test{path}");
        send(&world.app, get(&uri)).await.unwrap_err()
    };
    assert!(matches!(fails("/large").await, OutboundError::HeadTooLarge));
    assert!(matches!(fails("/garbage").await, OutboundError::Protocol));
    assert!(matches!(fails("/nothing").await, OutboundError::Closed));
    assert!(matches!(fails("/upgrade").await, OutboundError::Protocol));
    assert_eq!(world.count(OutboundResult::Broken), 4);
    let cut = send(&world.app, get("http://a.test/incomplete")).await;
    let cut = cut.unwrap().into_body().collect().await;
    assert!(matches!(cut, Err(OutboundError::Incomplete)));
    world.open(0).await;
}

/// A server of TLS that says `hello` once per connection, and its authority.
fn tls_server(name: &str) -> (SocketAddr, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio_rustls::TlsAcceptor;

    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let _ = stream.read(&mut [0; 1000]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                let _ = stream.write_all(answer).await;
                let _ = stream.flush().await;
            });
        }
    });
    (address, root.pem())
}

#[tokio::test]
async fn over_tls_the_other_end_proves_its_name() {
    let (address, authority) = tls_server("a.test");
    let trusting = World::with_roots(4, Roots::default().with(authority.as_bytes()));
    *trusting.door.to.lock().unwrap() = Some(address);
    assert_eq!(text(&trusting.app, "https://a.test/").await, "hello");
    let other = send(&trusting.app, get("https://b.test/")).await;
    assert!(
        matches!(other, Err(OutboundError::Certificate)),
        "{other:?}"
    );
    // Cleartext where TLS is spoken, and the reverse.
    let clear = send(&trusting.app, get("http://a.test/")).await;
    assert!(clear.is_err());

    let (_, stranger) = tls_server("a.test");
    let wary = World::with_roots(4, Roots::default().with(stranger.as_bytes()));
    *wary.door.to.lock().unwrap() = Some(address);
    let unknown = send(&wary.app, get("https://a.test/")).await;
    assert!(matches!(unknown, Err(OutboundError::Certificate)));
    assert_eq!(wary.count(OutboundResult::Tls), 1);

    let nobody = World::new(4);
    *nobody.door.to.lock().unwrap() = Some(address);
    let nobody = send(&nobody.app, get("https://a.test/")).await;
    assert!(matches!(nobody, Err(OutboundError::Roots(_))));

    let server = Server::start();
    *trusting.door.to.lock().unwrap() = Some(server.address);
    let clear = send(&trusting.app, get("https://c.test/hello")).await;
    assert!(matches!(clear, Err(OutboundError::Tls(_))), "{clear:?}");
}

#[tokio::test]
async fn the_body_of_a_get_is_sent_also_where_nothing_says_how_long_it_is() {
    let (world, _server) = World::served(4);
    for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
        let request = Request::builder()
            .method(method.clone())
            .uri("http://a.test/echo")
            .body(pieces(&["que", "ry"]));
        let echoed = send(&world.app, request.unwrap()).await.unwrap();
        let echoed = echoed.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(echoed, Bytes::from("query"), "{method}");
    }
    let request = Request::get("http://a.test/echo")
        .header("content-length", 5)
        .body(pieces(&["query"]));
    let echoed = send(&world.app, request.unwrap()).await.unwrap();
    let echoed = echoed.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(echoed, Bytes::from("query"));
}

#[tokio::test]
async fn a_get_announces_no_body_that_it_does_not_have() {
    let (world, server) = World::served(4);
    let head = async |body| {
        let request = Request::get("http://a.test/head").body(body).unwrap();
        let response = send(&world.app, request).await.unwrap();
        let head = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(head.to_vec()).unwrap()
    };
    let nothing = head(pieces(&[])).await;
    assert!(!nothing.contains("transfer-encoding"), "{nothing}");
    assert!(!nothing.contains("content-length"), "{nothing}");
    assert_eq!(server.accepted.load(SeqCst), 1);
    // A guest that neither writes nor finishes does not wait for ever.
    let open = http_body_util::StreamBody::new(futures_util::stream::pending()).boxed_unsync();
    let open = head(open).await;
    assert!(open.contains("transfer-encoding: chunked\r\n"), "{open}");
}
