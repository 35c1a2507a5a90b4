//! Budgets that all workers of a pool share: rates, and calls of a tenant.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use skep_tests::http::Address;
use skep_tests::{Client, Skep, process, wait};

use crate::{app, pool};

/// The status of one request over a connection of its own, so that any worker
/// may get it. A worker that was just killed may have taken the connection, but
/// not the request: then another is asked.
fn ask(address: &Address) -> u16 {
    let began = Instant::now();
    loop {
        let response = Client::connect(address).and_then(|mut client| client.get("/counter"));
        match response {
            Ok(response) => return response.status(),
            Err(failed) => assert!(began.elapsed() < Duration::from_secs(20), "{failed:?}"),
        }
    }
}

/// 8 workers and `100/PERIOD`: in each of three windows, clients at the same
/// time ask until each was refused. In the first two a worker is killed when a
/// part of the window is used up.
#[expect(
    clippy::print_stdout,
    reason = "figures of the long one are worth reading"
)]
fn exactly_a_hundred(period: &str, longest: Duration) {
    const CLIENTS: u32 = 8;
    const BEFORE: u32 = 5;
    let skep = Skep::config(&format!(
        "{}{}",
        pool(8),
        app("a", "echo", &format!("rate = \"100/{period}\"")),
    ));
    let address = skep.address();
    for window in 0..3 {
        // The one before ends when somebody is let in again.
        let first = wait::settles(
            longest + Duration::from_secs(10),
            || ask(&address),
            |status| *status == 200,
        );
        assert_eq!(first, 200);
        let began = Instant::now();
        let accepted = AtomicU32::new(1);
        let refused = AtomicU32::new(0);
        let barrier = Barrier::new(CLIENTS as usize + 1);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for _ in 0..BEFORE {
                        assert_eq!(ask(&address), 200);
                        accepted.fetch_add(1, SeqCst);
                    }
                    barrier.wait();
                    barrier.wait();
                    let mut told = 0;
                    while told < 5 {
                        match ask(&address) {
                            200 => _ = accepted.fetch_add(1, SeqCst),
                            429 => told += 1,
                            other => panic!("{other}"),
                        }
                    }
                    refused.fetch_add(told, SeqCst);
                });
            }
            barrier.wait();
            if window < 2 {
                let busiest = skep.workers().into_iter().max_by_key(|one| one.requests);
                process::signal(busiest.unwrap().pid, "KILL");
            }
            barrier.wait();
        });
        let took = began.elapsed();
        assert!(took < longest, "too slow to tell: {took:?}");
        println!(
            "window {window}: {accepted:?} accepted, {refused:?} refused, in {took:.1?}; {} workers answered",
            skep.status()
                .workers
                .iter()
                .filter(|worker| worker.requests > 0)
                .count(),
        );
        assert_eq!(accepted.into_inner(), 100, "window {window}");
    }
    let status = skep.wait_for_status("the killed to be replaced", |status| {
        status.pools.iter().all(|pool| pool.serving == pool.workers)
    });
    assert_eq!(status.pools[0].restarts, 2);
}

#[test]
fn a_rate_is_exact_over_eight_workers_two_of_which_are_killed() {
    exactly_a_hundred("5s", Duration::from_secs(5));
}

#[test]
#[ignore = "takes three minutes"]
fn a_rate_by_the_minute_is_exact_over_eight_workers_two_of_which_are_killed() {
    exactly_a_hundred("min", Duration::from_secs(60));
}

