//! Whether instances fit: into a worker of their pool, and into what their
//! tenant may have. One that does not would end the worker, or never start.

use skep_core::PoolName;

use crate::document::Spanned;
use crate::elements::{name, size};
use crate::problem::Span;
use crate::report::Report;
use crate::sections::Declared;
use crate::sections::app::DeclaredApp;
use crate::sections::pool::DeclaredPool;
use crate::sections::tenant::DeclaredTenant;

/// What a worker itself takes: 13 MiB idle, and what its connections need.
const WORKER: u64 = 16 << 20;

/// Reports apps whose instances may have more memory than there can be. An app
/// that does not say how much has the default, or as much as there can be.
pub(super) fn settle(
    pools: &Declared<DeclaredPool>,
    tenants: &Declared<DeclaredTenant>,
    apps: &mut [DeclaredApp],
    report: &Report,
) {
    for app in apps {
        for room in rooms(pools, tenants, app) {
            if app.memory() <= room.bytes {
                continue;
            }
            match &app.written_memory {
                Some(written) => room.report(app, written, report),
                None => app.lower_memory(room.bytes),
            }
        }
    }
}

/// What bounds an instance.
struct Room<'a> {
    bytes: u64,
    limit: &'a Spanned<u64>,
    of: Of<'a>,
}

enum Of<'a> {
    Pool(&'a PoolName),
    Tenant(&'a DeclaredTenant),
}

fn rooms<'a>(
    pools: &'a Declared<DeclaredPool>,
    tenants: &'a Declared<DeclaredTenant>,
    app: &DeclaredApp,
) -> Vec<Room<'a>> {
    let pool = app
        .pool
        .as_ref()
        .and_then(|pool| settings_of(pools, &pool.value));
    let of_pool = pool.and_then(|pool| {
        let limit = pool.memory.as_ref()?;
        Some(Room {
            // A worker of the least possible size is not all overhead.
            bytes: limit.value - WORKER.min(limit.value / 2),
            limit,
            of: Of::Pool(&pool.name),
        })
    });
    let of_tenant = tenants.list.iter().find_map(|tenant| {
        let is_its = Some(&tenant.name.value) == app.tenant.as_ref().map(|name| &name.value);
        let limit = tenant.memory.as_ref().filter(|_| is_its)?;
        Some(Room {
            bytes: limit.value,
            limit,
            of: Of::Tenant(tenant),
        })
    });
    of_pool.into_iter().chain(of_tenant).collect()
}

/// The pool whose settings a pool has: one that is not declared has those of
/// the default one.
fn settings_of<'a>(pools: &'a Declared<DeclaredPool>, pool: &PoolName) -> Option<&'a DeclaredPool> {
    let declared = |wanted: &PoolName| pools.list.iter().find(|pool| pool.name == *wanted);
    if pools.names.iter().any(|name| name == pool.as_str()) {
        return declared(pool);
    }
    declared(&name::default_pool())
}

impl Room<'_> {
    fn report(&self, app: &DeclaredApp, written: &Span, report: &Report) {
        let (name, wanted) = (&app.name.value, size::shown(app.memory()));
        let (limit, room) = (size::shown(self.limit.value), size::shown(self.bytes));
        let (message, also, hint) = match self.of {
            Of::Pool(pool) => (
                format!(
                    "an instance of app `{name}` may have {wanted}, and a worker of its pool only {limit}"
                ),
                "the limit of a worker",
                format!(
                    "the worker itself needs some: at most {room} for an instance, or more `memory` in [pool.{pool}]"
                ),
            ),
            Of::Tenant(tenant) => (
                format!(
                    "an instance of app `{name}` may have {wanted}, and all of its tenant only {limit}"
                ),
                "the limit of all instances",
                format!(
                    "at most {room} for an instance, or more `memory` in [tenant.{}]",
                    tenant.name.value
                ),
            ),
        };
        report
            .at(written, message)
            .also(&self.limit.span, also)
            .hint(hint)
            .report();
    }
}
