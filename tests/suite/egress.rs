//! What guests reach outside, and what they do not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use skep_tests::options::{Options, directory};
use skep_tests::{Skep, binary, wait_for};
use tempfile::TempDir;

use crate::{app, pool};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of somebody else. `/to/URL` leads there, `/hold` begins an answer
/// and does not end it, anything else is `hello`.
struct Web {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Web {
    fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, SeqCst);
                std::thread::spawn(move || answer(&stream.unwrap()));
            }
        });
        Self { port, accepted }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

fn answer(stream: &TcpStream) {
    let mut writer = stream;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reader.read_line(&mut head), Ok(read) if read > 0) {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap();
        let text = match path.strip_prefix("/to/") {
            Some(to) => {
                format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
            }
            None if path == "/hold" => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_owned(),
            None => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        };
        if writer.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// What a fetching guest answers to `?url=URL` and more.
fn fetch(skep: &Skep, host: &str, query: &str) -> (u16, String) {
    let mut client = skep.client();
    client
        .send(format!(
            "GET /?url={query} HTTP/1.1\r\nhost: {host}\r\n\r\n"
        ))
        .unwrap();
    let response = client.response().unwrap();
    let text = String::from_utf8_lossy(&response.body).trim().to_owned();
    (response.status(), text)
}

fn hello() -> (u16, String) {
    (200, "hello".to_owned())
}

fn fails(why: &str) -> (u16, String) {
    (502, why.to_owned())
}

#[test]
fn a_guest_reaches_what_is_granted_and_nothing_else() {
    let (web, other) = (Web::start(), Web::start());
    let here = format!("http://127.0.0.1:{}", web.port);
    let there = format!("http://127.0.0.1:{}", other.port);
    let granted = |name: &str| format!("routes = [\"{name}.test/*\"]\noutbound = [\"{here}\"]\n");
    let skep = Skep::config(&format!(
        "{}{}{}{}{}",
        pool(2),
        app("granted", "fetch", &granted("granted")),
        app("granted3", "fetch-p3", &granted("granted3")),
        app("nothing", "fetch", "routes = [\"nothing.test/*\"]"),
        app(
            "localhost",
            "fetch",
            &format!(
                "routes = [\"localhost.test/*\"]\noutbound = [\"http://localhost:{}\"]",
                web.port
            )
        ),
    ));
    for host in ["granted.test", "granted3.test"] {
        for _ in 0..10 {
            assert_eq!(fetch(&skep, host, &format!("{here}/x")), hello());
        }
    }
    // Connections are kept for the next request.
    assert!(web.accepted() <= 4, "{}", web.accepted());
    let local = format!("http://localhost:{}/", web.port);
    assert_eq!(fetch(&skep, "localhost.test", &local), hello());

    let denied = fails("ErrorCode::HttpRequestDenied");
    for url in [
        there.clone(),
        local,
        format!("https://127.0.0.1:{}", web.port),
        format!("http://127.1:{}", web.port),
        format!("http://2130706433:{}", web.port),
        format!("http://0x7f000001:{}", web.port),
        format!("http://[::1]:{}", web.port),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        assert_eq!(fetch(&skep, "granted.test", &url), denied, "{url}");
    }
    assert_eq!(fetch(&skep, "nothing.test", &here), denied);
    assert_eq!(fetch(&skep, "granted3.test", &there), denied);
    // A redirect is another request.
    let led = format!("{here}/to/{there}/&follow=3");
    assert_eq!(fetch(&skep, "granted.test", &led), denied);
    let led = format!("{here}/to/{here}/&follow=3");
    assert_eq!(fetch(&skep, "granted.test", &led), hello());
    assert_eq!(other.accepted(), 0);
    skep.wait_for_log("outbound.denied");
}

#[test]
fn an_app_has_so_many_outbound_connections() {
    let web = Web::start();
    let here = format!("http://127.0.0.1:{}", web.port);
    let skep = Skep::config(&format!(
        "{}{}",
        pool(2),
        app(
            "a",
            "fetch",
            &format!("outbound = [\"{here}\"]\noutbound_connections = 4")
        ),
    ));
    let held: Vec<_> = (0..8)
        .map(|_| {
            let mut client = skep.client();
            client
                .send(format!(
                    "GET /?url={here}/hold&connect=300 HTTP/1.1\r\nhost: a\r\n\r\n"
                ))
                .unwrap();
            let head = client.head().unwrap();
            (client, head.status)
        })
        .collect();
    let open = held.iter().filter(|(_, status)| *status == 200).count();
    assert!((1..=4).contains(&open), "{open} are open");
    assert!(web.accepted() <= 4, "{}", web.accepted());
    drop(held);
    wait_for(
        PATIENCE,
        "connections to come free",
        || fetch(&skep, "a", &format!("{here}/")),
        |got| *got == hello(),
    );
}

/// A file of this machine, and what one skep sees in its place.
struct InPlace {
    place: &'static str,
    file: PathBuf,
}

impl InPlace {
    fn new(dir: &TempDir, place: &'static str, text: &str) -> Self {
        let file = dir.path().join(place.replace('/', "-"));
        std::fs::write(&file, text).unwrap();
        Self { place, file }
    }
}

/// A skep that sees another file in one place; or none, where this user may not
/// do that.
#[expect(clippy::print_stderr, reason = "who runs the tests should know of it")]
fn with_file(dir: &Arc<TempDir>, config: &str, file: &InPlace) -> Option<Skep> {
    let may = Command::new("unshare").args(["-m", "true"]).status();
    if !may.is_ok_and(|status| status.success()) || !Path::new(file.place).exists() {
        eprintln!("skipped: only root can exchange {} for a test", file.place);
        return None;
    }
    let inner = dir.path().join("inner");
    let script = format!(
        "#!/bin/sh\nset -e\nmount --bind '{}' {}\nexec '{}' \"$@\"\n",
        file.file.display(),
        file.place,
        binary().display()
    );
    executable(&inner, &script);
    let outer = dir.path().join("outer");
    let enter = format!("#!/bin/sh\nexec unshare -m '{}' \"$@\"\n", inner.display());
    executable(&outer, &enter);
    Some(Options::config(config).binary(&outer).in_dir(dir).start())
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_name_that_leads_elsewhere_a_moment_later_leads_nowhere() {
    let web = Web::at("0.0.0.0:0");
    let port = web.port;
    let grants =
        format!("outbound = [\"http://rebinds.test:{port}\", \"http://127.0.0.2:{port}\"]");
    let config = format!("{}{}", pool(1), app("a", "fetch", &grants));
    let dir = directory();
    let hosts = InPlace::new(&dir, "/etc/hosts", "127.0.0.2 rebinds.test\n");
    let Some(skep) = with_file(&dir, &config, &hosts) else {
        return;
    };
    // A half answer: its connection cannot be used again.
    let mut first = skep.client();
    first
        .send(format!(
            "GET /?url=http://rebinds.test:{port}/hold HTTP/1.1\r\nhost: a\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(first.head().unwrap().status, 200);
    std::fs::write(&hosts.file, "127.0.0.1 rebinds.test\n").unwrap();
    let url = format!("http://rebinds.test:{port}/hold&between=100");
    let prohibited = fails("ErrorCode::DestinationIpProhibited");
    // The connector looks at the file every second.
    let _ = wait_for(
        PATIENCE,
        "the name to lead elsewhere",
        || {
            let mut client = skep.client();
            client
                .send(format!("GET /?url={url} HTTP/1.1\r\nhost: a\r\n\r\n"))
                .unwrap();
            let status = client.head().unwrap().status;
            (status, client.piece().map(String::from_utf8))
        },
        |(status, text)| matches!(text, Ok(Ok(text)) if (*status, text.trim()) == (prohibited.0, &prohibited.1)),
    );
    let accepted = web.accepted();
    assert_eq!(fetch(&skep, "a", &url), prohibited);
    assert_eq!(web.accepted(), accepted);
    skep.wait_for_log("denied-address");
}

/// A server of TLS that says `hello`, and the certificate of its authority.
fn tls_server(name: &str) -> (u16, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::PrivateKeyDer;

    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream.unwrap());
            // Whoever does not trust us says nothing.
            if matches!(stream.read(&mut [0; 4096]), Ok(read) if read > 0) {
                let hello = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                let _ = stream.write_all(hello).and_then(|()| stream.flush());
            }
        }
    });
    (port, root)
}

#[test]
fn over_tls_the_machines_own_roots_decide() {
    let (port, root) = tls_server("localhost");
    let (stranger, _) = tls_server("localhost");
    let grants = "outbound = [\"https://localhost:*\", \"https://127.0.0.1:*\"]";
    let config = format!("{}{}", pool(1), app("a", "fetch", grants));
    let dir = directory();
    let roots = InPlace::new(&dir, "/etc/ssl/certs/ca-certificates.crt", &root);
    let Some(skep) = with_file(&dir, &config, &roots) else {
        return;
    };
    let at = |host: &str, port| format!("https://{host}:{port}/");
    assert_eq!(fetch(&skep, "a", &at("localhost", port)), hello());
    let untrusted = fails("ErrorCode::TlsCertificateError");
    assert_eq!(fetch(&skep, "a", &at("localhost", stranger)), untrusted);
    assert_eq!(fetch(&skep, "a", &at("127.0.0.1", port)), untrusted);
}
