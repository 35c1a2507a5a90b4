//! Answers every request with `200 OK` and the 14 bytes `Hello, world!\n`.
//!
//! Written on the bindings of WASI 0.2 alone, without an SDK: what a handler
//! comes down to. Benchmarks measure the host with this guest, so it makes no
//! call that it could do without, and none that waits.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const BODY: &[u8] = b"Hello, world!\n";

/// Known in advance, it spares the host the chunked encoding.
const BODY_LENGTH: &[u8] = b"14";

struct Hello;

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // A kept instance would gather the handles of requests it never looked at.
        drop(request);

        let headers = Fields::from_list(&[
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("content-length".to_owned(), BODY_LENGTH.to_vec()),
        ])
        .expect("both fields are valid and allowed");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        let stream = body.write().expect("the stream is taken once");

        // The body is complete before the response is handed over: the host can
        // send both at once, and nothing here ever has to wait for it.
        let permit = stream.check_write().expect("a new stream is open");
        assert!(
            permit >= BODY.len() as u64,
            "the host takes 14 bytes at once"
        );
        stream.write(BODY).expect("the write is within its permit");
        drop(stream);
        OutgoingBody::finish(body, None).expect("the length is as announced");

        ResponseOutparam::set(out, Ok(response));
    }
}

wasip2::http::proxy::export!(Hello);
