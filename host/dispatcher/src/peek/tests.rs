//! What is said of some bytes holds for all that come after them, however they
//! are cut.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

fn heard(bytes: &[u8]) -> Heard {
    hear(bytes, &ConnectionLimits::default(), Spoken::Nothing)
}

/// What is heard of a connection that has spoken HTTP/1.1.
fn heard_later(bytes: &[u8]) -> Heard {
    hear(bytes, &ConnectionLimits::default(), Spoken::Http1)
}

fn host(host: &str) -> Heard {
    Heard::Host(Some(host.to_owned()))
}

/// That every shorter prefix says nothing, or the same.
fn grows_into(bytes: &[u8], expected: &Heard) {
    for cut in 0..bytes.len() {
        let early = heard(&bytes[..cut]);
        assert!(
            early == Heard::NeedMore || early == *expected,
            "{early:?} after {cut} bytes"
        );
    }
    assert_eq!(heard(bytes), *expected);
}

#[test]
fn requests_of_http1_say_their_host() {
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", host("a")),
        (
            "\r\nGET / HTTP/1.1\r\nX: y\r\nhOST:  a:80 \r\n\r\n",
            host("a:80"),
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Heard::Bad),
        ("GET / HTTP/1.1\nHost: a\n\n", Heard::Bad),
        ("GET http://b:1/x HTTP/1.1\r\nHost: a\r\n\r\n", host("b:1")),
        ("GET http://b?x HTTP/1.0\r\n\r\n", host("b")),
        ("GET /http://b HTTP/1.1\r\nHost: a\r\n\r\n", host("a")),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", host("")),
        ("GET / HTTP/1.0\r\nX: y\r\n\r\n", Heard::Host(None)),
        ("GET / HTTP/1.1\r\nX: y\r\n\r\n", Heard::Bad),
        ("GET / HTTP/1.1\r\nX : y\r\n\r\n", Heard::Bad),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Heard::Bad),
        ("PRI * HTTP/2.0\r\nHost: a\r\n\r\n", Heard::Bad),
        ("SSH-2.0-OpenSSH_9.9\r\n", Heard::Bad),
        ("\0", Heard::Bad),
    ] {
        grows_into(request.as_bytes(), &expected);
        let more = format!("{request}GET / HTTP/1.1\r\nHost: other\r\n\r\n");
        if expected != Heard::NeedMore && request.ends_with("\r\n\r\n") {
            assert_eq!(heard(more.as_bytes()), expected, "{more:?}");
        }
    }
}

#[test]
fn what_has_spoken_http1_never_becomes_another_protocol() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(heard_later(request), host("a"));
    let settings = frame(4, 0, 0, &[]);
    let stream = frame(1, 5, 1, b"\x82\x86\x84\x41\x01b");
    let late = [http2::PREFACE, &settings, &stream].concat();
    assert_eq!(heard(&late), host("b"));
    assert_eq!(heard_later(&late), Heard::Bad);
    assert!(is_http1(&late, Spoken::Http1));
    assert_eq!(heard_later(&client_hello("a.example")), Heard::Bad);
    for bytes in [&late[..], request] {
        assert_eq!(spoken(bytes, Spoken::Http1), Spoken::Http1);
    }
    assert_eq!(spoken(&late[..23], Spoken::Nothing), Spoken::Nothing);
    assert_eq!(
        spoken(&late, Spoken::Nothing),
        Spoken::Http2 { greeted: false }
    );
}

#[test]
fn one_acknowledgement_of_a_greeting_is_passed_over() {
    let limits = ConnectionLimits::default();
    let acknowledgement = frame(4, 1, 0, &[]);
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let stream = frame(1, 5, 1, b"\x82\x86\x84\x41\x01b");
    for parts in [
        [&settings, &acknowledgement, &stream],
        [&settings, &stream, &acknowledgement],
    ] {
        let bytes = [http2::PREFACE, &parts.map(|part| &part[..]).concat()].concat();
        let greeted = |bytes| hear(bytes, &limits, Spoken::Http2 { greeted: true });
        for cut in 0..bytes.len() {
            let early = greeted(&bytes[..cut]);
            assert!(early == Heard::NeedMore || early == host("b"), "{early:?}");
        }
        assert_eq!(greeted(&bytes), host("b"));
    }
}

