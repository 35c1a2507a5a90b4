//! The life of one connection, whatever it speaks.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderValue, Request, header};
use skep_core::{ConnectionLimits, Outcome};
use skep_http1::Settings;
use skep_sys::Peer;
use skep_wire::Spoken;

use crate::budget::Origin;
use crate::desk::Desk;
use crate::home::Home;
use crate::http1::Http1;
use crate::http2;
use crate::ids::random;
use crate::intake::GiveBack;
use crate::rooms::{Ask, Stay};
use crate::transport::{Socket, Transport};

/// A connection that came from a dispatcher instead of a listener.
pub(crate) struct HandedOut {
    pub(crate) home: Arc<Home>,
    /// It is to be given back after one request.
    pub(crate) once: bool,
    /// What was read of it already.
    pub(crate) read: Vec<u8>,
    /// What it has spoken so far.
    pub(crate) spoken: Spoken,
    pub(crate) back: GiveBack,
}

/// A connection that is given back. It counts as open until this is dropped.
pub(crate) struct Returned {
    pub(crate) left: Left,
    #[expect(dead_code, reason = "held, so that the worker waits for it")]
    open: Open,
}

/// A connection of HTTP/1.1 that was given up between two requests.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) socket: OwnedFd,
    /// What was read of the next request.
    pub(crate) read: Vec<u8>,
    /// What it has spoken.
    pub(crate) spoken: Spoken,
}

/// How a connection of HTTP/1.1 ends.
pub(crate) enum End<T> {
    Closed,
    /// Another process goes on with it, and the client does not notice.
    GivenBack(T, Vec<u8>, Spoken),
    /// It is one of HTTP/2, and this was read of it.
    Http2(T, BytesMut),
}

/// Serves one connection to its end, or until it is given back.
pub(crate) async fn serve(
    desk: Arc<Desk>,
    limits: Arc<ConnectionLimits>,
    (socket, peer): (Socket, Peer),
    handed_out: Option<HandedOut>,
) {
    match socket {
        Socket::Tcp(tcp) => serve_over(desk, limits, tcp, peer, handed_out).await,
        Socket::Unix(unix) => serve_over(desk, limits, unix, peer, handed_out).await,
    }
}

async fn serve_over<T: Transport>(
    desk: Arc<Desk>,
    limits: Arc<ConnectionLimits>,
    transport: T,
    peer: Peer,
    handed_out: Option<HandedOut>,
) {
    let (carrier, read, spoken) = Carrier::new(desk, limits, &peer, handed_out);
    let (transport, read, greeted) = match spoken {
        Spoken::Http2 { greeted } => (transport, read, greeted),
        Spoken::Nothing | Spoken::Http1 => {
            let may_switch = spoken == Spoken::Nothing;
            let http1 = Http1::new(&carrier, transport, read, may_switch);
            match http1.run().await {
                End::Closed => return,
                End::GivenBack(transport, read, spoken) => {
                    return carrier.give_back(transport, read, spoken);
                }
                End::Http2(transport, read) => (transport, read, false),
            }
        }
    };
    // Most connections need no room for this.
    Box::pin(http2::run(carrier, transport, read, greeted)).await;
}

/// What the driver of a connection knows besides its bytes.
pub(crate) struct Carrier {
    pub(crate) desk: Arc<Desk>,
    pub(crate) limits: Arc<ConnectionLimits>,
    /// The client's address as a field's value, where it has one.
    pub(crate) client: Option<HeaderValue>,
    /// The client as rates know it.
    pub(crate) origin: Origin,
    pub(crate) stay: Arc<Stay>,
    pub(crate) since: Instant,
    old_at: Option<Instant>,
    handed_out: Option<From>,
    open: Open,
}

/// Who handed it out, and for what.
struct From {
    home: Arc<Home>,
    once: bool,
    back: GiveBack,
}

