//! Instances that answer one call after the other.

use skep_core::Outcome;
use skep_engine::InstanceCounts;

use crate::harness::*;

#[test]
fn an_instance_ends_with_its_first_outcome_other_than_ok() {
    on_a_worker(async {
        for (kind, faults) in [
            (
                Kind::P2,
                &[
                    "/silent",
                    "/error",
                    "/unfinished",
                    "/leak",
                    "/leak-whole",
                    "/short",
                    "/trap",
                ][..],
            ),
            (Kind::P3, &["/error", "/leak", "/short", "/long", "/trap"]),
            (
                Kind::Shared,
                &["/error", "/leak", "/short", "/long", "/trap"],
            ),
        ] {
            let app = Setup::new(kind).reuse(100).load();
            for fault in faults {
                for count in ["1", "2", "3"] {
                    let (body, ended) = app.ask("/").whole().await;
                    assert_eq!(body.as_deref(), Ok(count), "{kind:?} before {fault}");
                    assert_eq!(ended.outcome, Outcome::Ok);
                }
                let (_, ended) = app.ask(fault).whole().await;
                assert_ne!(ended.outcome, Outcome::Ok, "{kind:?} {fault}");
            }
            // Those that wait now were made ahead.
            let InstanceCounts { made, idle, .. } = app.handler.instances();
            assert_eq!(made, (faults.len() + idle) as u64, "{kind:?}");
        }
    });
}

#[test]
fn one_that_gathers_handles_ends() {
    on_a_worker(async {
        for kind in [Kind::P2, Kind::P3] {
            let app = Setup::new(kind).reuse(100).load();
            let mut most = 0;
            for _ in 0..30 {
                let (body, _) = app.ask("/leak-handle").whole().await;
                most = most.max(body.unwrap().parse().unwrap());
            }
            // A few it may keep for itself.
            assert!((5..15).contains(&most), "{kind:?} {most}");
            // Lines keep their streams, and calls without a fault their instance.
            let app = Setup::new(kind).reuse(100).load();
            for count in 1..50_usize {
                let (body, _) = app.ask(["/say", "/"][count % 2]).whole().await;
                assert_eq!(body, Ok(count.to_string()), "{kind:?}");
            }
        }
    });
}

#[test]
fn lines_carry_the_request_that_they_were_written_for() {
    on_a_worker(async {
        for kind in KINDS {
            let app = Setup::new(kind).reuse(100).load();
            for id in ["a", "b", "c"] {
                app.ask("/say").id(id).whole().await.0.unwrap();
            }
            let lines = app.said.lines();
            let ids: Vec<_> = lines.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!(ids, ["a", "b", "c"], "{kind:?}");
        }
    });
}
