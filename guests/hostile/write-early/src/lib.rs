//! The attack: writes a body before it says where it goes, when nobody can take
//! it yet. Some toolchains do it without malice.
//!
//! | path | what is written before the head |
//! |---|---|
//! | `/` | 500,000 bytes of a response, by permits |
//! | `/pieces` | the same in pieces of 4,000 bytes |
//! | `/request` | the same of an outbound request, which is not sent after all |
//! | `/much` | 4 MiB of a response, by permits |
//!
//! The outcome: the first three are 200, `ok`; the last is 500, `trap`, and the
//! log says what to do.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
};

struct Early;

const MODEST: usize = 500_000;

impl Guest for Early {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        match request.path_with_query().as_deref() {
            Some("/pieces") => {
                let stream = body.write().expect("the stream is taken once");
                for piece in vec![b'x'; MODEST].chunks(4000) {
                    stream
                        .blocking_write_and_flush(piece)
                        .expect("the host takes a body");
                }
            }
            Some("/request") => {
                let outbound = OutgoingRequest::new(Fields::new());
                let unsent = outbound.body().expect("the body is taken once");
                by_permits(&unsent, MODEST);
                OutgoingBody::finish(unsent, None).expect("the body has its length");
                by_permits(&body, MODEST);
            }
            Some("/much") => by_permits(&body, 4 << 20),
            _ => by_permits(&body, MODEST),
        }
        OutgoingBody::finish(body, None).expect("the body has its length");
        ResponseOutparam::set(out, Ok(response));
    }
}

wasip2::http::proxy::export!(Early);

fn by_permits(body: &OutgoingBody, mut left: usize) {
    let stream = body.write().expect("the stream is taken once");
    while left > 0 {
        stream.subscribe().block();
        let permit = stream.check_write().expect("the host takes a body");
        let now = usize::try_from(permit).unwrap_or(usize::MAX).min(left);
        stream
            .write(&vec![b'x'; now])
            .expect("the host takes what it permits");
        left -= now;
    }
}
