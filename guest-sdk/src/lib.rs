//! What Rust authors of skep's request handlers use: a small synchronous face
//! of `wasi:http` 0.2 with streaming bodies and trailers, and the names that
//! skep gives a handler.
//!
//! ```no_run,standalone_crate
//! use skep_guest::{Request, Response};
//!
//! skep_guest::handler!(handle);
//!
//! fn handle(request: Request) -> Response {
//!     match request.path() {
//!         "/" => Response::text("hello\n"),
//!         "/echo" => {
//!             let mut body = request.into_body();
//!             Response::stream(200, [("content-type", "text/plain")], move |writer| {
//!                 std::io::copy(&mut body, writer).map(drop)
//!             })
//!         }
//!         _ => Response::new(404),
//!     }
//! }
//! ```
//!
//! The crate wraps nothing that it does not simplify: routing, JSON and
//! outbound requests are other crates' business, and [`wasip2`] is exported
//! for whatever is missing here. Nothing in it depends on skep's host, so a
//! handler runs under every host of `wasi:http`.

mod headers;
mod identity;
#[cfg(feature = "lifecycle")]
pub mod lifecycle;
mod request;
mod response;

pub use headers::Headers;
pub use identity::Identity;
pub use request::{Request, RequestBody};
pub use response::{BodyWriter, Response};
pub use wasip2;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

/// Exports a function `fn(Request) -> Response` as the component's
/// `wasi:http/incoming-handler`. Invoke it once, in a `cdylib` crate.
#[macro_export]
macro_rules! handler {
    ($handle:path) => {
        const _: () = {
            struct Handler;

            impl $crate::wasip2::exports::http::incoming_handler::Guest for Handler {
                fn handle(
                    request: $crate::wasip2::http::types::IncomingRequest,
                    out: $crate::wasip2::http::types::ResponseOutparam,
                ) {
                    $crate::serve(request, out, $handle);
                }
            }

    $crate::wasip2::http::proxy::export!(Handler with_types_in $crate::wasip2);
        };
    };
}

/// Answers one raw request with `handle`. This is what [`handler!`] exports;
/// call it yourself where you implement the export by hand.
///
/// # Panics
///
/// Where the response cannot be sent as it is; see [`Response`].
pub fn serve(
    request: IncomingRequest,
    out: ResponseOutparam,
    handle: impl FnOnce(Request) -> Response,
) {
    handle(Request::new(request)).send(out);
}