impl Carrier {
    fn new(
        desk: Arc<Desk>,
        limits: Arc<ConnectionLimits>,
        peer: &Peer,
        handed_out: Option<HandedOut>,
    ) -> (Self, BytesMut, Spoken) {
        let now = Instant::now();
        let client = match peer {
            Peer::Tcp(address) => {
                HeaderValue::from_str(&address.ip().to_canonical().to_string()).ok()
            }
            Peer::Unix => None,
        };
        let (handed_out, read, spoken) = match handed_out {
            Some(HandedOut {
                home,
                once,
                read,
                spoken,
                back,
            }) => (
                Some(From { home, once, back }),
                BytesMut::from(&read[..]),
                spoken,
            ),
            None => (None, BytesMut::new(), Spoken::Nothing),
        };
        let carrier = Self {
            stay: Arc::new(desk.rooms.enter(now)),
            client,
            origin: Origin::of(peer),
            since: now,
            old_at: old_at(&limits, now),
            handed_out,
            open: Open(Arc::clone(&desk)),
            desk,
            limits,
        };
        (carrier, read, spoken)
    }

    /// The limits of HTTP/1.1.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            max_head: self.limits.max_head,
            max_fields: self.limits.max_headers,
            header_timeout: self.limits.header_timeout,
            body_timeout: self.limits.body_timeout,
            max_requests: self.limits.max_requests_per_connection,
        }
    }

    /// When it has lived for so long that load should move to other workers.
    pub(crate) fn old_at(&self) -> Option<Instant> {
        self.old_at
    }

    /// For how long it may be silent before it ends, if it is to end.
    pub(crate) fn asked_to_end(&self, now: Instant) -> Option<Duration> {
        match self.stay.asked() {
            Ask::Stay if self.old_at.is_some_and(|old| old <= now) => Some(self.desk.linger()),
            Ask::Stay => None,
            Ask::MakeRoom => Some(crate::rooms::LEAST),
            Ask::Drain => Some(self.desk.linger()),
        }
    }

    /// Whether it is to be given back between two requests.
    pub(crate) fn is_wanted_back(&self) -> bool {
        self.handed_out.is_some() && self.stay.asked() == Ask::Drain
    }

    /// Whether it is to be given back after one request.
    pub(crate) fn is_once(&self) -> bool {
        self.handed_out.as_ref().is_some_and(|from| from.once)
    }

    /// Which hosts are at home here, where connections are handed out by host.
    pub(crate) fn home(&self) -> Option<Arc<Home>> {
        let from = self.handed_out.as_ref()?;
        Some(Arc::clone(&from.home))
    }

    /// Whether a request of HTTP/1.1 is for this worker.
    pub(crate) fn owns(&self, request: &Request<()>) -> bool {
        let Some(from) = &self.handed_out else {
            return true;
        };
        let target = request.uri().authority();
        let target = target.map(|authority| authority.as_str().as_bytes());
        let field = || {
            request
                .headers()
                .get(header::HOST)
                .map(HeaderValue::as_bytes)
        };
        from.home.owns(target.or_else(field).unwrap_or_default())
    }

    /// Nothing is asked of it any more: it may make room for who waits.
    pub(crate) fn rests(&self, now: Instant) {
        self.stay.idle(now);
        self.desk.request_ended();
    }

    /// Counts a request whose head was refused before anybody could read it.
    pub(crate) fn refused_unread(&self, outcome: Outcome) {
        self.desk.refused_unread(outcome);
    }

    fn give_back<T: Transport>(self, transport: T, read: Vec<u8>, spoken: Spoken) {
        if let (Some(from), Some(socket)) = (self.handed_out, transport.into_socket()) {
            let left = Left {
                socket,
                read,
                spoken,
            };
            from.back.send(Returned {
                left,
                open: self.open,
            });
        }
    }
}

/// Less up to a tenth, another one for each, so that connections that came
/// together do not leave together.
fn old_at(limits: &ConnectionLimits, now: Instant) -> Option<Instant> {
    let age = limits.max_connection_age;
    if age.is_zero() {
        return None;
    }
    let part = u32::from(random().to_le_bytes()[0]);
    Some(now + age - age / 10 * part / 256)
}

/// Counts an open connection.
struct Open(Arc<Desk>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cell().connection_closed();
        self.0.connection_ended();
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
pub(crate) mod tests;
