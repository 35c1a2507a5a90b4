//! HTTP/2 with clients that break its rules or use them to the full: what is
//! malformed is refused, and nobody holds more of a worker than is written
//! down.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use skep_tests::frames::{
    Closed, End, Frame, Frames, INITIAL_WINDOW, LARGEST_WINDOW, PREFACE, flag, head, kind,
};
use skep_tests::hpack::literal;
use skep_tests::http::Address;
use skep_tests::{Client, Failed, Skep, pause, process};

use crate::{app, pool};

/// Another client than the one at 127.0.0.1.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const SOON: Duration = Duration::from_secs(3);

const MIB: u64 = 1 << 20;

fn echo(listener: &str, lines: &str) -> Skep {
    Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n{listener}\n[pool.default]\nworkers = 1\n{}",
        app("a", "echo", lines)
    ))
}

fn unruly() -> Skep {
    let at = |path: &str| format!("routes = [\"{path}*\"]\nstrip_prefix = true");
    Skep::config(&format!(
        "{}{}{}",
        pool(1),
        app("two", "hostile-unruly", &at("/2/")),
        app("three", "hostile-unruly-p3", &at("/3/")),
    ))
}

/// Two dedicated tenants on one listener.
fn two_pools() -> Skep {
    let mut config = "[listener.web]\naddress = \"127.0.0.1:0\"\n".to_owned();
    for tenant in ["ant", "bee"] {
        let lines = format!("tenant = \"{tenant}\"\nroutes = [\"{tenant}.example/*\"]");
        config += &format!(
            "[tenant.{tenant}]\nisolation = \"dedicated\"\n[pool.{tenant}]\nworkers = 1\n{}",
            app(&format!("{tenant}-app"), "echo", &lines)
        );
    }
    Skep::config(&config)
}

/// The answer to one request with these further fields.
fn ask(
    address: &Address,
    target: [&str; 3],
    fields: &[(&str, &str)],
) -> skep_tests::frames::Answer {
    let mut frames = Frames::open(address, &[]).unwrap();
    frames.request(1, target, fields, true).unwrap();
    frames.answer(1)
}

#[test]
fn a_connection_that_is_not_read_costs_a_bounded_amount_of_memory() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "stream", "timeout = \"60s\"\ncpu = \"20s\"")
    ));
    let worker = skep.worker().pid;
    let before = process::anonymous(worker);
    let mut frames = Frames::open(&skep.address(), &[(INITIAL_WINDOW, LARGEST_WINDOW)]).unwrap();
    frames.window(0, LARGEST_WINDOW - 65_535).unwrap();
    for number in 0..1000 {
        frames.get(1 + 2 * number, "/?n=100000&every=0").unwrap();
    }
    let most = (0..30)
        .map(|_| {
            pause(Duration::from_millis(100));
            process::anonymous(worker)
        })
        .max()
        .unwrap();
    let grown = most.saturating_sub(before);
    assert!(grown < 24 * MIB, "it grew by {} KiB", grown / 1024);
    assert!(process::is_alive(worker));
}

#[test]
fn settings_come_before_the_first_request() {
    for (skep, authority) in [(echo("", ""), "localhost"), (two_pools(), "bee.example")] {
        let mut frames = Frames::open(&skep.address(), &[]).unwrap();
        let settings = |frame: &Frame| frame.kind == kind::SETTINGS && frame.flags == 0;
        assert!(
            frames.wait_for(Duration::from_secs(2), settings).is_some(),
            "no settings for {authority}"
        );
        frames
            .request(1, ["GET", authority, "/status/200"], &[], true)
            .unwrap();
        let answer = frames.answer(1);
        assert_eq!((answer.status, answer.end), (200, End::Whole), "{answer:?}");
    }
}

/// Asks so many times, once per connection, and returns how many were served
/// within two seconds.
fn served(address: &Address, path: &str, times: usize) -> usize {
    let asked = (0..times).map(|_| {
        let mut client = Client::connect(address)?;
        client.patience(Duration::from_secs(2))?;
        client.get(path).map(|response| response.status())
    });
    // Each that is not served costs two seconds: a few are enough to know.
    let mut unserved = 0;
    asked
        .take_while(|status: &Result<u16, Failed>| {
            unserved += usize::from(*status != Ok(200));
            unserved <= times / 20 + 1
        })
        .filter(|status| *status == Ok(200))
        .count()
}

