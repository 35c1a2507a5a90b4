//! What a connection says in return.

use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use super::{Answer, Connection, Exchange, Leaving, Phase, Reader};
use crate::answer::{BadAnswer, Framing, Size, plan, write_head};
use crate::body::Body;

impl Connection {
    /// Whether the client waits for `100 Continue`: it is owed as soon as
    /// somebody wants the body, and before the answer.
    #[must_use]
    pub fn owes_continue(&self) -> bool {
        match &self.phase {
            Phase::Exchange(exchange) => {
                exchange.manner.expects
                    && exchange.answer == Answer::Awaited
                    && !exchange.body.is_whole()
            }
            _ => false,
        }
    }

    /// Invites the body.
    pub fn invite(&mut self, out: &mut BytesMut) {
        if self.owes_continue()
            && let Phase::Exchange(exchange) = &mut self.phase
        {
            exchange.manner.expects = false;
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Asks a client that has half-closed whether it is still there: one that
    /// has gone resets the connection. An interim answer may come at any time
    /// before the answer (RFC 9110 §15.2). Says whether it could be asked.
    pub fn probe(&mut self, out: &mut BytesMut) -> bool {
        match &self.phase {
            Phase::Exchange(exchange)
                if exchange.answer == Answer::Awaited && !exchange.manner.http10 =>
            {
                out.extend_from_slice(b"HTTP/1.1 102 Processing\r\n\r\n");
                true
            }
            _ => false,
        }
    }

    /// Whether trailers can be sent to the client that is answered.
    #[must_use]
    pub fn takes_trailers(&self) -> bool {
        match &self.phase {
            Phase::Exchange(exchange) => {
                exchange.manner.trailers
                    && !matches!(exchange.answer, Answer::Begun(Framing::Exact(_)))
            }
            _ => false,
        }
    }

    /// Begins the answer. `date` is the value of its `Date` field; `waiting` says
    /// how many bytes of the client's are known to be there and are not taken.
    ///
    /// # Errors
    ///
    /// It cannot be sent as it is; nothing was written, and another one is owed.
    pub fn answer(
        &mut self,
        (status, headers): (StatusCode, &HeaderMap),
        size: Size,
        waiting: u64,
        date: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), BadAnswer> {
        let leaves = self.leaving != Leaving::No && waiting == 0;
        let Phase::Exchange(exchange) = &mut self.phase else {
            return Ok(());
        };
        debug_assert_eq!(exchange.answer, Answer::Awaited, "one answer a request");
        let plan = plan(exchange.manner, status, headers, size)?;
        exchange.keep &=
            !leaves && plan.framing != Framing::UntilClose && exchange.body_allows_more(waiting);
        let keep = exchange.keep;
        if let (true, Reader::Nobody { left, .. }, Body::Exact(rest)) =
            (keep, &mut exchange.reader, &exchange.body)
        {
            // The client was told that the connection goes on, so all of it is
            // dropped, its end included.
            *left = (*left).max(rest.saturating_add(1));
        }
        write_head(out, (status, headers), plan, exchange.manner, keep, date);
        exchange.answer = Answer::Begun(plan.framing);
        Ok(())
    }

    /// Ends the connection with the answer that is about to begin.
    pub fn close_after_answer(&mut self) {
        if let Phase::Exchange(exchange) = &mut self.phase {
            exchange.keep = false;
        }
    }

    /// Says some of the answer's content.
    ///
    /// # Errors
    ///
    /// It is more than was announced: the connection is to be cut.
    pub fn content(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), BadAnswer> {
        match &mut self.phase {
            Phase::Exchange(Exchange {
                answer: Answer::Begun(framing),
                ..
            }) => framing.write(out, bytes),
            _ => Ok(()),
        }
    }

    /// Whether all content was said that was announced, where it was.
    #[must_use]
    pub fn has_all_content(&self) -> bool {
        matches!(
            &self.phase,
            Phase::Exchange(Exchange {
                answer: Answer::Begun(Framing::Exact(0)) | Answer::Whole,
                ..
            })
        )
    }

    /// Ends the answer. Trailers are left out where the client does not take
    /// them.
    ///
    /// # Errors
    ///
    /// It is less than was announced: the connection is to be cut.
    pub fn finish(
        &mut self,
        trailers: Option<&HeaderMap>,
        out: &mut BytesMut,
        now: Instant,
    ) -> Result<(), BadAnswer> {
        let Phase::Exchange(exchange) = &mut self.phase else {
            return Ok(());
        };
        if let Answer::Begun(framing) = exchange.answer {
            let trailers = trailers.filter(|_| exchange.manner.trailers);
            framing.finish(out, trailers)?;
            exchange.answer = Answer::Whole;
            if let Reader::Nobody { left, .. } = exchange.reader {
                exchange.reader = Reader::nobody(left, now);
            }
        }
        Ok(())
    }
}
