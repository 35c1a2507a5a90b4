//! The fault: its validation says no, with a reason.
//!
//! What must become of it: rejected in validation, with its own words.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    Response::text("this must never be served\n")
}

fn validate() -> Result<(), String> {
    Err("the price list has no entry for \"honey\": run `prices import` first".to_owned())
}
