//! Deadlines own the call: what a client does changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use http_body::Body as _;
use skep_core::Outcome;

use crate::harness::*;

/// More than fits between a guest and its client.
const MUCH: &str = "/stream?n=10000000";

#[test]
fn a_client_that_takes_nothing_ends_by_its_patience() {
    on_a_worker(async {
        for kind in KINDS {
            // One guest waits for its client, one has long gone.
            for target in [MUCH, "/"] {
                let app = Setup::new(kind).load();
                let began = Instant::now();
                let (reply, told) = app.ask(target).patience(ms(100)).send().await;
                let mut body = reply.unwrap().into_body();
                until("an end", || told.is_over()).await;
                assert!(began.elapsed() >= ms(100), "{kind:?} {target}");
                assert_eq!(told.outcome(), Some(Outcome::TooSlow), "{kind:?} {target}");
                // The instance is free, though the body is still there.
                until("no instance", || {
                    app.tenant.instances() == 0 || (kind == Kind::Shared && target == "/")
                })
                .await;
                assert!(!body.is_end_stream());
                assert_eq!(poll(&mut body), Poll::Ready(Some(Err(Outcome::TooSlow))));
                assert_eq!(poll(&mut body), Poll::Ready(None));
            }
        }
    });
}

#[test]
fn patience_begins_anew_with_every_frame_and_is_not_spent_while_the_guest_is_due() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).load();
            let (reply, told) = app.ask(MUCH).patience(ms(400)).send().await;
            let mut body = reply.unwrap().into_body();
            let began = Instant::now();
            while began.elapsed() < ms(800) {
                assert!(frame(&mut body).await.unwrap().is_ok(), "{kind:?}");
                tokio::time::sleep(ms(100)).await;
            }
            drop(body);
            assert!(told.is_over() && told.ended().is_none(), "client gone");

            // Waits for the guest ten times as long as a client may wait.
            let app = Setup::new(kind).timeout(ms(500)).load();
            let (reply, told) = app.ask("/stall").patience(ms(50)).send().await;
            let mut body = reply.unwrap().into_body();
            assert!(frame(&mut body).await.unwrap().is_ok());
            assert_eq!(frame(&mut body).await, Some(Err(Outcome::Deadline)));
            assert_eq!(told.outcome(), Some(Outcome::Deadline), "{kind:?}");
        }
    });
}

#[test]
fn at_the_deadline_it_is_the_fault_of_whoever_is_waited_for() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).timeout(ms(100)).load();
            let (reply, told) = app.ask(MUCH).send().await;
            let body = reply.unwrap().into_body();
            until("an end", || told.is_over()).await;
            assert_eq!(told.outcome(), Some(Outcome::TooSlow), "{kind:?}");
            assert!(told.ended().unwrap().detail.is_some());
            app.until_no_instance().await;
            drop(body);

            let (reply, told) = app.ask("/after?ms=3600000").send().await;
            assert_eq!(take(reply.unwrap()).await.as_deref(), Ok("1"), "{kind:?}");
            until("an end", || told.is_over()).await;
            assert_eq!(told.outcome(), Some(Outcome::Deadline), "{kind:?}");
            app.until_no_instance().await;
        }
    });
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn who_waits_for_a_frame_is_woken_when_the_call_is_cut() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).load();
            let (reply, told) = app.ask("/stall").send().await;
            let mut body = reply.unwrap().into_body();
            frame(&mut body).await.unwrap().unwrap();
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            let waker = Waker::from(Arc::clone(&woken));
            let mut cx = Context::from_waker(&waker);
            let polled = std::pin::Pin::new(&mut body).poll_frame(&mut cx);
            assert!(polled.is_pending());
            app.handler.cut();
            assert!(woken.0.load(Relaxed), "{kind:?}");
            assert!(told.is_over());
            let outcome = Outcome::Deadline;
            assert_eq!(told.outcome(), Some(outcome));
            assert_eq!(poll(&mut body), Poll::Ready(Some(Err(outcome))));
        }
    });
}

#[test]
fn a_cut_ends_all_at_once() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).load();
            let (untaken, slow) = app.ask(MUCH).send().await;
            let (gone, finished) = app.ask("/").send().await;
            let (answered, after) = app.ask("/after?ms=3600000").send().await;
            take(answered.unwrap()).await.unwrap();
            assert!(!slow.is_over() && !finished.is_over() && !after.is_over());
            app.handler.retire();
            app.handler.cut();
            assert_eq!(slow.outcome(), Some(Outcome::TooSlow), "{kind:?}");
            assert_eq!(finished.outcome(), Some(Outcome::TooSlow), "{kind:?}");
            assert_eq!(after.outcome(), Some(Outcome::Deadline), "{kind:?}");
            app.until_no_instance().await;
            drop((untaken, gone));
            let (late, told) = app.ask("/").send().await;
            assert_eq!(late.err(), Some(Outcome::Deadline));
            assert_eq!(told.outcome(), Some(Outcome::Deadline));
        }
    });
}

#[test]
fn dropping_the_future_or_the_body_frees_the_instance_at_once() {
    on_a_worker(async {
        for kind in [Kind::P2, Kind::P3] {
            let app = Setup::new(kind).load();
            let (reply, told) = app.ask(MUCH).send().await;
            assert_eq!(app.tenant.instances(), 1);
            drop(reply);
            assert_eq!(app.tenant.instances(), 0, "{kind:?}");
            assert!(told.is_over() && told.ended().is_none(), "{kind:?}");

            let told = Told::default();
            let target = ["/after?ms=3600000", "/wait?ms=3600000"][usize::from(kind == Kind::P3)];
            // One that was polled, and one that never was.
            let mut call = app.ask(target).start(&told);
            while kind == Kind::P3 && app.tenant.instances() == 0 {
                let polled = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
                assert!(polled.is_pending());
                // It waits for its turn where the one before took long.
                tokio::task::yield_now().await;
            }
            drop(call);
            assert_eq!(app.tenant.instances(), 0, "{kind:?}");
            assert!(told.is_over() && told.ended().is_none(), "{kind:?}");
        }
        // A shared one ends when nobody is left on it.
        let app = Setup::new(Kind::Shared).load();
        let (reply, told) = app.ask(MUCH).send().await;
        drop(reply);
        assert!(told.is_over() && told.ended().is_none());
        app.until_no_instance().await;
    });
}

#[test]
fn what_goes_on_after_its_response_finishes_whatever_the_policy() {
    on_a_worker(async {
        for kind in KINDS {
            for reuse in [1, 2, 100] {
                let app = Setup::new(kind).reuse(reuse).idle(ms(1)).load();
                let (reply, told) = app.ask("/after?ms=200").send().await;
                assert_eq!(take(reply.unwrap()).await.as_deref(), Ok("1"));
                assert!(!told.is_over(), "{kind:?} {reuse}: its permit is held");
                app.handler.expire_idle();
                until("an end", || told.is_over()).await;
                assert_eq!(told.outcome(), Some(Outcome::Ok), "{kind:?} {reuse}");
                assert!(app.said.has("finished"), "{kind:?} {reuse}");
                app.until_no_instance().await;
            }
        }
    });
}

#[test]
fn a_client_that_takes_its_time_gets_all_of_it() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).load();
            let (body, ended) = app.ask("/stream?n=3000000").whole().await;
            assert_eq!(body.map(|body| body.len()), Ok(3_000_000), "{kind:?}");
            assert_eq!(ended.outcome, Outcome::Ok);
            assert!(app.said.has("streamed"));
        }
    });
}
