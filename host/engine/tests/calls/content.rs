//! Answers without content.

use http::StatusCode;
use http_body::Body as _;
use skep_core::Outcome;

use crate::harness::*;

#[test]
fn an_answer_without_content_may_announce_a_length() {
    on_a_worker(async {
        for kind in KINDS {
            for (head, status, length) in [
                (true, 200, true),
                (true, 404, true),
                (false, 304, true),
                (true, 304, true),
                (false, 204, false),
                (false, 205, false),
            ] {
                let app = Setup::new(kind).load();
                let target = format!("/length?status={status}");
                let ask = app.ask(&target);
                let ask = if head { ask.head() } else { ask };
                let (reply, told) = ask.send().await;
                let reply = reply.unwrap();
                let what = format!("{kind:?} {head} {status}");
                assert_eq!(reply.status(), StatusCode::from_u16(status).unwrap());
                let announced = reply.headers().get("content-length");
                assert_eq!(announced.is_some(), length, "{what}");
                let body = reply.into_body();
                assert!(body.is_end_stream(), "{what}");
                assert_eq!(body.size_hint().exact(), Some(0), "{what}");
                drop(body);
                until("an end", || told.is_over()).await;
                let ended = told.ended().unwrap();
                assert_eq!(ended.outcome, Outcome::Ok, "{what}: {:?}", ended.detail);
            }
        }
    });
}

#[test]
fn what_is_written_to_it_is_swallowed() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).load();
            for _ in 0..3 {
                let ask = app.ask("/stream?n=1000000").head().patience(ms(50));
                let (reply, told) = ask.send().await;
                // Kept for longer than a client may take.
                let body = reply.unwrap().into_body();
                assert!(body.is_end_stream());
                until("an end", || told.is_over()).await;
                assert_eq!(told.outcome(), Some(Outcome::Ok), "{kind:?}");
            }
            let lines = app.said.lines();
            assert_eq!(lines.len(), 3, "{lines:?}");
        }
    });
}

#[test]
fn whoever_asks_for_the_content_is_not_lied_to() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).load();
            let (body, ended) = app.ask("/length?status=200").whole().await;
            assert_eq!(body, Err(Outcome::Trap), "{kind:?}");
            assert_eq!(ended.outcome, Outcome::Trap);
        }
    });
}
