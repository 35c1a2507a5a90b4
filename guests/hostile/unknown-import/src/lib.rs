//! The fault: imports `acme:missing/thing@1.0.0`, which no host offers.
//!
//! The outcome: refused before it serves, with the name of the import.

use skep_guest::{Request, Response};

wit_bindgen::generate!({ path: "wit", world: "wanting" });

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    Response::text(acme::missing::thing::do_it(request.path()))
}
