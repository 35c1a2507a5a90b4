//! The side of the guest: who runs it, and what it answers.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode, header};
use skep_core::Outcome;

use super::{Reply, Slot, State, Task};
use crate::call::Witness;
use crate::fault::Verdict;
use crate::flow::{self, Ahead, Content, Flow, Piece, Rest};
use crate::meter::Meter;
use crate::places::Place;
use crate::world::{Answer, Reception, Work};

/// What runs the guest.
pub(super) enum Guest {
    /// Its future, between two polls.
    Waiting(Run),
    /// Its future is being polled by a caller of this.
    Polled,
    /// The task of an instance that it shares.
    Placed(Place),
    /// Nothing any more: it has done all that it had to.
    Returned(Duration),
}

pub(super) struct Run {
    pub(super) work: Work,
    pub(super) meter: Meter,
}

impl Guest {
    fn take_run(&mut self) -> Option<Run> {
        if let Self::Waiting(_) = self
            && let Self::Waiting(run) = std::mem::replace(self, Self::Polled)
        {
            return Some(run);
        }
        None
    }

    /// Drops it with all that it holds; says what it used.
    pub(super) fn end(self) -> Duration {
        match self {
            Self::Waiting(run) => run.end(),
            Self::Returned(cpu) => cpu,
            Self::Polled | Self::Placed(_) => Duration::ZERO,
        }
    }
}

impl Run {
    fn end(self) -> Duration {
        let Self { work, mut meter } = self;
        drop(work);
        meter.end();
        meter.used()
    }
}

impl<W: Witness> Slot<W> {
    /// What the task of this slot does.
    pub(super) fn drive(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Live(live) = &mut *self.lock() {
            live.task = Task::Spawned(Some(cx.waker().clone()));
        }
        let polled = self.poll(cx);
        if polled.is_ready()
            && let State::Live(live) = &mut *self.lock()
        {
            live.task = Task::None;
        }
        polled
    }

    /// Gives the call a guest that this slot runs from now on, and lets it run for
    /// the first time. Pending if it is to be polled again.
    pub(crate) fn start(&self, work: Work, meter: Meter, cx: &mut Context<'_>) -> Poll<()> {
        self.turn(Run { work, meter }, cx)
    }

    /// Lets the guest run and reads what nobody wants. Ready when neither is left
    /// to be done.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let run = match &mut *self.lock() {
            State::Over(_) => return Poll::Ready(()),
            State::Live(live) => live.guest.take_run(),
        };
        if let Some(run) = run {
            let _ = self.turn(run, cx);
        }
        self.swallow(cx)
    }

    /// One turn of the guest. Not under the lock: what it does leads back here.
    fn turn(&self, mut run: Run, cx: &mut Context<'_>) -> Poll<()> {
        let unwinding = Unwinding(self);
        let polled = run.meter.poll(cx, |cx| run.work.as_mut().poll(cx));
        std::mem::forget(unwinding);
        match polled {
            Poll::Pending => {
                self.waits(run);
                Poll::Pending
            }
            Poll::Ready(verdict) => {
                let cpu = run.end();
                self.returns(verdict, cpu);
                Poll::Ready(())
            }
        }
    }

    /// Lets a guest go on that has answered and waits for its body to be taken:
    /// one that writes little ends in the turn in which it began, and costs no
    /// task.
    pub(crate) fn run_ahead(&self, cx: &mut Context<'_>) {
        loop {
            let mut state = self.lock();
            let State::Live(live) = &mut *state else {
                return;
            };
            let (Guest::Waiting(_), Reply::Given(_, flow)) = (&live.guest, &mut live.reply) else {
                return;
            };
            if !flow.has_content() {
                return;
            }
            match flow.take_ahead(cx) {
                Ahead::Nothing => return,
                Ahead::Some => {}
                Ahead::Broken(verdict) => {
                    self.end(state, verdict);
                    return;
                }
            }
            drop(state);
            let _ = self.poll(cx);
        }
    }

    /// The guest waits, for its turn perhaps.
    fn waits(&self, run: Run) {
        let now = Instant::now();
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            // It ended meanwhile, and what it held goes now.
            drop(state);
            run.end();
            return;
        };
        live.guest = Guest::Waiting(run);
        if let Reply::Refused {
            verdict,
            at_once: true,
        } = &live.reply
        {
            let verdict = verdict.clone();
            self.end(state, verdict);
        } else if now >= live.until(&self.terms) {
            // A guest that computes may be polled more often than timers are.
            let verdict = live.overdue(&self.terms, now);
            self.end(state, verdict);
        }
    }

    /// The guest has done all that it had to, or failed.
    fn returns(&self, verdict: Verdict, cpu: Duration) {
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return;
        };
        if let Guest::Placed(place) = &mut live.guest {
            place.leave();
        }
        live.guest = Guest::Returned(cpu);
        if verdict.outcome != Outcome::Ok || matches!(live.reply, Reply::Whole) {
            self.end(state, verdict);
        } else if let Some(caller) = live.caller.take() {
            // The stream knows only who asked it last.
            caller.wake();
        }
    }

    /// Reads what is not the client's.
    pub(super) fn swallow(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return Poll::Ready(());
        };
        if let Reply::Swallowed(flow) = &mut live.reply {
            loop {
                match flow.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Piece::Frame(_)) => {}
                    Poll::Ready(Piece::Broken(verdict)) if flow.has_content() => {
                        self.end(state, verdict);
                        return Poll::Ready(());
                    }
                    Poll::Ready(Piece::Broken(_) | Piece::End) => break,
                }
            }
            live.reply = Reply::Whole;
            if let Guest::Returned(_) = live.guest {
                self.end(state, Verdict::OK);
                return Poll::Ready(());
            }
        }
        match live.guest {
            Guest::Waiting(_) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

/// Ends a call whose guest brought its host to panic, which else would be waited
/// for until its deadline.
struct Unwinding<'a, W: Witness>(&'a Slot<W>);