#[test]
fn who_is_over_a_rate_is_told_when_the_window_ends() {
    let skep = Skep::config(&format!(
        "{}[listener.side]\naddress = \"unix:side.sock\"\n{}{}{}",
        pool(2),
        app("a", "echo", "routes = [\"/*\"]\nrate = \"2/h per client\""),
        app(
            "b",
            "echo",
            "routes = [\"/b/*\"]\nrate = \"1/h per header X-Api-Key\""
        ),
        app("c", "echo", "routes = [\"/c/*\"]\nrate = \"1/s\""),
    ));
    let (tcp, unix) = (skep.address_of("web"), skep.address_of("side"));
    for address in [&tcp, &unix] {
        assert_eq!([ask(address), ask(address), ask(address)], [200, 200, 429]);
    }
    let mut client = Client::connect(&tcp).unwrap();
    let response = client.get("/counter").unwrap();
    assert_eq!(response.status(), 429);
    let seconds: u64 = response
        .head
        .header("retry-after")
        .unwrap()
        .parse()
        .unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    assert!(!response.head.closes(), "the connection may come back");

    let mut with_key = |line: &str| {
        let request = format!("GET /b/counter HTTP/1.1\r\nhost: a\r\n{line}\r\n");
        client.send(request).unwrap();
        client.response().unwrap().status()
    };
    for line in ["", "x-api-key: 1\r\n", "x-api-key: 2\r\n"] {
        assert_ne!(with_key(line), 429);
        assert_eq!(with_key(line), 429);
    }
    // Whichever of them the guest reads, and whatever is around it.
    for line in [
        "x-api-key: \t 1 \t\r\n",
        "x-api-key: 1\r\nx-api-key: other\r\n",
        "x-api-key: another\r\nX-API-KEY: 1\r\n",
        "x-api-key: 1\r\nx-api-key:\r\nx-api-key:\r\n",
    ] {
        assert_eq!(with_key(line), 429, "{line}");
    }

    // Who comes back when told to is let in.
    let mut began = Instant::now();
    let refused = loop {
        began = Instant::now().max(began);
        let response = client.get("/c/counter").unwrap();
        if response.status() == 429 {
            break response;
        }
    };
    assert_eq!(refused.head.header("retry-after"), Some("1"));
    let told = began + Duration::from_secs(1);
    wait::settles(Duration::from_secs(20), Instant::now, |now| *now >= told);
    assert_ne!(client.get("/c/counter").unwrap().status(), 429);
    let refused = skep.outcomes("rate-limited");
    assert!(refused >= 7, "{refused}");
}

#[test]
fn a_tenants_rate_is_that_of_all_its_apps() {
    let skep = Skep::config(&format!(
        "{}[tenant.acme]\nrate = \"5/h\"\n{}{}{}",
        pool(2),
        app("a", "echo", "routes = [\"/a/*\"]\ntenant = \"acme\""),
        app("b", "echo", "routes = [\"/b/*\"]\ntenant = \"acme\""),
        app("c", "echo", "routes = [\"/*\"]"),
    ));
    let get = |target: &str| skep.client().get(target).unwrap().status();
    let statuses = ["/a/x", "/b/x", "/a/x", "/b/x", "/a/x", "/b/x", "/a/x"].map(get);
    assert!(
        statuses[..5].iter().all(|status| *status != 429),
        "{statuses:?}"
    );
    assert_eq!(statuses[5..], [429, 429]);
    assert_eq!(get("/counter"), 200);
}

#[test]
fn a_tenant_has_so_many_calls_over_all_workers_and_gets_back_those_of_the_dead() {
    const SLOW: &str = "GET /a/slow?ms=60000 HTTP/1.1\r\nhost: a\r\n\r\n";
    let skep = Skep::config(&format!(
        "{}[tenant.acme]\nconcurrency = 4\n{}{}{}",
        pool(3),
        app(
            "a",
            "echo",
            "routes = [\"/a/*\"]\nstrip_prefix = true\ntenant = \"acme\"\nqueue = 0"
        ),
        app(
            "b",
            "echo",
            "routes = [\"/b/*\"]\nstrip_prefix = true\ntenant = \"acme\"\ntimeout = \"20s\""
        ),
        app("c", "echo", "routes = [\"/*\"]"),
    ));
    let in_flight = |skep: &Skep| -> u32 {
        skep.status()
            .workers
            .iter()
            .map(|worker| worker.in_flight)
            .sum()
    };
    let settles = |wanted: u32| {
        wait::wait_for(
            Duration::from_secs(20),
            "calls in flight",
            || in_flight(&skep),
            |now| *now == wanted,
        )
    };
    let mut slow = Vec::new();
    for wanted in 1..=4 {
        let mut client = skep.client();
        client.send(SLOW).unwrap();
        slow.push(client);
        settles(wanted);
    }
    let spread = skep.workers();
    assert!(
        spread.iter().filter(|one| one.in_flight > 0).count() > 1,
        "{spread:?}"
    );
    for _ in 0..10 {
        let began = Instant::now();
        let response = skep.client().get("/a/counter").unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.head.header("retry-after"), Some("1"));
        assert!(began.elapsed() < Duration::from_millis(500));
    }
    assert_eq!(skep.outcomes("tenant-over-budget"), 10);
    // Nobody else's affair.
    assert_eq!(skep.client().get("/counter").unwrap().status(), 200);

    // Who may wait does, and is let in when a call ends, here or there.
    let mut waits = skep.client();
    waits
        .send("GET /b/counter HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    settles(5);
    slow.pop();
    assert_eq!(waits.response().unwrap().status(), 200);
    settles(3);

    // Killed with calls in flight.
    let victim = skep
        .workers()
        .into_iter()
        .max_by_key(|one| one.in_flight)
        .unwrap();
    process::signal(victim.pid, "KILL");
    skep.wait_for_status("the killed to be replaced", |status| {
        status.pools[0].restarts == 1 && status.pools[0].serving == 3
    });
    let left = in_flight(&skep);
    assert!(left < 3, "{left}");
    for wanted in left + 1..=4 {
        let mut client = skep.client();
        client.send(SLOW).unwrap();
        slow.push(client);
        settles(wanted);
    }
    assert_eq!(skep.client().get("/a/counter").unwrap().status(), 503);
}

