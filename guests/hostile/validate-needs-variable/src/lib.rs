//! The fault: a revision that cannot do without `DATABASE_URL`, deployed where
//! that is empty or absent: what made a fork bomb of a cluster whose workers
//! ended themselves and were started again for ever.
//!
//! What must become of it: rejected in validation, with its own words. Forced
//! past that, it answers 500 to everything. With the variable it serves.

use std::env;

use skep_guest::{Request, Response};

skep_guest::handler!(handle);
skep_guest::validate!(validate);

fn handle(_: Request) -> Response {
    match validate() {
        Ok(()) => Response::text("connected\n"),
        Err(reason) => Response::new(500).with_body(reason),
    }
}

fn validate() -> Result<(), String> {
    match env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => Ok(()),
        _ => Err("DATABASE_URL is empty: the database cannot be reached".to_owned()),
    }
}
