//! What apps have of their tenants, and what tenants may not do to each other.

use std::collections::BTreeMap;

use skep_core::PoolName;

use crate::document::Spanned;
use crate::elements::name;
use crate::report::Report;
use crate::sections::Declared;
use crate::sections::app::DeclaredApp;
use crate::sections::tenant::DeclaredTenant;
use crate::suggest;

/// Gives every app its pool and its tenant's grants. Reports tenants that do
/// not exist, and apps that would leave the pool of their tenant.
pub(super) fn settle(
    tenants: &Declared<DeclaredTenant>,
    apps: &mut [DeclaredApp],
    report: &Report,
) {
    let owners = Owners::new(tenants);
    for app in apps {
        let owner = owners.of(app, report);
        if let Owner::Declared(tenant) = owner {
            for grant in &tenant.outbound {
                if !app.outbound.iter().any(|own| own.is_same(grant)) {
                    app.outbound.push(grant.clone());
                }
            }
        }
        let home = owner.home();
        app.pool = match (&app.written_pool, home) {
            (Some(Err(_)), _) | (None, None) => None,
            (Some(Ok(written)), home) => match owner {
                Owner::Declared(tenant) if tenant.is_dedicated() => {
                    let home = home.filter(|home| *home == written.value);
                    if home.is_none() {
                        report_elsewhere(app, tenant, written, report);
                    }
                    home.map(|_| written.clone())
                }
                _ => Some(written.clone()),
            },
            (None, Some(home)) => Some(Spanned {
                value: home,
                span: app.name.span.clone(),
            }),
        };
    }
}

/// Reports apps in the pool of another tenant, and budgets that could not be
/// counted.
pub(super) fn check(tenants: &Declared<DeclaredTenant>, apps: &[DeclaredApp], report: &Report) {
    for tenant in &tenants.list {
        if tenant.is_dedicated() {
            check_strangers(tenant, apps, report);
        } else {
            check_spread(tenant, apps, report);
        }
    }
}

/// What is known of the owner of an app.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Declared(&'a DeclaredTenant),
    /// With every default.
    Undeclared,
    /// A problem was reported where it is declared or named.
    Faulty,
}

impl Owner<'_> {
    /// The pool of its apps that name none; `None` if that cannot be said.
    fn home(self) -> Option<PoolName> {
        match self {
            Self::Undeclared => Some(name::default_pool()),
            Self::Declared(tenant) if tenant.is_dedicated() => {
                Some(name::pool_of(&tenant.name.value))
            }
            Self::Declared(tenant) => tenant.isolation.map(|_| name::default_pool()),
            Self::Faulty => None,
        }
    }
}

struct Owners<'a> {
    known: BTreeMap<&'a str, &'a DeclaredTenant>,
    /// Every name that a tenant may be named by.
    names: Vec<String>,
    all_faulty: bool,
}

impl<'a> Owners<'a> {
    fn new(tenants: &'a Declared<DeclaredTenant>) -> Self {
        let known = tenants.list.iter();
        Self {
            known: known
                .map(|tenant| (tenant.name.value.as_str(), tenant))
                .collect(),
            names: tenants
                .names
                .iter()
                .map(|name| name::sanitize(name))
                .collect(),
            all_faulty: tenants.unreadable.is_some(),
        }
    }

    /// The owner of an app; reports one that is not declared while others are.
    fn of(&self, app: &DeclaredApp, report: &Report) -> Owner<'a> {
        let Some(tenant) = &app.tenant else {
            return Owner::Faulty;
        };
        let wanted = tenant.value.as_str();
        if let Some(declared) = self.known.get(wanted) {
            return Owner::Declared(declared);
        }
        if self.all_faulty || self.names.iter().any(|name| name == wanted) {
            return Owner::Faulty;
        }
        if self.names.is_empty() || tenant.value == name::default_tenant() {
            return Owner::Undeclared;
        }
        let names = self.names.iter().map(String::as_str).chain(["default"]);
        let hint = match suggest::closest(wanted, names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("declare it with [tenant.{wanted}]"),
        };
        report
            .at(&tenant.span, format!("there is no tenant `{wanted}`"))
            .hint(hint)
            .report();
        Owner::Faulty
    }
}

fn report_elsewhere(
    app: &DeclaredApp,
    tenant: &DeclaredTenant,
    written: &Spanned<PoolName>,
    report: &Report,
) {
    let owner = &tenant.name.value;
    report
        .at(
            &written.span,
            format!(
                "app `{}` cannot be in pool `{}`: its tenant `{owner}` is dedicated and has a pool of its own",
                app.name.value, written.value
            ),
        )
        .also(&tenant.name.span, "the tenant")
        .hint(format!("leave `pool` out for pool `{owner}`"))
        .report();
}

/// Reports apps of others in the pool of a dedicated tenant.
fn check_strangers(tenant: &DeclaredTenant, apps: &[DeclaredApp], report: &Report) {
    let owner = &tenant.name.value;
    let own = name::pool_of(owner);
    let strangers = apps.iter().filter_map(|app| {
        let pool = app.pool.as_ref().filter(|pool| pool.value == own)?;
        let other = app.tenant.as_ref().filter(|other| other.value != *owner)?;
        Some((app, pool, other))
    });
    if *owner == name::default_tenant() {
        // One problem, however many apps there are: theirs is the right place.
        for (app, _, other) in strangers.take(1) {
            report
                .at(
                    &tenant.name.span,
                    "tenant `default` cannot be dedicated: its pool is that of all shared tenants",
                )
                .also(
                    &app.name.span,
                    format!("of tenant `{}`, in the default pool too", other.value),
                )
                .hint(
                    "leave it shared, and give apps that are to be apart a tenant of another name",
                )
                .report();
        }
        return;
    }
    for (app, pool, other) in strangers {
        let message = format!(
            "app `{}` of tenant `{}` cannot be in pool `{own}`: tenant `{owner}` has it for itself",
            app.name.value, other.value
        );
        report
            .at(&pool.span, message)
            .also(&tenant.name.span, "the tenant")
            .hint("leave `pool` out, or name another pool")
            .report();
    }
}

/// Reports budgets of a shared tenant whose apps are in several pools.
fn check_spread(tenant: &DeclaredTenant, apps: &[DeclaredApp], report: &Report) {
    let Some((_, place)) = tenant.counted.first() else {
        return;
    };
    let owner = &tenant.name.value;
    let mut pools: BTreeMap<&PoolName, &DeclaredApp> = BTreeMap::new();
    for app in apps {
        let is_own = app.tenant.as_ref().is_some_and(|of| of.value == *owner);
        if let Some(pool) = app.pool.as_ref().filter(|_| is_own) {
            pools.entry(&pool.value).or_insert(app);
        }
    }
    let mut pools = pools.into_iter();
    let (Some(first), Some(second)) = (pools.next(), pools.next()) else {
        return;
    };
    let keys: Vec<String> = tenant
        .counted
        .iter()
        .map(|(key, _)| format!("`{key}`"))
        .collect();
    let message = format!(
        "{} of tenant `{owner}` cannot be counted: its apps are in several pools",
        keys.join(" and ")
    );
    report
        .at(place, message)
        .also(&first.1.name.span, format!("in pool `{}`", first.0))
        .also(&second.1.name.span, format!("in pool `{}`", second.0))
        .hint("a budget holds within one pool: put its apps into one, or write `isolation = \"dedicated\"`")
        .report();
}
