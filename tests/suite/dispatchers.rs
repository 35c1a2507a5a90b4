//! What clients of a listener with several pools may rely on, and what comes of
//! a dispatcher or a connector that hangs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use skep_core::ExitReason;
use skep_tests::http::Address;
use skep_tests::wait::settles;
use skep_tests::{Client, Skep, guest, process, wait_for};

use crate::{app, pool};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Within which requests are served again that a hung process held up: the ten
/// seconds for which it may give no sign of life, and what it takes to notice
/// and to replace it.
const MENDED: Duration = Duration::from_secs(15);

/// Two pools on one listener.
fn two_pools() -> Skep {
    let echo = guest("echo");
    // Longer than a hung process is waited for: connections rest meanwhile.
    let mut config =
        "[listener.web]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"60s\"\n".to_owned();
    for tenant in ["ant", "bee"] {
        config += &format!(
            "[tenant.{tenant}]\nisolation = \"dedicated\"\n[pool.{tenant}]\nworkers = 1\n\
             [app.{tenant}-app]\ncomponent = {echo:?}\ntenant = \"{tenant}\"\n\
             routes = [\"{tenant}.example/*\"]\n"
        );
    }
    Skep::config(&config)
}

fn connect(skep: &Skep) -> TcpStream {
    let Address::Tcp(address) = skep.address() else {
        panic!("the listener is no TCP address");
    };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
const ACKNOWLEDGED: &[u8] = &[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];

/// A request for `/info` of this host, on stream 1.
fn stream(host: &str) -> Vec<u8> {
    let mut block = b"\x82\x86\x04\x05/info\x01".to_vec();
    block.push(u8::try_from(host.len()).unwrap());
    block.extend_from_slice(host.as_bytes());
    let length = u8::try_from(block.len()).unwrap();
    let mut frame = vec![0, 0, length, 1, 5, 0, 0, 0, 1];
    frame.append(&mut block);
    frame
}

/// The next frame: its type, its flags, its payload.
fn frame(socket: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    socket.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).unwrap();
    (head[3], head[4], payload)
}

/// What stream 1 is answered, by a server whose SETTINGS are acknowledged as
/// they come.
fn answer(socket: &mut TcpStream) -> String {
    let mut body = Vec::new();
    loop {
        let (kind, flags, payload) = frame(socket);
        match kind {
            0 => body.extend(payload),
            SETTINGS if flags & 1 == 0 => socket.write_all(ACKNOWLEDGED).unwrap(),
            3 | 7 => panic!("cut: {kind} {payload:?}"),
            _ => {}
        }
        if kind <= 1 && flags & 1 != 0 {
            return String::from_utf8(body).unwrap();
        }
    }
}

/// gRPC's clients and haproxy's `proto h2` say nothing before they have the
/// server's SETTINGS.
#[test]
fn a_client_of_http2_that_waits_for_settings_gets_them() {
    let skep = two_pools();
    for (host, other) in [("ant.example", "bee"), ("bee.example", "ant")] {
        for pieces in [1, 5, 24] {
            let mut socket = connect(&skep);
            for piece in PREFACE.chunks(24 / pieces) {
                socket.write_all(piece).unwrap();
            }
            let began = Instant::now();
            let (kind, flags, _) = frame(&mut socket);
            assert_eq!((kind, flags), (SETTINGS, 0));
            assert!(began.elapsed() < Duration::from_secs(2));
            // One that acknowledges first, and one that asks first.
            socket.write_all(EMPTY_SETTINGS).unwrap();
            if pieces == 1 {
                socket.write_all(ACKNOWLEDGED).unwrap();
                socket.write_all(&stream(host)).unwrap();
            } else {
                socket.write_all(&stream(host)).unwrap();
                socket.write_all(ACKNOWLEDGED).unwrap();
            }
            let text = answer(&mut socket);
            assert!(text.contains(&format!("{}-app", &host[..3])), "{text}");
            assert!(!text.contains(&format!("{other}-app")), "{text}");
        }
    }
}

