//! Instances that answer several calls at a time.

use skep_core::Outcome;

use crate::harness::*;

fn all(app: &App, target: &'static str, calls: usize) -> Vec<tokio::task::JoinHandle<Outcome>> {
    let begin = |_| {
        let told = Told::default();
        let call = app.ask(target).start(&told);
        tokio::spawn(async move {
            if let Ok(reply) = call.await {
                let _ = take(reply).await;
            }
            until("an end", || told.is_over()).await;
            told.outcome().unwrap_or(Outcome::ClientGone)
        })
    };
    (0..calls).map(begin).collect()
}

#[test]
fn retiring_loses_nothing() {
    on_a_worker(async {
        for round in 0..12 {
            let app = Setup::new(Kind::Shared).load();
            // Some are working, some have just been given their place.
            let mut calls = all(&app, "/wait?ms=20", 12);
            until("work", || app.said.has("waits")).await;
            calls.extend(all(&app, "/", 20));
            tokio::task::yield_now().await;
            app.handler.retire();
            // And some come late.
            calls.extend(all(&app, "/", 20));
            for call in calls {
                assert_eq!(call.await.unwrap(), Outcome::Ok, "round {round}");
            }
            app.until_no_instance().await;
        }
    });
}

#[test]
fn dropping_the_handler_loses_nothing_and_leaves_nothing() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).load();
        let calls = all(&app, "/wait?ms=20", 12);
        let App {
            handler, tenant, ..
        } = app;
        tokio::task::yield_now().await;
        drop(handler);
        for call in calls {
            assert_eq!(call.await.unwrap(), Outcome::Ok);
        }
        until("no instance", || tenant.instances() == 0).await;
        until("no task", || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
                == 0
        })
        .await;
    });
}

#[test]
fn a_call_that_is_given_up_closes_its_instance_and_takes_no_other_with_it() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).load();
        let other = all(&app, "/wait?ms=300", 1);
        let (stalled, told) = app.ask("/stall").send().await;
        assert_eq!(app.handler.instances().made, 1);
        drop(stalled);
        assert!(told.is_over() && told.ended().is_none());
        tokio::task::yield_now().await;
        // Takes no more.
        assert_eq!(app.ask("/").whole().await.0.as_deref(), Ok("1"));
        assert_eq!(app.handler.instances().made, 2);
        assert_eq!(app.tenant.instances(), 2);
        for call in other {
            assert_eq!(call.await.unwrap(), Outcome::Ok);
        }
        // Though the stalled guest is not done.
        until("its end", || app.tenant.instances() == 1).await;
    });
}

#[test]
fn each_call_ends_with_its_own_task() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).load();
        let (stalled, told) = app.ask("/stall").send().await;
        let mut after = Vec::new();
        for round in 0..16 {
            let (_, ended) = app.ask("/").whole().await;
            assert_eq!(ended.outcome, Outcome::Ok);
            if round % 4 == 0 {
                after.extend(all(&app, "/after?ms=100", 1));
            }
        }
        for call in after {
            assert_eq!(call.await.unwrap(), Outcome::Ok);
        }
        assert_eq!(app.said.lines().len(), 4, "each finished");
        assert!(!told.is_over());
        assert_eq!(app.handler.instances().made, 1);
        drop(stalled);
    });
}

#[test]
fn one_that_was_not_begun_leaves_its_instance_open() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).load();
        let told = Told::default();
        // The task of its instance has not run yet.
        let mut call = app.ask("/stall").start(&told);
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        drop(call);
        for count in ["1", "2"] {
            assert_eq!(app.ask("/").whole().await.0.as_deref(), Ok(count));
        }
        assert_eq!(app.handler.instances().made, 1);
    });
}

#[test]
fn each_call_has_its_own_deadline() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).timeout(ms(300)).load();
        let stalled = all(&app, "/stall", 3);
        for call in stalled {
            assert_eq!(call.await.unwrap(), Outcome::Deadline);
        }
        app.until_no_instance().await;
    });
}

#[test]
fn a_trap_takes_those_on_its_instance_and_nobody_else() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).load();
        let on_it = all(&app, "/wait?ms=10000", 3);
        until("all on it", || app.said.lines().len() == 3).await;
        let trapping = all(&app, "/trap", 1);
        for call in on_it.into_iter().chain(trapping) {
            assert_eq!(call.await.unwrap(), Outcome::Trap);
        }
        assert_eq!(app.ask("/").whole().await.0.as_deref(), Ok("1"));
    });
}

#[test]
fn lines_of_several_calls_carry_no_request() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).load();
        let (waits, told) = (app.ask("/wait?ms=200").id("waits"), Told::default());
        let waits = tokio::spawn(waits.start(&told));
        until("work", || app.said.has("waits")).await;
        app.ask("/say").id("a").whole().await.0.unwrap();
        take(waits.await.unwrap().unwrap()).await.unwrap();
        // Its task may outlive its response by a turn.
        until("it to be alone", || told.is_over()).await;
        app.ask("/say").id("b").whole().await.0.unwrap();
        let lines = app.said.lines();
        let ids: Vec<_> = lines.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["waits", "", "b"]);
    });
}

#[test]
fn an_idle_instance_waits_and_then_ends() {
    on_a_worker(async {
        let app = Setup::new(Kind::Shared).idle(ms(200)).load();
        assert_eq!(app.ask("/").whole().await.0.as_deref(), Ok("1"));
        assert_eq!(app.ask("/").whole().await.0.as_deref(), Ok("2"));
        app.until_no_instance().await;
        assert_eq!(app.ask("/").whole().await.0.as_deref(), Ok("1"));
    });
}
