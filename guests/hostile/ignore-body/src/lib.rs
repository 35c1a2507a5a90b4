//! The attack: answers at once and leaves the upload unread, on a connection
//! that the client wants to use again.
//!
//! The outcome: `ok`, 200; what is left of the upload is discarded or the
//! connection closed, and never taken for the next request.

use skep_guest::{Request, Response};

skep_guest::handler!(handle);

fn handle(_: Request) -> Response {
    Response::text("not interested\n")
}
