//! The attack: `?count=N` tiny outbound requests (1,000 by default) to
//! `?url=`, one after the other and as fast as they can be made.
//!
//! The outcome: `ok`, 200, and how each ended as JSON: `{"sent": 1000,
//! "results": {"http-request-denied": 1000}}`; or the budget that it uses up
//! first.

use std::collections::BTreeMap;

use serde_json::json;
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    let url = request.query_value("url").unwrap_or("http://127.0.0.1:9/");
    let count = request
        .query_value("count")
        .and_then(|count| count.parse().ok())
        .unwrap_or(1000);
    let mut results = BTreeMap::<String, u64>::new();
    for _ in 0..count {
        let name = match outbound::get(url) {
            Ok(answer) => answer.status().to_string(),
            Err(error) => error,
        };
        *results.entry(name).or_default() += 1;
    }
    Response::text(json!({"sent": count, "results": results}).to_string())
}
