//! When a worker takes connections from the shared socket (DESIGN §5).

/// Whether a worker wants another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// At or below its fair share: poll the listener.
    Hungry,
    /// Above its fair share: leave the listener to the others for a moment.
    /// Only for a moment, because a less loaded worker may be hung or gone.
    Sated,
    /// At its own limit: do not poll before a connection ends.
    Full,
}

/// Decides from this worker's load, its limit, and the loads of all ready
/// workers of the pool, this one among them.
///
/// The worker with the least load is always hungry, so somebody always polls.
#[must_use]
pub fn appetite(mine: u32, limit: u32, pool: impl IntoIterator<Item = u32>) -> Appetite {
    if mine >= limit {
        return Appetite::Full;
    }
    let (total, workers) = pool.into_iter().fold((0_u64, 0_u64), |(sum, n), load| {
        (sum + u64::from(load), n + 1)
    });
    // With the next connection the pool holds total + 1; a worker whose load is
    // below the rounded-up mean of that may take it. An eighth more is allowed,
    // because a worker that waits while it has nothing to do costs more than
    // a pool that is not quite even.
    let fair = (total + 1).div_ceil(workers.max(1));
    if u64::from(mine) < fair + fair / 8 {
        Appetite::Hungry
    } else {
        Appetite::Sated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idle_pool_is_hungry_and_a_busy_worker_waits() {
        assert_eq!(appetite(0, 10, [0, 0, 0, 0]), Appetite::Hungry);
        assert_eq!(appetite(1, 10, [1, 0, 0, 0]), Appetite::Sated);
        assert_eq!(appetite(1, 10, [1, 1, 1, 1]), Appetite::Hungry);
        assert_eq!(appetite(10, 10, [10, 50]), Appetite::Full);
        assert_eq!(appetite(9, 99, [9, 8, 8, 7]), Appetite::Hungry);
        assert_eq!(appetite(10, 99, [10, 8, 8, 6]), Appetite::Sated);
        assert_eq!(appetite(11, 99, [11, 7, 7, 7]), Appetite::Sated);
        assert_eq!(appetite(3, 10, []), Appetite::Sated);
        assert_eq!(appetite(0, 10, []), Appetite::Hungry);
    }

    proptest! {
        #[test]
        fn the_least_loaded_worker_is_always_hungry(loads in prop::collection::vec(0_u32..1000, 1..32)) {
            let least = *loads.iter().min().unwrap();
            prop_assert_eq!(appetite(least, u32::MAX, loads), Appetite::Hungry);
        }
    }
}
