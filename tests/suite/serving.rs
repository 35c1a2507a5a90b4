//! Serving real components: routes, environment, listeners, and HTTP as
//! clients speak it.

use std::collections::BTreeSet;

use bytes::Bytes;
use hyper::Request;
use skep_tests::http::Address;
use skep_tests::options::Options;
use skep_tests::{Client, Skep, Stop, guest, h2};

use crate::{app, pool};

#[test]
fn a_component_is_served_without_a_configuration() {
    for name in ["hello", "hello-p3"] {
        let skep = Skep::component(&guest(name), 2);
        let mut client = skep.client();
        for _ in 0..3 {
            let response = client.get("/anything?x=1").unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.text(), "Hello, world!\n");
            assert_eq!(response.head.header("content-type"), Some("text/plain"));
        }
        let status = skep.status();
        assert_eq!(status.apps.len(), 1);
        assert_eq!(status.pools[0].workers, 2);
        assert_eq!(status.pools[0].spawns, 2);
        skep.stop(Stop::Drain);
    }
}

#[test]
fn the_line_says_where_and_how_many() {
    let skep = Skep::config(&format!(
        "{}{}{}",
        pool(2),
        app("a", "hello", "routes = [\"/a\"]"),
        app("b", "hello", "routes = [\"/b\"]"),
    ));
    let line = skep.wait_for_log("skep: serving");
    let Address::Tcp(address) = skep.address() else {
        panic!("not TCP")
    };
    assert_ne!(address.port(), 0);
    assert_eq!(
        line,
        format!("skep: serving http://{address} (2 workers, 2 apps)")
    );
}

#[test]
fn the_most_specific_route_of_host_and_path_wins() {
    let environment = |name: &str| format!("env = {{ NAME = \"{name}\" }}");
    let skep = Skep::config(&format!(
        "{}{}{}{}{}",
        pool(1),
        app(
            "all",
            "echo",
            &format!("routes = [\"/*\"]\n{}", environment("all"))
        ),
        app(
            "api",
            "echo",
            &format!("routes = [\"example.com/api/*\"]\n{}", environment("api"))
        ),
        app(
            "wild",
            "echo",
            &format!("routes = [\"*.example.com/*\"]\n{}", environment("wild"))
        ),
        app(
            "exact",
            "echo",
            &format!("routes = [\"/info\"]\n{}", environment("exact"))
        ),
    ));
    let mut client = skep.client();
    let mut ask = |host: &str, target: &str| {
        client
            .send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .unwrap();
        let response = client.response().unwrap();
        assert_eq!(response.status(), 200, "{host} {target}");
        response
    };
    let mut name = |host: &str| ask(host, "/info").json()["env"]["NAME"].clone();
    assert_eq!(name("elsewhere"), "exact");
    assert_eq!(name("a.example.com"), "wild");
    assert_eq!(name("A.EXAMPLE.com:8080"), "wild");
    assert_eq!(name("example.com"), "exact");
    // The body of a request without one is echoed as nothing.
    assert_eq!(ask("example.com", "/api/x").body, b"");
}

#[test]
fn without_a_route_it_is_404_and_says_nothing_of_the_inside() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "hello", "routes = [\"/a\"]")
    ));
    let mut client = skep.client();
    let response = client.get("/b").unwrap();
    assert_eq!(response.status(), 404);
    let id = response.head.header("x-request-id").unwrap().to_owned();
    assert_eq!(response.text(), format!("404 Not Found\nrequest {id}\n"));
    assert_eq!(
        client.get("/a").unwrap().status(),
        200,
        "the connection goes on"
    );
    assert_eq!(skep.outcomes("no-route"), 1);
}

#[test]
fn guests_see_their_request_their_environment_and_who_they_are() {
    let text = format!(
        "{}{}",
        pool(1),
        app(
            "me",
            "echo",
            "routes = [\"/api/*\"]\nstrip_prefix = true\n\
             env = { MODE = \"prod\", FROM = { from_env = \"SUITE_FROM\" } }\nrequire = [\"FROM\"]",
        )
    );
    let skep = Options::config(&text)
        .env("SUITE_FROM", "outside")
        .env("SUITE_SECRET", "not for guests")
        .start();
    let mut client = skep.client();
    client
        .send(
            "PATCH /api/info?a=b%20c HTTP/1.1\r\nHost: example.com:81\r\nX-Twice: 1\r\n\
             X-Twice: 2\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: evil\r\nX-Request-Id: mine-1\r\nContent-Length: 0\r\n\r\n",
        )
        .unwrap();
    let response = client.response().unwrap();
    assert_eq!(response.head.header("x-request-id"), Some("mine-1"));
    let seen = response.json();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["path_with_query"], "/info?a=b%20c");
    assert_eq!(seen["authority"], "example.com:81");
    let values = |name: &str| -> Vec<String> {
        let fields = seen["headers"].as_array().unwrap();
        let mut found = Vec::new();
        for field in fields {
            if field[0] == name {
                found.push(field[1].as_str().unwrap().to_owned());
            }
        }
        found
    };
    assert_eq!(values("x-twice"), ["1", "2"]);
    assert_eq!(values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values("x-forwarded-proto"), ["http"]);
    assert_eq!(values("x-forwarded-host"), ["example.com:81"]);
    assert_eq!(values("x-request-id"), ["mine-1"]);

    let names: BTreeSet<&str> = seen["env"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "FROM",
        "MODE",
        "SKEP_APP",
        "SKEP_POOL",
        "SKEP_REVISION",
        "SKEP_WORKER",
        "SKEP_WORKER_SLOT",
    ];
    assert_eq!(
        names,
        BTreeSet::from(expected),
        "these and nothing of skep's own"
    );
    assert_eq!(seen["env"]["FROM"], "outside");
    assert_eq!(seen["env"]["MODE"], "prod");
    assert_eq!(seen["identity"]["app"], "me");
    assert_eq!(seen["identity"]["pool"], "default");
    assert_eq!(seen["identity"]["worker_slot"], 0);
    let worker = skep.worker().id.to_string();
    assert_eq!(seen["identity"]["worker"], worker.as_str());
}

