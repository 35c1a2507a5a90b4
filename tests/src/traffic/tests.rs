//! Servers that misbehave on purpose, and count how often they did: the report
//! must find exactly that.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use super::{Class, Kind, Mix, Report, Traffic};
use crate::wait::wait_for;

const DEADLINE: Duration = Duration::from_secs(60);

/// One request of so many is not answered as it should be.
const ONE_OF: u64 = 100;

/// What a server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Answer,
    /// Says a revision.
    AnswerAs(u64),
    Status(u16),
    /// Answers, announces that it closes, and does.
    AnswerAndClose,
    /// Answers and closes without a word.
    AnswerAndVanish,
    /// Closes without having read the request, which resets.
    Reset,
    /// Reads the request and closes.
    Vanish,
    /// Closes within the head of the response.
    HalfHead,
    /// Closes after the head of the response.
    HalfBody,
    /// Never answers.
    Silence,
}

/// An HTTP/1.1 server that does what it is told.
struct Server {
    address: SocketAddr,
    /// Requests on which it did what it does to one of so many.
    misdeeds: Arc<AtomicU64>,
}

impl Server {
    /// Does `act` to one request of `one_of`, and answers the others.
    fn start(one_of: u64, act: Act) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self::on(listener, one_of, act)
    }

    fn on(listener: TcpListener, one_of: u64, act: Act) -> Self {
        let server = Self {
            address: listener.local_addr().unwrap(),
            misdeeds: Arc::default(),
        };
        let requests = Arc::new(AtomicU64::new(0));
        let misdeeds = Arc::clone(&server.misdeeds);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (requests, misdeeds) = (Arc::clone(&requests), Arc::clone(&misdeeds));
                thread::spawn(move || {
                    // What a client that is gone makes of it is not asked.
                    let _ = serve(&stream.unwrap(), |()| {
                        let number = requests.fetch_add(1, Relaxed) + 1;
                        if number.is_multiple_of(one_of) {
                            misdeeds.fetch_add(1, Relaxed);
                            act
                        } else {
                            Act::Answer
                        }
                    });
                });
            }
        });
        server
    }

    fn misdeeds(&self) -> u64 {
        self.misdeeds.load(Relaxed)
    }
}

/// Serves one connection. Requests have no body, and come one at a time.
fn serve(mut stream: &TcpStream, mut act: impl FnMut(()) -> Act) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let length = stream.peek(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let end = buffer[..length]
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .expect("a client writes a head at once")
            + 4;
        let act = act(());
        if act == Act::Reset {
            return Ok(()); // Closed with unread bytes, it is reset.
        }
        stream.read_exact(&mut buffer[..end])?;
        let mut answer = |status: u16, fields: &str| {
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 3\r\n{fields}\r\nabc");
            stream.write_all(text.as_bytes())
        };
        match act {
            Act::Answer => answer(200, "x-revision: 1\r\n")?,
            Act::AnswerAs(revision) => answer(200, &format!("x-revision: {revision}\r\n"))?,
            Act::Status(status) => answer(status, "")?,
            Act::AnswerAndClose => {
                return answer(200, "x-revision: 1\r\nconnection: close\r\n");
            }
            Act::AnswerAndVanish => return answer(200, "x-revision: 1\r\n"),
            Act::Reset | Act::Vanish => return Ok(()),
            Act::HalfHead => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le"),
            Act::HalfBody => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab");
            }
            Act::Silence => {
                // Until the client has lost patience.
                return stream.read(&mut buffer).map(drop);
            }
        }
    }
}

/// Only HTTP/1.1, as few clients as show everything.
fn h1() -> Mix {
    Mix {
        kept_alive_h1: 4,
        kept_alive_h2: 0,
        new_h1: 2,
        new_h2: 0,
        ..Mix::default()
    }
}

/// Only HTTP/2.
fn h2() -> Mix {
    Mix {
        kept_alive_h1: 0,
        kept_alive_h2: 4,
        new_h1: 0,
        new_h2: 2,
        ..Mix::default()
    }
}

/// Asks until so many requests have ended.
fn ask(address: SocketAddr, mix: Mix, requests: u64) -> Report {
    let traffic = Traffic::start(address, mix);
    traffic.revisions().begin(1);
    wait_for(
        DEADLINE,
        "the requests",
        || traffic.ended(),
        |ended| *ended >= requests,
    );
    let report = traffic.finish();
    assert_eq!(report.begun, report.ended(), "{report}");
    assert!(report.ended() >= requests, "{report}");
    report
}