#[test]
fn a_client_with_unread_streams_does_not_take_an_app() {
    let skep = echo("", "");
    let address = skep.address();
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut frames = Frames::from_peer(&address, GREEDY).unwrap();
        frames.begin(&[(INITIAL_WINDOW, 0)]).unwrap();
        for number in 0..128 {
            frames
                .get(1 + 2 * number, "/download?bytes=300000")
                .unwrap();
        }
        assert!(frames.is_alive(SOON));
        greedy.push(frames);
    }
    let served = served(&address, "/status/200", 40);
    assert!(served >= 38, "{served} of 40 were served");
}

#[test]
fn a_client_with_unread_connections_does_not_take_an_app() {
    let skep = echo("", "concurrency = 10\nqueue = 10\ncpu = \"10s\"");
    let address = skep.address();
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect_from(&address, GREEDY).unwrap();
        client
            .send("GET /download?bytes=50000000 HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        greedy.push(client);
    }
    skep.wait_for_status("the greedy to have come", |status| {
        status.workers[0].requests == 20
    });
    let served = served(&address, "/status/200", 40);
    assert!(served >= 38, "{served} of 40 were served");
}

#[test]
fn a_client_with_slow_uploads_does_not_take_an_app() {
    let skep = echo("", "concurrency = 10\nqueue = 10");
    let address = skep.address();
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect_from(&address, GREEDY).unwrap();
        client
            .send("POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
            .unwrap();
        greedy.push(client);
    }
    skep.wait_for_status("the greedy to have come", |status| {
        status.workers[0].requests == 20
    });
    let mut all = 0;
    for _ in 0..3 {
        for client in &mut greedy {
            // Those that were turned away are gone.
            let _ = client.send("x");
        }
        let some = served(&address, "/status/200", 20);
        all += some;
        if some < 19 {
            break;
        }
        pause(Duration::from_secs(1));
    }
    assert!(all >= 57, "{all} of 60 were served");
}

#[test]
fn a_rate_per_header_counts_what_the_guest_reads() {
    const TIMES: usize = 12;
    let rated = "rate = \"5/h per header X-Api-Key\"";
    let skep = Skep::config(&format!("{}{}", pool(2), app("a", "hello", rated)));
    let address = skep.address();
    let over_1 = |fields: &str| {
        let mut client = Client::connect(&address).unwrap();
        client
            .send(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
            .unwrap();
        client.response().unwrap().status()
    };
    let over_2 = |fields: &[(&str, &str)]| ask(&address, ["GET", "a", "/"], fields).status;
    let tries: [(&str, &dyn Fn(usize) -> u16); 8] = [
        ("as it should be", &|_| over_1("x-api-key: k0\r\n")),
        ("another value behind it", &|n| {
            over_1(&format!("x-api-key: k1\r\nx-api-key: {n}\r\n"))
        }),
        ("empty values behind it", &|n| {
            over_1(&format!("x-api-key: k2\r\n{}", "x-api-key:\r\n".repeat(n)))
        }),
        ("white space around it", &|n| {
            let (before, behind) = (" ".repeat(n), "\t".repeat(n));
            over_1(&format!("x-api-key:{before}k3{behind}\r\n"))
        }),
        ("over HTTP/2, white space behind it", &|n| {
            over_2(&[("x-api-key", &format!("k4{}", " ".repeat(n)))])
        }),
        ("over HTTP/2, white space before it", &|n| {
            over_2(&[("x-api-key", &format!("{}k5", "\t".repeat(n)))])
        }),
        ("over HTTP/2, another value behind it", &|n| {
            over_2(&[("x-api-key", "k6"), ("x-api-key", &n.to_string())])
        }),
        ("over both", &|n| match n % 2 {
            0 => over_1("X-API-Key: k7\r\n"),
            _ => over_2(&[("x-api-key", "k7")]),
        }),
    ];
    let mut wrong = String::new();
    for (name, one) in tries {
        let statuses: Vec<_> = (0..TIMES).map(one).collect();
        let let_in = statuses.iter().filter(|status| **status == 200).count();
        if let_in > 5 {
            let _ = writeln!(wrong, "{name}: {let_in} of {TIMES} were let in");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn made_up_keys_do_not_lock_customers_out() {
    const CONNECTIONS: usize = 2;
    const EACH: usize = 35_000;
    let rated = "rate = \"5/h per header X-Api-Key\"";
    let skep = Skep::config(&format!("{}{}", pool(2), app("a", "hello", rated)));
    let address = skep.address();
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let mut client = Client::connect_from(&address, GREEDY).unwrap();
            let mut sender = client.sender().unwrap();
            scope.spawn(move || {
                let mut text = String::new();
                for number in 0..EACH {
                    let _ = write!(
                        text,
                        "GET / HTTP/1.1\r\nhost: a\r\nx-api-key: {connection}-{number}\r\n\r\n"
                    );
                }
                text += "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                // It may be cut short: that is a defence too.
                let _ = std::io::Write::write_all(&mut sender, text.as_bytes());
            });
            scope.spawn(
                move || while client.response().is_ok_and(|answer| !answer.head.closes()) {},
            );
        }
    });
    for customer in 0..20 {
        let mut client = Client::connect(&address).unwrap();
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx-api-key: customer-{customer}\r\n\r\n"
            ))
            .unwrap();
        assert_eq!(client.response().unwrap().status(), 200, "{customer}");
    }
}

