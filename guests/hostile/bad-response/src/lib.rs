//! The attack: responses that, sent as they are, would break the framing of
//! the connection or say more to the client than one response.
//!
//! | path | the response | the outcome |
//! |---|---|---|
//! | `/split` | a header value with a line break and a header of its own | refused by the host, seen by the guest: `trap`, 500 |
//! | `/name` | a header name with a space in it | the same |
//! | `/transfer-encoding` | a `transfer-encoding` of the guest's choice | the same |
//! | `/status` | status 99 | the same |
//! | `/short` | fewer bytes than `content-length` says | `trap`, cut off, the connection closed |
//! | `/long` | more bytes than `content-length` says | cut off after what was announced, the connection closed |
//! | `/two-lengths` | two different `content-length`s | never both sent: 500, or closed |
//! | `/not-a-length` | a `content-length` that is no number | never sent: 500, or closed |
//! | `/twice` | the body is asked for twice | `trap`, 500 |
//! | `/unfinished` | the body is dropped and not finished | cut off, the connection closed |

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct BadResponse;

impl wasip2::exports::http::incoming_handler::Guest for BadResponse {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match request.path_with_query().as_deref() {
            Some("/split") => send(out, 200, &[("x-split", "a\r\nset-cookie: b=c")], b"ok"),
            Some("/name") => send(out, 200, &[("x name", "a")], b"ok"),
            Some("/transfer-encoding") => {
                send(
                    out,
                    200,
                    &[("transfer-encoding", "chunked")],
                    b"2\r\nok\r\n",
                );
            }
            Some("/status") => send(out, 99, &[], b"ok"),
            Some("/short") => send(out, 200, &[("content-length", "10")], b"short"),
            Some("/long") => send(out, 200, &[("content-length", "2")], b"long"),
            Some("/two-lengths") => {
                let lengths = [("content-length", "2"), ("content-length", "4")];
                send(out, 200, &lengths, b"four");
            }
            Some("/not-a-length") => send(out, 200, &[("content-length", "two")], b"ok"),
            Some("/twice") => {
                let response = OutgoingResponse::new(Fields::new());
                let _body = response.body();
                response.body().expect("the host gave the body twice");
                ResponseOutparam::set(out, Ok(response));
            }
            Some("/unfinished") => {
                let response = OutgoingResponse::new(Fields::new());
                let body = response.body().expect("the body is taken once");
                ResponseOutparam::set(out, Ok(response));
                let stream = body.write().expect("the stream is taken once");
                // Whether the client still takes it is all the same.
                let _ = stream.blocking_write_and_flush(b"not all of it");
            }
            _ => send(out, 200, &[], b"a good response\n"),
        }
    }
}

wasip2::http::proxy::export!(BadResponse);

/// Sends what it is given, and panics where the host tells that it is wrong.
fn send(out: ResponseOutparam, status: u16, headers: &[(&str, &str)], content: &[u8]) {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let headers = Fields::from_list(&headers).expect("the host refuses the headers");
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(status)
        .expect("the host refuses the status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));

    let stream = body.write().expect("the stream is taken once");
    stream
        .blocking_write_and_flush(content)
        .expect("the host refuses the content");
    drop(stream);
    OutgoingBody::finish(body, None).expect("the host refuses the end");
}
