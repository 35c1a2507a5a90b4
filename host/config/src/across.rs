//! What tables have to do with each other: references, and things of which
//! there may be only one.

mod addresses;
mod memory;
mod pools;
mod routes;
mod tenants;

use std::collections::BTreeSet;

use skep_core::{FleetSpec, Isolation, ListenerSpec, PoolName, PoolSpec};

use crate::elements::name;
use crate::report::Report;
use crate::sections::Declared;
use crate::sections::app::DeclaredApp;
use crate::sections::listener::{self, DeclaredListener};
use crate::sections::pool::{self, DeclaredPool};
use crate::sections::tenant::DeclaredTenant;

/// Gives every app what it has of its tenant, and reports what is wrong
/// between the tables of a file. Returns the pools of listeners that name
/// none.
pub(crate) fn settle(
    listeners: &Declared<DeclaredListener>,
    pools: &Declared<DeclaredPool>,
    tenants: &Declared<DeclaredTenant>,
    apps: &mut Declared<DeclaredApp>,
    report: &Report,
) -> Vec<PoolName> {
    tenants::settle(tenants, &mut apps.list, report);
    tenants::check(tenants, &apps.list, report);
    let unwritten = pools::unwritten(listeners, tenants, &apps.list);
    let served = pools::check(listeners, pools, tenants, &apps.list, &unwritten, report);
    memory::settle(pools, tenants, &mut apps.list, report);
    addresses::check(&listeners.list, report);
    routes::check_duplicates(&apps.list, report);
    routes::check_hosts(&apps.list, &served, report);
    if apps.names.is_empty() && apps.unreadable.is_none() {
        report
            .whole("there is no app to serve")
            .hint("add one: a table `[app.hello]` with `component = \"hello.wasm\"`")
            .report();
    }
    unwritten
}

/// Adds what a file may leave out: the listener, tenants, and the pools that
/// something refers to: the default one and those of dedicated tenants.
pub(crate) fn fill_in(
    spec: &mut FleetSpec,
    no_listener: bool,
    unwritten: &[PoolName],
    parallelism: u16,
) {
    if no_listener {
        spec.listeners.insert(
            listener::default_name(),
            ListenerSpec {
                address: listener::default_address(),
                pools: unwritten.to_vec(),
                limits: skep_core::ConnectionLimits::default(),
            },
        );
    }
    for app in spec.apps.values() {
        spec.tenants.entry(app.tenant.clone()).or_default();
    }
    let of_listeners = spec.listeners.values().flat_map(|listener| &listener.pools);
    let of_apps = spec.apps.values().map(|app| &app.pool);
    let used: BTreeSet<PoolName> = of_listeners.chain(of_apps).cloned().collect();
    fill_in_pools(spec, &used, parallelism);
}

fn fill_in_pools(spec: &mut FleetSpec, used: &BTreeSet<PoolName>, parallelism: u16) {
    let default = name::default_pool();
    let declared = spec.pools.get(&default).cloned();
    let settings = declared.unwrap_or_else(|| pool::default(parallelism));
    // Another pool, another user.
    let pattern = PoolSpec {
        user: None,
        ..settings.clone()
    };
    let mut copied = false;
    for (tenant, owner) in &spec.tenants {
        let own = name::pool_of(tenant);
        if owner.isolation == Isolation::Dedicated
            && own != default
            && used.contains(&own)
            && !spec.pools.contains_key(&own)
        {
            spec.pools.insert(own, pattern.clone());
            copied = true;
        }
    }
    if used.contains(&default) {
        spec.pools.entry(default).or_insert(settings);
    } else if copied {
        // It was declared for the others, and has nothing to do itself.
        spec.pools.remove(&default);
    }
}
