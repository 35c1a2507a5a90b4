//! The response: whole, or written piece by piece.

use std::fmt;
use std::io;

use wasip2::http::types::{OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{OutputStream, StreamError};

use crate::Headers;

/// What the handler answers.
///
/// A handler that returns a response which cannot be sent (a status outside
/// 100 to 999, a malformed header, one that only the host may set, such as
/// `transfer-encoding`) panics, and the client gets a 500.
pub struct Response {
    status: u16,
    headers: Headers,
    body: Body,
}

type Produce = dyn FnOnce(&mut BodyWriter) -> io::Result<()>;

enum Body {
    Whole(Vec<u8>),
    Stream(Box<Produce>),
}

impl Response {
    /// A response without headers and with an empty body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Headers::new(),
            body: Body::Whole(Vec::new()),
        }
    }

    /// A 200 with a body of plain text.
    #[must_use]
    pub fn text(body: impl Into<String>) -> Self {
        Self::new(200)
            .with_header("content-type", "text/plain; charset=utf-8")
            .with_body(body.into())
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets the whole body. Its length is announced unless the headers have
    /// a `content-length` of their own.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// A response whose body `produce` writes, after the head has gone out.
    ///
    /// An error returned by `produce` cuts the body off, so that the client
    /// can tell that it is not whole; an error that is not the client's going
    /// away is noted on stderr.
    #[must_use]
    pub fn stream(
        status: u16,
        headers: impl Into<Headers>,
        produce: impl FnOnce(&mut BodyWriter) -> io::Result<()> + 'static,
    ) -> Self {
        Self {
            status,
            headers: headers.into(),
            body: Body::Stream(Box::new(produce)),
        }
    }

    pub(crate) fn send(mut self, out: ResponseOutparam) {
        if let Body::Whole(body) = &self.body
            && self.headers.get("content-length").is_none()
            && allows_body(self.status)
        {
            self.headers
                .append("content-length", body.len().to_string());
        }
        let response = OutgoingResponse::new(self.headers.into_fields());
        assert!(
            response.set_status_code(self.status).is_ok(),
            "the host refuses the status {}",
            self.status
        );
        let body = response.body().expect("the body is taken once");
        let stream = body.write().expect("the stream is taken once");
        let mut writer = BodyWriter {
            stream,
            trailers: None,
            body,
        };
        ResponseOutparam::set(out, Ok(response));

        let written = match self.body {
            Body::Whole(body) => io::Write::write_all(&mut writer, &body),
            Body::Stream(produce) => produce(&mut writer),
        };
        if let Err(error) = written.and_then(|()| writer.finish()) {
            note_cut_response(&error);
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// Whether RFC 9110 lets a response of this status have a `content-length`.
fn allows_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

#[expect(clippy::print_stderr, reason = "a guest's stderr is its log")]
fn note_cut_response(error: &io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        eprintln!("response cut off: {error}");
    }
}

/// Writes the body of a response.
///
/// A write hands at most as much to the host as it has room for, and waits
/// while it has none, so a slow client slows the writer. Each write is at
/// least two host calls: many small pieces want a [`io::BufWriter`] around
/// this. After [`flush`](io::Write::flush) all that was written is on its way.
///
/// Writes fail with [`io::ErrorKind::BrokenPipe`] once the client has gone.
#[derive(Debug)]
pub struct BodyWriter {
    // In the order in which `wasi:http` wants them dropped: children first.
    stream: OutputStream,
    trailers: Option<Headers>,
    body: OutgoingBody,
}

impl BodyWriter {
    /// Sets the fields to send after the body. In HTTP/1.1 a client sees only
    /// those that the `trailer` header of the response has announced.
    pub fn set_trailers(&mut self, trailers: impl Into<Headers>) {
        self.trailers = Some(trailers.into());
    }

    fn finish(mut self) -> io::Result<()> {
        io::Write::flush(&mut self)?;
        drop(self.stream);
        OutgoingBody::finish(self.body, self.trailers.map(Headers::into_fields))
            .map_err(|code| io::Error::other(code.to_string()))
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let room = loop {
            match self.stream.check_write().map_err(broken)? {
                0 => self.stream.subscribe().block(),
                room => break usize::try_from(room).unwrap_or(usize::MAX),
            }
        };
        let count = room.min(buffer.len());
        self.stream.write(&buffer[..count]).map_err(broken)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.blocking_flush().map_err(broken)
    }
}

fn broken(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}
