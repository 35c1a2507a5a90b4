//! Answers before the body has come: the client gets its answer, and knows
//! what becomes of its connection.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use skep_tests::http::Address;
use skep_tests::options::directory;
use skep_tests::{Client, Skep, pause, wait_for};

use crate::connections::several;
use crate::deploys::tcp;
use crate::{app, pool};

fn expecting(version: &str, target: &str, length: usize) -> String {
    format!(
        "POST {target} HTTP/{version}\r\nhost: a\r\ncontent-length: {length}\r\n\
         expect: 100-continue\r\n\r\n"
    )
}

#[test]
fn who_expects_to_be_asked_for_the_body_is_asked_when_somebody_wants_it() {
    let skep = several("", "max_body = 100");
    // A guest that reads first, and one that answers first.
    for target in ["/e/upload", "/e/x"] {
        let mut client = skep.client();
        client.patience(Duration::from_secs(2)).unwrap();
        client.send(expecting("1.1", target, 5)).unwrap();
        let began = Instant::now();
        let head = client.head().map(|head| head.status);
        assert_eq!(head, Ok(100), "{target}");
        assert!(began.elapsed() < Duration::from_millis(800), "{target}");
        client.send("hello").unwrap();
        let response = client.response().unwrap();
        assert_eq!(response.status(), 200, "{target}");
        assert!(response.text().contains(['5', 'h']), "{}", response.text());
    }
    // Without a body, and in HTTP/1.0, nobody is asked.
    let mut client = skep.client();
    client
        .send("GET /e/status/200 HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut client = skep.client();
    client
        .send(expecting("1.0", "/e/upload", 3) + "foo")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
}

#[test]
fn who_expects_to_be_asked_for_the_body_hears_at_once_that_nobody_wants_it() {
    let skep = several("", "max_body = 100");
    for (target, length, status) in [
        ("/e/upload", 5000, 413),
        ("/nowhere", 5, 404),
        ("/hello", 500_000, 200),
        ("/hello", 5, 200),
    ] {
        let mut client = skep.client();
        client.patience(Duration::from_secs(2)).unwrap();
        client.send(expecting("1.1", target, length)).unwrap();
        let head = client.head().unwrap();
        assert_eq!(head.status, status, "{target}");
        while !client.piece().unwrap().is_empty() {}
        // The body may still come, or the next request: who cannot tell says
        // that it closes.
        if head.closes() {
            continue;
        }
        let _ = client.send(vec![b'x'; length]);
        let next = client.get("/hello").map(|response| response.status());
        assert_eq!(next, Ok(200), "after {target}, {length} bytes");
    }
}

/// Sends so many POSTs on kept-alive connections, each body a while after its
/// head, and returns what went wrong.
fn pausing(address: &Address, target: &str, status: u16, gap: Duration, times: u32) -> String {
    let body = "x".repeat(100);
    let mut kept: Option<Client> = None;
    let mut wrong = String::new();
    for number in 0..times {
        let again = kept.is_some();
        let mut client = kept
            .take()
            .unwrap_or_else(|| Client::connect(address).unwrap());
        client.patience(Duration::from_secs(3)).unwrap();
        let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n");
        let response = client
            .send(head)
            .and_then(|()| {
                pause(gap);
                client.send(&body)
            })
            .and_then(|()| client.response());
        match response {
            Ok(response) if response.status() == status => {
                kept = (!response.head.closes()).then_some(client);
            }
            other => {
                let kept = if again { "a kept" } else { "a new" };
                let _ = writeln!(
                    wrong,
                    "{target}, {gap:?}, {number} on {kept} one: {other:?}"
                );
            }
        }
    }
    wrong
}

/// Answers that do not wait for a body.
const EARLY: [(&str, u16); 4] = [
    ("/hello", 200),
    ("/nowhere", 404),
    ("/e/x", 413),
    ("/limited", 429),
];

fn early() -> Skep {
    let skep = Skep::config(&format!(
        "{}{}{}{}",
        pool(1),
        app("echo", "echo", "routes = [\"/e/*\"]\nmax_body = 50"),
        app("hello", "hello", "routes = [\"/hello\"]"),
        app(
            "limited",
            "hello",
            "routes = [\"/limited\"]\nrate = \"1/h\""
        ),
    ));
    assert_eq!(skep.client().get("/limited").unwrap().status(), 200);
    skep
}

#[test]
fn a_client_that_pauses_before_its_body_loses_neither_answer_nor_next_request() {
    let skep = early();
    let address = skep.address();
    let wrong: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = EARLY
            .iter()
            .flat_map(|of| [2, 20].map(|gap| (of, Duration::from_millis(gap))))
            .map(|((target, status), gap)| {
                let address = &address;
                scope.spawn(move || pausing(address, target, *status, gap, 60))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let wrong = wrong.concat();
    assert!(
        wrong.is_empty(),
        "{} were lost:\n{wrong}",
        wrong.lines().count()
    );
}

#[test]
fn a_large_upload_that_is_answered_early_always_gets_its_answer() {
    let skep = early();
    let address = skep.address();
    let body = vec![b'x'; 3_000_000];
    let mut wrong = String::new();
    for (target, status) in EARLY {
        for _ in 0..15 {
            // Everything first, as most libraries do.
            let mut client = Client::connect(&address).unwrap();
            client.patience(Duration::from_secs(3)).unwrap();
            let answer = client.post(target, &body).map(|response| response.status());
            if answer != Ok(status) {
                let _ = writeln!(wrong, "{target}, read at last: {answer:?}");
            }
            // And who looks meanwhile, as curl does.
            let mut client = Client::connect(&address).unwrap();
            client.patience(Duration::from_secs(3)).unwrap();
            let head = "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n";
            client.send(head.replace("{}", target)).unwrap();
            let mut sender = client.sender().unwrap();
            let body = &body;
            let answer = thread::scope(|scope| {
                // It need not take all of it.
                scope.spawn(move || std::io::Write::write_all(&mut sender, body));
                client.response().map(|response| response.status())
            });
            if answer != Ok(status) {
                let _ = writeln!(wrong, "{target}, read meanwhile: {answer:?}");
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} were lost:\n{wrong}",
        wrong.lines().count()
    );
}

/// nginx in front of skep, in a directory of its own.
struct Nginx {
    child: Child,
    address: Address,
}

impl Nginx {
    /// Starts it; `None` where there is none, which in CI is a failure.
    #[expect(clippy::print_stdout, reason = "skipping must not go unseen")]
    fn before(skep: &Skep, dir: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (here, there) = (dir.display(), tcp(skep));
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/errors;\n\
             events {{}}\nhttp {{\naccess_log off; client_max_body_size 10m;\n\
             client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
             fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
             upstream skep {{ server {there}; keepalive 8; }}\n\
             server {{ listen 127.0.0.1:{port};\nlocation / {{ proxy_pass http://skep;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-e")
            .arg(dir.join("errors"))
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            assert!(
                std::env::var_os("CI").is_none_or(|value| value.is_empty() || value == "false"),
                "CI has nginx"
            );
            println!("there is no nginx: skipped");
            return None;
        };
        let address = Address::Tcp(([127, 0, 0, 1], port).into());
        let nginx = Self { child, address };
        wait_for(
            Duration::from_secs(10),
            "nginx to listen",
            || Client::connect(&nginx.address).err(),
            Option::is_none,
        );
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn behind_nginx_no_upload_that_is_answered_early_is_a_bad_gateway() {
    let skep = early();
    let dir = directory();
    let Some(nginx) = Nginx::before(&skep, dir.path()) else {
        return;
    };
    let body = vec![b'x'; 900_000];
    let post = |(target, status): (&str, u16)| {
        let answer = Client::connect(&nginx.address)
            .and_then(|mut client| {
                client.patience(Duration::from_secs(3))?;
                client.post(target, &body)
            })
            .map(|response| response.status());
        (answer != Ok(status)).then(|| format!("{target}: {answer:?}\n"))
    };
    let lost: Vec<_> = EARLY
        .iter()
        .cycle()
        .take(120)
        .filter_map(|of| post(*of))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of 120 were lost:\n{}",
        lost.len(),
        lost.concat()
    );
}
