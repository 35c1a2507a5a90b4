//! Sends bodies that take their time.
//!
//! | request | answer |
//! |---|---|
//! | `/?n=N&every=MS` | N server-sent events (10), one every MS milliseconds (100), each flushed |
//! | `/drip?bytes=N&every=MS` | N bytes (10), one at a time |
//! | `/forever?every=MS` | server-sent events until the client goes |

use std::io::{self, Write};

use skep_guest::wasip2::clocks::monotonic_clock;
use skep_guest::{BodyWriter, Request, Response};

skep_guest::handler!(handle);

fn handle(request: Request) -> Response {
    let pause = Pause(number(&request, "every", 100));
    match request.path() {
        "/" => events(number(&request, "n", 10), pause),
        "/forever" => events(u64::MAX, pause),
        "/drip" => drip(number(&request, "bytes", 10), pause),
        _ => Response::new(404),
    }
}

fn events(count: u64, pause: Pause) -> Response {
    let headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
    ];
    Response::stream(200, headers, move |writer| {
        paced(count, pause, writer, |index, writer| {
            // One write, so that an event is never seen in halves.
            let event = format!("id: {index}\ndata: event {index}\n\n");
            writer.write_all(event.as_bytes())
        })
    })
}

fn drip(count: u64, pause: Pause) -> Response {
    let headers = [
        ("content-type", "text/plain".to_owned()),
        ("content-length", count.to_string()),
    ];
    Response::stream(200, headers, move |writer| {
        paced(count, pause, writer, |_, writer| writer.write_all(b"."))
    })
}

/// Calls `produce` `count` times, flushes each time, and pauses in between.
fn paced(
    count: u64,
    pause: Pause,
    writer: &mut BodyWriter,
    produce: impl Fn(u64, &mut BodyWriter) -> io::Result<()>,
) -> io::Result<()> {
    for index in 0..count {
        if index > 0 {
            pause.take();
        }
        produce(index, writer)?;
        writer.flush()?;
    }
    Ok(())
}

/// A pause in milliseconds.
#[derive(Clone, Copy)]
struct Pause(u64);

impl Pause {
    fn take(self) {
        monotonic_clock::subscribe_duration(self.0.saturating_mul(1_000_000)).block();
    }
}

/// The number under `name` in the query, or `default` where there is none.
fn number(request: &Request, name: &str, default: u64) -> u64 {
    request
        .query_value(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}
