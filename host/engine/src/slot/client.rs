//! The side of the client: what it takes, and when it leaves.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use http::response::Parts;
use http_body::SizeHint;
use skep_core::Outcome;

use super::guest::Guest;
use super::{Live, Reply, Slot, State};
use crate::call::Witness;
use crate::fault::Verdict;
use crate::flow::Piece;

impl<W: Witness> Slot<W> {
    /// The response's head, once the guest has answered.
    pub(crate) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<Parts, Outcome>> {
        let mut state = self.lock();
        let live = match &mut *state {
            State::Over(outcome) => return Poll::Ready(Err(*outcome)),
            State::Live(live) => live,
        };
        match std::mem::replace(&mut live.reply, Reply::Whole) {
            Reply::Given(head, flow) => {
                live.status = Some(head.status);
                if flow.is_over() {
                    if let Guest::Returned(_) = live.guest {
                        self.end(state, Verdict::OK);
                    }
                } else if flow.has_content() {
                    let due = Some(Instant::now());
                    live.reply = Reply::Flowing { flow, due };
                } else {
                    live.reply = Reply::Swallowed(flow);
                }
                Poll::Ready(Ok(head))
            }
            other => {
                live.reply = other;
                live.caller = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next frame for the client.
    pub(crate) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Result<Piece, Outcome>> {
        let mut state = self.lock();
        let live = match &mut *state {
            State::Over(Outcome::Ok) => return Poll::Ready(Ok(Piece::End)),
            State::Over(outcome) => return Poll::Ready(Err(*outcome)),
            State::Live(live) => live,
        };
        let Reply::Flowing { flow, due } = &mut live.reply else {
            return Poll::Ready(Ok(Piece::End));
        };
        let piece = match flow.poll(cx) {
            Poll::Pending => {
                *due = None;
                let waker = cx.waker();
                if !live
                    .caller
                    .as_ref()
                    .is_some_and(|known| known.will_wake(waker))
                {
                    live.caller = Some(waker.clone());
                }
                self.renew(live);
                return Poll::Pending;
            }
            Poll::Ready(Piece::Broken(verdict)) => {
                let outcome = verdict.outcome;
                self.end(state, verdict);
                return Poll::Ready(Err(outcome));
            }
            Poll::Ready(piece) => piece,
        };
        if flow.is_over() {
            live.reply = Reply::Whole;
            if let Guest::Returned(_) = live.guest {
                self.end(state, Verdict::OK);
                return Poll::Ready(Ok(piece));
            }
        } else {
            *due = Some(Instant::now());
        }
        self.renew(live);
        Poll::Ready(Ok(piece))
    }

    fn renew(&self, live: &Live<W>) {
        if let Some(number) = live.watched {
            self.watch.renew(number, live.until(&self.terms));
        }
    }

    /// Whether the client gets nothing more and nothing is wrong.
    pub(crate) fn is_end(&self) -> bool {
        match &*self.lock() {
            State::Over(outcome) => *outcome == Outcome::Ok,
            State::Live(live) => !matches!(live.reply, Reply::Flowing { .. }),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &*self.lock() {
            State::Live(live) => match &live.reply {
                Reply::Flowing { flow, .. } => flow.size_hint(),
                _ => SizeHint::with_exact(0),
            },
            State::Over(Outcome::Ok) => SizeHint::with_exact(0),
            State::Over(_) => SizeHint::default(),
        }
    }

    /// Nobody waits for the response any more: either all of it was taken, or the
    /// client has gone.
    pub(crate) fn leave(self: &Arc<Self>) {
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return;
        };
        live.caller = None;
        match std::mem::replace(&mut live.reply, Reply::Whole) {
            Reply::Flowing { flow, .. } if flow.is_given() => {
                if let Guest::Returned(_) = live.guest {
                    self.end(state, Verdict::OK);
                    return;
                }
                live.reply = Reply::Swallowed(flow);
                drop(state);
                // It has most often ended by now, which spares a task.
                let _ = self.swallow(&mut Context::from_waker(Waker::noop()));
                self.settle();
            }
            Reply::Swallowed(flow) => live.reply = Reply::Swallowed(flow),
            Reply::Whole => {}
            _ => self.end(
                state,
                Verdict {
                    outcome: Outcome::ClientGone,
                    detail: None,
                },
            ),
        }
    }
}
