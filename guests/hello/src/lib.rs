//! Answers every request with `200 OK` and the 14 bytes `Hello, world!\n`.
//!
//! Benchmarks measure the host with this guest, so it does as little as a
//! WASI 0.2 handler can: no standard library (and so no import but
//! `wasi:http` and `wasi:io`), no call that waits, ten host calls in all.

#![no_std]

extern crate alloc;

use alloc::borrow::ToOwned;

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const BODY: &[u8] = b"Hello, world!\n";

/// Known in advance, it spares the host the chunked encoding.
const BODY_LENGTH: &[u8] = b"14";

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

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

/// Where the host puts lists that it returns. The calls above return one only
/// inside an error, on which this guest traps in any case.
#[expect(unsafe_code, reason = "the canonical ABI asks for this very symbol")]
#[unsafe(no_mangle)]
extern "C" fn cabi_realloc(_: *mut u8, _: usize, _: usize, _: usize) -> *mut u8 {
    core::arch::wasm32::unreachable()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