#[test]
fn request_ids_that_are_none_are_replaced() {
    let skep = Skep::component(&guest("hello"), 1);
    let mut client = skep.client();
    let mut ids = BTreeSet::new();
    for given in ["", "a b", "a\"b", &"x".repeat(129), "none"] {
        let field = match given {
            "none" => String::new(),
            given => format!("x-request-id: {given}\r\n"),
        };
        client
            .send(format!("GET / HTTP/1.1\r\nhost: a\r\n{field}\r\n"))
            .unwrap();
        let response = client.response().unwrap();
        let made = response.head.header("x-request-id").unwrap().to_owned();
        assert_ne!(made, given);
        assert!(ids.insert(made), "each its own");
    }
}

#[test]
fn several_pools_have_listeners_and_workers_of_their_own() {
    let skep = Skep::config(&format!(
        "[listener.one]\naddress = \"127.0.0.1:0\"\npool = \"one\"\n\
         [listener.two]\naddress = \"unix:two.sock\"\npool = \"two\"\n\
         [listener.six]\naddress = \"[::1]:0\"\npool = \"two\"\n\
         [pool.one]\nworkers = 1\n[pool.two]\nworkers = 2\n{}{}",
        app("a", "echo", "pool = \"one\""),
        app("b", "echo", "pool = \"two\""),
    ));
    let pool_at = |listener: &str| {
        let mut client = Client::connect(&skep.address_of(listener)).unwrap();
        let seen = client.get("/info").unwrap().json();
        (seen["identity"]["pool"].as_str().unwrap().to_owned(), seen)
    };
    assert_eq!(pool_at("one").0, "one");
    let (pool, seen) = pool_at("two");
    assert_eq!(pool, "two");
    let forwarded = seen["headers"].as_array().unwrap();
    assert!(
        !forwarded.iter().any(|field| field[0] == "x-forwarded-for"),
        "a Unix socket has no address: {forwarded:?}"
    );
    assert_eq!(pool_at("six").0, "two");
    let status = skep.status();
    assert_eq!(status.workers.len(), 3);
    skep.assert_logged("skep: serving ", 3);
    let Address::Unix(path) = skep.address_of("two") else {
        panic!("not a path")
    };
    let path = skep.dir().path().join(path);
    assert!(path.exists());
    skep.stop(Stop::Drain);
    assert!(!path.exists(), "the socket's file went with it");
}

#[test]
fn instances_are_fresh_by_default_and_reused_if_asked_for() {
    let skep = Skep::config(&format!(
        "{}{}{}{}",
        pool(1),
        app("fresh", "echo", "routes = [\"fresh/*\"]"),
        app(
            "kept",
            "echo",
            "routes = [\"kept/*\"]\ninstance = { reuse = 3 }"
        ),
        app(
            "p3",
            "echo-p3",
            "routes = [\"p3/*\"]\ninstance = { reuse = 1000, concurrent = 4, idle = \"1m\" }"
        ),
    ));
    let mut client = skep.client();
    let mut count = |host: &str| -> u64 {
        client
            .send(format!("GET /counter HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .unwrap();
        client.response().unwrap().text().trim().parse().unwrap()
    };
    assert_eq!([count("fresh"), count("fresh"), count("fresh")], [1, 1, 1]);
    assert_eq!(
        [
            count("kept"),
            count("kept"),
            count("kept"),
            count("kept"),
            count("kept")
        ],
        [1, 2, 3, 1, 2]
    );
    assert_eq!([count("p3"), count("p3"), count("p3")], [1, 2, 3]);
}

#[test]
fn one_instance_of_wasi_0_3_answers_several_requests_at_once() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app(
            "p3",
            "echo-p3",
            "instance = { reuse = 1000, concurrent = 8, idle = \"1m\" }"
        ),
    ));
    let address = skep.address();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::connect(&address).unwrap();
            client
                .send("GET /in-flight?ms=400 HTTP/1.1\r\nhost: a\r\n\r\n")
                .unwrap();
            client
        })
        .collect();
    let most = clients
        .into_iter()
        .map(|mut client| {
            client
                .response()
                .unwrap()
                .text()
                .trim()
                .parse::<u64>()
                .unwrap()
        })
        .max();
    assert!(most >= Some(2), "in one instance at once: {most:?}");
}

