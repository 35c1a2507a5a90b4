//! What guests reach outside, and what they do not.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use skep_tests::options::{Options, directory};
use skep_tests::{Skep, binary, wait_for};

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

/// A name server that says one address and then another.
struct NameServer {
    asked: Arc<AtomicU32>,
}

/// An address of this machine that no name server uses.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 83, 75, 53);

impl NameServer {
    /// `first` once, `then` from then on, for every name.
    fn start(first: Ipv4Addr, then: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut question = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut question).unwrap();
                let name = question[12..length].iter().position(|byte| *byte == 0);
                let end = 12 + name.unwrap() + 5;
                let wants_v4 = question[end - 3] == 1;
                let mut answer = vec![question[0], question[1], 0x81, 0x80, 0, 1];
                answer.extend([0, u8::from(wants_v4), 0, 0, 0, 0]);
                answer.extend(&question[12..end]);
                if wants_v4 {
                    let turn = count.fetch_add(1, SeqCst);
                    let address = if turn == 0 { first } else { then };
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                    answer.extend(address.octets());
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { asked }
    }
}

/// A skep that sees other files in these places; or not, where this user may
/// not do that.
fn with_files(config: &str, files: &[(&str, &str)]) -> Option<Skep> {
    let may = Command::new("unshare").args(["-m", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        return None;
    }
    let dir = directory();
    let mut script = "#!/bin/sh\nset -e\n".to_owned();
    for (index, (place, text)) in files.iter().enumerate() {
        let file = dir.path().join(format!("file-{index}"));
        std::fs::write(&file, text).unwrap();
        script.push_str(&format!("mount --bind '{}' {place}\n", file.display()));
    }
    script.push_str(&format!("exec '{}' \"$@\"\n", binary().display()));
    let inner = dir.path().join("inner");
    executable(&inner, &script);
    let outer = dir.path().join("outer");
    let enter = format!("#!/bin/sh\nexec unshare -m '{}' \"$@\"\n", inner.display());
    executable(&outer, &enter);
    Some(Options::config(config).binary(&outer).in_dir(&dir).start())
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_name_that_leads_elsewhere_a_moment_later_leads_nowhere() {
    let web = Web::at("0.0.0.0:0");
    let port = web.port;
    let config = format!(
        "{}{}",
        pool(1),
        app(
            "a",
            "fetch",
            &format!("outbound = [\"http://rebinds.test:{port}\", \"http://127.0.0.2:{port}\"]")
        ),
    );
    let resolv = format!("nameserver {NAME_SERVER}\n");
    let Some(skep) = with_files(&config, &[("/etc/resolv.conf", &resolv)]) else {
        eprintln!("skipped: only root can give skep another name server");
        return;
    };
    let names = NameServer::start(Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST);
    // A half answer: its connection cannot be used again.
    let mut first = skep.client();
    first
        .send(format!(
            "GET /?url=http://rebinds.test:{port}/hold HTTP/1.1\r\nhost: a\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(first.head().unwrap().status, 200);
    let second = fetch(&skep, "a", &format!("http://rebinds.test:{port}/"));
    assert_eq!(second, fails("ErrorCode::DestinationIpProhibited"));
    assert_eq!(web.accepted(), 1);
    assert!(names.asked.load(SeqCst) >= 2);
    skep.wait_for_log("denied-address");
}
