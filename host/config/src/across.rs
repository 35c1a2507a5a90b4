//! What tables have to do with each other: references, and things of which
//! there may be only one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use skep_core::{FleetSpec, ListenAddress, ListenerSpec, PoolName};

use crate::document::{Spanned, quotable};
use crate::elements::{name, route};
use crate::report::Report;
use crate::sections::Declared;
use crate::sections::app::DeclaredApp;
use crate::sections::listener::{self, DeclaredListener};
use crate::sections::pool::{self, DeclaredPool};
use crate::suggest;

/// Reports what is wrong between the tables of a file.
pub(crate) fn check(
    listeners: &Declared<DeclaredListener>,
    pools: &Declared<DeclaredPool>,
    apps: &Declared<DeclaredApp>,
    report: &Report,
) {
    let references = Pools::new(pools);
    let mut every_listener_known = true;
    for listener in &listeners.list {
        every_listener_known &= references.resolve(listener.pool.as_ref(), report);
    }
    every_listener_known &= listeners.list.len() == listeners.names.len();
    every_listener_known &= listeners.unreadable.is_none();
    let served = every_listener_known.then(|| served_pools(listeners));
    for app in &apps.list {
        if references.resolve(app.pool.as_ref(), report)
            && let Some(served) = &served
        {
            check_served(app, served, report);
        }
    }
    check_addresses(&listeners.list, report);
    check_routes(&apps.list, report);
    if apps.names.is_empty() && apps.unreadable.is_none() {
        report
            .whole("there is no app to serve")
            .hint("add one: a table `[app.hello]` with `component = \"hello.wasm\"`")
            .report();
    }
}

/// Adds what a file may leave out: the listener, and the default pool where
/// something refers to it.
pub(crate) fn fill_in(spec: &mut FleetSpec, no_listener: bool, parallelism: u16) {
    let default = name::default_pool();
    if no_listener {
        spec.listeners.insert(
            listener::default_name(),
            ListenerSpec {
                address: listener::default_address(),
                pools: vec![default.clone()],
                limits: skep_core::ConnectionLimits::default(),
            },
        );
    }
    for app in spec.apps.values() {
        spec.tenants.entry(app.tenant.clone()).or_default();
    }
    let of_listeners = spec.listeners.values().flat_map(|listener| &listener.pools);
    let of_apps = spec.apps.values().map(|app| &app.pool);
    if of_listeners.chain(of_apps).any(|pool| *pool == default) {
        spec.pools
            .entry(default)
            .or_insert_with(|| pool::default(parallelism));
    }
}

/// The names that `pool` may refer to.
struct Pools {
    names: BTreeSet<String>,
}

impl Pools {
    fn new(pools: &Declared<DeclaredPool>) -> Self {
        // A faulty name was reported where it is declared, with the valid one
        // that it should become; references to that one are right.
        let declared = pools.names.iter().map(|declared| name::sanitize(declared));
        Self {
            names: declared.chain(["default".to_owned()]).collect(),
        }
    }

    /// Whether the reference leads to a pool; reports it if not.
    fn resolve(&self, pool: Option<&Spanned<PoolName>>, report: &Report) -> bool {
        let Some(pool) = pool else {
            return false;
        };
        let wanted = pool.value.as_str();
        if self.names.contains(wanted) {
            return true;
        }
        let draft = report.at(&pool.span, format!("there is no pool `{wanted}`"));
        let hint =
            if let Some(meant) = suggest::closest(wanted, self.names.iter().map(String::as_str)) {
                format!("did you mean `{meant}`?")
            } else {
                format!("declare it with [pool.{wanted}]")
            };
        draft.hint(hint).report();
        false
    }
}

fn served_pools(listeners: &Declared<DeclaredListener>) -> BTreeSet<&str> {
    if listeners.names.is_empty() {
        return BTreeSet::from(["default"]);
    }
    let pools = listeners
        .list
        .iter()
        .filter_map(|listener| listener.pool.as_ref());
    pools.map(|pool| pool.value.as_str()).collect()
}

fn check_served(app: &DeclaredApp, served: &BTreeSet<&str>, report: &Report) {
    let Some(pool) = &app.pool else { return };
    let wanted = pool.value.as_str();
    if served.contains(wanted) {
        return;
    }
    let message = format!(
        "app `{}` cannot be reached: no listener serves its pool `{wanted}`",
        app.name.value
    );
    report
        .at(&pool.span, message)
        .hint(format!(
            "add a listener with `pool = \"{wanted}\"`, or move the app to another pool"
        ))
        .report();
}

fn check_addresses(listeners: &[DeclaredListener], report: &Report) {
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

fn check_routes(apps: &[DeclaredApp], report: &Report) {
    let mut seen = BTreeMap::new();
    for app in apps {
        let Some(pool) = &app.pool else { continue };
        for route in &app.routes {
            let key = (pool.value.as_str(), route::identity(&route.value));
            let Some((first, first_app)) = seen.get(&key) else {
                seen.insert(key, (&route.span, app));
                continue;
            };
            report_duplicate(app, route, first_app, first, report);
        }
    }
}

fn report_duplicate(
    app: &DeclaredApp,
    route: &Spanned<skep_core::route::RoutePattern>,
    first_app: &DeclaredApp,
    first: &crate::problem::Span,
    report: &Report,
) {
    let shown = quotable(route.value.as_str());
    let label = |app: &DeclaredApp, span: &crate::problem::Span| {
        if *span == app.name.span {
            "has no `routes`, which stands for \"/*\""
        } else {
            ""
        }
    };
    let same_app = first_app.name.value == app.name.value;
    let message = if same_app {
        format!("app `{}` has the route `{shown}` twice", app.name.value)
    } else {
        format!(
            "apps `{}` and `{}` both have the route `{shown}`",
            first_app.name.value, app.name.value
        )
    };
    let first_label = match label(first_app, first) {
        "" => "first here",
        label => label,
    };
    let draft = report
        .at(&route.span, message)
        .label(label(app, &route.span))
        .also(first, first_label);
    if same_app {
        draft.hint("remove one of them").report();
    } else {
        draft
            .hint("give each its own, by path (\"/api/*\") or by host (\"example.com/*\")")
            .report();
    }
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
