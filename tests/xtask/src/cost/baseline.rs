//! What requests cost when somebody last wrote it down, to tell when one costs more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// By how much a count may grow unnoticed: a few times what it differs by between two
/// runs of the same program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    instructions: f64,
    locked: f64,
    allocations: f64,
}

impl Growth {
    /// Of what does the same each time.
    pub(super) const EXACT: Self = Self {
        instructions: 0.03,
        locked: 0.03,
        allocations: 0.03,
    };

    /// Where instances are made and dropped behind the answers, when there is time.
    pub(super) const BEHIND: Self = Self {
        instructions: 0.03,
        locked: 0.06,
        allocations: 0.03,
    };

    /// Of a guest of WASI 0.3: under valgrind a call takes longer than a turn of the
    /// event loop may, so how many turns it takes depends on the machine, and each
    /// locks. What is written down is of many turns.
    pub(super) const BY_TURNS: Self = Self {
        instructions: 0.06,
        locked: 0.2,
        allocations: 0.03,
    };
}

/// What one request of a case takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) instructions: f64,
    pub(super) locked: f64,
    pub(super) allocations: f64,
}

/// Counts by the names of cases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Baseline(pub(super) BTreeMap<String, Counts>);

impl Counts {
    /// The smaller of each: what interferes with a run only adds to its counts.
    pub(super) fn least(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.min(other.instructions),
            locked: self.locked.min(other.locked),
            allocations: self.allocations.min(other.allocations),
        }
    }

    /// What has grown by more than that since, in words.
    pub(super) fn grown_since(self, before: Self, growth: Growth) -> Vec<String> {
        let counts = [
            (
                "instructions",
                growth.instructions,
                before.instructions,
                self.instructions,
            ),
            (
                "locked instructions",
                growth.locked,
                before.locked,
                self.locked,
            ),
            (
                "allocations",
                growth.allocations,
                before.allocations,
                self.allocations,
            ),
        ];
        counts
            .into_iter()
            // One of a few is no growth, but how the runs happened to be cut.
            .filter(|(_, growth, before, now)| {
                *now > before * (1.0 + growth) && now - before > 1.0
            })
            .map(|(what, _, before, now)| format!("{before:.1} -> {now:.1} {what}"))
            .collect()
    }
}

impl Baseline {
    /// Reads what was written down.
    ///
    /// # Errors
    ///
    /// There is no such file, or something else in it.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file)
            .with_context(|| format!("no {}: write one by `cost --write`", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no baseline", file.display()))
    }

    /// Writes these down besides those of other cases.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let mut all = Self::read(file).unwrap_or_default();
        all.0.extend(self.0.clone());
        let round = |count: f64| (count * 10.0).round() / 10.0;
        for counts in all.0.values_mut() {
            counts.instructions = counts.instructions.round();
            counts.locked = round(counts.locked);
            counts.allocations = round(counts.allocations);
        }
        let mut text = serde_json::to_string_pretty(&all)?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Counts = Counts {
        instructions: 10_000.0,
        locked: 100.0,
        allocations: 10.0,
    };

    #[test]
    fn what_grows_by_more_than_three_in_a_hundred_is_named() {
        let now = Counts {
            instructions: 10_299.0,
            locked: 104.0,
            allocations: 10.9,
        };
        assert_eq!(
            now.grown_since(BEFORE, Growth::EXACT),
            ["100.0 -> 104.0 locked instructions"]
        );
        assert!(now.grown_since(BEFORE, Growth::BY_TURNS).is_empty());
        let less = now.least(BEFORE);
        assert_eq!(less, BEFORE);
        assert!(less.grown_since(BEFORE, Growth::EXACT).is_empty());
    }

    #[test]
    fn cases_are_written_beside_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cost.json");
        assert!(Baseline::read(&file).is_err());
        for name in ["a", "b"] {
            let one = Baseline([(name.to_owned(), BEFORE)].into());
            one.write(&file).unwrap();
        }
        assert_eq!(Baseline::read(&file).unwrap().0.len(), 2);
    }
}
