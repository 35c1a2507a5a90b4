//! One connection of a client, HTTP/1.1 or HTTP/2 by prior knowledge.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, Response, Uri, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::class::{Class, Kind};
use super::seen::{End, Watched, Witness};

/// What is asked, over and over.
#[derive(Clone, Debug)]
pub(super) struct Question {
    address: SocketAddr,
    /// `http://ADDRESS/PATH`
    absolute: Uri,
    /// `/PATH`
    origin: Uri,
    host: HeaderValue,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    sender: Sender,
    witness: Witness,
    /// Whole responses that it gave.
    pub(super) answers: u64,
}

#[derive(Debug)]
enum Sender {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

/// A whole response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) revision: Option<u64>,
    /// When its head was there.
    pub(super) at: Instant,
    /// Whether the server says that it closes.
    pub(super) closes: bool,
}

/// Why there is no whole response.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The connection had ended before a byte of the request was written. If
    /// it had served before that is nothing that anybody promised.
    Unsent(Failed),
    /// It failed.
    Failed(Failed),
}

/// A failure and its text.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) class: Class,
    pub(super) text: String,
}

impl Question {
    /// # Panics
    ///
    /// If the path is none.
    pub(super) fn new(address: SocketAddr, path: String) -> Self {
        let uri = |text: String| {
            Uri::try_from(&text)
                .unwrap_or_else(|error| panic!("{text} cannot be asked for: {error}"))
        };
        Self {
            address,
            absolute: uri(format!("http://{address}{path}")),
            origin: uri(path),
            host: HeaderValue::from_str(&address.to_string()).expect("an address is ASCII"),
        }
    }

    fn request(&self, kind: Kind) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        if kind.is_h2() {
            *request.uri_mut() = self.absolute.clone();
            return request;
        }
        *request.uri_mut() = self.origin.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        if !kind.is_kept() {
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(CONNECTION, close);
        }
        request
    }
}

impl Link {
    pub(super) async fn open(question: &Question, kind: Kind) -> Result<Self, Failed> {
        let stream = TcpStream::connect(question.address)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|error| Failed::to_connect(&error))?;
        let witness = Witness::new(kind.is_h2());
        let io = TokioIo::new(Watched {
            stream,
            witness: witness.clone(),
        });
        // How a connection ends is told by the witness and by the request that
        // it fails; its task has nothing to add.
        let sender = if kind.is_h2() {
            http2::handshake(TokioExecutor::new(), io)
                .await
                .map(|(sender, connection)| {
                    tokio::spawn(connection);
                    Sender::H2(sender)
                })
        } else {
            http1::handshake(io).await.map(|(sender, connection)| {
                tokio::spawn(connection);
                Sender::H1(sender)
            })
        };
        match sender {
            Ok(sender) => Ok(Self {
                sender,
                witness,
                answers: 0,
            }),
            Err(error) => Err(Self::no_head(&witness, kind, 0, &error)),
        }
    }

    /// Whether the server has said that it takes no more requests.
    pub(super) fn is_dismissed(&self) -> bool {
        self.witness.look().goaway
    }

    /// Asks and reads the response to its end.
    pub(super) async fn ask(
        &mut self,
        question: &Question,
        kind: Kind,
    ) -> Result<Answer, Unanswered> {
        let ready = match &mut self.sender {
            Sender::H1(sender) => sender.ready().await,
            Sender::H2(sender) => sender.ready().await,
        };
        let (read, asked) = {
            let seen = self.witness.look();
            (seen.read, seen.asked())
        };
        if let Err(error) = ready {
            let failed = Self::no_head(&self.witness, kind, read, &error);
            return Err(Unanswered::Unsent(failed));
        }
        let request = question.request(kind);
        let sent = match &mut self.sender {
            Sender::H1(sender) => sender.try_send_request(request).await,
            Sender::H2(sender) => sender.try_send_request(request).await,
        };
        let response = sent.map_err(|mut error| {
            // hyper gives a request back that it did not begin to write. It
            // keeps one that it had only put into a buffer, or that HTTP/2 did
            // not let go out after a GOAWAY: then the socket knows better.
            let unsent = error.take_message().is_some() || self.witness.look().asked() == asked;
            let failed = Self::no_head(&self.witness, kind, read, error.error());
            if unsent {
                Unanswered::Unsent(failed)
            } else {
                Unanswered::Failed(failed)
            }
        })?;
        let answer = whole(response).await.map_err(Unanswered::Failed)?;
        self.answers += 1;
        Ok(answer)
    }

    /// What it is that no head of a response came, if `read` bytes had come
    /// before the request.
    fn no_head(witness: &Witness, kind: Kind, read: u64, error: &hyper::Error) -> Failed {
        let seen = witness.look();
        let class = match seen.end {
            _ if !kind.is_h2() && seen.read > read => Class::Cut,
            Some(End::Reset) => Class::Reset,
            Some(End::Closed) => Class::Lost,
            // A server that ends politely answers every request that was
            // written before its GOAWAY was read (RFC 9113 §6.8).
            None if seen.goaway => Class::Lost,
            // The connection stands: it was the stream that was reset.
            None if kind.is_h2() => Class::Reset,
            None => Class::Strange,
        };
        let how = match seen.end {
            Some(End::Reset) => "the connection was reset",
            Some(End::Closed) => "the connection was closed",
            None => "the connection stands",
        };
        let goaway = if seen.goaway { " after a GOAWAY" } else { "" };
        Failed {
            class,
            text: format!("{}; {how}{goaway}", chain(error)),
        }
    }
}

impl Failed {
    fn to_connect(error: &io::Error) -> Self {
        let class = match error.kind() {
            ErrorKind::ConnectionRefused => Class::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Class::Reset,
            _ => Class::Strange,
        };
        Self {
            class,
            text: format!("cannot connect: {error}"),
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Answer, Failed> {
    let at = Instant::now();
    let (head, mut body) = response.into_parts();
    let value = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let status = head.status.as_u16();
    let revision = value("x-revision").and_then(|value| value.parse().ok());
    let closes = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => length += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => {
                return Err(Failed {
                    class: Class::Cut,
                    text: format!(
                        "{} after the head ({status}) and {length} bytes of the body",
                        chain(&error)
                    ),
                });
            }
        }
    }
    Ok(Answer {
        status,
        revision,
        at,
        closes,
    })
}

/// An error and what it came from.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
