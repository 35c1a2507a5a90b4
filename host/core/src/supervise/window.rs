//! The crashes of a pool that still count.

use std::collections::VecDeque;
use std::time::Duration;

use crate::moment::Moment;
use crate::name::SlotIndex;

/// Crashes by the time they happened, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct CrashWindow(VecDeque<(Moment, SlotIndex)>);

impl CrashWindow {
    /// Records a crash and returns how many now count.
    pub(super) fn record(&mut self, now: Moment, slot: SlotIndex, length: Duration) -> u32 {
        self.0.retain(|(at, _)| now.since(*at) < length);
        self.0.push_back((now, slot));
        self.count(now, length)
    }

    pub(super) fn count(&self, now: Moment, length: Duration) -> u32 {
        let count = self
            .0
            .iter()
            .filter(|(at, _)| now.since(*at) < length)
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Forgets the crashes of a slot that has a stable worker again.
    pub(super) fn settle(&mut self, slot: SlotIndex) {
        self.0.retain(|(_, of)| *of != slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_count_for_the_length_of_the_window() {
        let at = |seconds| Moment::after_origin(Duration::from_secs(seconds));
        let length = Duration::from_secs(30);
        let mut window = CrashWindow::default();
        assert_eq!(window.record(at(0), SlotIndex(0), length), 1);
        assert_eq!(window.record(at(29), SlotIndex(1), length), 2);
        assert_eq!(window.record(at(30), SlotIndex(0), length), 2);
        window.settle(SlotIndex(1));
        assert_eq!(window.count(at(30), length), 1);
        assert_eq!(window.count(at(60), length), 0);
    }
}
