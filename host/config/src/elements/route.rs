//! What an app answers.

use std::net::Ipv6Addr;

use skep_core::route::RoutePattern;

use crate::document::{Entry, Spanned};
use crate::report::Reported;

const EXAMPLE: &str = "[\"/api/*\", \"example.com/*\"]";

/// The route of apps that name none.
pub(crate) fn everything() -> RoutePattern {
    RoutePattern::new("/*").expect("`/*` is a valid route")
}

/// Reads the routes of an app; faulty ones are reported and left out.
pub(crate) fn read(entry: &Entry<'_>) -> Vec<Spanned<RoutePattern>> {
    let Some(elements) = entry.as_array() else {
        match entry.as_str() {
            Some(route) if RoutePattern::new(route).is_ok() => entry
                .problem("`routes` must be an array, not a string")
                .hint(format!("write it in brackets: [\"{route}\"]"))
                .report(),
            _ => entry.wrong_type("an array of routes", EXAMPLE),
        };
        return Vec::new();
    };
    if elements.is_empty() {
        entry
            .problem("`routes` may not be empty")
            .hint("leave it out to answer everything (\"/*\")")
            .report();
    }
    elements
        .iter()
        .filter_map(|element| read_one(element).ok())
        .collect()
}

fn read_one(element: &Entry<'_>) -> Result<Spanned<RoutePattern>, Reported> {
    let text = element.as_str().ok_or_else(|| {
        element
            .problem("a route must be a string")
            .hint(format!("as in `routes = {EXAMPLE}`"))
            .report()
    })?;
    let value = RoutePattern::new(text).map_err(|error| {
        let draft = element.problem(error.to_string());
        // The usual slip: a path without its slash, a host without a path.
        let close = [format!("/{text}"), format!("{text}/*")];
        let meant = close.iter().rev().find(|close| {
            !text.contains('/')
                && (text.contains('.') || close.starts_with('/'))
                && RoutePattern::new(close).is_ok()
        });
        match meant {
            Some(meant) => draft.hint(format!("did you mean \"{meant}\"?")).report(),
            None => draft.report(),
        }
    })?;
    Ok(Spanned {
        value,
        span: element.span.clone(),
    })
}

/// Equal for routes that match the same requests, however they are written.
pub(crate) fn identity(route: &RoutePattern) -> String {
    let text = route.as_str();
    let slash = text.find('/').unwrap_or(text.len());
    let (host, path) = text.split_at(slash);
    let host = host.to_ascii_lowercase();
    let literal = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match literal.and_then(|host| host.parse::<Ipv6Addr>().ok()) {
        Some(address) => format!("[{address}]{path}"),
        None => format!("{}{path}", host.strip_suffix('.').unwrap_or(&host)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skep_core::PoolName;
    use skep_core::route::{HostTable, RouteTable};

    use super::*;

    fn route() -> impl Strategy<Value = RoutePattern> {
        let host = prop::sample::select(vec![
            "",
            "a.example",
            "A.Example",
            "a.example.",
            "*.example",
            "*.EXAMPLE.",
            "[::1]",
            "[0:0::1]",
            "10.0.0.1",
        ]);
        let path = prop::sample::select(vec!["/", "/*", "/a", "/a*", "/a/*", "/A"]);
        (host, path).prop_map(|(host, path)| RoutePattern::new(&format!("{host}{path}")).unwrap())
    }

    proptest! {
        #[test]
        fn the_identity_is_that_of_the_route_table(a in route(), b in route()) {
            let same = identity(&a) == identity(&b);
            let table = RouteTable::build([(a, ()), (b, ())]);
            prop_assert_eq!(same, table.is_err());
        }

        #[test]
        fn the_identity_of_a_host_is_that_of_the_host_table(a in route(), b in route()) {
            let same = identity(&a.whole_host()) == identity(&b.whole_host());
            let pools = ["a", "b"].map(|name| PoolName::new(name).unwrap());
            let table = HostTable::hosts([(&a, &pools[0]), (&b, &pools[1])]);
            prop_assert_eq!(same, table.is_err());
        }
    }
}
