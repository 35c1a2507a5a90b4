//! Requests with one reading pass in any pieces; the others never do.

use proptest::prelude::*;

use super::*;

const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:chunked\r\n\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
];

const BAD: &[(&str, Violation)] = &[
    ("GET / HTTP/1.1\nHost: a\n\n", Violation::BareLineFeed),
    (
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        Violation::BareLineFeed,
    ),
    (
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Violation::BareLineFeed,
    ),
    ("GET / HTTP/1.1\r\n\r\n", Violation::NoHost),
    // Found by the fuzzer: taken for HTTP/2, and followed no further.
    ("PRI * HTTP/2.0\r\nX: y\r\n\r\n", Violation::NoHost),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        Violation::RepeatedHost,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n x\r\n\r\n",
        Violation::FoldedLine,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        Violation::ControlCharacter,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        Violation::ControlCharacter,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        Violation::NoName,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::TwoFramings,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        Violation::TwoFramings,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        Violation::RepeatedLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        Violation::BadLength,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Violation::BadEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::BadEncoding,
    ),
    (
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Violation::EncodingTooEarly,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        Violation::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n",
        Violation::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        Violation::BadChunk,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n",
        Violation::BareLineFeed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        Violation::BadChunk,
    ),
];

fn feed(pieces: &[&[u8]]) -> Result<Framing, Violation> {
    let mut framing = Framing::new(1 << 14);
    for piece in pieces {
        framing.take(piece).map_err(|(_, violation)| violation)?;
    }
    Ok(framing)
}

#[test]
fn good_messages_pass_in_two_pieces_cut_anywhere() {
    for first in GOOD {
        for second in GOOD {
            let both = format!("{first}{second}");
            for cut in 0..=both.len() {
                let (a, b) = both.as_bytes().split_at(cut);
                let framing = feed(&[a, b]).unwrap_or_else(|violation| {
                    panic!("{violation} in {both:?} cut at {cut}");
                });
                assert!(framing.is_between(), "{both:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn bad_messages_are_refused_in_two_pieces_cut_anywhere() {
    for (message, expected) in BAD {
        for cut in 0..=message.len() {
            let (a, b) = message.as_bytes().split_at(cut);
            let got = feed(&[a, b]).map(|_| ());
            assert_eq!(got, Err(*expected), "{message:?} cut at {cut}");
        }
    }
}

#[test]
fn what_came_before_a_bad_message_is_kept() {
    let bytes = format!("{}{}", GOOD[3], BAD[0].0);
    let mut framing = Framing::new(1 << 14);
    let (kept, _) = framing.take(bytes.as_bytes()).unwrap_err();
    assert_eq!(kept, GOOD[3].len());
}

#[test]
fn http2_is_left_alone_but_only_at_the_start() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0";
    assert!(feed(&[preface]).is_ok());
    assert!(feed(&[GOOD[0].as_bytes(), preface]).is_err());
}

#[test]
fn an_endless_head_is_refused() {
    let mut framing = Framing::new(1000);
    let line = [b'x'; 300];
    let refused = (0..10).any(|_| framing.take(&line).is_err());
    assert!(refused);
}

#[test]
fn a_head_says_its_host_before_it_is_taken() {
    let framing = Framing::new(200);
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nX: y\r\nhOst:  a:80 \r\n\r\n", "a:80"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "a"),
        ("GET http://b:1/x HTTP/1.1\r\nHost: a\r\n\r\n", "b:1"),
        ("GET http://b HTTP/1.0\r\n\r\n", "b"),
        ("GET /http://b HTTP/1.1\r\nHost: a\r\n\r\n", "a"),
        ("GET / HTTP/1.0\r\n\r\n", ""),
    ] {
        for known in 0..head.len() {
            let part = &head.as_bytes()[..known];
            assert_eq!(framing.ahead(part, 0), Ahead::Part, "{part:?}");
            let more = format!("{head}GET / HTTP/1.1\r\nHost: other\r\n\r\n");
            let host = framing.ahead(more.as_bytes(), known);
            assert_eq!(
                host,
                Ahead::Host(expected.as_bytes()),
                "{known} of {head:?}"
            );
        }
    }
    for bad in ["\n", "GET / HTTP/1.1\n\n", "\r\n\n"] {
        assert_eq!(framing.ahead(bad.as_bytes(), 0), Ahead::Bad, "{bad:?}");
    }
    assert_eq!(framing.ahead(&[b'x'; 200], 0), Ahead::Part);
    assert_eq!(framing.ahead(&[b'x'; 201], 0), Ahead::Bad);
}

#[test]
fn messages_are_taken_one_at_a_time() {
    for first in &GOOD[3..] {
        let both = format!("{first}{}", GOOD[0]);
        for cut in 0..first.len() {
            let mut framing = Framing::new(1 << 14);
            let (a, b) = both.as_bytes().split_at(cut);
            assert_eq!(framing.take_message(a), Ok(cut));
            assert_eq!(
                framing.take_message(b),
                Ok(first.len() - cut),
                "{first:?} {cut}"
            );
            assert!(framing.is_between() && framing.heads() == 1);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_every_call_ends(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..10),
    ) {
        let mut framing = Framing::new(64);
        for piece in &pieces {
            if framing.take(piece).is_err() {
                break;
            }
        }
    }

    #[test]
    fn pieces_do_not_matter(
        cuts in prop::collection::vec(0_usize..200, 0..6),
        pick in prop::collection::vec(0..GOOD.len(), 1..4),
        bad in 0..BAD.len() + 1,
    ) {
        let mut text: String = pick.iter().map(|i| GOOD[*i]).collect();
        if let Some((message, _)) = BAD.get(bad) {
            text.push_str(message);
        }
        let bytes = text.as_bytes();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(
            feed(&[bytes]).map(|_| ()),
            feed(&pieces).map(|_| ())
        );
    }
}