/// 66,000 requests with a key each, which nobody knows, from one client, as
/// fast as they are answered. Says how many came that far.
fn make_up_keys(address: &Address) -> usize {
    const CONNECTIONS: usize = 4;
    const EACH: usize = 16_500;
    const AT_ONCE: usize = 250;
    let one = |connection: usize| {
        let mut client = Client::connect(address).unwrap();
        let mut counted = 0;
        for first in (0..EACH).step_by(AT_ONCE) {
            let requests: String = (first..first + AT_ONCE)
                .map(|n| {
                    format!(
                        "GET /counter HTTP/1.1\r\nhost: a\r\nx-api-key: {connection}-{n}\r\n\r\n"
                    )
                })
                .collect();
            client.send(requests).unwrap();
            for _ in 0..AT_ONCE {
                let status = client.response().unwrap().status();
                counted += usize::from(status != 429);
            }
        }
        counted
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|connection| scope.spawn(move || one(connection)))
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).sum()
    })
}

#[test]
fn keys_that_somebody_makes_up_lock_no_customer_out() {
    let skep = Skep::config(&format!(
        "{}[listener.side]\naddress = \"unix:side.sock\"\n{}",
        pool(2),
        app(
            "a",
            "echo",
            "rate = \"5/h per header X-Api-Key\"\nconcurrency = 2\nqueue = 0"
        ),
    ));
    let (attacker, other) = (skep.address_of("web"), skep.address_of("side"));
    let ask = |address: &Address, key: &str, target: &str| {
        let mut client = Client::connect(address).unwrap();
        client
            .send(format!(
                "GET {target} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n"
            ))
            .unwrap();
        client
    };
    let status =
        |address: &Address, key: &str| ask(address, key, "/counter").response().unwrap().status();
    for _ in 0..2 {
        assert_eq!(status(&other, "old"), 200);
        assert_eq!(status(&attacker, "old, too"), 200);
    }

    // Every worker is busy, so that the others are counted and refused quickly.
    let seen = || {
        let workers = skep.workers();
        let busy = workers.iter().filter(|one| one.in_flight > 0).count();
        (busy, skep.outcomes("queue-full"))
    };
    let mut slow = Vec::new();
    while let (busy, refused) = seen()
        && busy < 2
    {
        // A busy worker that takes it, because the other one is late, refuses it.
        slow.push(ask(
            &other,
            &format!("slow {}", slow.len()),
            "/slow?ms=600000",
        ));
        wait::wait_for(
            Duration::from_secs(20),
            "a worker to be busy",
            seen,
            |now| *now > (busy, refused),
        );
    }
    let counted = make_up_keys(&attacker);
    assert_eq!(counted, 66_000, "each key has a rate of its own");
    drop(slow);
    skep.wait_for_status("every worker to be idle", |status| {
        status.workers.iter().all(|one| one.in_flight == 0)
    });

    for (address, key, left) in [
        (&other, "old", 3),
        (&attacker, "old, too", 3),
        (&other, "new", 5),
        (&attacker, "new, too", 5),
    ] {
        for _ in 0..left {
            assert_eq!(status(address, key), 200, "{key}");
        }
        assert_eq!(status(address, key), 429, "{key}");
    }
}