#[test]
fn the_parts_of_a_cookie_are_joined() {
    let skep = unruly();
    for path in ["/2/request", "/3/request"] {
        let crumbs = [
            ("cookie", "a=1"),
            ("x-between", "-"),
            ("cookie", "b=2; c=3"),
        ];
        let seen = ask(&skep.address(), ["GET", "a", path], &crumbs).text();
        let cookies: Vec<_> = seen
            .lines()
            .filter(|line| line.starts_with("cookie:"))
            .collect();
        assert_eq!(cookies, ["cookie: a=1; b=2; c=3"], "{seen}");
    }
}

#[test]
fn a_head_has_as_many_fields_as_over_http_1() {
    let skep = echo("max_headers = 40", "");
    for (fields, status) in [(36, 200), (41, 431), (900, 431)] {
        let many = vec![("a", ""); fields];
        let answer = ask(&skep.address(), ["GET", "a", "/status/200"], &many);
        assert_eq!(answer.status, status, "{fields} fields: {answer:?}");
    }
}

/// A POST of five bytes with these trailers.
fn with_trailers(address: &Address, trailers: &[u8]) -> skep_tests::frames::Answer {
    let mut frames = Frames::open(address, &[]).unwrap();
    frames
        .request(1, ["POST", "a", "/upload"], &[], false)
        .unwrap();
    frames.data(1, b"hello", false).unwrap();
    frames.block(1, trailers, true).unwrap();
    frames.answer_within(1, SOON)
}

