//! One connection of HTTP/1.1 as its server sees it.
//!
//! The driver keeps two buffers: `input`, of what was read and not taken, and
//! `out`, of what is to be written. It calls [`head`](Connection::head) until a
//! request has come, [`body`](Connection::body) when somebody wants more of
//! it, [`answer`](Connection::answer), [`content`](Connection::content) and
//! [`finish`](Connection::finish) for what is said in return, and, when all of
//! that is written, [`next`](Connection::next).

mod answering;
mod ending;

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::answer::Framing;
use crate::body::{Body, Bounds, Piece};
use crate::head::{Head, Manner, Violation, Waiting};

/// How much of a request's body is read and dropped, so that its connection can
/// be kept, once nobody has a use for it. With more to come a connection is
/// closed, which costs a client less than sending it.
const DROP_ON: u64 = 256 << 10;

/// How long a connection lingers whose last answer is written, so that its
/// client gets it: what the client still sends would make the kernel reset the
/// connection, and a reset takes unread answers away (RFC 9112 §9.6). nginx's
/// `lingering_time`.
const LINGER: Duration = Duration::from_secs(30);

/// How long a client may send nothing while its connection lingers. nginx's
/// `lingering_timeout`.
const LINGER_QUIET: Duration = Duration::from_secs(5);

/// The limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of one head, or of one body's trailers.
    pub max_head: usize,
    /// Fields of one head, or of one body's trailers.
    pub max_fields: usize,
    /// How long a head may take, and how long a connection may be silent
    /// between two requests.
    pub header_timeout: Duration,
    /// The longest pause within a body that nobody has a use for.
    pub body_timeout: Duration,
    /// Requests that are answered before the connection ends; 0 is no limit.
    pub max_requests: u64,
}

/// What one HTTP/1.1 connection has said and may say: the rules, and no socket.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    phase: Phase,
    /// Requests that have come.
    requests: u64,
    leaving: Leaving,
    /// The client has sent its last byte.
    ended: bool,
}

/// Where a connection is.
#[derive(Debug)]
enum Phase {
    /// Between two requests, since then. An empty line is none yet.
    Idle {
        since: Instant,
        skipped: Waiting,
    },
    /// Part of a head has come, the first of it then.
    Head(Instant, Waiting),
    /// A request is answered.
    Exchange(Exchange),
    /// The last answer is written and the end of it was sent: what still comes
    /// is dropped.
    Linger {
        until: Instant,
        quiet: Instant,
    },
    Closed,
}

/// A request and its answer.
#[derive(Debug)]
struct Exchange {
    manner: Manner,
    body: Body,
    reader: Reader,
    answer: Answer,
    /// Another request may follow.
    keep: bool,
}

/// Who has a use for the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Whoever answers it.
    Guest,
    /// Nobody: so much more of it is dropped at most, begun and last heard of
    /// then.
    Nobody {
        left: u64,
        begun: Instant,
        since: Instant,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Awaited,
    Begun(Framing),
    Whole,
}

/// Whether the connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// With the next answer, or when it was silent for so long.
    After(Duration, Instant),
}

/// What becomes of a connection when everything is written that there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The exchange goes on.
    Wait,
    /// The next request may come.
    Again,
    /// The sending side is to be shut, and what still comes to be given to
    /// [`drop_input`](Connection::drop_input).
    Linger,
    /// It is over.
    Close,
}

/// What a connection does whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It is not.
    No,
    /// It is over.
    Close,
    /// A head has begun and not ended: 408 is owed, and the end.
    Refuse,
}

