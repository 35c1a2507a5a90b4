//! The right to call an app: permits of this worker's share, and a queue for
//! those that find none.
//!
//! All handlers of an app share one of these, so that an app has never more
//! calls in flight than its limit, whatever is swapped. The limits are those of
//! its stable handler; a plan that changes them changes them in place.

use skep_core::{AppLimits, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// One worker's share of an app's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Calls at one time; at least 1.
    pub(crate) concurrency: u32,
    /// Requests that may wait.
    pub(crate) queue: u32,
}

impl Share {
    /// The share of one of so many workers, rounded up.
    pub(crate) fn of(limits: &AppLimits, workers: u16) -> Self {
        let workers = u32::from(workers.max(1));
        Self {
            concurrency: limits.concurrency.div_ceil(workers).max(1),
            queue: limits.queue.div_ceil(workers),
        }
    }
}

/// The permits of one app.
#[derive(Debug)]
pub(crate) struct Admission {
    permits: Semaphore,
    /// Permits that there are, those that are held included.
    concurrency: AtomicU32,
    /// Permits to be withdrawn that are still held.
    owed: AtomicU32,
    waiting: AtomicU32,
    queue: AtomicU32,
}

impl Admission {
    pub(crate) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(share.concurrency as usize),
            concurrency: AtomicU32::new(share.concurrency),
            owed: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue: AtomicU32::new(share.queue),
        })
    }

    /// A permit, if one is free.
    pub(crate) fn try_admit(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.permits.try_acquire().ok()?;
        permit.forget();
        Some(Permit(Arc::clone(self)))
    }

    /// A place in the queue, whose length is bounded.
    pub(crate) fn queue(&self) -> Option<Place<'_>> {
        let free = self.waiting.load(Relaxed) < self.queue.load(Relaxed);
        free.then(|| Place::take(&self.waiting))
    }

    /// A permit after a wait in the queue that is bounded in time.
    pub(crate) async fn wait(self: &Arc<Self>, until: Instant) -> Result<Permit, Outcome> {
        let _place = self.queue().ok_or(Outcome::QueueFull)?;
        match tokio::time::timeout_at(until, self.permits.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(Permit(Arc::clone(self)))
            }
            _ => Err(Outcome::QueueFull),
        }
    }

    /// Changes the limits. Permits that are held stay valid; where there are
    /// too many of them, they are withdrawn as they are given back.
    pub(crate) fn resize(&self, share: Share) {
        self.queue.store(share.queue, Relaxed);
        let before = self.concurrency.swap(share.concurrency, Relaxed);
        let owed = self.owed.load(Relaxed);
        if share.concurrency >= before {
            let more = share.concurrency - before;
            let kept = more.min(owed);
            self.owed.store(owed - kept, Relaxed);
            self.permits.add_permits((more - kept) as usize);
        } else {
            let less = before - share.concurrency;
            let withdrawn = self.permits.forget_permits(less as usize);
            let withdrawn = u32::try_from(withdrawn).unwrap_or(less);
            self.owed.store(owed + (less - withdrawn), Relaxed);
        }
    }
}

/// The right to make one call. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Admission>);

impl Drop for Permit {
    fn drop(&mut self) {
        // One thread does all of this, so nobody comes between these two.
        let owed = self.0.owed.load(Relaxed);
        if owed > 0 {
            self.0.owed.store(owed - 1, Relaxed);
        } else {
            self.0.permits.add_permits(1);
        }
    }
}

/// A place in the queue; given back also when the client goes while it waits.
pub(crate) struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn admission(concurrency: u32) -> Arc<Admission> {
        Admission::new(Share {
            concurrency,
            queue: 1,
        })
    }

    fn resize(admission: &Admission, concurrency: u32) {
        admission.resize(Share {
            concurrency,
            queue: 1,
        });
    }

    fn take_all(admission: &Arc<Admission>) -> Vec<Permit> {
        std::iter::from_fn(|| admission.try_admit()).collect()
    }

    #[test]
    fn shares_are_rounded_up_and_never_nothing() {
        let limits = AppLimits {
            concurrency: 10,
            queue: 9,
            ..AppLimits::default()
        };
        let share = |workers| {
            let share = Share::of(&limits, workers);
            (share.concurrency, share.queue)
        };
        assert_eq!(share(1), (10, 9));
        assert_eq!(share(4), (3, 3));
        assert_eq!(share(0), (10, 9));
        assert_eq!(share(100), (1, 1));
    }

    #[test]
    fn permits_follow_every_change_whoever_holds_them() {
        let admission = admission(4);
        let mut held = take_all(&admission);
        assert_eq!(held.len(), 4);
        // Fewer than are held: they are withdrawn as they come back.
        resize(&admission, 1);
        held.truncate(2);
        assert!(admission.try_admit().is_none());
        // Changed its mind while one is still owed.
        resize(&admission, 3);
        held.extend(take_all(&admission));
        assert_eq!(held.len(), 3);
        held.clear();
        assert_eq!(take_all(&admission).len(), 3);

        for concurrency in [1, 4, 1, 2, 100, 25, 100, 1, 1, 7] {
            let held = take_all(&admission);
            resize(&admission, concurrency);
            drop(held);
            assert_eq!(take_all(&admission).len(), concurrency as usize);
        }
        assert_eq!(admission.owed.load(Relaxed), 0);
    }

    #[test]
    fn who_waits_is_admitted_by_new_permits() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let until = Instant::now() + std::time::Duration::from_secs(60);
        let admission = admission(1);
        let held = take_all(&admission);
        let mut first = Box::pin(admission.wait(until));
        let mut second = Box::pin(admission.wait(until));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(cx).is_pending());
        assert!(matches!(
            second.as_mut().poll(cx),
            Poll::Ready(Err(Outcome::QueueFull))
        ));
        resize(&admission, 2);
        let Poll::Ready(Ok(permit)) = first.as_mut().poll(cx) else {
            panic!("there is a second permit now");
        };
        assert!(admission.try_admit().is_none());
        drop((permit, held));
        assert_eq!(take_all(&admission).len(), 2);
        assert_eq!(admission.waiting.load(Relaxed), 0);
    }
}
