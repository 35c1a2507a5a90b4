//! `[listener.NAME]`: an address, the pools that serve it, and the limits of
//! its connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use skep_core::{ConnectionLimits, ListenAddress, ListenerName, ListenerSpec, PoolName};

use crate::document::{Entry, Schema, Section, Spanned};
use crate::elements::{address, count, duration, name, size};
use crate::report::Reported;
use crate::sections::{Declared, named};

pub(crate) static SCHEMA: Schema = Schema {
    title: "[listener.NAME]",
    keys: &[
        "address",
        "pool",
        "header_timeout",
        "body_timeout",
        "write_timeout",
        "max_head",
        "max_headers",
        "max_connections",
        "max_requests_per_connection",
        "max_connection_age",
    ],
    unavailable: &[
        (
            "tls",
            "listeners speak cleartext HTTP; put a TLS proxy in front",
        ),
        (
            "trusted_proxies",
            "forwarding headers are always set from the connection",
        ),
    ],
};

/// How long a client may be waited for. Below a tenth of a second honest
/// clients on slow links fail; above an hour the limit is none.
const PATIENCE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
/// The HTTP/1 parser needs 8 KiB of buffer; 1 MiB for each of 10,000
/// connections is all the memory a machine has.
const HEAD: RangeInclusive<u64> = 8 << 10..=1 << 20;
const HEADERS: RangeInclusive<usize> = 8..=4096;
const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;
const REQUESTS: RangeInclusive<u64> = 0..=1_000_000_000;
const AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(30 * 24);

/// A listener that was read; its pools may not exist.
pub(crate) struct DeclaredListener {
    pub(crate) name: ListenerName,
    /// `None` if it was read and is no address.
    pub(crate) address: Option<Spanned<ListenAddress>>,
    pub(crate) pools: ListenerPools,
    pub(crate) limits: ConnectionLimits,
}

/// The pools that serve a listener.
pub(crate) enum ListenerPools {
    /// It does not say.
    Unwritten,
    /// It names these, and others that are no names if it is `faulty`.
    Written {
        pools: Vec<Spanned<PoolName>>,
        faulty: Option<Reported>,
    },
}

impl DeclaredListener {
    /// `None` if a part of it has a problem. `unwritten` are the pools of a
    /// listener that names none.
    pub(crate) fn into_spec(self, unwritten: &[PoolName]) -> Option<(ListenerName, ListenerSpec)> {
        let pools = match self.pools {
            ListenerPools::Unwritten => unwritten.to_vec(),
            ListenerPools::Written {
                pools,
                faulty: None,
            } => pools.into_iter().map(|pool| pool.value).collect(),
            ListenerPools::Written { .. } => return None,
        };
        let spec = ListenerSpec {
            address: self.address?.value,
            pools,
            limits: self.limits,
        };
        Some((self.name, spec))
    }
}

/// Where the only listener listens if a file names none.
pub(crate) const fn default_address() -> ListenAddress {
    ListenAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080))
}

/// The name of the only listener of a file that has none.
pub(crate) fn default_name() -> ListenerName {
    ListenerName::new("web").expect("`web` is a valid name")
}

pub(crate) fn read_all(file: &Section<'_>, dir: &Path) -> Declared<DeclaredListener> {
    named(
        file,
        "listener",
        &SCHEMA,
        ListenerName::new,
        |name, section| read(name, section, dir),
    )
}

fn read(
    name: Option<Spanned<ListenerName>>,
    section: &Section<'_>,
    dir: &Path,
) -> Option<DeclaredListener> {
    let limits = read_limits(section);
    let address = section
        .get("address")
        .map(|entry| address::read(&entry, dir));
    let pools = section
        .get("pool")
        .map_or(ListenerPools::Unwritten, |entry| read_pools(&entry));
    let name = name?;
    let address = match address {
        Some(read) => read.ok(),
        None => Some(Spanned {
            value: default_address(),
            span: name.span.clone(),
        }),
    };
    Some(DeclaredListener {
        name: name.value,
        address,
        pools,
        limits,
    })
}

/// Reads a name or a list of names.
fn read_pools(entry: &Entry<'_>) -> ListenerPools {
    let mut pools: Vec<Spanned<PoolName>> = Vec::new();
    let mut faulty = None;
    let elements = entry.as_array().unwrap_or_else(|| vec![entry.clone()]);
    if elements.is_empty() {
        faulty = Some(
            entry
                .problem("a listener serves at least one pool")
                .hint("leave `pool` out for the default pool and those of dedicated tenants")
                .report(),
        );
    }
    for element in elements {
        let pool = match name::read(&element, PoolName::new) {
            Ok(pool) => pool,
            Err(reported) => {
                faulty = Some(reported);
                continue;
            }
        };
        match pools.iter().find(|other| other.value == pool.value) {
            Some(first) => {
                element
                    .problem(format!("the pool `{}` is there twice", pool.value))
                    .also(&first.span, "first here")
                    .hint("remove one of them")
                    .report();
            }
            None => pools.push(pool),
        }
    }
    ListenerPools::Written { pools, faulty }
}

fn read_limits(section: &Section<'_>) -> ConnectionLimits {
    let mut limits = ConnectionLimits::default();
    let patience = |entry: &Entry<'_>| duration::read(entry, &PATIENCE);
    section.set(&mut limits.header_timeout, "header_timeout", patience);
    section.set(&mut limits.body_timeout, "body_timeout", patience);
    section.set(&mut limits.write_timeout, "write_timeout", patience);
    section.set(&mut limits.max_head, "max_head", |entry| {
        size::read(entry, &HEAD).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    });
    section.set(&mut limits.max_headers, "max_headers", |entry| {
        count::read(entry, &HEADERS)
    });
    section.set(&mut limits.max_connections, "max_connections", |entry| {
        count::read(entry, &CONNECTIONS)
    });
    section.set(
        &mut limits.max_requests_per_connection,
        "max_requests_per_connection",
        |entry| count::read(entry, &REQUESTS),
    );
    section.set(
        &mut limits.max_connection_age,
        "max_connection_age",
        |entry| duration::read(entry, &AGE),
    );
    limits
}
