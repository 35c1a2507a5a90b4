//! The crashes of a pool that still count.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// When they happened, oldest first. Each counts for the length of the window,
/// whoever serves since: a loop that is slower than `min_uptime` is one, too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct CrashWindow(VecDeque<Moment>);

impl CrashWindow {
    /// Records a crash and returns how many now count.
    pub(super) fn record(&mut self, now: Moment, length: Duration) -> u32 {
        self.0.retain(|at| now.since(*at) < length);
        self.0.push_back(now);
        self.count(now, length)
    }

    pub(super) fn count(&self, now: Moment, length: Duration) -> u32 {
        let count = self.0.iter().filter(|at| now.since(**at) < length).count();
        u32::try_from(count).unwrap_or(u32::MAX)
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
        assert_eq!(window.record(at(0), length), 1);
        assert_eq!(window.record(at(29), length), 2);
        assert_eq!(window.record(at(30), length), 2);
        assert_eq!(window.count(at(59), length), 1);
        assert_eq!(window.count(at(60), length), 0);
    }
}
