//! What operations need for themselves while they are under way, so that two go
//! on side by side exactly if neither gets in the other's way.
//!
//! | operation | an app | workers of a pool take plans | workers of a pool are replaced | the configuration |
//! |---|---|---|---|---|
//! | deploy by swap, promotion, return | alone | with others | | |
//! | deploy by restart | alone | | alone | |
//! | restart, rotation, scaling | | | alone | |
//! | reload, while it reads | | | | alone |
//! | reload, from what it found on | those it changes, alone | theirs, with others | those it rolls, scales, adds or removes, alone | alone |

use std::collections::BTreeSet;

use crate::name::{AppName, PoolName};

/// What one operation needs. The empty claim needs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Apps that nobody else may bring to another revision.
    pub apps: BTreeSet<AppName>,
    /// Pools whose workers take new plans meanwhile: others may have them take
    /// plans, too, but not replace them.
    pub plans: BTreeSet<PoolName>,
    /// Pools whose workers are replaced, or become more or fewer.
    pub workers: BTreeSet<PoolName>,
    /// Whether the configuration that is in force shall be another.
    pub configuration: bool,
}

impl Claim {
    /// That of an app's way to another revision. `replaces` says whether the
    /// pool's workers are replaced for it.
    #[must_use]
    pub fn of_app(app: AppName, pool: PoolName, replaces: bool) -> Self {
        let (mut plans, mut workers) = (BTreeSet::new(), BTreeSet::new());
        if replaces {
            workers.insert(pool);
        } else {
            plans.insert(pool);
        }
        Self {
            apps: BTreeSet::from([app]),
            plans,
            workers,
            configuration: false,
        }
    }

    /// That of replacing, adding or removing workers.
    #[must_use]
    pub fn of_workers(pools: BTreeSet<PoolName>) -> Self {
        Self {
            workers: pools,
            ..Self::default()
        }
    }

    /// That of reading the configuration again.
    #[must_use]
    pub fn of_configuration() -> Self {
        Self {
            configuration: true,
            ..Self::default()
        }
    }

    /// Whether two operations with these claims get in each other's way.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        (self.configuration && other.configuration)
            || meet(&self.apps, &other.apps)
            || meet(&self.workers, &other.workers)
            || meet(&self.workers, &other.plans)
            || meet(&self.plans, &other.workers)
    }
}

fn meet<T: Ord>(one: &BTreeSet<T>, other: &BTreeSet<T>) -> bool {
    one.intersection(other).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::new(name).unwrap()
    }

    fn pool(name: &str) -> PoolName {
        PoolName::new(name).unwrap()
    }

    fn swap(name: &str, of: &str) -> Claim {
        Claim::of_app(app(name), pool(of), false)
    }

    fn restart(name: &str, of: &str) -> Claim {
        Claim::of_app(app(name), pool(of), true)
    }

    fn workers(of: &[&str]) -> Claim {
        Claim::of_workers(of.iter().map(|name| pool(name)).collect())
    }

    #[test]
    fn operations_go_on_side_by_side_unless_they_want_the_same() {
        let reading = Claim::of_configuration();
        let reload = Claim {
            apps: BTreeSet::from([app("a")]),
            plans: BTreeSet::from([pool("p")]),
            workers: BTreeSet::from([pool("q")]),
            configuration: true,
        };
        for (one, other, conflict) in [
            (swap("a", "p"), swap("a", "p"), true),
            (swap("a", "p"), swap("b", "p"), false),
            (swap("a", "p"), restart("b", "p"), true),
            (swap("a", "p"), restart("b", "q"), false),
            (restart("a", "p"), restart("b", "p"), true),
            (swap("a", "p"), workers(&["p", "q"]), true),
            (swap("a", "p"), workers(&["q"]), false),
            (workers(&["p"]), workers(&["p", "q"]), true),
            (workers(&["p"]), workers(&["q"]), false),
            (reading.clone(), swap("a", "p"), false),
            (reading.clone(), workers(&["p"]), false),
            (reading.clone(), reading.clone(), true),
            (reload.clone(), reading, true),
            (reload.clone(), swap("a", "p"), true),
            (reload.clone(), swap("b", "p"), false),
            (reload.clone(), workers(&["p"]), true),
            (reload.clone(), swap("b", "q"), true),
            (reload, workers(&["r"]), false),
            (Claim::default(), workers(&["p"]), false),
        ] {
            assert_eq!(one.conflicts(&other), conflict, "{one:?} {other:?}");
            assert_eq!(other.conflicts(&one), conflict, "{other:?} {one:?}");
        }
    }
}
