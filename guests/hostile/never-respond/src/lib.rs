//! The attack: returns without ever having set a response.
//!
//! The outcome: `no-response`, 500.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct NeverRespond;

impl wasip2::exports::http::incoming_handler::Guest for NeverRespond {
    fn handle(_: IncomingRequest, _: ResponseOutparam) {}
}

wasip2::http::proxy::export!(NeverRespond);
