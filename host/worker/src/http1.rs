//! A connection of HTTP/1.1: between its socket, the machine that understands
//! it ([`skep_http1`]), and the service that answers.
//!
//! One task drives it. What it does when it is woken is always the same: write
//! what there is, say more if there is room, read what is wanted, and decide
//! what follows once everything is written.

mod listening;
mod saying;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use skep_core::Outcome;
use skep_http1::{Head, Late, Length, Next, Piece, Preface, Violation, preface};

use skep_wire::Spoken;

use crate::alarm::Alarm;
use crate::connection::{Carrier, End};
use crate::ids::new_request_id;
use crate::lifeline::Lifeline;
use crate::pipe::{BodyFault, PipeIn, pipe};
use crate::reply::{Reply, ReplyBody, refusal};
use crate::service::{ClientBody, Service};
use crate::transport::{READ, Transport, poll_read};
use crate::writing::Writing;

use listening::Listening;

/// Bytes of answers that wait for the client; with more, no more is asked of the
/// guest. One piece of a guest's is 64 KiB at most and may come on top.
const ENOUGH: usize = 64 << 10;

/// Bytes that are read from a client while it is answered: only reading shows
/// whether the client is still there.
const AHEAD: usize = 16 << 10;

/// Bytes that are read at a time where a head is expected: most requests whole.
const READ_HEAD: usize = 4 << 10;

/// The request that is answered.
struct Exchange {
    saying: Saying,
    body: Option<PipeIn>,
    lifeline: Arc<Lifeline>,
}

type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// How far its answer is.
enum Saying {
    /// It is being made.
    Awaiting(Answering),
    /// Its head is said, and some of this.
    Content(ReplyBody),
    /// All of it.
    All,
}

/// The connection's task.
pub(crate) struct Http1<'a, T> {
    carrier: &'a Carrier,
    service: Arc<Service>,
    transport: T,
    machine: skep_http1::Connection,
    input: BytesMut,
    /// Whether the next piece of a request takes more than there is in `input`.
    short: bool,
    writing: Writing,
    /// Nothing more is written in this turn of the event loop.
    written: bool,
    /// Nothing more has come in this turn of the event loop.
    heard: bool,
    exchange: Option<Exchange>,
    listening: Listening,
    /// Nothing has come, so that it may turn out to be one of HTTP/2.
    may_switch: bool,
    alarm: Alarm,
    /// When the task was woken: exact enough for whatever is timed here.
    now: Instant,
    watched: bool,
}

impl<'a, T: Transport> Http1<'a, T> {
    /// Goes on with a connection of which `input` was read. `may_switch` says
    /// whether it may turn out to be one of HTTP/2.
    pub(crate) fn new(
        carrier: &'a Carrier,
        transport: T,
        input: BytesMut,
        may_switch: bool,
    ) -> Self {
        let service = Service::new(carrier, transport.scheme());
        Self {
            machine: skep_http1::Connection::new(carrier.settings(), carrier.since),
            writing: Writing::new(carrier.limits.write_timeout),
            service: Arc::new(service),
            carrier,
            transport,
            input,
            short: false,
            written: false,
            heard: false,
            exchange: None,
            listening: Listening::Open,
            may_switch,
            alarm: Alarm::default(),
            now: carrier.since,
            watched: false,
        }
    }

    /// Serves it to its end.
    pub(crate) async fn run(mut self) -> End<T> {
        match std::future::poll_fn(|cx| self.poll(cx)).await {
            Finish::Closed => End::Closed,
            Finish::GivenBack(read) => {
                let spoken = if self.may_switch {
                    Spoken::Nothing
                } else {
                    Spoken::Http1
                };
                End::GivenBack(self.transport, read, spoken)
            }
            Finish::Http2 => End::Http2(self.transport, self.input),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finish> {
        if !self.watched {
            // A task has one waker for life.
            self.carrier.stay.watched_by(cx.waker());
            self.watched = true;
        }
        self.now = Instant::now();
        self.written = false;
        self.heard = false;
        loop {
            match self.turn(cx) {
                Ok(Turn::Again) => {}
                Ok(Turn::Rest) => match self.watch(cx) {
                    Ok(Turn::Again) => {}
                    Ok(Turn::Rest) => return Poll::Pending,
                    Err(finish) => return Poll::Ready(finish),
                },
                Err(finish) => return Poll::Ready(finish),
            }
        }
    }

    /// Does what can be done now.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, Finish> {
        self.heed();
        let mut turn = self.read(cx)?;
        turn |= self.take_head()?;
        turn |= self.feed(cx);
        let said = self.say(cx)?;
        turn |= said;
        if said == Turn::Rest {
            // A head and what follows it at once go out together.
            turn |= self.write(cx)?;
        }
        if self.writing.is_empty() {
            turn |= self.follow(cx)?;
        }
        Ok(turn)
    }

    /// Does what the worker wants of the connection.
    fn heed(&mut self) {
        if self.machine.is_leaving() || self.carrier.is_wanted_back() {
            // It is given back as it is, between two requests.
            return;
        }
        if let Some(linger) = self.carrier.asked_to_end(self.now) {
            self.machine.leave(linger, self.now);
        }
    }

    /// Reads, if anything is wanted.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Turn, Finish> {
        if self.heard || self.listening != Listening::Open || !self.wants_input(cx) {
            return Ok(Turn::Rest);
        }
        let most = if self.exchange.is_some() {
            READ
        } else {
            READ_HEAD
        };
        match poll_read(&mut self.transport, cx, &mut self.input, most) {
            Poll::Pending => {
                self.heard = true;
                Ok(Turn::Rest)
            }
            Poll::Ready(Ok(0)) => self.at_eof(),
            Poll::Ready(Ok(_)) => {
                self.short = false;
                self.machine.drop_input(&mut self.input, self.now);
                Ok(Turn::Again)
            }
            Poll::Ready(Err(_)) => Err(self.gone()),
        }
    }

