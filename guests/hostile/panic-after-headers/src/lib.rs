//! The attack: sends headers and a part of the body, then panics.
//!
//! The outcome: `trap`; a 200 whose body is cut off, the connection closed. A
//! client must be able to tell: no final chunk may be sent. Under `/length`
//! the response announces its length, and is short of it.

use std::io::Write;

use skep_guest::{Headers, Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    let mut headers = Headers::from([("content-type", "text/plain")]);
    if request.path() == "/length" {
        headers.append("content-length", "1000");
    }
    Response::stream(200, headers, |writer| {
        writer.write_all(b"the first part, and then")?;
        writer.flush()?;
        panic!("after the headers");
    })
}