#[test]
fn heads_are_bounded() {
    let most = most(&ConnectionLimits::default());
    let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
    long.resize(most - 1, b'x');
    assert_eq!(heard(&long), Heard::NeedMore);
    long.extend_from_slice(b"x\r\nHost: a\r\n\r\n");
    assert_eq!(heard(&long), Heard::TooLarge);

    let mut many = b"GET / HTTP/1.1\r\n".to_vec();
    for _ in 0..=ConnectionLimits::default().max_headers {
        many.extend_from_slice(b"X: y\r\n");
    }
    assert_eq!(heard(&many), Heard::TooLarge);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn streams_of_http2_say_their_authority() {
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let window = frame(8, 0, 0, &[0, 1, 0, 0]);
    // Indexed: GET, http, /; a literal `:authority` with incremental indexing.
    let block = *b"\x82\x86\x84\x41\x09a.example";
    let whole = frame(1, 5, 1, &block);
    let expected = host("a.example");
    let bytes = [http2::PREFACE, &settings, &window, &whole].concat();
    grows_into(&bytes, &expected);

    let split = [
        http2::PREFACE,
        &settings,
        &frame(1, 1, 1, &block[..6]),
        &frame(9, 0, 1, &block[6..9]),
        &frame(9, 4, 1, &block[9..]),
    ];
    grows_into(&split.concat(), &expected);

    // The host by a field instead: a new name, Huffman-coded or not.
    let block = *b"\x82\x86\x84\x00\x04host\x01b";
    let bytes = [http2::PREFACE, &settings, &frame(1, 5, 1, &block)].concat();
    grows_into(&bytes, &host("b"));

    // A size that cannot be.
    let bytes = [http2::PREFACE, &[0xff; 9]].concat();
    assert_eq!(heard(&bytes), Heard::Bad);
}

/// What a client of rustls says first.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn tls_clients_say_the_server_name() {
    let hello = client_hello("a.example");
    grows_into(&hello, &host("a.example"));
    grows_into(&client_hello("127.0.0.1"), &Heard::Host(None));

    // The same message in records of 30 bytes.
    let (head, message) = hello.split_at(5);
    let mut split = Vec::new();
    for piece in message.chunks(30) {
        split.extend_from_slice(&head[..3]);
        split.extend_from_slice(&[0, u8::try_from(piece.len()).unwrap()]);
        split.extend_from_slice(piece);
    }
    grows_into(&split, &host("a.example"));

    assert_eq!(heard(b"\x16\x03\x01\x00\x04\x02\0\0\0"), Heard::Bad);
    assert_eq!(heard(&[0x16; 64]), Heard::Bad);
}

proptest! {
    #[test]
    fn no_bytes_panic(
        start in prop::sample::select(vec![
            b"".to_vec(), b"\x16\x03\x01".to_vec(), http2::PREFACE.to_vec(), b"GET / ".to_vec(),
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, bytes].concat();
        let _ = heard(&bytes);
    }

    #[test]
    fn what_is_said_of_http1_stays(
        lines in prop::collection::vec("(GET / HTTP/1.[01]|[hH]ost: [a-z]{0,3}|[a-z]{1,3}: x|[a-z ]{0,4})", 0..8),
        cut in 0_usize..80,
    ) {
        let text = lines.join("\r\n");
        let cut = cut.min(text.len());
        let early = heard(&text.as_bytes()[..cut]);
        if early != Heard::NeedMore {
            prop_assert_eq!(heard(text.as_bytes()), early);
        }
    }
}
