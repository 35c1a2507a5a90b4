use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

use super::*;

/// A status that stands for silence.
const SILENT: u16 = 0;

/// A web server that answers one request with each status, in order.
pub(in crate::roles::alerter) struct Server {
    address: SocketAddr,
    requests: Receiver<(String, String)>,
}

impl Server {
    pub(in crate::roles::alerter) fn start(statuses: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (served, requests) = channel();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let patience = Some(Duration::from_secs(20));
                stream.set_read_timeout(patience).unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert_ne!(reader.read_line(&mut head).unwrap(), 0);
                }
                head.make_ascii_lowercase();
                let (_, length) = head.split_once("content-length: ").unwrap();
                let (length, _) = length.split_once('\r').unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                let _ = served.send((head, String::from_utf8(body).unwrap()));
                if status == SILENT {
                    silent.push(stream);
                } else {
                    let head = format!(
                        "HTTP/1.1 {status} So\r\nlocation: /\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                }
            }
            // Whoever waits for the silent ones has a deadline of its own.
            let _ = listener.accept();
        });
        Self { address, requests }
    }

    pub(in crate::roles::alerter) fn url(&self) -> String {
        format!("http://{}/hook?secret=1", self.address)
    }

    /// Bodies of the requests that were answered since the last time.
    pub(in crate::roles::alerter) fn bodies(&self) -> Vec<String> {
        self.requests.try_iter().map(|(_, body)| body).collect()
    }
}

const EVENT: &str = "{\"name\":\"pool.tripped\"}";

fn deliver(server: &Server, timeout: Duration) -> (Result<u32, String>, Vec<Duration>) {
    let webhook = Webhook::with_timeout(&server.url(), timeout).unwrap();
    let pauses = RefCell::new(Vec::new());
    let result = webhook.deliver(EVENT, || 1.0, |length| pauses.borrow_mut().push(length));
    (result, pauses.into_inner())
}

const PATIENT: Duration = Duration::from_secs(20);

#[test]
fn an_alert_is_posted_until_it_is_taken() {
    let server = Server::start(vec![500, 503, 200]);
    let (result, pauses) = deliver(&server, PATIENT);
    assert_eq!(result, Ok(3));
    assert_eq!(pauses, [1, 2].map(Duration::from_secs));
    let requests: Vec<_> = server.requests.try_iter().collect();
    assert_eq!(requests.len(), 3);
    for (head, body) in requests {
        assert!(
            head.starts_with("post /hook?secret=1 http/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains("\r\ncontent-type: application/json\r\n"),
            "{head}"
        );
        let agent = format!("\r\nuser-agent: skep/{}\r\n", env!("CARGO_PKG_VERSION"));
        assert!(head.contains(&agent), "{head}");
        assert_eq!(body, EVENT);
    }
}

#[test]
fn what_cannot_get_better_is_given_up_at_once() {
    for status in [400, 401, 404, 410, 413] {
        let (result, pauses) = deliver(&Server::start(vec![status]), PATIENT);
        assert_eq!(result, Err(format!("the webhook answers {status}")));
        assert!(pauses.is_empty());
    }
    let (result, _) = deliver(&Server::start(vec![302]), PATIENT);
    assert!(result.unwrap_err().ends_with("to where that leads"));
}

#[test]
fn what_asks_for_patience_gets_it() {
    let (result, pauses) = deliver(&Server::start(vec![429, 408, 204]), PATIENT);
    assert_eq!(result, Ok(3));
    assert_eq!(pauses.len(), 2);
}

#[test]
fn a_receiver_that_never_answers_is_given_up_in_the_end() {
    let server = Server::start(vec![SILENT; ATTEMPTS as usize]);
    let (result, pauses) = deliver(&server, Duration::from_millis(100));
    let reason = result.unwrap_err();
    assert!(reason.contains("timeout"), "{reason}");
    assert!(reason.ends_with("the last of 8 times"), "{reason}");
    assert!(!reason.contains("secret"), "{reason}");
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60].map(Duration::from_secs));
}

#[test]
fn a_receiver_that_is_not_there_is_tried_as_often() {
    // Bound and closed: nobody else gets it so soon.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    for url in [
        format!("http://{}/secret", address.unwrap()),
        "https://127.0.0.1:1/secret".to_owned(),
    ] {
        let webhook = Webhook::new(&url).unwrap();
        let count = RefCell::new(0);
        let result = webhook.deliver(EVENT, || 0.0, |_| *count.borrow_mut() += 1);
        let reason = result.unwrap_err();
        assert!(reason.contains("refused"), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
        assert_eq!(count.into_inner(), ATTEMPTS - 1);
    }
}

#[test]
fn a_receiver_that_speaks_no_tls_is_told_so_and_no_panic() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/secret", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for _ in 0..ATTEMPTS {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let reason = Webhook::new(&url)
        .unwrap()
        .deliver(EVENT, || 0.0, |_| ())
        .unwrap_err();
    assert!(reason.ends_with("the last of 8 times"), "{reason}");
    assert!(!reason.contains("secret"), "{reason}");
}

#[test]
fn only_the_web_has_webhooks() {
    for url in ["", "ftp://a/", "/hook", "http://", "a b"] {
        assert!(Webhook::new(url).is_err(), "{url}");
    }
    assert!(Webhook::new("https://hooks.example.com/services/T0").is_ok());
}

#[test]
fn pauses_double_up_to_a_minute_and_are_cut_by_half_at_most() {
    assert_eq!(pause_after(1, 0.0), Duration::from_millis(500));
    assert_eq!(pause_after(3, 1.0), Duration::from_secs(4));
    assert_eq!(pause_after(7, 1.0), LONGEST_PAUSE);
    assert_eq!(pause_after(u32::MAX, 2.0), LONGEST_PAUSE);
}
