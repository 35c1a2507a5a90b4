//! One call: a guest's run under its budget and its deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use skep_core::Outcome;
use tokio::sync::Notify;

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
    /// What the guest answered, if it did.
    pub status: Option<StatusCode>,
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

/// Ends all calls of a handler at once.
#[derive(Clone, Default)]
pub(crate) struct Cut(Arc<Cutter>);

#[derive(Default)]
struct Cutter {
    cut: AtomicBool,
    told: Arc<Notify>,
}

impl Cut {
    /// Ends the calls that run and all that begin from now on.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Relaxed);
        self.0.told.notify_waiters();
    }

    fn is_cut(&self) -> bool {
        self.0.cut.load(Relaxed)
    }
}

/// A guest's run. Dropping it cancels the guest and frees what it holds.
pub(crate) struct Run {
    work: Option<Work>,
    meter: Meter,
    deadline: Instant,
    timeout: Duration,
    cut: Cut,
    /// Wakes the call when it is over, made when a guest first waits.
    alarm: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Run {
    pub(crate) fn new(work: Work, meter: Meter, timeout: Duration, cut: &Cut) -> Self {
        Self {
            work: Some(work),
            meter,
            deadline: Instant::now() + timeout,
            timeout,
            cut: cut.clone(),
            alarm: None,
        }
    }

    fn end(&mut self, verdict: Verdict) -> Poll<Ended> {
        // The work is gone with its store before anybody hears of the end, so
        // that its instance is free for whoever waits for it.
        self.work = None;
        self.alarm = None;
        self.meter.end();
        Poll::Ready(Ended {
            outcome: verdict.outcome,
            detail: verdict.detail,
            cpu: self.meter.used(),
            status: None,
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
        if let Poll::Ready(verdict) = this.meter.poll(cx, |cx| work.as_mut().poll(cx)) {
            return this.end(verdict);
        }
        // The guest waits, for its turn perhaps. The deadline is watched from here,
        // outside of its store, because a busy store polls nothing inside.
        let deadline = this.deadline;
        let over = this.cut.is_cut() || Instant::now() >= deadline || {
            let cut = &this.cut;
            let alarm = this.alarm.get_or_insert_with(|| alarm(cut, deadline));
            alarm.as_mut().poll(cx).is_ready()
        };
        if !over {
            return Poll::Pending;
        }
        let detail = if this.cut.is_cut() {
            "cut: its handler was replaced, and the drain has had its time".to_owned()
        } else {
            format!("no end within {:?}", this.timeout)
        };
        this.end(Verdict {
            outcome: Outcome::Deadline,
            detail: Some(detail),
        })
    }
}

/// Ends at the deadline or when the call is cut.
fn alarm(cut: &Cut, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let told = Arc::clone(&cut.0.told).notified_owned();
    Box::pin(async move {
        tokio::select! {
            biased;
            () = told => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    })
}
