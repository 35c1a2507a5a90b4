//! The attack: asks for places that no guest may reach: the machine itself,
//! its network, the metadata of its cloud, under every name that a careless
//! check lets pass. The request's body chooses others, one URL on a line.
//!
//! The outcome: `ok`, 200, and for each target the error code that came of it,
//! as JSON: `[{"url": …, "error": "http-request-denied"}, …]`. A `status`
//! would be a hole, and so would be any error that only a network can give.

use std::io::Read as _;

use outbound::targets;
use serde_json::{Value, json};
use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    let mut text = String::new();
    if let Err(error) = request.into_body().read_to_string(&mut text) {
        return Response::new(400).with_body(format!("{error}\n"));
    }
    let tried: Vec<Value> = targets::chosen(&text)
        .iter()
        .map(|url| match outbound::get(url) {
            Ok(answer) => {
                json!({"url": url, "status": answer.status(), "body": answer.beginning()})
            }
            Err(error) => json!({"url": url, "error": error}),
        })
        .collect();
    Response::text(Value::from(tried).to_string())
}