    /// Whether to read on: what has come is used up first, or a client that sends
    /// many small requests or chunks would have us keep all of them.
    fn wants_input(&self, cx: &Context<'_>) -> bool {
        let used_up = self.short || self.input.is_empty();
        let body = self.exchange.as_ref().map(|exchange| &exchange.body);
        match body {
            None => used_up,
            Some(Some(body)) => (body.is_wanted(cx) || body.is_closed()) && used_up,
            Some(None) => self.input.len() < AHEAD,
        }
    }

    /// The next piece of a request takes more than has come.
    fn falls_short(&mut self) -> Turn {
        if std::mem::replace(&mut self.short, true) {
            Turn::Rest
        } else {
            Turn::Again
        }
    }

    /// The client has gone: whatever is done for it ends.
    fn gone(&mut self) -> Finish {
        if let Some(exchange) = self.exchange.take() {
            exchange.lifeline.end(Outcome::ClientGone);
        }
        Finish::Closed
    }

    /// Takes a request that has come.
    fn take_head(&mut self) -> Result<Turn, Finish> {
        if self.exchange.is_some() || self.machine.is_lingering() {
            return Ok(Turn::Rest);
        }
        if self.input.is_empty() && self.listening == Listening::Open {
            return Ok(Turn::Rest);
        }
        if self.carrier.is_once() && self.machine.requests() > 0 && !self.input.is_empty() {
            // Not before a request has come: the dispatcher may die meanwhile.
            return Err(self.give_back());
        }
        if self.may_switch && !self.input.is_empty() {
            match preface(&self.input) {
                Preface::Http2 => return Err(Finish::Http2),
                Preface::Part if self.listening == Listening::Open => {
                    return Ok(self.falls_short());
                }
                Preface::Part | Preface::Other => self.may_switch = false,
            }
        }
        let now = self.now;
        match self.machine.head(&mut self.input, now) {
            Ok(None) if self.listening != Listening::Open && self.writing.is_empty() => {
                Err(Finish::Closed)
            }
            Ok(None) => Ok(self.falls_short()),
            Ok(Some(head)) => self.begin(head),
            Err(violation) => {
                let outcome = match violation {
                    Violation::HeadTooLarge => Outcome::HeadTooLarge,
                    _ => Outcome::BadRequest,
                };
                self.refuse(outcome, now);
                Ok(Turn::Again)
            }
        }
    }

    fn begin(&mut self, head: Head) -> Result<Turn, Finish> {
        self.carrier.stay.busy();
        if !self.carrier.owns(&head.request) {
            // Not one byte of it is taken.
            let mut read = Vec::from(head.raw);
            read.extend_from_slice(&self.input);
            return Err(Finish::GivenBack(read));
        }
        let lifeline = Arc::new(Lifeline::default());
        let (body, pipe) = self.client_body(head.length);
        let (parts, ()) = head.request.into_parts();
        let answering = Arc::clone(&self.service).answer(parts, body, Arc::clone(&lifeline));
        self.exchange = Some(Exchange {
            saying: Saying::Awaiting(Box::pin(answering)),
            body: pipe,
            lifeline,
        });
        Ok(Turn::Again)
    }

    /// The body of the request that has just come. One that is there already
    /// needs no pipe.
    fn client_body(&mut self, length: Length) -> (ClientBody, Option<PipeIn>) {
        let exact = match length {
            Length::None => return (ClientBody::Empty, None),
            Length::Exact(length) => Some(length),
            Length::Chunked => None,
        };
        if exact.is_some_and(|length| self.input.len() as u64 >= length)
            && let Ok(Some(Piece::Bytes(bytes))) = self.machine.body(&mut self.input)
            && let Ok(Some(Piece::End(_))) = self.machine.body(&mut self.input)
        {
            return (ClientBody::Whole(Some(bytes)), None);
        }
        let (into, out) = pipe(exact);
        (ClientBody::Piped(out), Some(into))
    }

