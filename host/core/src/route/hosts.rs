//! Which pool a connection is for, by its host: what a dispatcher goes by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pattern::RoutePattern;
use super::table::{RouteTable, without_port};
use crate::name::PoolName;

/// The host of some route, and the pool that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// A route for everything below that host.
    pub host: RoutePattern,
    /// Who serves it.
    pub pool: PoolName,
}

/// Two pools would serve the same host on one listener. A connection is handed
/// out by its host alone, so paths cannot tell them apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pools {first} and {second} both serve {}", shown(.host))]
pub struct SharedHost {
    /// The host, as a route for everything below it.
    pub host: RoutePattern,
    /// The pool that came first.
    pub first: PoolName,
    /// The other.
    pub second: PoolName,
}

/// Finds the pool of a host.
#[derive(Clone, Debug)]
pub struct HostTable {
    table: RouteTable<PoolName>,
}

impl HostTable {
    /// The hosts of `routes` with their pools, each once.
    ///
    /// # Errors
    ///
    /// The first host that belongs to two pools.
    pub fn hosts<'a>(
        routes: impl IntoIterator<Item = (&'a RoutePattern, &'a PoolName)>,
    ) -> Result<Vec<HostRoute>, SharedHost> {
        let mut hosts: BTreeMap<_, HostRoute> = BTreeMap::new();
        for (route, pool) in routes {
            let host = route.whole_host();
            let found = hosts
                .entry(route.host.clone())
                .or_insert_with(|| HostRoute {
                    host: host.clone(),
                    pool: pool.clone(),
                });
            if found.pool != *pool {
                return Err(SharedHost {
                    host,
                    first: found.pool.clone(),
                    second: pool.clone(),
                });
            }
        }
        Ok(hosts.into_values().collect())
    }

    /// A table of these. One that is there twice counts once.
    #[must_use]
    pub fn new(hosts: &[HostRoute]) -> Self {
        let mut unique = BTreeMap::new();
        for HostRoute { host, pool } in hosts {
            unique
                .entry(host.host.clone())
                .or_insert_with(|| (host.whole_host(), pool.clone()));
        }
        Self {
            table: RouteTable::build(unique.into_values()).expect("no host is there twice"),
        }
    }

    /// The pool of a request's host, as it was received; of the most specific
    /// route, as [`RouteTable::find`] has it. `None` if no route fits.
    #[must_use]
    pub fn pool_of(&self, host: Option<&str>) -> Option<&PoolName> {
        self.table.find(host, "/").map(|found| found.target)
    }
}

/// Whether two hosts, as they were received, are one: case, a port and one
/// trailing dot do not count, as in [`RouteTable::find`].
#[must_use]
pub fn same_host(one: &str, other: &str) -> bool {
    plain(one).eq_ignore_ascii_case(plain(other))
}

fn plain(host: &str) -> &str {
    let name = without_port(host);
    if name.starts_with('[') {
        return name;
    }
    name.strip_suffix('.').unwrap_or(name)
}

fn shown(host: &RoutePattern) -> &str {
    match host.as_str().trim_end_matches("/*") {
        "" => "all hosts",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> PoolName {
        PoolName::new(name).unwrap()
    }

    #[test]
    fn hosts_have_one_pool_each_and_the_most_specific_wins() {
        let route = |text| RoutePattern::new(text).unwrap();
        let routes = [
            (route("a.example/x"), pool("a")),
            (route("A.example/y/*"), pool("a")),
            (route("*.example/*"), pool("wild")),
            (route("/*"), pool("rest")),
            (route("[::1]/*"), pool("six")),
        ];
        let hosts = HostTable::hosts(routes.iter().map(|(route, pool)| (route, pool))).unwrap();
        assert_eq!(hosts.len(), 4);
        let table = HostTable::new(&hosts);
        for (host, expected) in [
            (Some("a.example"), "a"),
            (Some("A.Example.:80"), "a"),
            (Some("b.example"), "wild"),
            (Some("example"), "rest"),
            (Some("[::1]:8080"), "six"),
            (None, "rest"),
        ] {
            assert_eq!(table.pool_of(host), Some(&pool(expected)), "{host:?}");
        }
        let without = HostTable::new(&hosts[1..2]);
        assert!(without.pool_of(None).is_none() || without.pool_of(Some("nobody")).is_none());
    }

    #[test]
    fn hosts_are_compared_as_routes_compare_them() {
        for (one, other) in [
            ("a.example", "A.Example.:80"),
            ("a:", "a"),
            ("[::1]:8080", "[::1]"),
            ("", ""),
        ] {
            assert!(same_host(one, other), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("a", ""), ("a:x", "a"), ("[::1]", "[::2]")] {
            assert!(!same_host(one, other), "{one} {other}");
        }
    }

    #[test]
    fn only_whole_hosts_are_named() {
        let routes = ["a.example/x", "*.example/*", "/*", "[::1]/*"];
        let routes = routes.map(|route| (RoutePattern::new(route).unwrap(), ()));
        let table = RouteTable::build(routes).unwrap();
        for (host, expected) in [
            ("A.example.:80", true),
            ("[::1]:80", true),
            ("b.example", false),
            ("other", false),
            ("", false),
            ("[::2]", false),
        ] {
            assert_eq!(table.names(host), expected, "{host}");
        }
    }

    #[test]
    fn a_host_of_two_pools_is_refused() {
        let (a, b) = (pool("a"), pool("b"));
        let (x, y) = (
            RoutePattern::new("h.example/x").unwrap(),
            RoutePattern::new("h.example/y").unwrap(),
        );
        let error = HostTable::hosts([(&x, &a), (&y, &b)]).unwrap_err();
        assert_eq!(error.to_string(), "pools a and b both serve h.example");
        let all = RoutePattern::new("/*").unwrap();
        let error = HostTable::hosts([(&all, &a), (&all, &b)]).unwrap_err();
        assert_eq!(error.to_string(), "pools a and b both serve all hosts");
    }
}
