//! The attack: opens `?count=N` outbound requests (1,000 by default) to
//! `?url=` at the same time, and keeps every response unread for as long as it
//! lives: connections, sockets and buffers that are of use to nobody.
//!
//! The outcome: where all were refused, `ok`, 200, and the counts as JSON:
//! `{"open": 0, "results": {"http-request-denied": 1000}}`. Where some were
//! opened, no more than the cap on connections, and the deadline ends it all:
//! `deadline`, 504. With `&release` it lets go and answers with the counts.

use std::collections::BTreeMap;

use serde_json::json;
use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    let url = request.query_value("url").unwrap_or("http://127.0.0.1:9/");
    let count = request
        .query_value("count")
        .and_then(|count| count.parse().ok())
        .unwrap_or(1000);
    // All are begun before one is waited for.
    let begun: Vec<_> = (0..count).map(|_| outbound::begin(url)).collect();
    let mut open = Vec::new();
    let mut results = BTreeMap::<String, u64>::new();
    for begun in begun {
        let result = begun.and_then(|begun| Ok((outbound::finish(&begun)?, begun)));
        let name = match result {
            Ok((answer, begun)) => {
                let status = answer.status();
                open.push((answer, begun));
                status.to_string()
            }
            Err(error) => error,
        };
        *results.entry(name).or_default() += 1;
    }
    let releases = request
        .query()
        .is_some_and(|query| query.split('&').any(|part| part == "release"));
    while !open.is_empty() && !releases {
        monotonic_clock::subscribe_duration(u64::MAX / 2).block();
    }
    Response::text(json!({"open": open.len(), "results": results}).to_string())
}
