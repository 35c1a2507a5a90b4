//! Who our processes are, where skep was started as root and nobody has said
//! who they should be.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::PoolName;

/// The first number of the range that nameless users are taken from. systemd
/// and the Linux distributions leave 1879048192 to 2147352575 to nobody: below
/// are the users of containers, above those of foreign file systems.
pub const FIRST: u32 = 1_879_048_192;

/// Numbers at the beginning of the range that are for roles, not for pools.
const ROLES: u32 = 1024;

/// How many numbers pools are spread over.
const POOLS: u32 = 1 << 20;

/// A process that is one of a kind, or of which all are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Compiles components.
    Builder,
    /// Tells the webhook.
    Alerter,
    /// Opens outbound connections.
    Connector,
    /// Hands out connections.
    Dispatcher,
}

impl Role {
    /// The number of its user and group.
    #[must_use]
    pub const fn user(self) -> u32 {
        FIRST
            + match self {
                Self::Builder => 1,
                Self::Alerter => 2,
                Self::Connector => 3,
                Self::Dispatcher => 4,
            }
    }
}

/// Whether all nameless users are among those of a system or a container, by
/// its `/proc/self/uid_map`: lines of a first user, who that is outside, and how
/// many follow.
#[must_use]
pub fn has_nameless(uid_map: &str) -> bool {
    let last = u64::from(FIRST + ROLES + POOLS);
    uid_map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                first <= u64::from(FIRST) && last <= first.saturating_add(count)
            }
            _ => false,
        }
    })
}

/// A user and group number for each pool, no two alike. It is made of the
/// pool's name, so that it is mostly the same each time; where two names make
/// the same one, the second gets the next that is free. Those in `taken` keep
/// what they have.
#[must_use]
pub fn of_pools<'a>(
    pools: impl IntoIterator<Item = &'a PoolName>,
    taken: &BTreeMap<PoolName, u32>,
) -> BTreeMap<PoolName, u32> {
    let mut users = taken.clone();
    let mut used: BTreeSet<u32> = taken.values().copied().collect();
    for pool in pools {
        if users.contains_key(pool) {
            continue;
        }
        let mut place = hash(pool.as_str()) % POOLS;
        let user = loop {
            let user = FIRST + ROLES + place;
            if used.insert(user) {
                break user;
            }
            place = (place + 1) % POOLS;
        };
        users.insert(pool.clone(), user);
    }
    users
}

/// FNV-1a: short, and the same for ever.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_has_a_user_of_its_own_and_keeps_it() {
        let names: Vec<_> = (0..2000)
            .map(|number| PoolName::new(&format!("p{number}")).unwrap())
            .collect();
        let users = of_pools(&names, &BTreeMap::new());
        let distinct: BTreeSet<_> = users.values().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(users.values().all(|user| *user >= FIRST + ROLES));
        assert!(users.values().all(|user| *user < 2_147_352_576));
        assert_eq!(of_pools(&names[..10], &users), users);
        let alone = of_pools(&names[..1], &BTreeMap::new());
        assert_eq!(alone[&names[0]], users[&names[0]]);
    }

    #[test]
    fn small_containers_have_no_nameless_users() {
        assert!(has_nameless("         0          0 4294967295\n"));
        assert!(!has_nameless("0 100000 65536\n"));
        assert!(!has_nameless("0 1000 1\n1 100000 65536\n"));
        assert!(!has_nameless("nonsense\n\n1 2"));
    }

    #[test]
    fn a_taken_number_is_not_given_again() {
        let name = PoolName::new("a").unwrap();
        let other = PoolName::new("b").unwrap();
        let first = of_pools([&name], &BTreeMap::new());
        let taken = BTreeMap::from([(other, first[&name])]);
        assert_eq!(of_pools([&name], &taken)[&name], first[&name] + 1);
    }
}
