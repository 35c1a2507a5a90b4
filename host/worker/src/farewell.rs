//! How a connection comes to an end that its client did not choose, without a
//! request being lost on it.
//!
//! A client with a kept-alive connection may send its next request at any
//! moment, also while we close. So a connection of HTTP/1.1 is told to end with
//! a response: the next one that it gets says `Connection: close`. One that asks
//! for nothing is closed after a while, and not before the kernel was asked
//! whether something has just come. What comes later is lost by definition
//! (RFC 9112 §9.6), and clients know to send it again.
//!
//! ```text
//!            a response is ready         it is written
//! Leaving ──────────────────────▶ Last ────────────────▶ closed
//!    │ silent for the linger
//!    ▼
//! last look ── nothing came ──▶ closed;  something came ──▶ Leaving
//! ```
//!
//! HTTP/2 has GOAWAY for this, in two steps with a PING between them. A client's
//! answer to that PING may overtake a request that waits to be written, and the
//! second GOAWAY then says that this request was not looked at. So it is said
//! just before a response, too, when a client that asks one thing after the
//! other has nothing to write. Only a client that answers no GOAWAY is cut off,
//! after another linger.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::socket::Pulse;

/// How long a silent connection lives on. Long enough that a client which uses
/// its connection at all comes back; short enough for an operator who waits for
/// a worker to go.
const LINGER: Duration = Duration::from_secs(5);

/// At least so long, so that what was just written has gone.
pub(crate) const LEAST: Duration = Duration::from_millis(10);

/// How often a connection with a request in flight looks whether it is silent.
const LOOK: Duration = Duration::from_millis(250);

/// The linger of a worker that has so long to drain: half of it at most,
/// because the requests that come within the linger take time, too.
pub(crate) fn linger(drain_timeout: Duration) -> Duration {
    LINGER.min(drain_timeout / 2).max(LEAST)
}

/// What the connection's task does after its connection has done all it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait.
    Wait,
    /// Shut down gracefully, then go on.
    Finish,
    /// Go on at once: the socket takes its last look.
    Look,
    /// Drop it.
    Cut,
}

/// A connection that is to end.
pub(crate) struct Farewell {
    pulse: Arc<Pulse>,
    linger: Duration,
    began: Instant,
    finishing: bool,
    alarm: Pin<Box<Sleep>>,
}

impl Farewell {
    pub(crate) fn begin(pulse: &Arc<Pulse>, linger: Duration) -> Self {
        pulse.leave();
        Self {
            pulse: Arc::clone(pulse),
            linger,
            began: Instant::now(),
            finishing: false,
            alarm: Box::pin(tokio::time::sleep(linger)),
        }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, cx: &mut Context<'_>) -> Step {
        self.pulse.watched_by(cx.waker());
        if !self.finishing && self.pulse.answers_last() {
            self.finishing = true;
            return Step::Finish;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let end = self.began.max(self.pulse.idle_since()) + self.linger;
            if self.pulse.is_busy() {
                self.alarm.as_mut().reset((now + LOOK).into());
            } else if end > now {
                self.alarm.as_mut().reset(end.into());
            } else if self.pulse.is_http2() && !self.finishing {
                self.finishing = true;
                self.began = now;
                self.alarm.as_mut().reset((now + self.linger).into());
                return Step::Finish;
            } else if self.pulse.is_http2() {
                return Step::Cut;
            } else {
                self.alarm.as_mut().reset((now + LOOK).into());
                self.pulse.look();
                return Step::Look;
            }
        }
        Step::Wait
    }
}

/// Before a response goes out on a connection that is to end: has the
/// connection's task make it the last, if nothing else was asked already.
pub(crate) async fn before_response(pulse: &Pulse) {
    if !pulse.is_leaving() || pulse.answers_last() {
        return;
    }
    if pulse.is_http2() {
        pulse.answer_last();
        // Another task than this one.
        pulse.wake();
        tokio::task::yield_now().await;
        return;
    }
    if pulse.has_more() {
        return;
    }
    pulse.answer_last();
    // Once around, so that the task comes by before the response is written.
    let mut passed = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linger_leaves_half_of_the_drain_to_requests() {
        let of = |seconds| linger(Duration::from_secs_f64(seconds));
        assert_eq!(of(30.0), LINGER);
        assert_eq!(of(1.0), Duration::from_millis(500));
        assert_eq!(of(0.0), LEAST);
    }
}
