//! HTTP/2 with clients that break its rules or use them to the full: what is
//! malformed is refused, and nobody holds more of a worker than is written
//! down.

use std::fmt::Write as _;
use std::time::Duration;

use skep_tests::frames::{
    Answer, Closed, End, Frame, Frames, INITIAL_WINDOW, LARGEST_WINDOW, PREFACE, flag, head, kind,
};
use skep_tests::hpack::literal;
use skep_tests::http::Address;
use skep_tests::{Skep, pause, process};

use crate::{app, pool, unruly};

pub(crate) const SOON: Duration = Duration::from_secs(3);

const MIB: u64 = 1 << 20;

pub(crate) fn echo(listener: &str, lines: &str) -> Skep {
    Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n{listener}\n[pool.default]\nworkers = 1\n{}",
        app("a", "echo", lines)
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
pub(crate) fn ask(address: &Address, target: [&str; 3], fields: &[(&str, &str)]) -> Answer {
    let mut frames = Frames::open(address, &[]).unwrap();
    frames.request(1, target, fields, true).unwrap();
    frames.answer(1)
}

#[test]
fn a_connection_that_is_not_read_costs_a_bounded_amount_of_memory() {
    // The second of them in frames of one byte.
    for path in ["/?n=100000&every=0", "/drip?bytes=100000&every=0"] {
        let skep = Skep::config(&format!(
            "{}{}",
            pool(1),
            app("a", "stream", "timeout = \"60s\"\ncpu = \"20s\"")
        ));
        let worker = skep.worker().pid;
        let before = process::anonymous(worker);
        let mut frames =
            Frames::open(&skep.address(), &[(INITIAL_WINDOW, LARGEST_WINDOW)]).unwrap();
        frames.window(0, LARGEST_WINDOW - 65_535).unwrap();
        for number in 0..1000 {
            frames.get(1 + 2 * number, path).unwrap();
        }
        let most = (0..30)
            .map(|_| {
                pause(Duration::from_millis(100));
                process::anonymous(worker)
            })
            .max()
            .unwrap();
        let grown = most.saturating_sub(before);
        assert!(grown < 24 * MIB, "{path}: it grew by {} KiB", grown / 1024);
        assert!(process::is_alive(worker));
    }
}

#[test]
fn bodies_in_frames_of_a_byte_cost_a_bounded_amount_of_memory() {
    let skep = echo("", "timeout = \"60s\"");
    let worker = skep.worker().pid;
    let before = process::anonymous(worker);
    let mut frames = Frames::open(&skep.address(), &[]).unwrap();
    // It waits and reads nothing.
    let slow = ["POST", "a", "/slow?ms=20000"];
    frames.request(1, slow, &[], false).unwrap();
    for _ in 0..65_535 {
        if frames.data(1, b"x", false).is_err() {
            // It was told that this is too much.
            break;
        }
    }
    let told = frames.closed(Duration::from_secs(1));
    let grown = process::anonymous(worker).saturating_sub(before);
    assert!(grown < 8 * MIB, "it grew by {} KiB, {told:?}", grown / 1024);
    assert!(process::is_alive(worker));
}

#[test]
fn frames_of_whatever_length_pass() {
    let skep = echo("", "");
    for seed in 0..4_usize {
        let mut frames = Frames::open(&skep.address(), &[]).unwrap();
        for number in 0..800_usize {
            let path = format!("/status/200?{}", "q".repeat((number * 7 + seed * 5) % 23));
            let stream = u32::try_from(1 + 2 * number).unwrap();
            frames.get(stream, &path).unwrap();
            let answer = frames.answer(stream);
            assert_eq!(
                (answer.status, answer.end),
                (200, End::Whole),
                "request {number}, {seed}: {answer:?}"
            );
        }
    }
}

#[test]
fn a_stream_that_nobody_reads_is_reset_whatever_it_answers() {
    let listener = "write_timeout = \"1s\"\nheader_timeout = \"2s\"";
    let skep = echo(listener, "routes = [\"a/*\"]");
    // A small answer, one of ours, and a large one; the last with some of it on
    // its way.
    for (window, host, path) in [
        (0, "a", "/info"),
        (0, "nobody", "/"),
        (0, "a", "/download?bytes=100000"),
        (40_000, "a", "/download?bytes=100000"),
    ] {
        let mut frames = Frames::open(&skep.address(), &[(INITIAL_WINDOW, window)]).unwrap();
        frames.request(1, ["GET", host, path], &[], true).unwrap();
        let answer = frames.answer_within(1, Duration::from_secs(8));
        assert!(
            matches!(answer.end, End::Reset(_)),
            "window {window}, {path}: {answer:?}"
        );
        assert!(
            frames.closed(Duration::from_secs(10)).is_some(),
            "{path}: it is idle and ends"
        );
    }
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

#[test]
fn the_parts_of_a_cookie_are_joined() {
    let skep = unruly("");
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
fn with_trailers(address: &Address, trailers: &[u8]) -> Answer {
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
    let skep = unruly("");
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
    let mut wrong = String::new();
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
        let refused = matches!(closed, Some(Closed::GoAway(1) | Closed::Silently));
        if !refused || frames.so_far(1).status != 0 {
            let _ = writeln!(wrong, "{name} first: {closed:?}, {:?}", frames.so_far(1));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
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
fn a_slow_reader_is_neither_idle_nor_too_slow() {
    let listener = "header_timeout = \"500ms\"\nwrite_timeout = \"500ms\"";
    // 400 bytes a second, and so much that an answer of several pieces takes seven
    // times the patience.
    for (bytes, step) in [(500, 100), (80_000, 5000)] {
        let skep = echo(listener, "");
        let mut frames = Frames::open(&skep.address(), &[(INITIAL_WINDOW, step)]).unwrap();
        frames.window(0, LARGEST_WINDOW - 65_535).unwrap();
        frames.get(1, &format!("/download?bytes={bytes}")).unwrap();
        for _ in 1..bytes / step {
            let piece = frames.answer_within(1, Duration::from_millis(250));
            assert_eq!(piece.end, End::Open, "after {} bytes", piece.body.len());
            let sent = frames.window(1, step);
            assert_eq!(sent, Ok(()), "it was cut after {} bytes", piece.body.len());
        }
        let answer = frames.answer(1);
        assert_eq!(
            (answer.body.len(), answer.end),
            (usize::try_from(bytes).unwrap(), End::Whole)
        );
    }
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

#[test]
fn a_small_block_that_unfolds_to_a_large_head_is_refused() {
    let skep = echo("", "");
    let address = skep.address();
    let worker = skep.worker().pid;
    let before = process::anonymous(worker);
    let mut frames = Frames::open(&address, &[]).unwrap();
    let target = ["GET", "a", "/status/200"];
    // One field that the server is asked to remember, and then a byte for each
    // of its repetitions: 60 MB of fields a stream.
    let mut remember = literal(b"x", &[b'v'; 4000]);
    remember[0] = 0x40;
    let seed = [head(target, &[]), remember].concat();
    frames.block(1, &seed, true).unwrap();
    assert_eq!(frames.answer(1).status, 200);
    let bomb = [head(target, &[]), vec![0xbe; 15_000]].concat();
    for number in 1..20 {
        if frames.block(1 + 2 * number, &bomb, true).is_err() {
            break;
        }
    }
    for number in 1..20 {
        let answer = frames.answer_within(1 + 2 * number, SOON);
        assert!(answer.is_refused(), "{answer:?}");
        if frames.closed(Duration::from_millis(1)).is_some() {
            break;
        }
    }
    let grown = process::anonymous(worker).saturating_sub(before);
    assert!(grown < 24 * MIB, "it grew by {} KiB", grown / 1024);
}

/// The bytes of one more of something.
type Cheap<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// Sends many times what costs a client nothing, and says how the server put
/// an end to it.
fn flood(address: &Address, begin: &[u8], one: Cheap<'_>) -> Option<Closed> {
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
    assert_eq!(skep.client().get("/status/200").unwrap().status(), 200);
    let before = process::anonymous(worker);
    let post = head(["POST", "a", "/upload"], &[]);
    let get = head(["GET", "a", "/slow?ms=100"], &[]);
    let whole = flag::END_HEADERS | flag::END_STREAM;
    let open = Frame::bytes(kind::HEADERS, flag::END_HEADERS, 1, &post);
    let unended = Frame::bytes(kind::HEADERS, 0, 1, &post);
    let asked = |n: u32| Frame::bytes(kind::HEADERS, whole, 1 + 2 * n, &get);
    let cancel = 8_u32.to_be_bytes();
    let floods: [(&str, &[u8], Cheap<'_>); 7] = [
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
    let grown = process::anonymous(worker).saturating_sub(before);
    if grown >= 24 * MIB {
        let _ = writeln!(wrong, "the worker grew by {} KiB", grown / 1024);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(process::is_alive(worker));
    skep.wait_for_status("all calls to end", |status| {
        status.workers[0].in_flight == 0 && status.workers[0].connections == 0
    });
}
