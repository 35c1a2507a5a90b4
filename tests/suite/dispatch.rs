//! Several pools on one port: connections are handed out by host, and no
//! request is answered by a wrong tenant or lost, whatever is replaced.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use bytes::Bytes;
use hyper::Request;
use skep_tests::http::Address;
use skep_tests::{Client, Failed, Skep, guest, h2};

use crate::deploys::{done, operate};

const TENANTS: [&str; 3] = ["ant", "bee", "cat"];

/// Three dedicated tenants and nobody else on one listener.
fn three(workers: u16) -> Skep {
    let echo = guest("echo");
    let mut config = "[listener.web]\naddress = \"127.0.0.1:0\"\n".to_owned();
    for tenant in TENANTS {
        config += &format!(
            "[tenant.{tenant}]\nisolation = \"dedicated\"\n[pool.{tenant}]\nworkers = {workers}\n\
             [app.{tenant}-app]\ncomponent = {echo:?}\ntenant = \"{tenant}\"\n\
             routes = [\"{tenant}.example/*\"]\n"
        );
    }
    Skep::config(&config)
}

/// Asks who answers for this tenant's host.
fn ask(client: &mut Client, tenant: &str, headers: &str) -> Result<(), Failed> {
    client.send(format!(
        "GET /info HTTP/1.1\r\nhost: {tenant}.example\r\n{headers}\r\n"
    ))?;
    let response = client.response()?;
    expect(tenant, response.status(), &response.text());
    Ok(())
}

/// The answer is this tenant's, and no other's.
fn expect(tenant: &str, status: u16, text: &str) {
    assert_eq!(status, 200, "{tenant}: {text}");
    for other in TENANTS {
        let named = text.contains(&format!("{other}-app"));
        assert_eq!(named, other == tenant, "{tenant}: {text}");
    }
}

#[test]
fn connections_go_to_the_tenant_of_their_host_and_move_with_it() {
    let skep = three(1);
    let address = skep.address();
    for tenant in TENANTS {
        ask(&mut Client::connect(&address).unwrap(), tenant, "").unwrap();
    }
    // One connection for all of them, and back.
    let mut client = Client::connect(&address).unwrap();
    for round in 0..20 {
        ask(&mut client, TENANTS[round * round % 3], "").unwrap();
    }
    // Several requests in one write.
    let pipelined: String = TENANTS
        .iter()
        .cycle()
        .take(9)
        .map(|tenant| format!("GET /info HTTP/1.1\r\nhost: {tenant}.example\r\n\r\n"))
        .collect();
    client.send(&pipelined).unwrap();
    for tenant in TENANTS.iter().cycle().take(9) {
        let response = client.response().unwrap();
        expect(tenant, response.status(), &response.text());
    }
    // A host of nobody's.
    client
        .send("GET /info HTTP/1.1\r\nhost: dog.example\r\n\r\n")
        .unwrap();
    assert_eq!(client.response().unwrap().status(), 404);
}

#[test]
fn over_http_2_a_connection_is_its_first_hosts_and_others_are_misdirected() {
    let skep = three(1);
    let address = skep.address();
    let get = |tenant: &str| {
        Request::get(format!("http://{tenant}.example/info"))
            .body(Bytes::new())
            .unwrap()
    };
    for tenant in TENANTS {
        let answers = h2::exchange(&address, (0..30).map(|_| get(tenant)).collect()).unwrap();
        for answer in answers {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            expect(tenant, answer.status, &text);
        }
    }
    let mixed: Vec<_> = TENANTS.iter().cycle().take(12).collect();
    let answers = h2::exchange(&address, mixed.iter().map(|tenant| get(tenant)).collect()).unwrap();
    let mut misdirected = 0;
    for (tenant, answer) in mixed.iter().zip(answers) {
        if answer.status == 421 {
            misdirected += 1;
        } else {
            expect(
                tenant,
                answer.status,
                &String::from_utf8_lossy(&answer.body),
            );
        }
    }
    assert_eq!(misdirected, 8, "of the two hosts that did not come first");
}

#[test]
fn nothing_is_lost_while_the_workers_of_tenants_are_replaced() {
    interleaved(3_000);
}

#[test]
#[ignore = "takes minutes; run it for the figure"]
fn nothing_of_a_hundred_thousand_is_lost_while_workers_are_replaced() {
    interleaved(100_000);
}

/// So many requests over kept-alive connections that mix hosts, kept-alive ones
/// that do not, and new ones, while one pool after the other is rolled.
fn interleaved(requests: u64) {
    let skep = three(2);
    let address = skep.address();
    let left = AtomicU64::new(requests);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let (address, left) = (&address, &left);
                scope.spawn(move || drive(address, number, left))
            })
            .collect();
        let skep = &skep;
        let over = &over;
        let operator = scope.spawn(move || {
            for tenant in TENANTS.iter().cycle() {
                if over.load(Relaxed) {
                    return;
                }
                done(&operate(skep, &["restart", tenant]));
            }
        });
        for client in clients {
            client.join().unwrap();
        }
        over.store(true, Relaxed);
        operator.join().unwrap();
    });
    let status = skep.status();
    assert!(
        status.pools.iter().all(|pool| pool.restarts > 0),
        "{status:?}"
    );
}

/// One client. A kept-alive connection may be closed between two requests,
/// which is seen before the next one is sent.
fn drive(address: &Address, number: usize, left: &AtomicU64) {
    let mut kept: Option<Client> = None;
    let mut count = number;
    while left
        .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
        .is_ok()
    {
        count += 1;
        let tenant = match number % 3 {
            0 => TENANTS[count % 3],
            _ => TENANTS[number / 3 % 3],
        };
        let fresh = number % 3 == 2;
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(address).unwrap(),
        };
        let headers = if fresh { "connection: close\r\n" } else { "" };
        let request = format!("GET /info HTTP/1.1\r\nhost: {tenant}.example\r\n{headers}\r\n");
        let response = client
            .send(request)
            .and_then(|()| client.response())
            .unwrap_or_else(|failed| panic!("client {number}, request {count}: {failed}"));
        expect(tenant, response.status(), &response.text());
        if !fresh && !response.head.closes() {
            kept = Some(client);
        }
    }
}
