//! No outcome lies.

use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use skep_core::Outcome;
use skep_engine::RequestBodyError;

use crate::harness::*;

/// Target, outcome, and a part of what is said about it.
const P2: [(&str, Outcome, &str); 13] = [
    ("/silent", Outcome::NoResponse, "without a response"),
    ("/drop-outparam", Outcome::NoResponse, "without a response"),
    ("/error", Outcome::NoResponse, "with an error"),
    ("/interim", Outcome::Trap, "103"),
    ("/unfinished", Outcome::Trap, "did not finish"),
    ("/leak", Outcome::Trap, "did not finish"),
    ("/leak-whole", Outcome::Trap, "did not finish"),
    ("/short", Outcome::Trap, "did not finish"),
    ("/long", Outcome::Trap, "longer than its content-length"),
    ("/no-body", Outcome::Trap, "0 bytes of 10"),
    ("/trap", Outcome::Trap, "unreachable"),
    ("/trap-late", Outcome::Trap, "unreachable"),
    ("/trap-late?ms=20", Outcome::Trap, "unreachable"),
];

const P3: [(&str, Outcome, &str); 11] = [
    ("/error", Outcome::NoResponse, "with an error"),
    ("/interim", Outcome::Trap, "103"),
    ("/leak", Outcome::Trap, "did not finish"),
    ("/short", Outcome::Trap, "5 bytes of 10"),
    ("/short?ms=5", Outcome::Trap, "5 bytes of 10"),
    ("/long", Outcome::Trap, "longer than its content-length"),
    (
        "/long?ms=5",
        Outcome::Trap,
        "longer than its content-length",
    ),
    ("/no-body", Outcome::Trap, "0 bytes of 10"),
    ("/trap", Outcome::Trap, "unreachable"),
    ("/trap-late", Outcome::Trap, "unreachable"),
    ("/trap-late?ms=20", Outcome::Trap, "unreachable"),
];

#[test]
fn every_fault_is_one_every_time() {
    on_a_worker(async {
        for kind in KINDS {
            let cases = if kind == Kind::P2 { &P2[..] } else { &P3[..] };
            for reuse in [1, 100] {
                let app = Setup::new(kind).reuse(reuse).load();
                for (target, outcome, detail) in cases {
                    for round in 0..20 {
                        let what = format!("{kind:?} {target}, round {round} of {reuse}");
                        let began = Instant::now();
                        let (body, ended) = app.ask(target).whole().await;
                        assert!(began.elapsed() < ms(2000), "{what}");
                        assert_eq!(ended.outcome, *outcome, "{what}: {ended:?}");
                        let said = ended.detail.unwrap_or_default();
                        assert!(said.contains(detail), "{what}: {said}");
                        // Whole before its fault was seen, or not at all.
                        let whole = target.starts_with("/long?") || *target == "/leak-whole";
                        assert!(whole || body == Err(*outcome), "{what}: {body:?}");
                    }
                }
                app.until_no_instance().await;
            }
        }
    });
}

#[test]
fn a_fault_of_the_first_turn_is_a_whole_response_of_ours() {
    on_a_worker(async {
        for kind in [Kind::P2, Kind::P3] {
            let app = Setup::new(kind).load();
            let cases = if kind == Kind::P2 { &P2[..] } else { &P3[..] };
            for (target, outcome, _) in cases {
                // Two writes of 0.3 are more than fits before the client takes one.
                let waits = kind == Kind::P3 && ["/short", "/long"].contains(target);
                if waits || target.contains("ms=") {
                    continue;
                }
                // A busy machine may bring it a second turn.
                let mut turns = 0;
                loop {
                    let (reply, told) = app.ask(target).send().await;
                    let Err(first) = reply else {
                        turns += 1;
                        assert!(turns < 20, "{kind:?} {target}");
                        continue;
                    };
                    assert_eq!(first, *outcome, "{kind:?} {target}");
                    assert_eq!(told.ended().unwrap().status, None);
                    break;
                }
            }
        }
    });
}

/// The parts of a body that come when they are sent.
fn upload() -> (
    tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, RequestBodyError>>,
    skep_engine::RequestBody,
) {
    let (parts, mut queue) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx));
    (parts, StreamBody::new(stream).boxed_unsync())
}

#[test]
fn a_body_that_the_guest_hands_on_outlives_it() {
    on_a_worker(async {
        for kind in [Kind::P3, Kind::Shared] {
            for reuse in [1, 100] {
                let app = Setup::new(kind).reuse(reuse).load();
                let (parts, body) = upload();
                let part =
                    |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
                parts.send(part("one ")).unwrap();
                let (reply, told) = app.ask("/pass").body(body).send().await;
                let mut body = reply.unwrap().into_body();
                assert_eq!(frame(&mut body).await, Some(Ok("one ".into())));
                assert!(poll(&mut body).is_pending());
                parts.send(part("two")).unwrap();
                assert_eq!(frame(&mut body).await, Some(Ok("two".into())));
                assert!(!told.is_over());
                drop(parts);
                assert_eq!(frame(&mut body).await, None);
                until("an end", || told.is_over()).await;
                assert_eq!(told.outcome(), Some(Outcome::Ok), "{kind:?} {reuse}");
            }
        }
    });
}

#[test]
fn an_upload_that_breaks_is_the_clients_and_ends_once() {
    on_a_worker(async {
        for kind in [Kind::P3, Kind::Shared] {
            let app = Setup::new(kind).load();
            let (parts, body) = upload();
            let (reply, told) = app.ask("/pass").body(body).send().await;
            let mut body = reply.unwrap().into_body();
            assert!(poll(&mut body).is_pending());
            parts
                .send(Err(RequestBodyError::ConnectionTerminated))
                .unwrap();
            assert_eq!(frame(&mut body).await, Some(Err(Outcome::ClientGone)));
            until("an end", || told.is_over()).await;
            assert_eq!(told.ended(), None, "{kind:?}");
        }
    });
}
