//! Bad HTTP: a clear refusal or a closed connection, never a hang, a crash, or
//! a request understood two ways.

use std::fmt::Write as _;
use std::time::Duration;

use skep_tests::{Client, Failed, Skep, guest, process};

use crate::app;

fn echo() -> Skep {
    Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"400ms\"\n\
         body_timeout = \"400ms\"\nmax_head = \"16KiB\"\nmax_headers = 40\n\
         [pool.default]\nworkers = 1\n{}",
        app("a", "echo", "max_body = \"64KiB\"")
    ))
}

/// What must become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// One of the 4xx, then closed; or closed at once.
    Refused,
    /// Exactly this status and then closed.
    Status(u16),
    /// Exactly one answer of the guest.
    Answered,
    /// A refusal, or one answer and then the end: what follows must not count.
    OnceAtMost,
}

/// The end of every attempt at smuggling: a request that nobody may answer.
const SMUGGLED: &str = "GET /status/299 HTTP/1.1\r\nhost: a\r\n\r\n";

#[expect(clippy::too_many_lines, reason = "one table")]
fn table() -> Vec<(String, Vec<u8>, Want)> {
    let mut table: Vec<(String, Vec<u8>, Want)> = Vec::new();
    let mut add = |name: &str, text: &str, want| {
        table.push((name.to_owned(), text.as_bytes().to_vec(), want));
    };
    let framed =
        |fields: &str, rest: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{rest}");

    add(
        "length and chunked",
        &framed(
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            &format!("0\r\n\r\n{SMUGGLED}"),
        ),
        Want::Refused,
    );
    add(
        "chunked and length",
        &framed(
            "transfer-encoding: chunked\r\ncontent-length: 500\r\n",
            &format!("0\r\n\r\n{SMUGGLED}"),
        ),
        Want::Refused,
    );
    add(
        "two lengths that differ",
        &framed("content-length: 0\r\ncontent-length: 40\r\n", SMUGGLED),
        Want::Refused,
    );
    add(
        "two lengths that agree",
        &framed("content-length: 2\r\ncontent-length: 2\r\n", "ab"),
        Want::Refused,
    );
    add(
        "a list of lengths",
        &framed("content-length: 2, 2\r\n", "ab"),
        Want::Refused,
    );
    for (name, length) in [
        ("a negative length", "-1"),
        ("a signed length", "+2"),
        ("a length in hexadecimal", "0x2"),
        ("a length with a space", "1 1"),
        ("an empty length", ""),
        ("a length beyond 64 bits", "99999999999999999999999"),
        ("a length with a letter", "2a"),
    ] {
        add(
            name,
            &framed(&format!("content-length: {length}\r\n"), "ab"),
            Want::Refused,
        );
    }
    add(
        "a length with a space before its colon",
        &framed("content-length : 41\r\n", SMUGGLED),
        Want::Refused,
    );
    for (name, encoding) in [
        ("chunked twice", "chunked, chunked"),
        ("identity", "identity"),
        ("gzip and chunked", "gzip, chunked"),
        ("chunked and gzip", "chunked, gzip"),
        ("almost chunked", "xchunked"),
        ("chunked with a control character", "\u{b}chunked"),
        ("chunked in quotes", "\"chunked\""),
        ("no encoding", ""),
    ] {
        add(
            name,
            &framed(
                &format!("transfer-encoding: {encoding}\r\n"),
                &format!("0\r\n\r\n{SMUGGLED}"),
            ),
            Want::Refused,
        );
    }
    add(
        "two encodings",
        &framed(
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
            &format!("0\r\n\r\n{SMUGGLED}"),
        ),
        Want::Refused,
    );
    add(
        "chunked in HTTP/1.0",
        &format!(
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
        ),
        Want::Refused,
    );
    for (name, chunk) in [
        ("a chunk size that is none", "zz\r\nab\r\n"),
        ("a chunk size with 0x", "0x2\r\nab\r\n"),
        ("a chunk size with a sign", "+2\r\nab\r\n"),
        ("a negative chunk size", "-2\r\nab\r\n"),
        ("a chunk size with a space", " 2\r\nab\r\n"),
        ("a chunk size with a space behind", "2 \r\nab\r\n"),
        ("an empty chunk size", "\r\nab\r\n"),
        ("a chunk size that overflows", "fffffffffffffffff\r\nab\r\n"),
        ("a chunk longer than its size", "2\r\nabcd\r\n"),
        ("a chunk size with a bare line feed", "2\nab\r\n"),
        ("a chunk ended by a bare line feed", "2\r\nab\n"),
        ("an extension with a bare line feed", "2;a\nb\r\nab\r\n"),
        (
            "an extension without end",
            &format!("2;{}", "x".repeat(40_000)),
        ),
    ] {
        add(
            name,
            &framed(
                "transfer-encoding: chunked\r\n",
                &format!("{chunk}0\r\n\r\n{SMUGGLED}"),
            ),
            Want::OnceAtMost,
        );
    }
    add(
        "a line feed in a chunk's extension hides a request",
        &framed(
            "transfer-encoding: chunked\r\n",
            &format!("2;\nxx\r\n41\r\n0\r\n\r\n{SMUGGLED}"),
        ),
        Want::OnceAtMost,
    );
    add(
        "a trailer with a bare line feed",
        &framed(
            "transfer-encoding: chunked\r\n",
            &format!("0\r\na: b\n\r\n{SMUGGLED}"),
        ),
        Want::OnceAtMost,
    );

    add(
        "bare line feeds",
        &format!("GET / HTTP/1.1\nhost: a\n\n{SMUGGLED}"),
        Want::Refused,
    );
    add(
        "one bare line feed",
        "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
        Want::Refused,
    );
    add(
        "a bare carriage return",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\rz: w\r\n\r\n",
        Want::Refused,
    );
    add(
        "a folded line",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
        Want::Refused,
    );
    add(
        "a folded first line",
        "GET / HTTP/1.1\r\n host: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a field without a colon",
        "GET / HTTP/1.1\r\nhost: a\r\nnothing\r\n\r\n",
        Want::Refused,
    );
    add(
        "a field without a name",
        "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
        Want::Refused,
    );
    add(
        "a field name with a space",
        "GET / HTTP/1.1\r\nhost: a\r\na b: x\r\n\r\n",
        Want::Refused,
    );
    add(
        "a NUL in a value",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        Want::Refused,
    );
    add(
        "a NUL in a name",
        "GET / HTTP/1.1\r\nhost: a\r\nx\0: b\r\n\r\n",
        Want::Refused,
    );
    add(
        "a NUL in the target",
        "GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );

    // A line that ends with a line feed alone, and an empty one behind it: some
    // readers take that for the end of the head, and others for none.
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\n\r\n");
    for (name, head) in [
        (
            "a field",
            "GET / HTTP/1.1\r\nhost: a\r\nx: y\n\r\n".to_owned(),
        ),
        ("a host", "GET / HTTP/1.1\r\nhost: a\n\r\n".to_owned()),
        (
            "every line",
            "GET / HTTP/1.1\nhost: a\nx: y\n\r\n".to_owned(),
        ),
        ("the first line", "GET / HTTP/1.1\n\r\n".to_owned()),
        ("HTTP/1.0", "GET / HTTP/1.0\n\r\n".to_owned()),
        ("no host", "GET / HTTP/1.1\r\nx: y\n\r\n".to_owned()),
        ("two hosts", post("host: b\r\nx: y")),
        ("a length", post("content-length: 5")),
        ("chunked", post("transfer-encoding: chunked")),
        (
            "length and chunked",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\nx: y"),
        ),
        (
            "chunked and length",
            post("transfer-encoding: chunked\r\ncontent-length: 5"),
        ),
    ] {
        // An end that the others find later, and one that they never find.
        for rest in ["", "hello", "0\r\n\r", "0\r\n\r\n", SMUGGLED] {
            add(
                &format!("a line feed before the last line break: {name}, then {rest:?}"),
                &format!("{head}{rest}"),
                Want::Refused,
            );
        }
    }
    // The guest reads all of its body before it answers.
    for (name, chunks) in [
        ("a line feed ends an extension", "5\r\nhello\r\n0;ext\n\r\n"),
        ("a line feed ends the last size", "5\r\nhello\r\n0\n\r\n"),
        ("a line feed ends the trailers", "5\r\nhello\r\n0\r\n\n"),
        (
            "a line feed ends a trailer",
            "5\r\nhello\r\n0\r\nx: y\n\r\n",
        ),
        ("a NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        (
            "a backspace in an extension",
            "5;a=\u{8}\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a carriage return in an extension",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a delete in an extension",
            "5;a=\u{7f}\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "an escape in the last extension",
            "5\r\nhello\r\n0;\u{1b}\r\n\r\n",
        ),
    ] {
        add(
            name,
            &format!(
                "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                 {chunks}{SMUGGLED}"
            ),
            Want::Refused,
        );
    }
    for (name, chunks) in [
        ("an extension", "5;name=value\r\nhello\r\n0\r\n\r\n"),
        (
            "a quoted extension",
            "5;name=\"a; b\"\r\nhello\r\n0;last\r\n\r\n",
        ),
    ] {
        add(
            name,
            &format!(
                "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\
                 connection: close\r\n\r\n{chunks}"
            ),
            Want::Answered,
        );
    }

    add("no host", "GET / HTTP/1.1\r\n\r\n", Want::Refused);
    add(
        "an empty host",
        "GET / HTTP/1.1\r\nhost:\r\n\r\n",
        Want::OnceAtMost,
    );
    add(
        "two hosts",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        Want::Refused,
    );
    add(
        "the same host twice",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a host with a path",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        Want::Refused,
    );
    add(
        "a host with a user",
        "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a host with a space",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        Want::Refused,
    );
    add(
        "a host that is a list",
        "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        Want::Refused,
    );
    for host in [
        "a:b", "a:x", "a:1x", "a:-1", "[::1]x", "[::1", "::1", "[::1]:x",
    ] {
        add(
            &format!("the host {host}"),
            &format!("GET /status/200 HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            Want::Status(400),
        );
    }
    for host in ["a:81", "[::1]", "[::1]:81", "a.b-c.example"] {
        add(
            &format!("the host {host}"),
            &format!("GET /status/200 HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            Want::Answered,
        );
    }

    add(
        "absolute form",
        "GET http://a/status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Answered,
    );
    add(
        "absolute form with a port",
        "GET http://a:80/status/200 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        Want::Answered,
    );
    add(
        "absolute form of another host",
        "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "absolute form with a user",
        "GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "authority form",
        "GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "connect",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        Want::Refused,
    );
    add("a star", "GET * HTTP/1.1\r\nhost: a\r\n\r\n", Want::Refused);
    add(
        "no slash",
        "GET status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "no target",
        "GET  HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a target with a space",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a fragment",
        "GET /status/200#x HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Status(400),
    );
    add(
        "a fragment behind a query",
        "GET /status/200?a#x HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Status(400),
    );
    for (name, scheme) in [("of https", "https"), ("of ftp", "ftp"), ("of nothing", "")] {
        add(
            &format!("absolute form {name}, in cleartext"),
            &format!("GET {scheme}://a/status/200 HTTP/1.1\r\nhost: a\r\n\r\n"),
            Want::Refused,
        );
    }
    add(
        "an empty line first",
        "\r\nGET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Answered,
    );
    add(
        "spaces between",
        "GET  /status/200  HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a space first",
        " GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "a method that is none",
        "G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add("no method", " / HTTP/1.1\r\nhost: a\r\n\r\n", Want::Refused);
    add("HTTP/0.9", "GET /\r\n\r\n", Want::Refused);
    add(
        "HTTP/1.2",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "HTTP/3.0",
        "GET / HTTP/3.0\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "http in small letters",
        "GET / http/1.1\r\nhost: a\r\n\r\n",
        Want::Refused,
    );
    add(
        "the preface too late",
        &format!(
            "{}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n"
        ),
        Want::OnceAtMost,
    );
    add(
        "half a preface",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        Want::Refused,
    );
    add(
        "a greeting of TLS",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
        Want::Refused,
    );

    let long = "x".repeat(40_000);
    add(
        "a head too large",
        &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        Want::Status(431),
    );
    add(
        "a head without end",
        &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(200_000)),
        Want::Refused,
    );
    add(
        "a target too long",
        &format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "z".repeat(70_000)),
        Want::Refused,
    );
    let mut many = String::from("GET / HTTP/1.1\r\nhost: a\r\n");
    for index in 0..60 {
        let _ = write!(many, "x-{index}: y\r\n");
    }
    many += "\r\n";
    add("too many fields", &many, Want::Status(431));

    add(
        "a body too large, announced",
        &format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n{}",
            "b".repeat(100_000)
        ),
        Want::Status(413),
    );
    table.push(("random bytes".into(), random(4096), Want::Refused));
    table.push((
        "line breaks only".into(),
        b"\r\n\r\n\r\n\r\n".to_vec(),
        Want::Refused,
    ));
    table
}

/// The same every time: xorshift from a fixed seed.
fn random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

/// Statuses of all responses in what a connection said.
fn statuses(said: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(said).into_owned();
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

#[test]
fn bad_requests_are_refused_and_nothing_behind_them_is_answered() {
    let skep = echo();
    let address = skep.address();
    let worker = skep.worker().pid;
    let mut wrong = String::new();
    for (name, request, want) in table() {
        let mut client = Client::connect(&address).expect("connections are taken");
        client.patience(Duration::from_secs(5)).unwrap();
        // A server that refuses early may close before all was sent.
        let _ = client.send(&request);
        let said = match client.rest() {
            Ok(said) => said,
            Err(error) => {
                let _ = writeln!(wrong, "{name}: {error}");
                continue;
            }
        };
        let got = statuses(&said);
        let good = match want {
            Want::Refused => match got.as_slice() {
                [] => true,
                [only] => (400..500).contains(only),
                _ => false,
            },
            Want::Status(status) => got == [status],
            Want::Answered => got.first() == Some(&200) && got.len() == 1,
            Want::OnceAtMost => got.len() <= 2 && !got.contains(&500),
        };
        if !good || got.contains(&299) {
            let _ = writeln!(wrong, "{name}: wanted {want:?}, got {got:?}");
        }
        let after = Client::connect(&address).and_then(|mut client| client.get("/status/200"));
        if !after
            .as_ref()
            .is_ok_and(|response| response.status() == 200)
        {
            let _ = writeln!(wrong, "{name}: and then {after:?}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(process::is_alive(worker), "the worker lived through it all");
    skep.wait_for_status("every connection to end", |status| {
        status
            .workers
            .iter()
            .all(|worker| worker.connections == 0 && worker.in_flight == 0)
    });
}

#[test]
fn the_same_in_small_pieces() {
    // What arrives byte by byte must be understood as what arrives at once.
    let skep = echo();
    let address = skep.address();
    for (name, request, want) in [
        (
            "length and chunked",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            vec![400],
        ),
        (
            "bare line feeds",
            format!("GET / HTTP/1.1\nhost: a\n\n{SMUGGLED}"),
            vec![400],
        ),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(),
            vec![400],
        ),
        (
            "two good requests",
            "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n\
             GET /status/201 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
                .into(),
            vec![200, 201],
        ),
    ] {
        let mut client = Client::connect(&address).unwrap();
        client.patience(Duration::from_secs(5)).unwrap();
        for byte in request.as_bytes() {
            if client.send([*byte]).is_err() {
                break;
            }
        }
        let got = statuses(&client.rest().unwrap());
        assert!(
            got == want || (want == [400] && got.is_empty()),
            "{name}: {got:?}"
        );
    }
}

#[test]
fn slow_and_silent_clients_are_let_go() {
    let skep = echo();
    let patience = Duration::from_secs(5);
    for (name, begin) in [
        ("nothing at all", ""),
        ("half a request line", "GET /st"),
        ("half a head", "GET / HTTP/1.1\r\nhost: a\r\nx:"),
    ] {
        let mut client = skep.client();
        client.patience(patience).unwrap();
        client.send(begin).unwrap();
        let said = client
            .rest()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let got = statuses(&said);
        assert!(got.is_empty() || got == [408], "{name}: {got:?}");
    }
    // An idle connection after a good request.
    let mut client = skep.client();
    client.patience(patience).unwrap();
    assert_eq!(client.get("/status/200").unwrap().status(), 200);
    assert_eq!(client.rest().unwrap(), b"");

    for (name, path) in [("read", "/upload"), ("echoed", "/x")] {
        let mut client = skep.client();
        client.patience(patience).unwrap();
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nonly this"
            ))
            .unwrap();
        match client.response() {
            Ok(response) => assert_eq!(response.status(), 408, "a slow body, {name}"),
            Err(Failed::Short(body)) => assert_eq!(body, b"only this", "a slow body, {name}"),
            Err(other) => panic!("a slow body, {name}: {other}"),
        }
        assert!(client.is_closed().unwrap());
    }
    skep.wait_for_status("every connection to end", |status| {
        status
            .workers
            .iter()
            .all(|worker| worker.connections == 0 && worker.in_flight == 0)
    });
    // Two bodies, and two heads that began.
    assert_eq!(skep.outcomes("too-slow"), 4);
}

#[test]
fn bodies_over_the_limit_are_413_however_they_are_framed() {
    let skep = echo();
    for framing in ["content-length: 70000", "transfer-encoding: chunked"] {
        let mut client = skep.client();
        client
            .send(format!(
                "POST /upload HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n"
            ))
            .unwrap();
        let chunk = if framing.starts_with('t') {
            format!("{:x}\r\n{}\r\n0\r\n\r\n", 70_000, "b".repeat(70_000))
        } else {
            "b".repeat(70_000)
        };
        let _ = client.send(chunk);
        let response = client.response().unwrap();
        assert_eq!(response.status(), 413, "{framing}");
        assert!(response.head.closes(), "{framing}");
        assert!(client.is_closed().unwrap());
    }
    let mut client = skep.client();
    assert_eq!(
        client.post("/upload", &[b'b'; 65_536]).unwrap().json()["bytes"],
        65_536
    );
    assert_eq!(skep.outcomes("body-too-large"), 2);
}

#[test]
fn a_client_that_goes_in_the_middle_leaves_nothing_behind() {
    let skep = Skep::component(&guest("echo"), 1);
    for part in [
        "",
        "G",
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf",
    ] {
        let mut client = skep.client();
        client.send(part).unwrap();
        drop(client);
    }
    skep.wait_for_status("every connection to end", |status| {
        status
            .workers
            .iter()
            .all(|worker| worker.connections == 0 && worker.in_flight == 0)
    });
    assert_eq!(skep.client().get("/status/200").unwrap().status(), 200);
}
