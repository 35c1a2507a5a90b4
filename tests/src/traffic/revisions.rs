//! Which revisions were live when: every response must be from one that was
//! live when its request began, or that began before the response came.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// When revisions were live. Cheap to clone: all clones are one.
///
/// While nothing was ever begun, answers are not checked.
#[derive(Clone, Debug, Default)]
pub struct Revisions(Arc<Mutex<BTreeMap<u64, Vec<Life>>>>);

/// A revision may live more than once: it is rolled back to.
#[derive(Clone, Copy, Debug)]
struct Life {
    begun: Instant,
    ended: Option<Instant>,
}

impl Revisions {
    /// From now on a response may be from this revision. To be called before
    /// the command that makes it live.
    pub fn begin(&self, revision: u64) {
        self.begin_at(revision, Instant::now());
    }

    /// Requests that begin from now on must not be answered by this revision.
    /// To be called after the command that took it away has returned.
    pub fn end(&self, revision: u64) {
        self.end_at(revision, Instant::now());
    }

    /// Those that were begun and not ended.
    #[must_use]
    pub fn live(&self) -> Vec<u64> {
        let lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_live = |lives: &[Life]| lives.last().is_some_and(|life| life.ended.is_none());
        lives
            .iter()
            .filter(|(_, lives)| is_live(lives))
            .map(|(revision, _)| *revision)
            .collect()
    }

    fn begin_at(&self, revision: u64, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lives = all.entry(revision).or_default();
        if lives.last().is_none_or(|life| life.ended.is_some()) {
            lives.push(Life {
                begun: now,
                ended: None,
            });
        }
    }

    fn end_at(&self, revision: u64, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.get_mut(&revision).and_then(|lives| lives.last_mut());
        if let Some(life) = last {
            life.ended.get_or_insert(now);
        }
    }

    /// Whether a request that began at `asked` may have been answered by this
    /// revision with a response that began at `answered`.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn check(
        &self,
        revision: Option<u64>,
        asked: Instant,
        answered: Instant,
    ) -> Result<(), String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Ok(());
        }
        let Some(revision) = revision else {
            return Err("the response does not say its revision".to_owned());
        };
        let Some(lives) = all.get(&revision) else {
            return Err(format!("revision {revision} never began"));
        };
        let fits =
            |life: &Life| life.begun <= answered && life.ended.is_none_or(|ended| ended >= asked);
        if lives.iter().any(fits) {
            return Ok(());
        }
        let earlier = lives.iter().rev().filter_map(|life| life.ended);
        Err(match earlier.into_iter().find(|ended| *ended < asked) {
            Some(ended) => format!(
                "revision {revision} had ended {:?} before the request began",
                asked - ended
            ),
            None => format!("revision {revision} had not begun yet"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_response_is_from_a_revision_that_was_live() {
        let revisions = Revisions::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let right =
            |revision, asked, answered| revisions.check(revision, at(asked), at(answered)).is_ok();
        assert!(right(None, 0, 1) && right(Some(9), 0, 1), "not checked yet");

        revisions.begin_at(1, at(0));
        revisions.begin_at(2, at(10));
        revisions.end_at(1, at(20));
        assert!(!right(None, 5, 6) && !right(Some(3), 5, 6));
        assert!(right(Some(1), 5, 6));
        assert!(right(Some(1), 20, 90), "it had begun before the end");
        assert!(!right(Some(1), 21, 22));
        assert!(!right(Some(2), 5, 9));
        assert!(
            right(Some(2), 5, 10),
            "it was routed after the new one began"
        );
        assert_eq!(revisions.live(), [2]);

        // Rolled back.
        revisions.begin_at(1, at(30));
        revisions.begin_at(1, at(31));
        revisions.end_at(2, at(40));
        assert!(right(Some(1), 21, 30) && !right(Some(1), 21, 29));
        assert!(right(Some(1), 50, 51) && !right(Some(2), 50, 51));
        assert_eq!(revisions.live(), [1]);
    }
}
