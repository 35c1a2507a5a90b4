//! Which components are in use in this process, so that none of them is swept.
//!
//! Whoever finds or makes an artifact uses its component for as long as the
//! artifact lives. A sweep takes only what nobody uses, and nobody begins to use
//! what is being swept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::digest::Digest;

/// The components in use. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uses(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    in_use: BTreeMap<Digest, usize>,
    going: BTreeSet<Digest>,
}

/// One use of a component.
#[derive(Debug)]
pub(crate) struct Use {
    uses: Uses,
    digest: Digest,
}

/// A component that goes, and that nobody can begin to use meanwhile.
#[derive(Debug)]
pub(crate) struct Going {
    uses: Uses,
    digest: Digest,
}

impl Uses {
    /// Begins to use a component; `None` while it is being swept.
    pub(super) fn begin(&self, digest: Digest) -> Option<Use> {
        let mut counts = self.counts();
        if counts.going.contains(&digest) {
            return None;
        }
        *counts.in_use.entry(digest).or_default() += 1;
        let uses = self.clone();
        Some(Use { uses, digest })
    }

    /// All that are in use.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.counts().in_use.keys().copied().collect()
    }

    /// Begins to sweep a component; `None` if it is in use.
    pub(super) fn go(&self, digest: Digest) -> Option<Going> {
        let mut counts = self.counts();
        if counts.in_use.contains_key(&digest) || !counts.going.insert(digest) {
            return None;
        }
        let uses = self.clone();
        Some(Going { uses, digest })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Whole at every step, and never held while anything waits.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut counts = self.uses.counts();
        if let Some(count) = counts.in_use.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.in_use.remove(&self.digest);
            }
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.uses.counts().going.remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_does_not_go_and_what_goes_is_not_used() {
        let uses = Uses::default();
        let digest = Digest::of(&mut &b"x"[..], 1).unwrap().0;
        let (one, two) = (uses.begin(digest).unwrap(), uses.begin(digest).unwrap());
        drop(one);
        assert!(uses.go(digest).is_none());
        assert_eq!(uses.digests(), [digest]);
        drop(two);
        assert!(uses.digests().is_empty());
        let going = uses.go(digest).unwrap();
        assert!(uses.begin(digest).is_none() && uses.go(digest).is_none());
        drop(going);
        assert!(uses.begin(digest).is_some());
    }
}
