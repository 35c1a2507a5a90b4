//! Who may have another instance where a worker can hold only so many.
//!
//! The rule: as long as there is more than what the others are still owed.
//! Every tenant is owed [`Seats::minimum`], whether it uses it or not, and what
//! is beyond all minimums goes to whoever comes first. So no tenant, nor several
//! of them together, can take the last instances of a worker from one that has
//! fewer than its minimum.

/// Instances that every tenant is owed, where there are enough for all: what a
/// handler of plain requests needs at a time on one worker.
const MINIMUM: u32 = 8;

/// The instances of one worker and who holds them.
#[derive(Clone, Debug)]
pub struct Seats {
    capacity: u32,
    taken: u32,
    /// By tenant; `None` where one has left.
    held: Vec<Option<u32>>,
    tenants: u32,
}

impl Seats {
    /// So many, for nobody yet.
    #[must_use]
    pub const fn new(capacity: u32) -> Self {
        Self {
            capacity,
            taken: 0,
            held: Vec::new(),
            tenants: 0,
        }
    }

    /// Another tenant. Returns its number.
    pub fn join(&mut self) -> usize {
        self.tenants += 1;
        if let Some(at) = self.held.iter().position(Option::is_none) {
            self.held[at] = Some(0);
            return at;
        }
        self.held.push(Some(0));
        self.held.len() - 1
    }

    /// This tenant is no more, and holds nothing any more.
    pub fn leave(&mut self, tenant: usize) {
        self.give_back(tenant, u32::MAX);
        self.held[tenant] = None;
        self.tenants -= 1;
    }

    /// What every tenant is owed.
    #[must_use]
    pub fn minimum(&self) -> u32 {
        MINIMUM.min(self.capacity / self.tenants.max(1))
    }

    /// Gives `tenant` so many at once, all or none. Says whether it did.
    pub fn take(&mut self, tenant: usize, seats: u32) -> bool {
        let minimum = self.minimum();
        let free = self.capacity.saturating_sub(self.taken);
        if seats > free {
            return false;
        }
        let held = self.held(tenant);
        if held.saturating_add(seats) > minimum {
            let others = self.held.iter().enumerate();
            let owed: u32 = others
                .filter(|(other, _)| *other != tenant)
                .filter_map(|(_, held)| *held)
                .map(|held| minimum.saturating_sub(held))
                .sum();
            if seats > free.saturating_sub(owed) {
                return false;
            }
        }
        self.held[tenant] = Some(held + seats);
        self.taken += seats;
        true
    }

    /// Whether `tenant` is owed so many more, so that they are nobody else's whether it
    /// takes them or not.
    #[must_use]
    pub fn owes(&self, tenant: usize, seats: u32) -> bool {
        self.held(tenant).saturating_add(seats) <= self.minimum()
    }

    /// Takes back what `tenant` was given.
    pub fn give_back(&mut self, tenant: usize, seats: u32) {
        let held = self.held(tenant);
        let seats = seats.min(held);
        self.held[tenant] = Some(held - seats);
        self.taken = self.taken.saturating_sub(seats);
    }

    /// What `tenant` holds.
    #[must_use]
    pub fn held(&self, tenant: usize) -> u32 {
        self.held[tenant].unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_tenant_alone_may_have_all() {
        let mut seats = Seats::new(16);
        let only = seats.join();
        assert!((0..16).all(|_| seats.take(only, 1)));
        assert!(!seats.take(only, 1));
        seats.give_back(only, 1);
        assert!(seats.take(only, 1));
    }

    #[test]
    fn a_tenant_is_owed_its_minimum_and_no_more() {
        let mut seats = Seats::new(12);
        let (one, other) = (seats.join(), seats.join());
        assert!(seats.owes(one, 6) && !seats.owes(one, 7));
        assert!(seats.take(other, 6) && seats.take(one, 5));
        assert!(seats.owes(one, 1) && !seats.owes(one, 2));
    }

    #[test]
    fn the_others_keep_their_minimum() {
        let mut seats = Seats::new(64);
        let (greedy, quiet, late) = (seats.join(), seats.join(), seats.join());
        let got = (0..64).take_while(|_| seats.take(greedy, 1)).count();
        assert_eq!(got, 64 - 2 * 8);
        for other in [quiet, late] {
            assert!((0..8).all(|_| seats.take(other, 1)));
            assert!(!seats.take(other, 1));
        }
    }

    #[test]
    fn what_a_tenant_held_that_left_is_free() {
        let mut seats = Seats::new(16);
        let (one, other) = (seats.join(), seats.join());
        assert!(seats.take(one, 8) && !seats.take(one, 1));
        seats.leave(one);
        assert!(seats.take(other, 16));
        assert_eq!(seats.join(), one);
        assert_eq!(seats.held(one), 0);
    }

    #[test]
    fn with_many_tenants_the_minimum_is_what_there_is_for_each() {
        let mut seats = Seats::new(64);
        for _ in 0..100 {
            seats.join();
        }
        assert_eq!(seats.minimum(), 0);
        assert!((0..64).all(|_| seats.take(3, 1)));
    }

    proptest! {
        /// Whatever is taken and given back, who has less than the minimum
        /// gets one more.
        #[test]
        fn below_its_minimum_nobody_is_refused(
            capacity in 4_u32..100,
            tenants in 1_usize..8,
            steps in prop::collection::vec((any::<prop::sample::Index>(), 1_u32..4, any::<bool>()), 0..300),
        ) {
            let mut seats = Seats::new(capacity);
            for _ in 0..tenants {
                seats.join();
            }
            let minimum = seats.minimum();
            for (tenant, count, take) in steps {
                let tenant = tenant.index(tenants);
                if take {
                    let fits = seats.held(tenant) + count <= minimum;
                    let taken = seats.take(tenant, count);
                    prop_assert!(taken || !fits);
                } else {
                    seats.give_back(tenant, count);
                }
                let all: u32 = (0..tenants).map(|tenant| seats.held(tenant)).sum();
                prop_assert!(all <= capacity);
            }
        }
    }
}
