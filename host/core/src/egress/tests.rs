use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn grants(texts: &[&str]) -> Vec<OutboundGrant> {
    texts
        .iter()
        .map(|text| OutboundGrant::new(text).unwrap())
        .collect()
}

fn host(text: &str) -> Host {
    Host::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whether `texts` cover `http://HOST:PORT`.
fn covered(texts: &[&str], name: &str, port: u16) -> bool {
    covers(&grants(texts), Scheme::Http, &host(name), port)
}

/// Whether `texts` let `http://HOST` go to this address on port 80.
fn connects(texts: &[&str], name: &str, address: &str) -> bool {
    may_connect(&grants(texts), Scheme::Http, &host(name), 80, ip(address))
}

#[test]
fn a_grant_covers_its_scheme_host_and_port() {
    assert!(covered(&["http://a.example"], "a.example", 80));
    assert!(covered(&["http://A.Example."], "a.eXample.", 80));
    assert!(!covered(&["http://a.example"], "a.example", 81));
    assert!(covered(&["http://a.example:81"], "a.example", 81));
    assert!(covered(&["http://a.example:*"], "a.example", 9));
    assert!(!covered(&["https://a.example:80"], "a.example", 80));
    assert!(!covered(&["http://a.example"], "b.a.example", 80));
    assert!(!covered(&[], "a.example", 80));
}

#[test]
fn a_wildcard_covers_what_is_below_and_nothing_beside() {
    let below = ["http://*.a.example"];
    assert!(covered(&below, "b.a.example", 80));
    assert!(covered(&below, "c.b.a.example", 80));
    assert!(!covered(&below, "a.example", 80));
    assert!(!covered(&below, "ba.example", 80));
    assert!(Host::new(".a.example").is_err());
}

#[test]
fn a_network_covers_addresses_and_no_names() {
    let network = ["http://10.0.0.0/8"];
    assert!(covered(&network, "10.255.0.1", 80));
    assert!(covered(&network, "::ffff:10.1.2.3", 80));
    assert!(!covered(&network, "11.0.0.1", 80));
    assert!(!covered(&network, "a.example", 80));
    let everything = ["http://0.0.0.0/0"];
    assert!(covered(&everything, "255.1.2.3", 80));
    assert!(!covered(&everything, "::1", 80));
    assert!(covered(&["http://[fd00::]/8"], "fdff::1", 80));
    assert!(covered(&["http://[::1]:*"], "::1", 3));
}

#[test]
fn a_name_leads_to_public_addresses_and_to_those_that_are_listed() {
    let name = ["http://a.example"];
    assert!(connects(&name, "a.example", "93.184.216.34"));
    assert!(connects(&name, "a.example", "2606:2800:21f::1"));
    for private in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00::1"] {
        assert!(!connects(&name, "a.example", private), "{private}");
    }
    let listed = ["http://a.example", "http://10.0.0.0/24"];
    assert!(connects(&listed, "a.example", "10.0.0.1"));
    assert!(connects(&listed, "a.example", "::ffff:10.0.0.1"));
    assert!(!connects(&listed, "a.example", "10.0.1.1"));
    assert!(!connects(&listed, "b.example", "10.0.0.1"));
    // A list for another scheme or port is none.
    for other in ["https://10.0.0.0/24:80", "http://10.0.0.0/24:81"] {
        let texts = ["http://a.example", other];
        assert!(!connects(&texts, "a.example", "10.0.0.1"), "{other}");
    }
}

#[test]
fn localhost_is_this_machine_and_nothing_else() {
    let localhost = ["http://localhost"];
    assert!(connects(&localhost, "localhost", "127.0.0.1"));
    assert!(connects(&localhost, "LOCALHOST.", "::1"));
    assert!(connects(&localhost, "localhost", "::ffff:127.0.0.1"));
    assert!(!connects(&localhost, "localhost", "10.0.0.1"));
    assert!(!connects(&localhost, "localhost", "0.0.0.0"));
    assert!(!connects(&localhost, "127.0.0.1", "127.0.0.1"));
    let both = ["http://localhost", "http://a.example"];
    assert!(!connects(&both, "a.example", "127.0.0.1"));
    let below = ["http://*.localhost"];
    assert!(!connects(&below, "a.localhost", "127.0.0.1"));
    assert!(!covered(&["http://127.0.0.1"], "localhost", 80));
}

