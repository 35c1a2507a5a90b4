//! An address that two listeners want.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use skep_core::ListenAddress;

use crate::document::{Spanned, quotable};
use crate::report::Report;
use crate::sections::listener::DeclaredListener;

pub(super) fn check(listeners: &[DeclaredListener], report: &Report) {
    let mut claimed: BTreeMap<Claim, (&DeclaredListener, &Spanned<ListenAddress>)> =
        BTreeMap::new();
    for listener in listeners {
        let Some(address) = &listener.address else {
            continue;
        };
        let (conflicting, claims) = claims(&address.value);
        if let Some((earlier, first)) = conflicting.iter().find_map(|claim| claimed.get(claim)) {
            let message = format!(
                "listeners `{}` and `{}` both listen on {}",
                earlier.name,
                listener.name,
                quotable(&address.value.to_string()),
            );
            report
                .at(&address.span, message)
                .also(&first.span, "first here")
                .report();
        }
        for claim in claims {
            claimed.entry(claim).or_insert((listener, address));
        }
    }
}

/// What a listening socket takes from those that come after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// This address.
    Exact(ListenAddress),
    /// The wildcard address of a family, at this port.
    Wildcard { port: u16, ipv4: bool },
}

/// The claims that an address conflicts with, and those that it makes.
fn claims(address: &ListenAddress) -> (Vec<Claim>, Vec<Claim>) {
    let exact = Claim::Exact(address.clone());
    let ListenAddress::Tcp(tcp) = address else {
        return (vec![exact.clone()], vec![exact]);
    };
    // Port 0 is a free port, another one each time.
    if tcp.port() == 0 {
        return (Vec::new(), Vec::new());
    }
    let wildcard = Claim::Wildcard {
        port: tcp.port(),
        ipv4: tcp.is_ipv4(),
    };
    if tcp.ip().is_unspecified() {
        return (vec![wildcard.clone()], vec![wildcard, exact]);
    }
    let any = match tcp.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let any = ListenAddress::Tcp(SocketAddr::new(any, tcp.port()));
    (
        vec![exact.clone(), Claim::Exact(any)],
        vec![wildcard, exact],
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::elements::address::parse_address;

    #[test]
    fn a_wildcard_address_overlaps_those_of_its_family() {
        for (a, b, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "127.0.0.1:80", false),
            ("unix:a", "unix:a", true),
            ("unix:a", "unix:b", false),
        ] {
            let parse = |text| parse_address(text, Path::new("")).unwrap();
            let (_, earlier) = claims(&parse(a));
            let (conflicting, _) = claims(&parse(b));
            let clash = conflicting.iter().any(|claim| earlier.contains(claim));
            assert_eq!(clash, expected, "{a} {b}");
        }
    }
}
