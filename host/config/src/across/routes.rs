//! Routes that two apps want, and hosts that two pools of a listener want.

use std::collections::{BTreeMap, BTreeSet};

use skep_core::route::{HostTable, RoutePattern};

use crate::document::{Spanned, quotable};
use crate::elements::route;
use crate::problem::Span;
use crate::report::Report;
use crate::sections::app::DeclaredApp;

const HOSTS_OF_ITS_OWN: &str = "a connection is handed out by its host: give each tenant hosts of its own (\"acme.example.com/*\"), or each pool a listener";

/// Reports routes that are there twice within a pool.
pub(super) fn check_duplicates(apps: &[DeclaredApp], report: &Report) {
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
    route: &Spanned<RoutePattern>,
    first_app: &DeclaredApp,
    first: &Span,
    report: &Report,
) {
    let shown = quotable(route.value.as_str());
    let same_app = first_app.name.value == app.name.value;
    let message = if same_app {
        format!("app `{}` has the route `{shown}` twice", app.name.value)
    } else {
        format!(
            "apps `{}` and `{}` both have the route `{shown}`",
            first_app.name.value, app.name.value
        )
    };
    let draft = report
        .at(&route.span, message)
        .label(label(app, &route.span))
        .also(first, first_label(first_app, first));
    if same_app {
        draft.hint("remove one of them").report();
    } else {
        draft
            .hint("give each its own, by path (\"/api/*\") or by host (\"example.com/*\")")
            .report();
    }
}

/// Reports hosts that two of the pools of one listener would serve: a
/// connection is handed out by its host alone. `sets` are the pools of each
/// listener.
pub(super) fn check_hosts(apps: &[DeclaredApp], sets: &BTreeSet<BTreeSet<&str>>, report: &Report) {
    // Two listeners may have the same two pools.
    let mut told = BTreeSet::new();
    for pools in sets.iter().filter(|pools| pools.len() > 1) {
        let mut seen: BTreeMap<String, (&Spanned<RoutePattern>, &DeclaredApp)> = BTreeMap::new();
        for app in apps {
            let Some(pool) = &app.pool else { continue };
            if !pools.contains(pool.value.as_str()) {
                continue;
            }
            for route in &app.routes {
                let host = route::identity(&route.value.whole_host());
                let (first, first_app) = *seen.entry(host.clone()).or_insert((route, app));
                let Some(first_pool) = &first_app.pool else {
                    continue;
                };
                let both = [
                    (&first.value, &first_pool.value),
                    (&route.value, &pool.value),
                ];
                if let Err(shared) = HostTable::hosts(both)
                    && told.insert((&pool.value, host))
                {
                    report
                        .at(&route.span, shared.to_string())
                        .label(label(app, &route.span))
                        .also(&first.span, first_label(first_app, &first.span))
                        .hint(HOSTS_OF_ITS_OWN)
                        .report();
                }
            }
        }
    }
}

fn label(app: &DeclaredApp, span: &Span) -> &'static str {
    if *span == app.name.span {
        "has no `routes`, which stands for \"/*\""
    } else {
        ""
    }
}

fn first_label(app: &DeclaredApp, span: &Span) -> &'static str {
    match label(app, span) {
        "" => "first here",
        label => label,
    }
}
