//! Instances that are made before they are asked for.

use std::time::Instant;

use skep_core::Outcome;

use crate::harness::*;

#[test]
fn one_waits_for_a_call_that_follows_others_and_none_when_they_have_stopped() {
    on_a_worker(async {
        for kind in [Kind::P2, Kind::P3] {
            let app = Setup::new(kind).load();
            let mut calls = 0;
            for _ in 0..20 {
                calls += until_one_ahead(&app).await;
                let (body, ended) = app.ask("/").whole().await;
                calls += 1;
                assert_eq!(body.as_deref(), Ok("1"), "{kind:?}: each has its own");
                assert_eq!(ended.outcome, Outcome::Ok);
            }
            calls += until_one_ahead(&app).await;
            assert_eq!(app.handler.instances().made, calls + 1);
            assert_eq!(app.tenant.instances(), 1);
            app.until_no_instance().await;
            app.ask("/").whole().await.0.unwrap();
            app.until_no_instance().await;
            let made = app.handler.instances().made;
            assert_eq!(made, calls + 2, "{kind:?}: a rare call");
        }
    });
}

#[test]
fn what_it_says_is_for_the_request_that_it_serves() {
    on_a_worker(async {
        let app = Setup::new(Kind::P2).load();
        for id in ["a", "b", "c", "d"] {
            app.ask("/say").id(id).whole().await.0.unwrap();
            app.handler.expire_idle();
        }
        let lines = app.said.lines();
        let ids: Vec<_> = lines.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c", "d"]);
    });
}

#[test]
fn a_handler_that_is_retired_makes_none() {
    on_a_worker(async {
        let app = Setup::new(Kind::P2).load();
        until_one_ahead(&app).await;
        app.handler.retire();
        assert_eq!(app.tenant.instances(), 0);
        for _ in 0..3 {
            app.ask("/").whole().await.0.unwrap();
        }
        until("none", || app.tenant.instances() == 0).await;
        assert_eq!(app.handler.instances().idle, 0);
    });
}

/// Calls, two between looks, until an instance waits for the next call; says how often
/// that was. One that a tick meets while it is made is given up, and the next is made
/// after the next look.
async fn until_one_ahead(app: &App) -> u64 {
    let began = Instant::now();
    let mut calls = 0;
    while app.handler.instances().idle == 0 {
        assert!(began.elapsed() < PATIENCE, "never one ahead");
        if calls % 2 == 0 {
            app.handler.expire_idle();
        }
        app.ask("/").whole().await.0.unwrap();
        calls += 1;
        // The keeper comes behind what is ready.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    calls
}