#[test]
fn addresses_are_public_or_not() {
    for public in [
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.17",
        "172.15.255.255",
        "172.32.0.0",
        "223.255.255.255",
        "2001:200::",
        "2600::1",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ] {
        assert!(is_public(ip(public)), "{public}");
    }
    for other in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.0",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_public(ip(other)), "{other}");
    }
}

#[test]
fn hosts_have_one_reading() {
    for odd in [
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "127.0.0.0x1",
        "127.0.0.0x",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "1.2.3.4.5",
        "256.0.0.1",
        "a.example.1",
        "127%2e0.0.1",
    ] {
        assert_eq!(Host::new(odd), Err(InvalidHost::Number), "{odd}");
        assert_eq!(
            OutboundGrant::new(&format!("http://{odd}")),
            Err(InvalidGrant::Number(odd.into()))
        );
    }
    for odd in [
        "",
        ".",
        "..",
        "a..b",
        "a.example..",
        "a b",
        "a@b",
        "a%2eb",
        "127.0.0%2e1",
        "fe80::1%eth0",
        "bücher.example",
        "127。0。0。1",
        "[::1]",
        "a:80",
        "a/b",
        "a\0b",
    ] {
        assert_eq!(Host::new(odd), Err(InvalidHost::Name), "{odd}");
    }
    assert_eq!(host("::ffff:127.0.0.1"), Host::Address(ip("127.0.0.1")));
    assert_eq!(host("0:0::1"), Host::Address(ip("::1")));
    assert_eq!(Host::in_url("[::1]"), Ok(Host::Address(ip("::1"))));
    for odd in ["::1", "[127.0.0.1]", "[a.example]", "[::1", "[]"] {
        assert!(Host::in_url(odd).is_err(), "{odd}");
    }
    assert_eq!(host("_a-b.Example.").to_string(), "_a-b.example");
}

#[test]
fn grants_that_are_odd_are_told_so() {
    let refused = |text: &str| OutboundGrant::new(text).unwrap_err();
    assert_eq!(refused("ftp://a"), InvalidGrant::Scheme);
    assert_eq!(refused("http://a/"), InvalidGrant::Path("/".into()));
    assert_eq!(refused("http://a:1/x"), InvalidGrant::Path("/x".into()));
    assert_eq!(refused("http://*"), InvalidGrant::Host("*".into()));
    assert_eq!(refused("http://::1"), InvalidGrant::Host(String::new()));
    assert_eq!(
        refused("http://*.127.0.0.1"),
        InvalidGrant::Host("*.127.0.0.1".into())
    );
    assert_eq!(
        refused("http://[127.0.0.1]"),
        InvalidGrant::Host("[127.0.0.1]".into())
    );
    assert_eq!(
        refused("http://10.0.0.0/33"),
        InvalidGrant::Host("10.0.0.0/33".into())
    );
    assert_eq!(
        refused("http://[::ffff:10.0.0.0]/104").to_string(),
        "'::ffff:10.0.0.0' is an IPv4 address; write it as '10.0.0.0'"
    );
    assert_eq!(
        refused("http://10.1.0.0/8").to_string(),
        "'10.1.0.0' is not the beginning of a network of 8 bits; write '10.0.0.0/8' or leave '/8' out"
    );
    for port in ["0", "65536", "x", "", "**", "+80"] {
        assert_eq!(
            refused(&format!("http://a:{port}")),
            InvalidGrant::Port(port.into())
        );
    }
}

