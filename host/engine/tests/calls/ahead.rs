//! Instances that are made before they are asked for.

use skep_core::Outcome;

use crate::harness::*;

#[test]
fn one_waits_for_a_call_that_follows_others_and_none_when_they_have_stopped() {
    on_a_worker(async {
        for kind in [Kind::P2, Kind::P3] {
            let app = Setup::new(kind).load();
            for round in 0..20 {
                let (body, ended) = app.ask("/").whole().await;
                assert_eq!(body.as_deref(), Ok("1"), "{kind:?}: each has its own");
                assert_eq!(ended.outcome, Outcome::Ok);
                if round > 0 {
                    until("one ahead", || app.handler.instances().idle == 1).await;
                }
            }
            assert_eq!(app.handler.instances().made, 21);
            assert_eq!(app.tenant.instances(), 1);
            app.until_no_instance().await;
            app.ask("/").whole().await.0.unwrap();
            app.until_no_instance().await;
            assert_eq!(app.handler.instances().made, 22, "{kind:?}: a rare call");
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
        for _ in 0..3 {
            app.ask("/").whole().await.0.unwrap();
        }
        until("some ahead", || app.handler.instances().idle > 0).await;
        app.handler.retire();
        assert_eq!(app.tenant.instances(), 0);
        for _ in 0..3 {
            app.ask("/").whole().await.0.unwrap();
        }
        until("none", || app.tenant.instances() == 0).await;
        assert_eq!(app.handler.instances().idle, 0);
    });
}