#[test]
fn a_streamed_response_to_head_is_whole_without_its_body() {
    let skep = Skep::component(&guest("stream"), 1);
    let mut client = skep.client();
    client
        .send("HEAD /?n=20&every=10 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.head_only().unwrap().status, 200);
    skep.wait_for_status("the guest to end", |status| {
        let worker = &status.workers[0];
        worker.in_flight == 0 && worker.requests == 1
    });
    let outcomes = skep.worker().outcomes;
    assert_eq!(outcomes.get("client-gone"), None, "{outcomes:?}");
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "echo", "")));
    let mut client = skep.client();
    client
        .send("HEAD /download?bytes=5000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let head = client.head_only().unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), Some("5000"));
    // Had a body come, this would be it.
    assert_eq!(client.get("/status/201").unwrap().status(), 201);
    client
        .send("HEAD /trailers HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.head_only().unwrap().status, 200);
    assert_eq!(client.get("/status/204").unwrap().status(), 204);
    assert_eq!(client.get("/status/304").unwrap().status(), 304);
    assert_eq!(client.get("/status/200").unwrap().text(), "200\n");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let skep = Skep::config(&format!("{}{}", pool(1), app("a", "echo", "")));
    let mut client = skep.client();
    let mut requests = String::new();
    for index in 0..50 {
        let body = format!("number {index}");
        requests += &match index % 3 {
            0 => format!("GET /status/{} HTTP/1.1\r\nhost: a\r\n\r\n", 200 + index),
            1 => format!(
                "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
            _ => format!(
                "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                 3\r\nnum\r\n{:x};ext=1\r\n{}\r\n0\r\n\r\n",
                body.len() - 3,
                &body[3..]
            ),
        };
    }
    client.send(requests).unwrap();
    for index in 0..50_u16 {
        let response = client.response().unwrap();
        match index % 3 {
            0 if index == 4 || 200 + index == 204 => assert_eq!(response.status(), 204),
            0 => assert_eq!(response.status(), 200 + index),
            _ => assert_eq!(response.text(), format!("number {index}")),
        }
    }
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let skep = Skep::component(&guest("hello"), 1);
    let mut client = skep.client();
    client.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    let response = client.response().unwrap();
    assert_eq!(
        (response.status(), response.text().as_str()),
        (200, "Hello, world!\n")
    );
    assert!(client.is_closed().unwrap());
    let mut client = skep.client();
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(client.response().unwrap().status(), 200);
    assert!(client.is_closed().unwrap());
}

#[test]
fn cleartext_http_2_by_prior_knowledge() {
    let skep = Skep::config(&format!(
        "{}{}",
        pool(1),
        app("a", "echo", "routes = [\"example.com/*\"]")
    ));
    let requests = (0..60)
        .map(|index| {
            let body = Bytes::from(vec![b'x'; index * 1000]);
            Request::post("http://example.com/echo").body(body).unwrap()
        })
        .chain([
            Request::get("http://example.com/info")
                .body(Bytes::new())
                .unwrap(),
            Request::get("http://example.com/trailers")
                .body(Bytes::new())
                .unwrap(),
            Request::get("http://other/").body(Bytes::new()).unwrap(),
        ])
        .collect();
    let answers = h2::exchange(&skep.address(), requests).unwrap();
    for (index, answer) in answers.iter().take(60).enumerate() {
        assert_eq!((answer.status, answer.body.len()), (200, index * 1000));
    }
    let info: serde_json::Value = serde_json::from_slice(&answers[60].body).unwrap();
    assert_eq!(info["authority"], "example.com");
    assert_eq!(answers[61].trailers["x-checksum"], "c0ffee");
    assert_eq!(answers[62].status, 404);
}

#[test]
fn connections_end_after_their_share_of_requests() {
    let skep = Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nmax_requests_per_connection = 3\n\
         [pool.default]\nworkers = 1\n{}",
        app("a", "hello", "")
    ));
    // Between requests or with one of them: but within the patience, and
    // never by a reset in the middle of a response.
    let mut client = skep.client();
    let mut answered = 0;
    while let Ok(response) = client.get("/") {
        assert_eq!(response.status(), 200);
        answered += 1;
        if response.head.closes() || answered > 100_000 {
            break;
        }
    }
    assert!((3..=100_000).contains(&answered), "{answered}");
}
