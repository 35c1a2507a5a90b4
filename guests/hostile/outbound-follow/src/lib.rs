//! The attack: fetches `?url=` and follows its redirects to wherever they
//! lead: what is allowed may send it to what is not. With `&times=N` it begins
//! N times from the start, for a name that is another address the second time.
//!
//! The outcome: `ok`, 200, and the outcome of each hop as JSON: `[{"url": …,
//! "status": …, "location": …, "body": …}, {"url": …, "error": …}]`. Each hop
//! is a request of its own, with all that is checked of one.

use serde_json::{Value, json};
use skep_guest::{Request, Response};

use outbound::targets::Pieces;

skep_guest::handler!(handle);

/// Hops after which it gives up.
const HOPS: usize = 10;

fn handle(request: Request) -> Response {
    let Some(url) = request.query_value("url") else {
        return Response::new(400).with_body("say which ?url=\n");
    };
    let times = request
        .query_value("times")
        .and_then(|times| times.parse().ok())
        .unwrap_or(1);
    let mut hops = Vec::new();
    for _ in 0..times {
        follow(url, &mut hops);
    }
    Response::text(Value::from(hops).to_string())
}

fn follow(url: &str, hops: &mut Vec<Value>) {
    let mut url = url.to_owned();
    for _ in 0..HOPS {
        let answer = match outbound::get(&url) {
            Ok(answer) => answer,
            Err(error) => {
                hops.push(json!({"url": url, "error": error}));
                return;
            }
        };
        let location = answer.location();
        hops.push(json!({
            "url": url,
            "status": answer.status(),
            "location": location,
            "body": answer.beginning(),
        }));
        match location {
            Some(location) if (300..400).contains(&answer.status()) => {
                url = Pieces::of(&url).follow(&location);
            }
            _ => return,
        }
    }
}