#[test]
fn grants_are_kept_as_they_were_written() {
    for text in [
        "https://api.example.com",
        "http://*.Example.com.:*",
        "http://10.0.0.0/8:9000",
        "http://[fd00::]/8:*",
        "http://0.0.0.0/0",
        "http://[::1]:80",
    ] {
        let grant = OutboundGrant::new(text).unwrap();
        assert_eq!(grant.as_str(), text);
        let json = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<OutboundGrant>(&json).unwrap(), grant);
    }
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        // The neighbourhood of what is special.
        (
            any::<u32>(),
            prop::sample::select(vec![0_u128, 0xffff, 0x64_ff9b << 64])
        )
            .prop_map(|(low, high)| Ipv6Addr::from_bits((high << 32) | u128::from(low)).into()),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_a_grant_or_host_panic(text in "\\PC{0,40}") {
        let _ = OutboundGrant::new(&text);
        let _ = OutboundGrant::new(&format!("http://{text}"));
        let _ = Host::new(&text);
        let _ = Host::in_url(&text);
    }

    /// Whatever a name leads to, it is public if no address is listed.
    #[test]
    fn names_never_lead_to_what_is_not_public(address in any_ip()) {
        let grants = grants(&["http://a.example:*", "http://*.b.example:*"]);
        for name in ["a.example", "x.b.example"] {
            let may = may_connect(&grants, Scheme::Http, &host(name), 80, address);
            prop_assert_eq!(may, is_public(address));
        }
    }

    /// An IPv4 address is as public in any clothes that this machine or its
    /// network takes off again.
    #[test]
    fn clothes_make_no_address_public(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        let low = u128::from(bits);
        prop_assert_eq!(is_public(v4.to_ipv6_mapped().into()), is_public(v4.into()));
        let nat64 = Ipv6Addr::from_bits((0x64_ff9b << 96) | low);
        prop_assert_eq!(is_public(nat64.into()), is_public(v4.into()));
        for clothes in [low, (0x2002 << 112) | (low << 80), (0x2001 << 112) | !low] {
            prop_assert!(!is_public(Ipv6Addr::from_bits(clothes).into()));
        }
    }

    /// An address that is granted is reached, and its neighbour is not.
    #[test]
    fn an_address_grant_lists_that_address(address in any_ip()) {
        let address = address.to_canonical();
        let text = match address {
            IpAddr::V4(v4) => format!("http://{v4}"),
            IpAddr::V6(v6) => format!("http://[{v6}]"),
        };
        let grants = grants(&[&text]);
        let asked = Host::new(&address.to_string()).unwrap();
        prop_assert!(may_connect(&grants, Scheme::Http, &asked, 80, address));
        let other: IpAddr = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 1).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 1).into(),
        };
        prop_assert!(!covers(&grants, Scheme::Http, &Host::Address(other), 80));
    }

    /// What is read as a name is no address for the standard library either.
    #[test]
    fn a_name_is_no_address(text in "[0-9a-fxX.:]{1,20}") {
        if let Ok(Host::Name(name)) = Host::new(&text) {
            prop_assert!(name.parse::<IpAddr>().is_err());
            let last = name.rsplit('.').next().unwrap();
            prop_assert!(last.parse::<u64>().is_err());
        }
    }

    #[test]
    fn the_first_of_a_network_is_in_it(address in any_ip(), length in 0_u8..=32) {
        let first = address::first_of(address, length);
        prop_assert!(address::contains(first, length, address));
        prop_assert_eq!(address::first_of(first, length), first);
    }
}

#[test]
fn the_same_places_may_be_written_in_several_ways() {
    let same = |a: &str, b: &str| {
        let grant = |text| OutboundGrant::new(text).unwrap();
        grant(a).is_same(&grant(b))
    };
    assert!(same("https://A.example.", "https://a.example:443"));
    assert!(same("http://[::1]", "http://[0:0::1]/128:80"));
    assert!(same("http://10.0.0.1", "http://10.0.0.1/32"));
    assert!(!same("https://a.example", "http://a.example:443"));
    assert!(!same("https://a.example", "https://*.a.example"));
    assert!(!same("https://a.example:*", "https://a.example"));
}
