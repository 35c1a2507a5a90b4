//! One call: a guest's run under its budget and its deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use skep_core::Outcome;
use tokio::time::Sleep;

use crate::fault::Verdict;
use crate::meter::Meter;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its one outcome.
    pub outcome: Outcome,
    /// What happened, in words for the app's owner.
    pub detail: Option<String>,
    /// CPU time of the guest.
    pub cpu: Duration,
}

/// Learns how a call ended, exactly once. Holds what the call holds: permits,
/// counters.
///
/// A witness that is dropped without a word belongs to a call that was
/// cancelled because its client went away.
pub trait Witness: Send + Unpin + 'static {
    /// The call has ended.
    fn ended(self, ended: Ended);
}

pub(crate) type Work = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A guest's run. Dropping it cancels the guest and frees what it holds.
pub(crate) struct Run {
    work: Option<Work>,
    meter: Meter,
    deadline: Instant,
    timeout: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Run {
    pub(crate) fn new(work: Work, meter: Meter, timeout: Duration) -> Self {
        Self {
            work: Some(work),
            meter,
            deadline: Instant::now() + timeout,
            timeout,
            alarm: None,
        }
    }

    fn end(&mut self, verdict: Verdict) -> Poll<Ended> {
        // The work is gone with its store before anybody hears of the end, so
        // that its instance is free for whoever waits for it.
        self.work = None;
        self.alarm = None;
        Poll::Ready(Ended {
            outcome: verdict.outcome,
            detail: verdict.detail,
            cpu: self.meter.used(),
        })
    }
}

impl Future for Run {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        let Some(work) = this.work.as_mut() else {
            // Polled after its end, which no caller does; never ends twice.
            return Poll::Pending;
        };
        if let Poll::Ready(verdict) = this.meter.turn(|| work.as_mut().poll(cx)) {
            return this.end(verdict);
        }
        // The guest waits or has yielded. The deadline is watched from here,
        // outside of its store, because a busy store polls nothing inside.
        let deadline = this.deadline;
        let late = Instant::now() >= deadline || {
            let alarm = this
                .alarm
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            alarm.as_mut().poll(cx).is_ready()
        };
        if late {
            let timeout = this.timeout;
            return this.end(Verdict {
                outcome: Outcome::Deadline,
                detail: Some(format!("no end within {timeout:?}")),
            });
        }
        Poll::Pending
    }
}
