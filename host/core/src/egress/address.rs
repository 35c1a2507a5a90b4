//! Which addresses are public, and what a network contains.
//!
//! The tables are IANA's registries of special-purpose addresses, read
//! strictly: what serves nobody on the internet is not public, even where the
//! registry calls it reachable. They are data here because the standard
//! library's functions of this kind are not stable, and the crates that copy
//! them say "global" of addresses that lead back into this network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks that are not public.
const NOT_PUBLIC_V4: [(Ipv4Addr, u8); 16] = [
    // "This network"; the kernel connects 0.0.0.0 to this machine.
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    // Private.
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    // Shared by a carrier's customers; clouds keep services there, too.
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    // Loopback.
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Link-local, with the metadata services of clouds at 169.254.169.254.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // The platform's services on Azure: a public number that leads to the host.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    // Protocol assignments; one cloud has its metadata service in it.
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    // Documentation.
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Relays of 6to4, which are no more.
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    // Benchmarks.
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    // Multicast.
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    // Reserved, and broadcast.
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// All that IANA has ever given out for unicast on the internet. Outside of it
/// are loopback, IPv4-compatible, unique local (with a metadata service at
/// `fd00:ec2::254`), link-local, site-local and multicast addresses.
const UNICAST_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// IPv6 networks within [`UNICAST_V6`] that are not public.
const NOT_PUBLIC_V6: [(Ipv6Addr, u8); 4] = [
    // Protocol assignments: Teredo, which holds an IPv4 address, benchmarks,
    // overlay hashes. No server is in there.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    // 6to4, which holds an IPv4 address and is no more.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// What networks without IPv4 use to reach it (NAT64): the last 32 bits are an
/// IPv4 address, and as public as that.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Whether an address is somebody's on the internet, and not one of this
/// machine, of its network, or of nobody.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !NOT_PUBLIC_V4
        .iter()
        .any(|(network, length)| contains_v4(*network, *length, address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if contains_v6(NAT64.0, NAT64.1, address) {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    contains_v6(UNICAST_V6.0, UNICAST_V6.1, address)
        && !NOT_PUBLIC_V6
            .iter()
            .any(|(network, length)| contains_v6(*network, *length, address))
}

/// Whether `address` begins with the first `length` bits of `network`. An IPv4
/// address is in no IPv6 network; those that are written as IPv6
/// (`::ffff:0:0/96`) are to be made canonical before.
pub(super) fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => contains_v4(network, length, address),
        (IpAddr::V6(network), IpAddr::V6(address)) => contains_v6(network, length, address),
        _ => false,
    }
}

fn contains_v4(network: Ipv4Addr, length: u8, address: Ipv4Addr) -> bool {
    let different = network.to_bits() ^ address.to_bits();
    different.leading_zeros() >= u32::from(length)
}

fn contains_v6(network: Ipv6Addr, length: u8, address: Ipv6Addr) -> bool {
    let different = network.to_bits() ^ address.to_bits();
    different.leading_zeros() >= u32::from(length)
}

/// The first address with the first `length` bits of this one.
pub(super) fn first_of(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(length).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !rest).into()
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(length).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !rest).into()
        }
    }
}
