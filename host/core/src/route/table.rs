//! The routes of all apps, ready to be searched.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::pattern::{HostPattern, PathPattern, RoutePattern};
use super::radix::Radix;

/// Finds the target of a request.
///
/// A search walks two radix trees, one over the host backwards and one over
/// the path, neither of which gets slower with the number of routes. It
/// allocates nothing.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    targets: Vec<T>,
    /// Names, keyed backwards so that a wildcard is a prefix.
    names: Radix<NameEnds>,
    addresses: BTreeMap<Ipv6Addr, usize>,
    /// The first is that of routes without a host.
    hosts: Vec<Host>,
}

/// A route was given twice: same host, same path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route '{pattern}' is given twice")]
pub struct DuplicateRoute {
    /// The second of the two.
    pub pattern: RoutePattern,
}

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched<'a, T> {
    /// The target that was given with the route.
    pub target: &'a T,
    /// Bytes of the path that `strip_prefix` cuts off: for `/api/*` those of
    /// `/api`, so that what is left is empty or starts with the slash; for
    /// `/files*` those of `/files`, so that what is left may lack a slash. An
    /// exact path has no prefix: 0.
    pub prefix: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct NameEnds {
    exact: Option<usize>,
    /// Of a wildcard whose key, dot included, ends here.
    below: Option<usize>,
}

#[derive(Clone, Debug)]
struct Host {
    /// Whether it is one name or address, and not a wildcard.
    named: bool,
    paths: Radix<PathEnds>,
    /// The next less specific host that has routes.
    fallback: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PathEnds {
    exact: Option<usize>,
    prefix: Option<usize>,
    /// Of the prefix that is one slash longer.
    folder: Option<usize>,
}

const NO_HOST: usize = 0;

impl<T> RouteTable<T> {
    /// Makes a table of all routes.
    ///
    /// # Errors
    ///
    /// The first route whose host and path were there before, however they
    /// were spelled.
    pub fn build(
        routes: impl IntoIterator<Item = (RoutePattern, T)>,
    ) -> Result<Self, DuplicateRoute> {
        let mut table = Self {
            targets: Vec::new(),
            names: Radix::new(),
            addresses: BTreeMap::new(),
            hosts: vec![Host::new(false)],
        };
        let mut names = BTreeMap::new();
        for (pattern, target) in routes {
            let host = table.host_of(&pattern.host);
            if let HostPattern::Name(name) | HostPattern::Below(name) = &pattern.host {
                names.insert(host, name.clone());
            }
            let index = table.targets.len();
            if !table.hosts[host].insert(&pattern.path, index) {
                return Err(DuplicateRoute { pattern });
            }
            table.targets.push(target);
        }
        for (host, name) in names {
            // The most specific wildcard above this name, which for a wildcard
            // is not itself: its own key ends in a dot that the name lacks.
            table.hosts[host].fallback = Some(table.wildcard_of(&name));
        }
        Ok(table)
    }

    /// The target of the most specific route for a request.
    ///
    /// `host` is the request's, as received: case, a port and one trailing dot
    /// do not count, and a host that is not well-formed is served by routes
    /// without a host only. `path` is the request's path as received, without
    /// the query; one that does not start with `/` has no route.
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<Matched<'_, T>> {
        if !path.starts_with('/') {
            return None;
        }
        let mut at = Some(self.most_specific(host));
        while let Some(host) = at {
            let host = &self.hosts[host];
            if let Some((index, prefix)) = host.find(path) {
                return Some(Matched {
                    target: &self.targets[index],
                    prefix,
                });
            }
            at = host.fallback;
        }
        None
    }

    /// Whether a route names exactly this host, which is a request's, as
    /// received.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let found = self.most_specific(Some(host));
        self.hosts[found].named
    }

    fn most_specific(&self, host: Option<&str>) -> usize {
        let Some(host) = host else { return NO_HOST };
        if let Some(literal) = host.strip_prefix('[') {
            return literal
                .split_once(']')
                .filter(|(_, rest)| rest.is_empty() || is_port(rest))
                .and_then(|(address, _)| address.parse().ok())
                .and_then(|address: Ipv6Addr| self.addresses.get(&address).copied())
                .unwrap_or(NO_HOST);
        }
        let name = without_port(host);
        self.name(name.strip_suffix('.').unwrap_or(name), |ends| ends.exact)
    }

    fn wildcard_of(&self, name: &str) -> usize {
        self.name(name, |_| None)
    }

    /// The host that `exact` finds at the whole of `name`, else the longest
    /// wildcard above it, else that of routes without a host.
    fn name(&self, name: &str, exact: impl Fn(&NameEnds) -> Option<usize>) -> usize {
        let mut found = NO_HOST;
        self.names.walk(backwards(name), |length, ends| {
            let host = if length == name.len() {
                exact(ends)
            } else {
                ends.below
            };
            found = host.unwrap_or(found);
        });
        found
    }

    fn host_of(&mut self, pattern: &HostPattern) -> usize {
        let named = !matches!(pattern, HostPattern::Below(_));
        let place = match pattern {
            HostPattern::Any => return NO_HOST,
            HostPattern::Address(address) => {
                let next = self.hosts.len();
                let host = *self.addresses.entry(*address).or_insert(next);
                if host == next {
                    self.hosts.push(Host::new(true));
                    self.hosts[host].fallback = Some(NO_HOST);
                }
                return host;
            }
            HostPattern::Name(name) => {
                let key: Vec<u8> = backwards(name).collect();
                &mut self.names.entry(&key).exact
            }
            HostPattern::Below(name) => {
                let key: Vec<u8> = backwards(name).chain([b'.']).collect();
                &mut self.names.entry(&key).below
            }
        };
        *place.get_or_insert_with(|| {
            self.hosts.push(Host::new(named));
            self.hosts.len() - 1
        })
    }
}

impl Host {
    fn new(named: bool) -> Self {
        Self {
            named,
            paths: Radix::new(),
            fallback: None,
        }
    }

    /// Whether the path was new.
    fn insert(&mut self, path: &PathPattern, target: usize) -> bool {
        let place = match path {
            PathPattern::Exact(path) => &mut self.paths.entry(path.as_bytes()).exact,
            PathPattern::Prefix(prefix) => {
                if let Some(folder) = prefix.strip_suffix('/') {
                    self.paths
                        .entry(folder.as_bytes())
                        .folder
                        .get_or_insert(target);
                }
                &mut self.paths.entry(prefix.as_bytes()).prefix
            }
        };
        let new = place.is_none();
        place.get_or_insert(target);
        new
    }

    /// The index of the target, and what of the path is its prefix.
    fn find(&self, path: &str) -> Option<(usize, usize)> {
        let mut found = None;
        self.paths.walk(path.bytes(), |length, ends| {
            if let Some(index) = ends.prefix {
                let slash = usize::from(path.as_bytes()[..length].ends_with(b"/"));
                found = Some((index, length - slash));
            }
            if length == path.len() {
                let folder = ends.folder.map(|index| (index, length));
                found = ends.exact.map(|index| (index, 0)).or(folder).or(found);
            }
        });
        found
    }
}

fn backwards(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().rev().map(|byte| byte.to_ascii_lowercase())
}

/// A request's host without its port.
pub(super) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if is_port(&host[colon..]) => &host[..colon],
        _ => host,
    }
}

/// Whether this is a colon and digits; the standard allows none.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}
