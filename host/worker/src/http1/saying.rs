//! What a connection of HTTP/1.1 says in return.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Body as _;
use skep_core::Outcome;
use skep_http1::{BadAnswer, Size};

use super::{ENOUGH, Finish, Http1, Saying, Turn};
use crate::date;
use crate::ids::new_request_id;
use crate::reply::{Reply, refusal};
use crate::transport::Transport;

impl<T: Transport> Http1<'_, T> {
    /// Says what the service has to say.
    pub(super) fn say(&mut self, cx: &mut Context<'_>) -> Result<Turn, Finish> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(Turn::Rest);
        };
        match &mut exchange.saying {
            Saying::Awaiting(answering) => match answering.as_mut().poll(cx) {
                Poll::Pending => Ok(Turn::Rest),
                Poll::Ready(reply) => self.answer(reply),
            },
            Saying::Content(_) if self.writing.len() >= ENOUGH => {
                exchange.lifeline.carried_by(cx.waker());
                if exchange.lifeline.is_cut() {
                    return Err(self.cut());
                }
                Ok(Turn::Rest)
            }
            Saying::Content(body) => match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => Ok(Turn::Rest),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        if self.machine.content(bytes, self.writing.out()).is_err() {
                            return Err(self.cut());
                        }
                        // What is announced is all; the guest may go on.
                        if self.machine.has_all_content() {
                            return self.finish(None);
                        }
                        return Ok(Turn::Again);
                    }
                    let trailers = frame.trailers_ref();
                    if trailers.is_some() && !self.machine.takes_trailers() {
                        body.trailers_are_dropped();
                    }
                    self.finish(trailers.cloned().as_ref())
                }
                Poll::Ready(Some(Err(_cut))) => Err(self.cut()),
                Poll::Ready(None) => self.finish(None),
            },
            Saying::All => Ok(Turn::Rest),
        }
    }

    /// Says the head of an answer.
    fn answer(&mut self, reply: Reply) -> Result<Turn, Finish> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(Turn::Rest);
        };
        match &exchange.body {
            // Its guest may still want it, which cannot be said later.
            Some(body) if !body.is_closed() => self.machine.invite(self.writing.out()),
            Some(_) => {
                exchange.body = None;
                self.machine.drop_body(self.now);
                self.machine.drop_input(&mut self.input, self.now);
            }
            None => {}
        }
        if reply.close {
            self.machine.close_after_answer();
        }
        let mut waiting = self.input.len() as u64;
        if waiting == 0 && self.machine.is_leaving() && self.transport.has_more() {
            // What has come is answered, too: the event loop will tell of it.
            waiting = 1;
        }
        let (head, body) = reply.response.into_parts();
        let size = match body.size_hint().exact() {
            Some(length) if length > 0 => Size::Exact(length),
            _ if body.is_end_stream() => Size::Exact(0),
            Some(length) => Size::Exact(length),
            None => Size::Unknown,
        };
        let answered = self.machine.answer(
            (head.status, &head.headers),
            size,
            waiting,
            &date::now(),
            self.writing.out(),
        );
        match answered {
            Ok(()) if self.machine.has_all_content() => self.finish(None),
            Ok(()) => {
                exchange.saying = Saying::Content(body);
                Ok(Turn::Again)
            }
            Err(BadAnswer::Interim | BadAnswer::BadLength | BadAnswer::OtherLength) => {
                drop(body);
                self.answer(refusal(Outcome::Trap, &new_request_id()))
            }
        }
    }

    /// All is said.
    fn finish(&mut self, trailers: Option<&http::HeaderMap>) -> Result<Turn, Finish> {
        let now = self.now;
        let finished = self.machine.finish(trailers, self.writing.out(), now);
        if finished.is_err() {
            return Err(self.cut());
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.saying = Saying::All;
        }
        Ok(Turn::Again)
    }

    /// An answer that has begun has no end. Where it says how long it is, or goes
    /// in chunks, nobody can take it for whole. With HTTP/1.0 and neither, the end
    /// of the connection is its end, and it looks whole: a reset would take an
    /// option of the socket, and a confined process may set none.
    fn cut(&mut self) -> Finish {
        self.writing.try_once(&mut self.transport);
        self.exchange = None;
        Finish::Closed
    }
}
