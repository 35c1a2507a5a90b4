//! The attack: responses that, sent as they are, would break the framing of
//! the connection or say more to the client than one response.
//!
//! | path | the response | the outcome |
//! |---|---|---|
//! | `/split` | a header value with a line break and a header of its own | refused by the host, seen by the guest: `trap`, 500 |
//! | `/name` | a header name with a space in it | the same |
//! | `/newline` | a header value with a line feed alone | the same |
//! | `/nul` | a header value with a NUL | the same |
//! | `/name-split` | a header name with a line break | the same |
//! | `/hop/NAME` | a header of this hop that is the host's alone: `connection`, `keep-alive`, `upgrade`, `proxy-connection` | the same |
//! | `/host` | a `host`, which only requests have | sent without it |
//! | `/space` | header values with white space at their ends | sent without that |
//! | `/trailer-split` | a trailer with a line break | the guest traps after its body: cut off, the connection closed |
//! | `/transfer-encoding` | a `transfer-encoding` of the guest's choice | the same |
//! | `/status` | status 99 | the same |
//! | `/status/1NN` | an interim status as the final one, 101 among them | `trap`, 500 |
//! | `/status/204` | a body where there may be none | 204 and no body, the connection usable or closed |
//! | `/status/999` | a status that nobody knows | sent as it is |
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
            Some("/newline") => send(out, 200, &[("x-split", "a\nset-cookie: b=c")], b"ok"),
            Some("/nul") => send(out, 200, &[("x-nul", "a\0b")], b"ok"),
            Some("/name-split") => send(out, 200, &[("x: a\r\nset-cookie", "b=c")], b"ok"),
            Some("/trailer-split") => trailer_split(out),
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
            Some("/host") => send(out, 200, &[("host", "evil.test")], b"ok"),
            Some("/space") => send(out, 200, &[("x-space", " v "), ("x-tab", "\tv")], b"ok"),
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
            Some(other) => match other.rsplit_once('/') {
                Some(("/hop", name)) => send(out, 200, &[(name, "x-request-id")], b"ok"),
                Some(("/status", status)) => {
                    send(
                        out,
                        status.parse().expect("a status is a number"),
                        &[],
                        b"ok",
                    );
                }
                _ => send(out, 200, &[], b"a good response\n"),
            },
            None => send(out, 200, &[], b"a good response\n"),
        }
    }
}

wasip2::http::proxy::export!(BadResponse);

/// The same line break, where it would end the message.
fn trailer_split(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    // Whether the client still takes it is all the same.
    let _ = stream.blocking_write_and_flush(b"a body");
    drop(stream);
    let trailers = [("x-split".to_owned(), b"a\r\n\r\nHTTP/1.1 200 OK".to_vec())];
    let trailers = Fields::from_list(&trailers).expect("the host refuses the trailers");
    OutgoingBody::finish(body, Some(trailers)).expect("the host refuses the end");
}

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
