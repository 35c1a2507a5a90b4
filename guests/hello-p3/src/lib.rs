//! `hello` in WASI 0.3: `200 OK` and the 14 bytes `Hello, world!\n`.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

const BODY: &[u8] = b"Hello, world!\n";

/// Known in advance, it spares the host the chunked encoding.
const BODY_LENGTH: &[u8] = b"14";

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        // A kept instance would gather the handles of requests it never looked at.
        drop(request);

        let headers = Fields::from_list(&[
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("content-length".to_owned(), BODY_LENGTH.to_vec()),
        ])
        .expect("both fields are valid and allowed");
        let (mut body, contents) = wit_stream::new();
        // Dropped without a value, the future yields its default: no trailers.
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(headers, Some(contents), no_trailers);

        // Nobody reads the stream before the response is returned.
        wit_bindgen::spawn(async move {
            body.write_all(BODY.to_vec()).await;
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Hello);