#[test]
fn trailers_are_whole_or_refused() {
    let skep = echo("", "");
    let address = skep.address();
    let good = with_trailers(&address, &literal(b"x-t", b"1"));
    assert_eq!(good.status, 200);
    assert!(good.text().contains("\"x-t\":\"1\""), "{good:?}");
    let mut wrong = String::new();
    for (name, trailers) in [
        ("one too large", literal(b"x-t", &[b'v'; 40_000])),
        ("too many", literal(b"a", b"b").repeat(2000)),
        ("a pseudo-field", literal(b":path", b"/x")),
        ("a pseudo-field of responses", literal(b":status", b"200")),
        ("a name in capitals", literal(b"X-T", b"1")),
        (
            "a field of the connection",
            literal(b"connection", b"close"),
        ),
        ("a line break", literal(b"x-t", b"a\r\nb: c")),
    ] {
        let answer = with_trailers(&address, &trailers);
        if !answer.is_refused() {
            let _ = writeln!(wrong, "{name}: {answer:?}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn white_space_around_values_is_trimmed_or_refused() {
    let skep = unruly();
    for version in ["/2", "/3"] {
        let path = format!("{version}/request");
        for value in [" v", "v ", "\tv", "v\t", " \t"] {
            let answer = ask(&skep.address(), ["GET", "a", &path], &[("x-space", value)]);
            let trimmed = value.trim();
            let line = format!("\nx-space: {trimmed}\n");
            let good = answer.is_refused() || answer.text().contains(&line);
            assert!(good, "{version}: {value:?}: {answer:?}");
        }
        // And what guests make is never sent as it is.
        let path = format!("{version}/spaces");
        let answer = ask(&skep.address(), ["GET", "a", &path], &[]);
        let good = answer.status == 500 || answer.field("x-space") == Some("v");
        assert!(good, "{version}: {answer:?}");
    }
}

#[test]
fn a_connection_begins_as_it_must() {
    let skep = echo("", "");
    let address = skep.address();
    let request = head(["GET", "a", "/status/200"], &[]);
    let whole = flag::END_HEADERS | flag::END_STREAM;
    let settings = Frame::bytes(kind::SETTINGS, 0, 0, &[]);
    for (name, first) in [
        ("a ping", Frame::bytes(kind::PING, 0, 0, b"12345678")),
        ("a request", Frame::bytes(kind::HEADERS, whole, 1, &request)),
        (
            "a window",
            Frame::bytes(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
        (
            "an answer to settings",
            Frame::bytes(kind::SETTINGS, flag::ACK, 0, &[]),
        ),
    ] {
        let mut frames = Frames::silent(&address).unwrap();
        frames.send([PREFACE, &first, &settings].concat()).unwrap();
        let closed = frames.closed(SOON);
        assert!(
            matches!(closed, Some(Closed::GoAway(1) | Closed::Silently)),
            "{name} first: {closed:?}"
        );
        assert_eq!(frames.so_far(1).status, 0, "{name} first");
    }
}

#[test]
fn what_began_as_http_1_does_not_become_http_2() {
    for (skep, hosts) in [
        (echo("", ""), ["a", "a"]),
        (two_pools(), ["ant.example", "bee.example"]),
        (two_pools(), ["ant.example", "ant.example"]),
    ] {
        let request = head(["GET", hosts[1], "/status/299"], &[]);
        let whole = flag::END_HEADERS | flag::END_STREAM;
        let second = [
            PREFACE,
            &Frame::bytes(kind::SETTINGS, 0, 0, &[]),
            &Frame::bytes(kind::HEADERS, whole, 1, &request),
        ]
        .concat();
        for pipelined in [false, true] {
            let mut client = skep.client();
            client.patience(SOON).unwrap();
            let first = format!("GET /status/200 HTTP/1.1\r\nhost: {}\r\n\r\n", hosts[0]);
            if pipelined {
                client.send([first.as_bytes(), &second].concat()).unwrap();
            } else {
                client.send(first).unwrap();
            }
            assert_eq!(client.response().unwrap().status(), 200);
            if !pipelined {
                // It may have closed already.
                let _ = client.send(&second);
            }
            let said = client.rest();
            let refused = said
                .as_ref()
                .is_ok_and(|said| said.is_empty() || said.starts_with(b"HTTP/1.1 4"));
            assert!(refused, "{hosts:?}, pipelined: {pipelined}: {said:?}");
        }
    }
}

#[test]
fn a_slow_reader_is_no_idle_connection() {
    let skep = echo("header_timeout = \"500ms\"", "");
    let mut frames = Frames::open(&skep.address(), &[(INITIAL_WINDOW, 100)]).unwrap();
    frames.get(1, "/download?bytes=500").unwrap();
    for _ in 0..4 {
        // 200 bytes a second.
        let piece = frames.answer_within(1, Duration::from_millis(500));
        assert_eq!(piece.end, End::Open, "{piece:?}");
        let sent = frames.window(1, 100);
        assert_eq!(sent, Ok(()), "it was cut after {} bytes", piece.body.len());
    }
    let answer = frames.answer(1);
    assert_eq!((answer.body.len(), answer.end), (500, End::Whole));
}

#[test]
fn an_early_answer_arrives_and_its_connection_goes_on() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "hello", "")));
    let mut frames = Frames::open(&skep.address(), &[]).unwrap();
    for stream in [1, 3, 5] {
        frames
            .request(stream, ["POST", "a", "/"], &[], false)
            .unwrap();
        let answer = frames.answer(stream);
        assert_eq!((answer.status, answer.body.len()), (200, 14), "{answer:?}");
        // What was under way meanwhile offends nobody.
        frames.data(stream, b"too late", true).unwrap();
    }
    assert!(frames.is_alive(SOON));
    for stream in [1, 3, 5] {
        let end = frames.so_far(stream).end;
        assert!(matches!(end, End::Whole | End::Reset(0)), "{end:?}");
    }
}

/// Sends many times what costs a client nothing, and says how the server put
/// an end to it.
fn flood(address: &Address, begin: &[u8], one: impl Fn(u32) -> Vec<u8>) -> Option<Closed> {
    const ROUNDS: u32 = 40;
    const EACH: u32 = 500;
    let mut frames = Frames::open(address, &[]).unwrap();
    frames.send(begin).unwrap();
    for round in 0..ROUNDS {
        let many: Vec<_> = (0..EACH).flat_map(|n| one(round * EACH + n)).collect();
        if frames.send(many).is_err() {
            break;
        }
        // It reads the answers, so that it is not for them that it is closed.
        while frames.next(Duration::from_millis(2)).is_some() {}
    }
    frames.closed(SOON)
}

#[test]
fn floods_of_cheap_frames_end_their_connection_and_nothing_else() {
    let skep = echo("", "");
    let address = skep.address();
    let worker = skep.worker().pid;
    let post = head(["POST", "a", "/upload"], &[]);
    let get = head(["GET", "a", "/slow?ms=100"], &[]);
    let whole = flag::END_HEADERS | flag::END_STREAM;
    let open = Frame::bytes(kind::HEADERS, flag::END_HEADERS, 1, &post);
    let unended = Frame::bytes(kind::HEADERS, 0, 1, &post);
    let asked = |n: u32| Frame::bytes(kind::HEADERS, whole, 1 + 2 * n, &get);
    let cancel = 8_u32.to_be_bytes();
    let floods: [(&str, &[u8], &dyn Fn(u32) -> Vec<u8>); 7] = [
        ("pings", &[], &|_| {
            Frame::bytes(kind::PING, 0, 0, b"12345678")
        }),
        ("settings", &[], &|_| {
            Frame::bytes(kind::SETTINGS, 0, 0, &[])
        }),
        ("empty data", &open, &|_| {
            Frame::bytes(kind::DATA, 0, 1, &[])
        }),
        ("empty continuations", &unended, &|_| {
            Frame::bytes(kind::CONTINUATION, 0, 1, &[])
        }),
        ("small continuations", &unended, &|_| {
            Frame::bytes(kind::CONTINUATION, 0, 1, &literal(b"a", b""))
        }),
        ("resets", &[], &|n| {
            let reset = Frame::bytes(kind::RST_STREAM, 0, 1 + 2 * n, &cancel);
            [asked(n), reset].concat()
        }),
        ("resets that the server is made to send", &[], &|n| {
            let nothing = Frame::bytes(kind::WINDOW_UPDATE, 0, 1 + 2 * n, &[0; 4]);
            [asked(n), nothing].concat()
        }),
    ];
    let mut wrong = String::new();
    for (name, begin, one) in floods {
        if flood(&address, begin, one).is_none() {
            let _ = writeln!(wrong, "{name}: the connection goes on");
        }
        let neighbour = skep.client().get("/status/200");
        assert_eq!(neighbour.map(|answer| answer.status()), Ok(200), "{name}");
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(process::is_alive(worker));
    skep.wait_for_status("all calls to end", |status| {
        status.workers[0].in_flight == 0 && status.workers[0].connections == 0
    });
}