/// That all failures are of this class, and as many as the server knows of.
fn only(report: &Report, class: Class, misdeeds: u64) {
    assert!(misdeeds > 0);
    assert_eq!(report.count(class), misdeeds, "{report}");
    assert_eq!(report.failed(), misdeeds, "{report}");
    assert_eq!(report.ok(), report.ended() - misdeeds, "{report}");
    assert_eq!(report.failures.len(), misdeeds.min(50) as usize);
    assert!(report.failures.iter().all(|failure| failure.class == class));
    assert!(report.failures.is_sorted_by_key(|failure| failure.began));
}

/// What a report says of a server that does `act` to one request of a hundred.
fn finds(act: Act, class: Class) -> Report {
    let server = Server::start(ONE_OF, act);
    let report = ask(server.address, h1(), 5_000);
    only(&report, class, server.misdeeds());
    report
}

#[test]
fn a_server_that_keeps_its_word_gets_a_clean_report() {
    let server = Server::start(u64::MAX, Act::Answer);
    let report = ask(server.address, h1(), 2_000);
    report.assert_clean();
    assert_eq!(report.revisions[&1], report.ok());
    assert_eq!(
        report.connections,
        4 + report.count_of(Class::Ok, Kind::NewH1),
        "{report}"
    );
    assert_eq!((report.reconnects, report.polite_closes), (0, 0));
    let spread = report.latencies.all();
    assert_eq!(spread.count() as u64, report.ok());
    assert!(spread.p50() <= spread.p99() && spread.p99() <= spread.max());
    let text = report.to_string();
    for words in [" 0 failed", "h1 kept", "responses by revision: 1: ", "p99 "] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn resets_are_found() {
    finds(Act::Reset, Class::Reset);
}

#[test]
fn requests_that_were_read_and_never_answered_are_lost() {
    let report = finds(Act::Vanish, Class::Lost);
    assert_eq!(report.reconnects, 0, "{report}");
}

#[test]
fn responses_that_are_not_whole_are_cut() {
    finds(Act::HalfHead, Class::Cut);
    let report = finds(Act::HalfBody, Class::Cut);
    let text = report.to_string();
    assert!(text.contains("2 bytes of the body"), "{text}");
}

#[test]
fn other_statuses_are_failures() {
    finds(Act::Status(503), Class::Status(503));
}

#[test]
fn answers_by_a_revision_that_never_began_are_wrong() {
    let report = finds(Act::AnswerAs(7), Class::WrongRevision);
    assert_eq!(report.revisions[&7], report.count(Class::WrongRevision));
}

#[test]
fn answers_by_a_revision_that_has_ended_are_wrong() {
    let server = Server::start(u64::MAX, Act::Answer);
    let traffic = Traffic::start(server.address, h1());
    traffic.revisions().begin(1);
    let many = |more: u64| {
        let from = traffic.ended();
        wait_for(
            DEADLINE,
            "more requests",
            || traffic.ended(),
            |ended| *ended >= from + more,
        );
    };
    many(500);
    traffic.report_now().assert_clean();
    traffic.revisions().begin(2);
    many(500);
    traffic.report_now().assert_clean();
    let ended = Instant::now();
    traffic.revisions().end(1);
    many(500);
    let report = traffic.finish();
    // All that began since are wrong; six may have begun before.
    let wrong = report.count(Class::WrongRevision);
    assert!(wrong >= 500 - 6, "{report}");
    assert_eq!(report.failed(), wrong, "{report}");
    assert!(report.failures.iter().all(|failure| failure.began >= ended));
}

#[test]
fn a_server_that_is_not_there_yet_refuses() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let traffic = Traffic::start(address, h1());
    let refused = wait_for(
        DEADLINE,
        "refusals",
        || traffic.ended(),
        |refused| *refused >= 50,
    );
    let listening = Instant::now();
    let listener = TcpListener::bind(address).unwrap();
    Server::on(listener, u64::MAX, Act::Answer);
    wait_for(
        DEADLINE,
        "answers",
        || traffic.ended(),
        |ended| *ended >= refused + 500,
    );
    let report = traffic.finish();
    only(&report, Class::Refused, report.count(Class::Refused));
    assert!(report.ok() > 0, "{report}");
    assert!(report.count(Class::Refused) >= 50, "{report}");
    let after = report.failures.iter();
    let after = after.filter(|failure| failure.began > listening);
    assert_eq!(after.count(), 0, "{report}");
}

#[test]
fn requests_that_are_never_answered_time_out() {
    let server = Server::start(ONE_OF, Act::Silence);
    let mix = Mix {
        patience: Duration::from_millis(500),
        ..h1()
    };
    let report = ask(server.address, mix, 1_000);
    only(&report, Class::Timeout, server.misdeeds());
}