impl Connection {
    /// A connection that has just come.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            phase: idle(now),
            requests: 0,
            leaving: Leaving::No,
            ended: false,
        }
    }

    /// Requests that have come.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Since when nothing is asked, if nothing is.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle { since, .. } => Some(since),
            Phase::Linger { .. } | Phase::Closed => None,
            Phase::Head(..) | Phase::Exchange(_) => None,
        }
    }

    /// Whether the last answer is written and the connection only lingers.
    #[must_use]
    pub fn is_lingering(&self) -> bool {
        matches!(self.phase, Phase::Linger { .. })
    }

    /// Whether a request has begun to come or is answered.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Head(..) | Phase::Exchange(_))
    }

    /// The next request's head, once it has come.
    ///
    /// # Errors
    ///
    /// Why it is refused: an answer is owed, and the connection ends with it.
    pub fn head(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Head>, Violation> {
        let (since, mut waiting) = match self.phase {
            Phase::Idle { since, mut skipped } => {
                if !skipped.skip(input) {
                    self.phase = Phase::Idle { since, skipped };
                    return Ok(None);
                }
                (now, skipped)
            }
            Phase::Head(since, waiting) => (since, waiting),
            Phase::Exchange(_) | Phase::Linger { .. } | Phase::Closed => return Ok(None),
        };
        let Settings {
            max_head,
            max_fields,
            ..
        } = self.settings;
        let head = waiting.head(input, max_head, max_fields);
        if let Ok(None) = head {
            self.phase = Phase::Head(since, waiting);
            return Ok(None);
        }
        self.requests += 1;
        match head {
            Ok(None) => Ok(None),
            Ok(Some(head)) => {
                let max = self.settings.max_requests;
                self.phase = Phase::Exchange(Exchange {
                    manner: head.manner,
                    body: Body::new(head.length),
                    reader: Reader::Guest,
                    answer: Answer::Awaited,
                    keep: head.manner.keep_alive && (max == 0 || self.requests < max),
                });
                Ok(Some(head))
            }
            Err(violation) => {
                self.refuse(now);
                Err(violation)
            }
        }
    }

    /// Nothing more of the connection is understood: what is owed is one answer.
    fn refuse(&mut self, now: Instant) {
        self.phase = Phase::Exchange(Exchange {
            manner: Manner {
                http10: false,
                keep_alive: false,
                is_head: false,
                trailers: false,
                expects: false,
            },
            body: Body::Broken,
            reader: Reader::nobody(0, now),
            answer: Answer::Awaited,
            keep: false,
        });
    }

    /// The next piece of the request's body, once it has come. To be called only
    /// when it is wanted: what is not taken off `input` is not read either.
    ///
    /// # Errors
    ///
    /// The body makes no sense, and neither does what follows it.
    pub fn body(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Violation> {
        let bounds = self.bounds();
        let Phase::Exchange(exchange) = &mut self.phase else {
            return Ok(None);
        };
        if !input.is_empty() {
            // It does not wait to be asked.
            exchange.manner.expects = false;
        }
        let piece = exchange.body.next(input, bounds);
        let never = self.ended && matches!(piece, Ok(None)) && !exchange.body.is_whole();
        if never {
            exchange.body = Body::Broken;
        }
        if piece.is_err() || never {
            exchange.keep = false;
        }
        piece
    }

    /// Whether all of the request has come and was taken.
    #[must_use]
    pub fn has_whole_body(&self) -> bool {
        match &self.phase {
            Phase::Exchange(exchange) => exchange.body.is_whole(),
            _ => true,
        }
    }

    /// Whoever answers has no use for the rest of the body.
    pub fn drop_body(&mut self, now: Instant) {
        if let Phase::Exchange(exchange) = &mut self.phase
            && exchange.reader == Reader::Guest
        {
            exchange.reader = Reader::nobody(DROP_ON, now);
        }
    }

    /// Drops what has come of a body that nobody has a use for.
    pub fn drop_input(&mut self, input: &mut BytesMut, now: Instant) {
        let bounds = self.bounds();
        match &mut self.phase {
            Phase::Exchange(exchange) => {
                let Reader::Nobody { left, since, .. } = &mut exchange.reader else {
                    return;
                };
                while *left > 0 {
                    match exchange.body.next(input, bounds) {
                        Ok(Some(Piece::Bytes(bytes))) => {
                            *left = left.saturating_sub(bytes.len() as u64);
                            *since = now;
                        }
                        Ok(Some(Piece::End(_)) | None) => break,
                        Err(_) => *left = 0,
                    }
                }
            }
            Phase::Linger { quiet, until } => {
                if !input.is_empty() {
                    *quiet = (now + LINGER_QUIET).min(*until);
                }
                input.clear();
            }
            Phase::Closed => input.clear(),
            Phase::Idle { .. } | Phase::Head(..) => {}
        }
    }

    /// What follows, once all that there was is written. `input` is looked at
    /// only for whether the client has more to say.
    pub fn next(&mut self, input: &BytesMut, now: Instant) -> Next {
        let exchange = match &self.phase {
            Phase::Exchange(exchange) => exchange,
            Phase::Closed => return Next::Close,
            Phase::Idle { .. } | Phase::Head(..) | Phase::Linger { .. } => return Next::Wait,
        };
        if exchange.answer != Answer::Whole {
            return Next::Wait;
        }
        if exchange.body.is_whole() && exchange.keep {
            self.phase = idle(now);
            return Next::Again;
        }
        let given_up = match exchange.reader {
            Reader::Guest => false,
            Reader::Nobody { left, .. } => left == 0 || self.ended,
        };
        if exchange.keep && !given_up && !matches!(exchange.body, Body::Broken) {
            return Next::Wait;
        }
        let never = self.ended && matches!(exchange.body, Body::Broken);
        if exchange.reader == Reader::Guest && !exchange.body.is_whole() && !never {
            // Whoever answered still reads.
            return Next::Wait;
        }
        if self.ended || (exchange.body.is_whole() && input.is_empty()) {
            self.phase = Phase::Closed;
            return Next::Close;
        }
        self.phase = Phase::Linger {
            until: now + LINGER,
            quiet: now + LINGER_QUIET,
        };
        Next::Linger
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            max_head: self.settings.max_head,
            max_fields: self.settings.max_fields,
        }
    }
}

/// Nothing of the next request has come.
fn idle(since: Instant) -> Phase {
    Phase::Idle {
        since,
        skipped: Waiting::default(),
    }
}

impl Reader {
    fn nobody(left: u64, now: Instant) -> Self {
        Self::Nobody {
            left,
            begun: now,
            since: now,
        }
    }
}

impl Exchange {
    /// Whether another request may follow an answer that begins now, with so
    /// many bytes waiting to be taken.
    fn body_allows_more(&self, waiting: u64) -> bool {
        match (&self.body, self.reader) {
            (Body::Whole, _) => true,
            (Body::Broken, _) => false,
            // It may never come: whether the next byte is of it, nobody knows.
            _ if self.manner.expects => false,
            (_, Reader::Guest) => true,
            (Body::Exact(left), Reader::Nobody { .. }) => left.saturating_sub(waiting) <= DROP_ON,
            (Body::Chunked(..), Reader::Nobody { .. }) => false,
        }
    }
}
