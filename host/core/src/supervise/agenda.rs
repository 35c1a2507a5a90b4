//! Which pool is due when.

use std::collections::BTreeSet;

use crate::moment::Moment;
use crate::name::PoolName;

/// The deadlines of all pools, in order. Each pool knows its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Moment, PoolName)>);

impl Agenda {
    /// A pool has another deadline than before, or none.
    pub(super) fn set(&mut self, pool: &PoolName, before: Option<Moment>, due: Option<Moment>) {
        if let Some(before) = before {
            self.0.remove(&(before, pool.clone()));
        }
        if let Some(due) = due {
            self.0.insert((due, pool.clone()));
        }
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<Moment> {
        self.0.first().map(|(due, _)| *due)
    }

    /// The pools that are due by now, the first one first.
    pub(super) fn due(&self, now: Moment) -> impl Iterator<Item = &PoolName> {
        self.0
            .iter()
            .take_while(move |(due, _)| *due <= now)
            .map(|(_, pool)| pool)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_pool_has_one_deadline_and_the_first_comes_first() {
        let pools = ["a", "b", "c"].map(|name| PoolName::new(name).unwrap());
        let mut agenda = Agenda::default();
        for (pool, seconds) in pools.iter().zip([3, 1, 2]) {
            agenda.set(pool, None, Some(at(seconds)));
        }
        assert_eq!(agenda.first(), Some(at(1)));
        agenda.set(&pools[1], Some(at(1)), Some(at(9)));
        let due: Vec<_> = agenda.due(at(3)).collect();
        assert_eq!(due, [&pools[2], &pools[0]]);
        agenda.set(&pools[2], Some(at(2)), None);
        assert_eq!(agenda.first(), Some(at(3)));
        agenda.set(&pools[0], Some(at(3)), None);
        assert_eq!(agenda.due(at(8)).count(), 0);
        assert_eq!(agenda.first(), Some(at(9)));
    }
}
