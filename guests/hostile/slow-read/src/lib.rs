//! The attack: takes a byte of its request's body every 100 ms, and gives one
//! back as slowly, so that neither direction of the connection ever looks
//! idle and the host has to keep what it is not asked for. Under `/silent` it
//! gives nothing back.
//!
//! The outcome: `deadline`; a 200 whose body is cut off, the connection closed
//! (`/silent`: 504). What the client sends waits in its own buffers.

use std::io::{self, Read as _, Write as _};

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{Request, RequestBody, Response};

skep_guest::handler!(handle);

const PAUSE: u64 = 100_000_000;

fn handle(request: Request) -> Response {
    let silent = request.path() == "/silent";
    let mut body = request.into_body();
    if silent {
        while sip(&mut body).is_ok_and(|byte| byte.is_some()) {}
        return Response::text("that was all\n");
    }
    Response::stream(200, [("content-type", "text/plain")], move |writer| {
        while let Some(byte) = sip(&mut body)? {
            writer.write_all(&[byte])?;
            writer.flush()?;
        }
        Ok(())
    })
}

/// One byte, or nothing at the end, after a pause.
fn sip(body: &mut RequestBody) -> io::Result<Option<u8>> {
    monotonic_clock::subscribe_duration(PAUSE).block();
    let mut byte = [0];
    loop {
        match body.read(&mut byte) {
            Ok(read) => return Ok((read > 0).then_some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