/// On a listener of several pools the connection goes back and forth, and each
/// begins to read it.
#[test]
fn a_connection_that_spoke_http1_never_becomes_http2() {
    let skep = two_pools();
    let late = [PREFACE, EMPTY_SETTINGS, &stream("bee.example")].concat();
    let first = "GET /info HTTP/1.1\r\nhost: ant.example\r\n\r\n";
    let second = "GET /info HTTP/1.1\r\nhost: bee.example\r\n\r\n";
    for requests in [first.to_owned(), format!("{first}{second}")] {
        let mut client = Client::connect(&skep.address()).unwrap();
        client.send(&requests).unwrap();
        for _ in requests.match_indices("GET") {
            assert_eq!(client.response().unwrap().status(), 200);
        }
        client.send(&late).unwrap();
        let rest = String::from_utf8_lossy(&client.rest().unwrap()).into_owned();
        assert!(rest.starts_with("HTTP/1.1 400 "), "{rest:?}");
        assert!(!rest.contains("bee-app"), "{rest:?}");
        // The same in one write.
        let mut socket = connect(&skep);
        socket
            .write_all(&[requests.as_bytes(), &late].concat())
            .unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        let all = String::from_utf8_lossy(&all);
        let wanted = requests.matches("GET").count();
        assert_eq!(all.matches("HTTP/1.1 200 OK").count(), wanted, "{all}");
        assert_eq!(all.matches("HTTP/1.1 400 ").count(), 1, "{all}");
        assert!(
            all.ends_with("400 Bad Request\n") || all.contains("request "),
            "{all}"
        );
    }
}

#[test]
fn a_client_that_is_refused_reads_why_while_it_sends() {
    let skep = two_pools();
    let mut socket = connect(&skep);
    socket.write_all(b"HELO there\r\n\r\n").unwrap();
    socket.peek(&mut [0]).unwrap();
    for _ in 0..10 {
        socket.write_all(&[b'x'; 10_000]).unwrap();
    }
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
}

/// Asks over a new connection, for so long at most.
fn is_served(skep: &Skep, host: &str, patience: Duration) -> bool {
    let Ok(mut client) = Client::connect(&skep.address()) else {
        return false;
    };
    let asked = client.patience(patience).and_then(|()| {
        client.send(format!("GET /info HTTP/1.1\r\nhost: {host}\r\n\r\n"))?;
        client.response()
    });
    asked.is_ok_and(|response| response.status() == 200)
}

#[test]
fn a_hung_dispatcher_is_killed_and_replaced() {
    let skep = two_pools();
    // A connection that rests with a worker. (One whose client mixes hosts rests
    // with the dispatcher, and goes with it.)
    let mut kept = Client::connect(&skep.address()).unwrap();
    let ask = |client: &mut Client, host: &str| {
        client.send(format!("GET /info HTTP/1.1\r\nhost: {host}\r\n\r\n"))?;
        client.response()
    };
    for _ in 0..3 {
        assert_eq!(ask(&mut kept, "ant.example").unwrap().status(), 200);
    }
    let hung = skep.status().dispatchers[0].process.pid.unwrap();
    let began = Instant::now();
    process::signal(hung, "STOP");
    let served = settles(
        MENDED,
        || is_served(&skep, "ant.example", Duration::from_secs(1)),
        |served| *served,
    );
    assert!(served, "after {:?}", began.elapsed());
    assert!(is_served(&skep, "bee.example", PATIENCE));
    assert!(!process::is_alive(hung));
    let dispatcher = skep.status().dispatchers.remove(0).process;
    assert_eq!(dispatcher.last_exit, Some(ExitReason::Hung));
    assert_eq!(dispatcher.restarts, 1);
    let line = skep.wait_for_log("dispatcher.exited");
    assert!(line.contains("hung"), "{line}");
    // What the one that hung had handed out is handed on by its successor.
    for host in ["bee.example", "ant.example"] {
        assert_eq!(ask(&mut kept, host).unwrap().status(), 200);
    }
}

#[test]
fn a_hung_connector_is_killed_and_replaced() {
    let lines = "outbound = [\"http://127.0.0.1\"]";
    let skep = Skep::config(&(pool(1) + &app("a", "hello", lines)));
    let connector = || skep.status().connector.unwrap();
    let serving = wait_for(PATIENCE, "a connector", connector, |connector| {
        connector.state == "serving"
    });
    let hung = serving.pid.unwrap();
    process::signal(hung, "STOP");
    let next = wait_for(MENDED, "its successor", connector, |connector| {
        connector.state == "serving" && connector.pid != Some(hung)
    });
    assert_eq!(next.last_exit, Some(ExitReason::Hung));
}

#[test]
fn an_idle_dispatcher_stays() {
    let skep = two_pools();
    let before = skep.status().dispatchers[0].process.pid;
    // Longer than one may give no sign of life.
    let until = Instant::now() + Duration::from_secs(12);
    wait_for(
        MENDED,
        "time to pass",
        || skep.status().dispatchers[0].process.pid,
        |pid| {
            assert_eq!(*pid, before);
            Instant::now() > until
        },
    );
    assert_eq!(skep.logged("dispatcher.exited"), 0);
}