#[test]
fn one_client_does_not_take_an_apps_permits_nor_its_queue() {
    let skep = Skep::config(&format!(
        "{}[listener.side]\naddress = \"unix:side.sock\"\n{}",
        pool(1),
        app("a", "echo", "concurrency = 8\nqueue = 6"),
    ));
    let (greedy, other) = (skep.address_of("web"), skep.address_of("side"));
    let ask = |address: &Address, target: &str| {
        let mut client = Client::connect(address).unwrap();
        client
            .send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .unwrap();
        client
    };
    let in_flight = |wanted: u32| {
        skep.wait_for_status("requests to be in flight", |status| {
            status.workers[0].in_flight == wanted
        });
    };
    // Seven run, six wait, and one that nobody has a permit for is left.
    let mut hoard = Vec::new();
    for wanted in 1..=13 {
        hoard.push(ask(&greedy, "/slow?ms=600000"));
        in_flight(wanted);
    }
    assert_eq!(ask(&greedy, "/counter").response().unwrap().status(), 503);
    assert_eq!(skep.outcomes("queue-full"), 1);
    let began = Instant::now();
    assert_eq!(ask(&other, "/counter").response().unwrap().status(), 200);
    assert!(began.elapsed() < Duration::from_secs(5));

    // Not even that one: the queue has a place for whoever has fewer, and the
    // next permit is that client's.
    let _slow = ask(&other, "/slow?ms=600000");
    in_flight(14);
    let mut waits = ask(&other, "/counter");
    let newest = hoard.pop().unwrap().response().unwrap();
    assert_eq!(newest.status(), 503);
    assert_eq!(newest.head.header("retry-after"), Some("1"));
    drop(hoard.remove(0));
    assert_eq!(waits.response().unwrap().status(), 200);
}

#[test]
fn idle_connections_make_room_for_others() {
    let skep = Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nmax_connections = 8\n[pool.default]\nworkers = 1\n{}",
        app("a", "echo", ""),
    ));
    let mut hoard: Vec<Client> = Vec::new();
    // Asked once, and kept. The first of them works on.
    let mut busy = skep.client();
    busy.send("GET /slow?ms=3000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    for _ in 0..7 {
        let mut client = skep.client();
        assert_eq!(client.get("/counter").unwrap().status(), 200);
        hoard.push(client);
    }
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(skep.client().get("/counter").unwrap().status(), 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(hoard[0].is_closed().unwrap(), "it was idle for the longest");
    assert_eq!(busy.response().unwrap().status(), 200);
}

#[test]
fn connections_that_come_to_rest_make_room_for_who_waits_already() {
    let skep = Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nmax_connections = 2\n[pool.default]\nworkers = 1\n{}",
        app("a", "echo", ""),
    ));
    let busy = |ms: u32, wanted: u32| {
        let mut client = skep.client();
        client
            .send(format!("GET /slow?ms={ms} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .unwrap();
        skep.wait_for_status("it to be busy", |status| {
            status.workers[0].in_flight == wanted
        });
        client
    };
    // The first is kept afterwards and says nothing more; the second is the one that
    // is asked to go when the worker is full, and does not end.
    let mut first = busy(2000, 1);
    let _second = busy(600_000, 2);
    let began = Instant::now();
    assert_eq!(skep.client().get("/counter").unwrap().status(), 200);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(first.response().unwrap().status(), 200);
}

#[test]
fn a_head_that_is_too_large_has_an_outcome() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "echo", "")));
    let mut client = skep.client();
    let fields: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    client
        .send(format!("GET /counter HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
        .unwrap();
    assert_eq!(client.response().unwrap().status(), 431);
    skep.wait_for_status("it to be counted", |status| {
        status.workers[0].outcomes.get("head-too-large") == Some(&1)
    });
}
