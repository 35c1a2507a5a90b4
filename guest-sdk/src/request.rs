//! The request: its head at once, its body as a stream.

use std::io;

use wasip2::http::types::{FutureTrailers, IncomingBody, IncomingRequest, Method, Scheme};
use wasip2::io::streams::{InputStream, StreamError};

use crate::Headers;

/// A request whose head has been read and whose body has not.
#[derive(Debug)]
pub struct Request {
    method: String,
    path_with_query: String,
    inner: IncomingRequest,
}

impl Request {
    pub(crate) fn new(inner: IncomingRequest) -> Self {
        Self {
            method: match inner.method() {
                Method::Get => "GET".to_owned(),
                Method::Head => "HEAD".to_owned(),
                Method::Post => "POST".to_owned(),
                Method::Put => "PUT".to_owned(),
                Method::Delete => "DELETE".to_owned(),
                Method::Connect => "CONNECT".to_owned(),
                Method::Options => "OPTIONS".to_owned(),
                Method::Trace => "TRACE".to_owned(),
                Method::Patch => "PATCH".to_owned(),
                Method::Other(name) => name,
            },
            path_with_query: inner.path_with_query().unwrap_or_default(),
            inner,
        }
    }

    /// The method, as it was sent.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path and the query, as they were sent; empty where the request had
    /// neither (`CONNECT`, `OPTIONS *`).
    #[must_use]
    pub fn path_with_query(&self) -> &str {
        &self.path_with_query
    }

    /// The path, as it was sent: nothing in it is decoded.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.path_with_query.split_once('?') {
            Some((path, _)) => path,
            None => &self.path_with_query,
        }
    }

    /// What follows the first `?`, as it was sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.path_with_query.split_once('?').map(|(_, query)| query)
    }

    /// The value of the first `name=value` in the query. Neither is decoded.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query()?
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The scheme, if the host knows it.
    #[must_use]
    pub fn scheme(&self) -> Option<String> {
        self.inner.scheme().map(|scheme| match scheme {
            Scheme::Http => "http".to_owned(),
            Scheme::Https => "https".to_owned(),
            Scheme::Other(name) => name,
        })
    }

    /// The authority (`Host`), if there was one.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        self.inner.authority()
    }

    /// The headers. Each call asks the host anew.
    #[must_use]
    pub fn headers(&self) -> Headers {
        Headers::from_fields(&self.inner.headers())
    }

    /// The body. A body that is dropped unread is discarded by the host.
    #[must_use]
    pub fn into_body(self) -> RequestBody {
        let body = self.inner.consume().expect("the body is taken once");
        let stream = body.stream().expect("the stream is taken once");
        RequestBody {
            stream,
            body,
            _request: self.inner,
        }
    }
}

/// The body of a request as it arrives: each read waits until the client has
/// sent something, and takes no more memory than the buffer given.
///
/// Reads fail where the client went away or broke the protocol.
#[derive(Debug)]
pub struct RequestBody {
    // In the order in which `wasi:http` wants them dropped: children first.
    stream: InputStream,
    body: IncomingBody,
    _request: IncomingRequest,
}

impl RequestBody {
    /// The trailers; empty where there were none. What was not read of the
    /// body is discarded.
    ///
    /// # Errors
    ///
    /// Where the body did not arrive whole.
    pub fn finish(self) -> io::Result<Headers> {
        drop(self.stream);
        let trailers: FutureTrailers = IncomingBody::finish(self.body);
        trailers.subscribe().block();
        let fields = trailers
            .get()
            .expect("the future was ready")
            .expect("the trailers are taken once")
            .map_err(|code| io::Error::other(code.to_string()))?;
        Ok(fields.map_or_else(Headers::new, |fields| Headers::from_fields(&fields)))
    }
}

impl io::Read for RequestBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.stream.blocking_read(buffer.len() as u64) {
            Ok(chunk) => {
                buffer[..chunk.len()].copy_from_slice(&chunk);
                // A host may wake us with nothing, which `Read` would take for the end.
                if chunk.is_empty() {
                    Err(io::ErrorKind::Interrupted.into())
                } else {
                    Ok(chunk.len())
                }
            }
            Err(StreamError::Closed) => Ok(0),
            Err(StreamError::LastOperationFailed(error)) => {
                Err(io::Error::other(error.to_debug_string()))
            }
        }
    }
}
