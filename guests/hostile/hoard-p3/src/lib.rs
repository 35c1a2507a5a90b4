//! The attack: `hoard-resources` in WASI 0.3, where streams, futures and tasks
//! are the component model's own and not of `wasi:io`.
//!
//! | path | what is kept |
//! |---|---|
//! | `/streams` | streams with both ends |
//! | `/futures` | futures with both ends |
//! | `/tasks` | calls of the host that never return |
//! | `/fields` | empty header fields |
//!
//! The outcome: a store has a bound of its own for handles, and 4,096 for
//! fields; the guest traps: `trap`, 500, unless a budget is used up before.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Hoard;

impl wasip3::exports::http::handler::Guest for Hoard {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match request.get_path_with_query().as_deref() {
            Some("/streams") => hoard(wit_stream::new::<u8>),
            Some("/futures") => hoard(|| wit_future::new::<Result<(), ErrorCode>>(|| Ok(()))),
            Some("/tasks") => hoard(|| {
                let mut wait = Box::pin(monotonic_clock::wait_for(u64::MAX / 2));
                // The call begins with the first poll; nobody waits for its end.
                let polled = pin!(&mut wait).poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "centuries have not passed");
                wait
            }),
            Some("/fields") => hoard(Fields::new),
            _ => Err(ErrorCode::HttpProtocolError),
        }
    }
}

wasip3::http::service::export!(Hoard);

fn hoard<T>(make: impl Fn() -> T) -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(make());
        std::hint::black_box(&hoard);
    }
}