    /// Gives the guest more of the request's body.
    fn feed(&mut self, cx: &Context<'_>) -> Turn {
        let Some(exchange) = &mut self.exchange else {
            return Turn::Rest;
        };
        let Some(body) = &exchange.body else {
            return Turn::Rest;
        };
        if body.is_closed() {
            exchange.body = None;
            self.machine.drop_body(self.now);
            self.machine.drop_input(&mut self.input, self.now);
            return Turn::Again;
        }
        if !body.is_wanted(cx) {
            return Turn::Rest;
        }
        if self.input.is_empty() {
            self.machine.invite(self.writing.out());
        }
        match self.machine.body(&mut self.input) {
            Ok(None) if self.listening != Listening::Open => {
                body.fail(BodyFault::Gone);
                exchange.body = None;
                Turn::Again
            }
            Ok(None) => self.falls_short(),
            Ok(Some(Piece::Bytes(bytes))) => {
                body.put(bytes);
                Turn::Again
            }
            Ok(Some(Piece::End(trailers))) => {
                body.end(trailers);
                exchange.body = None;
                Turn::Again
            }
            Err(violation) => {
                body.fail(match violation {
                    Violation::HeadTooLarge => BodyFault::TrailersTooLarge,
                    _ => BodyFault::Malformed,
                });
                exchange.body = None;
                self.machine.drop_body(self.now);
                Turn::Again
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<Turn, Finish> {
        if self.writing.is_empty() || self.written {
            return Ok(Turn::Rest);
        }
        // Output that was held back for more goes out with it.
        let before = self.writing.len();
        match self.writing.poll(&mut self.transport, cx) {
            Poll::Pending => {
                // Other connections are first, or the client takes nothing.
                self.written = true;
                if self.writing.len() < before
                    && let Some(exchange) = &self.exchange
                {
                    exchange.lifeline.takes(self.now);
                }
                Ok(Turn::Rest)
            }
            Poll::Ready(Ok(())) => Ok(Turn::Again),
            Poll::Ready(Err(_)) => Err(self.gone()),
        }
    }

    /// Everything is written: decides what follows.
    fn follow(&mut self, cx: &mut Context<'_>) -> Result<Turn, Finish> {
        let now = self.now;
        match self.machine.next(&self.input, now) {
            Next::Wait => {}
            Next::Again => {
                self.exchange = None;
                self.carrier.rests(now);
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                return Ok(Turn::Again);
            }
            Next::Close => return Err(Finish::Closed),
            Next::Linger => {
                self.exchange = None;
                self.carrier.rests(now);
                self.input.clear();
                // It may have closed already.
                let _ = Pin::new(&mut self.transport).poll_shutdown(cx);
                return Ok(Turn::Again);
            }
        }
        if self.carrier.is_wanted_back() && self.exchange.is_none() && !self.machine.is_lingering()
        {
            return Err(self.give_back());
        }
        Ok(Turn::Rest)
    }

    fn give_back(&mut self) -> Finish {
        Finish::GivenBack(self.input.to_vec())
    }

    /// Waits, and ends what has taken too long.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<Turn, Finish> {
        let probe = match self.listening {
            Listening::HalfClosed(then, _) if self.exchange.is_some() => Some(then),
            Listening::HalfClosed(..) | Listening::Open => None,
        };
        let old = self.carrier.old_at().filter(|_| !self.machine.is_leaving());
        let blocked = self.writing.deadline();
        let all = [self.machine.deadline(), blocked, probe, old];
        let first = all.into_iter().flatten().min();
        if self.alarm.watch(first, cx).is_pending() {
            return Ok(Turn::Rest);
        }
        let now = Instant::now();
        if blocked.is_some_and(|blocked| blocked <= now) {
            if let Some(exchange) = self.exchange.take() {
                exchange.lifeline.end(Outcome::TooSlow);
            }
            return Err(Finish::Closed);
        }
        if probe.is_some_and(|probe| probe <= now) {
            self.probe(now)?;
        }
        if self.machine.idle_since().is_some() && self.transport.has_more() {
            // A request came just before the end.
            self.machine.postpone(now);
            return Ok(Turn::Again);
        }
        match self.machine.late(now) {
            Late::No => Ok(Turn::Again),
            Late::Close => Err(Finish::Closed),
            Late::Refuse => {
                self.refuse(Outcome::TooSlow, now);
                Ok(Turn::Again)
            }
        }
    }

    /// A request that could not be read is answered without the service.
    fn refuse(&mut self, outcome: Outcome, now: Instant) {
        self.carrier.stay.busy();
        self.carrier.refused_unread(outcome);
        let reply = refusal(outcome, &new_request_id());
        self.exchange = Some(Exchange {
            saying: Saying::Awaiting(Box::pin(std::future::ready(reply))),
            body: None,
            lifeline: Arc::default(),
        });
        self.machine.drop_input(&mut self.input, now);
    }
}

/// How the task ends.
enum Finish {
    Closed,
    /// With what was read of the next request.
    GivenBack(Vec<u8>),
    /// It is one of HTTP/2.
    Http2,
}

/// Whether something was done, so that more may be possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Again,
    Rest,
}

impl std::ops::BitOrAssign for Turn {
    fn bitor_assign(&mut self, other: Self) {
        if other == Self::Again {
            *self = Self::Again;
        }
    }
}
