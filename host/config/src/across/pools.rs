//! Which pools there are, and who serves which.

use std::collections::{BTreeMap, BTreeSet};

use skep_core::{Isolation, MAX_LISTENERS, PoolName};

use crate::document::Spanned;
use crate::elements::name;
use crate::report::Report;
use crate::sections::Declared;
use crate::sections::app::DeclaredApp;
use crate::sections::listener::{DeclaredListener, ListenerPools};
use crate::sections::pool::DeclaredPool;
use crate::sections::tenant::DeclaredTenant;
use crate::suggest;

/// The pools of a listener that names none: the default one, if an app is in it
/// or a listener names it, and those of dedicated tenants that have apps.
/// Never empty.
pub(super) fn unwritten(
    listeners: &Declared<DeclaredListener>,
    tenants: &Declared<DeclaredTenant>,
    apps: &[DeclaredApp],
) -> Vec<PoolName> {
    let default = name::default_pool();
    let of_apps: BTreeSet<&PoolName> = apps
        .iter()
        .filter_map(|app| Some(&app.pool.as_ref()?.value))
        .collect();
    let named = |listener: &DeclaredListener| {
        let ListenerPools::Written { pools, .. } = &listener.pools else {
            return false;
        };
        pools.iter().any(|pool| pool.value == default)
    };
    let of_tenants: BTreeSet<PoolName> = tenants
        .list
        .iter()
        .filter(|tenant| tenant.is_dedicated())
        .map(|tenant| name::pool_of(&tenant.name.value))
        .filter(|pool| *pool != default && of_apps.contains(pool))
        .collect();
    let is_used = of_apps.contains(&default) || listeners.list.iter().any(named);
    let first = (is_used || of_tenants.is_empty()).then_some(default);
    first.into_iter().chain(of_tenants).collect()
}

/// Reports references to pools that do not exist, and apps that no listener
/// leads to. Returns the sets of pools that listeners serve.
pub(super) fn check<'a>(
    listeners: &'a Declared<DeclaredListener>,
    pools: &Declared<DeclaredPool>,
    tenants: &Declared<DeclaredTenant>,
    apps: &[DeclaredApp],
    unwritten: &'a [PoolName],
    report: &Report,
) -> BTreeSet<BTreeSet<&'a str>> {
    let known = Known::new(pools, tenants);
    let mut every_listener_known =
        listeners.list.len() == listeners.names.len() && listeners.unreadable.is_none();
    let mut served = BTreeSet::new();
    let mut counts = BTreeMap::new();
    for listener in &listeners.list {
        let set = match &listener.pools {
            ListenerPools::Unwritten => unwritten.iter().map(PoolName::as_str).collect(),
            ListenerPools::Written { pools, faulty } => {
                every_listener_known &= faulty.is_none();
                for pool in pools {
                    every_listener_known &= known.resolve(pool, report);
                }
                pools.iter().map(|pool| pool.value.as_str()).collect()
            }
        };
        count(&mut counts, &set, listener, report);
        served.insert(set);
    }
    if listeners.names.is_empty() {
        served.insert(unwritten.iter().map(PoolName::as_str).collect());
    }
    for app in apps {
        if let Some(pool) = &app.pool
            && known.resolve(pool, report)
            && every_listener_known
        {
            check_served(app, pool, &served, report);
        }
    }
    served
}

/// Reports the first listener of a pool that is one too many.
fn count<'a>(
    counts: &mut BTreeMap<&'a str, usize>,
    pools: &BTreeSet<&'a str>,
    listener: &DeclaredListener,
    report: &Report,
) {
    for pool in pools {
        let count = counts.entry(pool).or_default();
        *count += 1;
        if *count == MAX_LISTENERS + 1
            && let Some(address) = &listener.address
        {
            let message = format!(
                "pool `{pool}` has more than {MAX_LISTENERS} listeners, which is as many as a worker accepts from"
            );
            report
                .at(&address.span, message)
                .hint("give some of them another pool")
                .report();
        }
    }
}

/// The names that a reference to a pool may have.
struct Known {
    names: BTreeSet<String>,
}

impl Known {
    fn new(pools: &Declared<DeclaredPool>, tenants: &Declared<DeclaredTenant>) -> Self {
        // A faulty name was reported where it is declared, with the valid one
        // that it should become; references to that one are right.
        let shared: BTreeSet<&str> = tenants
            .list
            .iter()
            .filter(|tenant| tenant.isolation == Some(Isolation::Shared))
            .map(|tenant| tenant.name.value.as_str())
            .collect();
        let dedicated = tenants
            .names
            .iter()
            .filter(|tenant| !shared.contains(tenant.as_str()));
        let declared = pools.names.iter().chain(dedicated);
        Self {
            names: declared
                .map(|declared| name::sanitize(declared))
                .chain(["default".to_owned()])
                .collect(),
        }
    }

    /// Whether the reference leads to a pool; reports it if not.
    fn resolve(&self, pool: &Spanned<PoolName>, report: &Report) -> bool {
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

fn check_served(
    app: &DeclaredApp,
    pool: &Spanned<PoolName>,
    served: &BTreeSet<BTreeSet<&str>>,
    report: &Report,
) {
    let wanted = pool.value.as_str();
    if served.iter().any(|pools| pools.contains(wanted)) {
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
