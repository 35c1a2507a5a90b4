//! One client among others: it takes no app, and no rate's places.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use skep_tests::frames::{Frames, INITIAL_WINDOW};
use skep_tests::http::Address;
use skep_tests::{Client, Failed, Skep, pause};

use crate::http2::{SOON, ask, echo};
use crate::{app, pool};

/// Another client than the one at 127.0.0.1.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Asks so many times, once per connection, and returns how many were served
/// within two seconds.
fn served(address: &Address, path: &str, times: usize) -> usize {
    let asked = (0..times).map(|_| {
        let mut client = Client::connect(address)?;
        client.patience(Duration::from_secs(2))?;
        client.get(path).map(|response| response.status())
    });
    // Each that is not served costs two seconds: a few are enough to know.
    let mut unserved = 0;
    asked
        .take_while(|status: &Result<u16, Failed>| {
            unserved += usize::from(*status != Ok(200));
            unserved <= times / 20 + 1
        })
        .filter(|status| *status == Ok(200))
        .count()
}

#[test]
fn a_client_with_unread_streams_does_not_take_an_app() {
    let skep = echo("", "");
    let address = skep.address();
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut frames = Frames::from_peer(&address, GREEDY).unwrap();
        frames.begin(&[(INITIAL_WINDOW, 0)]).unwrap();
        for number in 0..128 {
            frames
                .get(1 + 2 * number, "/download?bytes=300000")
                .unwrap();
        }
        assert!(frames.is_alive(SOON));
        greedy.push(frames);
    }
    let served = served(&address, "/status/200", 40);
    assert!(served >= 38, "{served} of 40 were served");
}

#[test]
fn a_client_with_unread_connections_does_not_take_an_app() {
    let skep = echo("", "concurrency = 10\nqueue = 10\ncpu = \"10s\"");
    let address = skep.address();
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect_from(&address, GREEDY).unwrap();
        client
            .send("GET /download?bytes=50000000 HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        greedy.push(client);
    }
    skep.wait_for_status("the greedy to have come", |status| {
        status.workers[0].requests == 20
    });
    let served = served(&address, "/status/200", 40);
    assert!(served >= 38, "{served} of 40 were served");
}

#[test]
fn a_client_with_slow_uploads_does_not_take_an_app() {
    let skep = echo("", "concurrency = 10\nqueue = 10");
    let address = skep.address();
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect_from(&address, GREEDY).unwrap();
        client
            .send("POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
            .unwrap();
        greedy.push(client);
    }
    skep.wait_for_status("the greedy to have come", |status| {
        status.workers[0].requests == 20
    });
    let mut all = 0;
    for _ in 0..3 {
        for client in &mut greedy {
            // Those that were turned away are gone.
            let _ = client.send("x");
        }
        let some = served(&address, "/status/200", 20);
        all += some;
        if some < 19 {
            break;
        }
        pause(Duration::from_secs(1));
    }
    assert!(all >= 57, "{all} of 60 were served");
}

#[test]
fn a_client_with_open_uploads_over_http_2_does_not_take_an_app() {
    let skep = echo("", "concurrency = 10\nqueue = 10");
    let address = skep.address();
    let mut greedy = Frames::from_peer(&address, GREEDY).unwrap();
    greedy.begin(&[]).unwrap();
    for number in 0..60 {
        let stream = 1 + 2 * number;
        greedy
            .request(stream, ["POST", "a", "/upload"], &[], false)
            .unwrap();
        greedy.data(stream, b"x", false).unwrap();
    }
    assert!(greedy.is_alive(SOON));
    let served = served(&address, "/status/200", 40);
    assert!(served >= 38, "{served} of 40 were served");
}

#[test]
fn a_rate_per_header_counts_what_the_guest_reads() {
    const TIMES: usize = 12;
    let rated = "rate = \"5/h per header X-Api-Key\"";
    let skep = Skep::config(&format!("{}{}", pool(2), app("a", "hello", rated)));
    let address = skep.address();
    let over_1 = |fields: &str| {
        let mut client = Client::connect(&address).unwrap();
        client
            .send(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
            .unwrap();
        client.response().unwrap().status()
    };
    let over_2 = |fields: &[(&str, &str)]| ask(&address, ["GET", "a", "/"], fields).status;
    let tries: [(&str, &dyn Fn(usize) -> u16); 8] = [
        ("as it should be", &|_| over_1("x-api-key: k0\r\n")),
        ("another value behind it", &|n| {
            over_1(&format!("x-api-key: k1\r\nx-api-key: {n}\r\n"))
        }),
        ("empty values behind it", &|n| {
            over_1(&format!("x-api-key: k2\r\n{}", "x-api-key:\r\n".repeat(n)))
        }),
        ("white space around it", &|n| {
            let (before, behind) = (" ".repeat(n), "\t".repeat(n));
            over_1(&format!("x-api-key:{before}k3{behind}\r\n"))
        }),
        ("over HTTP/2, white space behind it", &|n| {
            over_2(&[("x-api-key", &format!("k4{}", " ".repeat(n)))])
        }),
        ("over HTTP/2, white space before it", &|n| {
            over_2(&[("x-api-key", &format!("{}k5", "\t".repeat(n)))])
        }),
        ("over HTTP/2, another value behind it", &|n| {
            over_2(&[("x-api-key", "k6"), ("x-api-key", &n.to_string())])
        }),
        ("over both", &|n| match n % 2 {
            0 => over_1("X-API-Key: k7\r\n"),
            _ => over_2(&[("x-api-key", "k7")]),
        }),
    ];
    let mut wrong = String::new();
    for (name, one) in tries {
        let statuses: Vec<_> = (0..TIMES).map(one).collect();
        let let_in = statuses.iter().filter(|status| **status == 200).count();
        if let_in > 5 {
            let _ = writeln!(wrong, "{name}: {let_in} of {TIMES} were let in");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn made_up_keys_do_not_lock_customers_out() {
    const CONNECTIONS: usize = 2;
    const EACH: usize = 35_000;
    let rated = "rate = \"5/h per header X-Api-Key\"";
    let skep = Skep::config(&format!("{}{}", pool(2), app("a", "hello", rated)));
    let address = skep.address();
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let mut client = Client::connect_from(&address, GREEDY).unwrap();
            let mut sender = client.sender().unwrap();
            scope.spawn(move || {
                let mut text = String::new();
                for number in 0..EACH {
                    let _ = write!(
                        text,
                        "GET / HTTP/1.1\r\nhost: a\r\nx-api-key: {connection}-{number}\r\n\r\n"
                    );
                }
                text += "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                // It may be cut short: that is a defence too.
                let _ = std::io::Write::write_all(&mut sender, text.as_bytes());
            });
            scope.spawn(
                move || while client.response().is_ok_and(|answer| !answer.head.closes()) {},
            );
        }
    });
    for customer in 0..20 {
        let mut client = Client::connect(&address).unwrap();
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx-api-key: customer-{customer}\r\n\r\n"
            ))
            .unwrap();
        assert_eq!(client.response().unwrap().status(), 200, "{customer}");
    }
}
