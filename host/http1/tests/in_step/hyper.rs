//! hyper's server of HTTP/1.1 over a transport in memory.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;

use super::machine::settings;
use super::{Heard, Reading};

/// A client that sends this and waits.
struct Memory<'a>(&'a [u8]);

impl Read for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let some = self.0.len().min(into.remaining());
        if some == 0 {
            return Poll::Pending;
        }
        let (now, later) = self.0.split_at(some);
        into.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What hyper makes of these bytes.
pub(crate) fn hear(bytes: &[u8]) -> Reading {
    let reading = Rc::new(RefCell::new(Reading::default()));
    let service = service_fn(|request: Request<Incoming>| answer(request, Rc::clone(&reading)));
    let mut ended = Poll::Pending;
    {
        let mut connection = pin!(
            Builder::new()
                .max_headers(settings().max_fields)
                .serve_connection(Memory(bytes), service)
        );
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        // It may yield although there is more to do.
        while ended.is_pending() && woken.0.swap(false, Ordering::Relaxed) {
            ended = connection.as_mut().poll(&mut cx);
        }
    }
    let mut reading = reading.take();
    if let Poll::Ready(end) = ended {
        reading.closed = true;
        reading.refused |= end.is_err();
    }
    reading
}

async fn answer(
    request: Request<Incoming>,
    reading: Rc<RefCell<Reading>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let is_connect = head.method == Method::CONNECT;
    reading.borrow_mut().part = Some(Heard::new(Request::from_parts(head, ())));
    let mut status = if is_connect {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::OK
    };
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        let mut reading = reading.borrow_mut();
        let part = reading.part.as_mut().expect("it is answered");
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(bytes)) => part.body.extend_from_slice(&bytes),
            Ok(Err(frame)) => part.trailers = frame.into_trailers().ok(),
            Err(_) => {
                reading.refused = true;
                status = StatusCode::BAD_REQUEST;
                whole = false;
                break;
            }
        }
    }
    if whole {
        let mut reading = reading.borrow_mut();
        let part = reading.part.take();
        reading.whole.extend(part);
    }
    let mut response = Response::new(Full::new(Bytes::from_static(b"answer")));
    *response.status_mut() = status;
    Ok(response)
}
