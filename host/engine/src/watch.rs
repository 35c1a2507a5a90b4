//! The one timer of a handler's calls.
//!
//! A call that does not end in the turn in which it began is entered here with
//! the moment until which it has time, which its slot keeps up to date. One task
//! sleeps until the earliest of them and ends what is overdue; it goes when it has
//! seen no entry for [`LINGER`], so an idle handler wakes nobody, and a call that is
//! over in microseconds costs two steps in a slab, and neither a task nor a timer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

/// How late a call may be ended. Each look goes over all calls, so there are not
/// more looks than this allows, however many calls end one after the other.
const GRAIN: Duration = Duration::from_millis(10);

/// How long the task stays though nothing is watched: the next call is most often on
/// its way.
const LINGER: Duration = Duration::from_secs(1);

/// What has a time to end.
pub(crate) trait Watched: Send + Sync {
    /// Ends, if its time is over by `now`.
    fn expire(&self, now: Instant);

    /// Ends, because its handler ends all its calls.
    fn cut(&self);
}

/// The calls of one handler that are watched.
#[derive(Default)]
pub(crate) struct Watch {
    state: Mutex<State>,
    /// Tells the task that it has slept for long enough.
    sooner: Arc<Notify>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.sooner.notify_one();
    }
}

#[derive(Default)]
struct State {
    entries: Slab<Entry>,
    /// When the task wakes, while there is one.
    wakes: Option<Instant>,
    /// Whether anything was watched since the task looked last.
    was_used: bool,
    cut: bool,
}

struct Entry {
    until: Instant,
    watched: Arc<dyn Watched>,
}

impl Watch {
    /// Watches something, under the number that is given back, until that is
    /// [removed](Self::remove).
    pub(crate) fn add(self: &Arc<Self>, until: Instant, watched: Arc<dyn Watched>) -> usize {
        let mut state = self.state();
        let number = state.entries.insert(Entry { until, watched });
        self.rouse(&mut state, until);
        number
    }

    /// What is watched under this number has another time to end.
    pub(crate) fn renew(self: &Arc<Self>, number: usize, until: Instant) {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(number) {
            entry.until = until;
            self.rouse(&mut state, until);
        }
    }

    pub(crate) fn remove(&self, number: usize) {
        let removed = self.state().entries.try_remove(number);
        // Outside of the lock, because it may be the last of its slot.
        drop(removed);
    }

    /// Ends all that is watched.
    pub(crate) fn cut(&self) {
        let watched: Vec<_> = {
            let mut state = self.state();
            state.cut = true;
            let entries = state.entries.iter();
            entries
                .map(|(_, entry)| Arc::clone(&entry.watched))
                .collect()
        };
        for watched in watched {
            watched.cut();
        }
    }

    /// Whether all calls were ended, and new ones are not wanted.
    pub(crate) fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// Sees to it that the task is there, and awake by `until`.
    fn rouse(self: &Arc<Self>, state: &mut State, until: Instant) {
        state.was_used = true;
        match state.wakes {
            Some(wakes) if wakes <= until => {}
            Some(_) => {
                state.wakes = Some(until);
                self.sooner.notify_one();
            }
            None => {
                state.wakes = Some(until);
                let minding = Minding(Arc::downgrade(self));
                tokio::spawn(mind(minding, Arc::clone(&self.sooner)));
            }
        }
    }

    /// What is overdue, and when to look again: never, where nothing is left to
    /// be watched.
    fn look(&self, now: Instant) -> (Vec<Arc<dyn Watched>>, Option<Instant>) {
        let mut state = self.state();
        let overdue = state.entries.iter();
        let overdue = overdue.filter(|(_, entry)| entry.until <= now);
        let overdue = overdue
            .map(|(_, entry)| Arc::clone(&entry.watched))
            .collect();
        let earliest = state.entries.iter().map(|(_, entry)| entry.until).min();
        state.wakes = match earliest {
            Some(earliest) => Some(earliest.max(now + GRAIN)),
            None if state.was_used => Some(now + LINGER),
            None => None,
        };
        state.was_used = earliest.is_some();
        (overdue, state.wakes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's hold on its watch, which may end before it.
struct Minding(Weak<Watch>);

impl Drop for Minding {
    fn drop(&mut self) {
        // Also where its runtime ends before it does: the next one gets a new task.
        if let Some(watch) = self.0.upgrade() {
            watch.state().wakes = None;
        }
    }
}

async fn mind(minding: Minding, sooner: Arc<Notify>) {
    while let Some(watch) = minding.0.upgrade() {
        let (overdue, next) = watch.look(Instant::now());
        drop(watch);
        for watched in overdue {
            watched.expire(Instant::now());
        }
        let Some(next) = next else {
            return;
        };
        tokio::select! {
            () = sooner.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Counted {
        expired: AtomicU32,
        cut: AtomicU32,
        number: Mutex<Option<(Arc<Watch>, usize)>>,
    }

    impl Counted {
        fn enter(self: &Arc<Self>, watch: &Arc<Watch>, until: Instant) {
            let number = watch.add(until, Arc::clone(self) as Arc<dyn Watched>);
            *self.number.lock().unwrap() = Some((Arc::clone(watch), number));
        }

        fn leave(&self) {
            if let Some((watch, number)) = self.number.lock().unwrap().take() {
                watch.remove(number);
            }
        }
    }

    impl Watched for Counted {
        fn expire(&self, _: Instant) {
            self.expired.fetch_add(1, Relaxed);
            self.leave();
        }

        fn cut(&self) {
            self.cut.fetch_add(1, Relaxed);
            self.leave();
        }
    }

    #[tokio::test]
    async fn each_is_ended_in_its_time_though_the_task_sleeps_for_longer() {
        let watch = Arc::new(Watch::default());
        let (early, late) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let began = Instant::now();
        late.enter(&watch, began + Duration::from_secs(3600));
        while watch
            .state()
            .wakes
            .is_none_or(|wakes| wakes < began + GRAIN)
        {
            tokio::task::yield_now().await;
        }
        early.enter(&watch, began + GRAIN);
        while early.expired.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert!(began.elapsed() >= GRAIN);
        assert_eq!(late.expired.load(Relaxed), 0);
        watch.cut();
        assert_eq!((late.cut.load(Relaxed), early.cut.load(Relaxed)), (1, 0));
        assert!(watch.state().entries.is_empty());
        assert!(watch.is_cut());
    }
}