#[test]
fn an_announced_close_is_polite() {
    let server = Server::start(10, Act::AnswerAndClose);
    let mix = Mix { new_h1: 0, ..h1() };
    let report = ask(server.address, mix, 2_000);
    report.assert_clean();
    assert_eq!(report.polite_closes, server.misdeeds(), "{report}");
    assert_eq!(report.reconnects, 0, "{report}");
}

#[test]
fn an_idle_connection_that_is_found_closed_is_no_failure() {
    let server = Server::start(5, Act::AnswerAndVanish);
    let mix = Mix {
        new_h1: 0,
        // Long after the server's FIN, which follows its answer at once.
        pause: Some(Duration::from_millis(200)),
        ..h1()
    };
    let report = ask(server.address, mix, 40);
    report.assert_clean();
    assert!(report.reconnects > 0, "{report}");
    // Clients that ended before they asked again did not find it closed.
    assert!(report.reconnects <= server.misdeeds(), "{report}");
    assert!(report.reconnects + 4 >= server.misdeeds(), "{report}");
    assert_eq!(report.polite_closes, 0, "{report}");
    assert!(report.took >= Duration::from_secs(1), "it was not paced");
}

/// What an HTTP/2 server does to one request of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act2 {
    Answer,
    /// Answers, and ends the connection as hyper does when told to.
    Goaway,
    /// Resets the stream.
    ResetStream,
    /// Drops the connection with the request under way.
    Vanish,
}

/// Starts one; returns where, and its count.
fn h2_server(one_of: u64, act: Act2) -> (SocketAddr, Arc<AtomicU64>) {
    let (tell, told) = mpsc::channel();
    let misdeeds = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&misdeeds);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let listener = listener.await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let requests = Arc::new(AtomicU64::new(0));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (requests, count) = (Arc::clone(&requests), Arc::clone(&count));
                tokio::spawn(h2_connection(stream, requests, count, one_of, act));
            }
        });
    });
    (told.recv().unwrap(), misdeeds)
}

async fn h2_connection(
    stream: tokio::net::TcpStream,
    requests: Arc<AtomicU64>,
    misdeeds: Arc<AtomicU64>,
    one_of: u64,
    act: Act2,
) {
    let end = Arc::new(Notify::new());
    let ending = Arc::clone(&end);
    let served = AtomicU64::new(0);
    let service = service_fn(move |_: Request<Incoming>| {
        let number = requests.fetch_add(1, Relaxed) + 1;
        // Before its second request the server may not have read all that a
        // client says at first, and a close would be a reset.
        let too_soon = served.fetch_add(1, Relaxed) == 0 && act == Act2::Vanish;
        let act = if number.is_multiple_of(one_of) && !too_soon {
            misdeeds.fetch_add(1, Relaxed);
            act
        } else {
            Act2::Answer
        };
        let end = Arc::clone(&ending);
        async move {
            match act {
                Act2::Answer => {}
                Act2::Goaway => end.notify_one(),
                Act2::ResetStream => return Err("no"),
                Act2::Vanish => {
                    end.notify_one();
                    std::future::pending::<Infallible>().await;
                }
            }
            let response = Response::builder().header("x-revision", 1);
            Ok(response
                .body(Full::new(Bytes::from_static(b"abc")))
                .unwrap())
        }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = end.notified() => {}
    }
    if act == Act2::Goaway {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

#[test]
fn a_goaway_is_polite_and_loses_nothing() {
    let (address, goaways) = h2_server(20, Act2::Goaway);
    let mix = Mix { new_h2: 0, ..h2() };
    let report = ask(address, mix, 5_000);
    report.assert_clean();
    assert_eq!(report.reconnects, 0, "{report}");
    let goaways = goaways.load(Relaxed);
    // A connection's client may have ended before it saw the last one; one
    // connection may be told twice to go.
    assert!(report.polite_closes <= goaways, "{report}");
    assert!(report.polite_closes >= goaways / 2, "{report} of {goaways}");
}

#[test]
fn reset_streams_are_found() {
    let (address, misdeeds) = h2_server(ONE_OF, Act2::ResetStream);
    let report = ask(address, h2(), 3_000);
    only(&report, Class::Reset, misdeeds.load(Relaxed));
}

#[test]
fn requests_on_a_vanishing_h2_connection_are_lost() {
    let (address, misdeeds) = h2_server(ONE_OF, Act2::Vanish);
    let report = ask(address, h2(), 3_000);
    only(&report, Class::Lost, misdeeds.load(Relaxed));
}
