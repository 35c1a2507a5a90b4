//! Timers that fire together.
//!
//! A worker with thousands of idle connections has thousands of deadlines, and
//! none of them needs to be exact. They are put off to the next beat of one
//! clock, which is the worker's own heartbeat, so that the process wakes once for
//! all of them, and not at all for deadlines that have moved meanwhile.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// How often a worker beats. tokio's timers lie in wheels, the second of which
/// turns by 64 ms at a time: a moment that is a multiple of that costs one
/// wake-up, others two.
pub(crate) const BEAT: Duration = Duration::from_millis(8 * 64);

/// Deadlines are put off by an eighth of what is left of them at most, and by a
/// beat at most.
const PART: u32 = 8;

/// When the beats are counted from: a moment before the event loop was made, less
/// than a millisecond, so that its wheels and the beats meet. Whoever makes the
/// event loop asks first.
pub(crate) fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Microseconds from then to a moment, to be kept in an atomic.
pub(crate) fn micros(moment: Instant) -> u64 {
    let since = moment.saturating_duration_since(origin());
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The moment that is so many microseconds from then.
pub(crate) fn moment(micros: u64) -> Instant {
    origin() + Duration::from_micros(micros)
}

/// The moment at which a deadline is looked at.
fn put_off(deadline: Instant, now: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    if left < BEAT * PART {
        return deadline + left / PART;
    }
    let beat = BEAT.as_nanos();
    let since = deadline.saturating_duration_since(origin()).as_nanos();
    let over = u64::try_from(since.next_multiple_of(beat) - since).unwrap_or_default();
    deadline + Duration::from_nanos(over)
}

/// One task's timer. It is moved only to fire earlier, or when it has fired:
/// a deadline that moves with every request costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Alarm {
    /// Has the task woken at `deadline` or a little later. It may be woken
    /// earlier, so it must look at the time. Says whether it is late.
    pub(crate) fn watch(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        loop {
            if self
                .armed
                .is_none_or(|armed| armed > put_off_most(deadline))
            {
                let now = Instant::now();
                if now >= deadline {
                    return Poll::Ready(());
                }
                let at = put_off(deadline, now);
                match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(at.into()),
                    None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at.into()))),
                }
                self.armed = Some(at);
            }
            let fired = self
                .sleep
                .as_mut()
                .is_none_or(|sleep| sleep.as_mut().poll(cx).is_ready());
            if !fired {
                return Poll::Pending;
            }
            self.armed = None;
        }
    }
}

/// The latest moment to which this deadline may have been put off.
fn put_off_most(deadline: Instant) -> Instant {
    deadline + BEAT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_deadlines_meet_on_a_beat_and_near_ones_are_near() {
        let now = origin() + Duration::from_millis(1234);
        let at = |millis| put_off(now + Duration::from_millis(millis), now) - origin();
        let beats = [5000, 5100, 5422].map(at);
        assert_eq!(beats, [13 * BEAT; 3]);
        assert_eq!(at(5423), 14 * BEAT);
        assert_eq!(at(80), Duration::from_millis(1234 + 90));
        assert_eq!(at(0), Duration::from_millis(1234));
    }
}