impl<W: Witness> Drop for Unwinding<'_, W> {
    fn drop(&mut self) {
        let slot = self.0;
        slot.end(slot.lock(), Verdict::trap("the host failed"));
    }
}

impl<W: Witness> Reception for Slot<W> {
    fn placed(&self, place: Place) {
        if let State::Live(live) = &mut *self.lock() {
            live.guest = Guest::Placed(place);
        }
    }

    fn is_wanted(&self) -> bool {
        matches!(&*self.lock(), State::Live(live) if matches!(live.guest, Guest::Placed(_)))
    }

    fn answer(&self, answer: Answer) {
        let (mut head, stream) = answer.into_parts();
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return;
        };
        if head.status.is_informational() {
            // An interim status is no answer: the next response on the connection
            // would be taken for its own, and 101 would hand the connection over to
            // nobody.
            let status = head.status.as_u16();
            let verdict = Verdict::trap(format!(
                "the guest answered with the interim status {status}"
            ));
            if let Guest::Placed(_) = live.guest {
                self.end(state, verdict);
            } else {
                let at_once = true;
                live.reply = Reply::Refused { verdict, at_once };
            }
            return;
        }
        let content = Content::of(self.terms.headless, head.status, &head.headers);
        fit(head.status, &mut head.headers);
        live.reply = Reply::Given(head, Flow::new(stream, content));
        if let Some(caller) = live.caller.take() {
            caller.wake();
        }
    }

    fn refuse(&self, verdict: Verdict) {
        if let State::Live(live) = &mut *self.lock() {
            let at_once = false;
            live.reply = Reply::Refused { verdict, at_once };
        }
    }

    fn returned(&self, is_quiet: bool) -> Option<Verdict> {
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return Some(Verdict::OK);
        };
        let swallowed = matches!(live.reply, Reply::Swallowed(_));
        let (Reply::Given(_, flow) | Reply::Flowing { flow, .. } | Reply::Swallowed(flow)) =
            &mut live.reply
        else {
            return Some(match &live.reply {
                Reply::Awaited => Verdict::no_response("the guest returned without a response"),
                Reply::Refused { verdict, .. } => verdict.clone(),
                _ => Verdict::OK,
            });
        };
        let rest = flow.drain(is_quiet)?;
        if swallowed || !flow.has_content() {
            let broken = flow.has_content().then_some(rest);
            flow.close();
            if swallowed {
                live.reply = Reply::Whole;
            }
            return Some(match broken {
                Some(Rest::Broken(verdict)) => verdict,
                _ => Verdict::OK,
            });
        }
        if let Rest::Broken(verdict) = rest {
            return Some(verdict);
        }
        if let Reply::Flowing { flow, .. } = &live.reply
            && flow.is_over()
        {
            live.reply = Reply::Whole;
        }
        Some(Verdict::OK)
    }

    fn ended(&self, verdict: Verdict) {
        self.returns(verdict, Duration::ZERO);
    }
}

/// Takes out of a head what may not be said of an answer without content: a
/// length where it is 204 or 205 (RFC 9110 §8.6, §15.3.6).
fn fit(status: StatusCode, headers: &mut HeaderMap) {
    if flow::has_none(status) && status != StatusCode::NOT_MODIFIED {
        headers.remove(header::CONTENT_LENGTH);
    }
}
