//! `[tenant.NAME]`: an owner of apps, how far apart it is kept, and what all
//! its apps have together.

use std::ops::RangeInclusive;

use skep_core::egress::OutboundGrant;
use skep_core::{Isolation, TenantLimits, TenantName, TenantSpec};

use crate::document::{Schema, Section, Spanned};
use crate::elements::{choice, count, outbound, rate, size};
use crate::problem::Span;
use crate::sections::{Declared, named};

pub(crate) static SCHEMA: Schema = Schema {
    title: "[tenant.NAME]",
    keys: &["isolation", "memory", "concurrency", "rate", "outbound"],
    unavailable: &[],
};

const ISOLATION: &[(&str, Isolation)] = &[
    ("shared", Isolation::Shared),
    ("dedicated", Isolation::Dedicated),
];

/// Below a mebibyte hardly any instance starts.
const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;
const CONCURRENCY: RangeInclusive<u32> = 0..=1_000_000;

/// A tenant that was read.
pub(crate) struct DeclaredTenant {
    pub(crate) name: Spanned<TenantName>,
    /// `None` if it was read and is none.
    pub(crate) isolation: Option<Isolation>,
    /// What its apps may reach besides their own grants.
    pub(crate) outbound: Vec<OutboundGrant>,
    /// Budgets that are counted within one pool: the key and its place.
    pub(crate) counted: Vec<(&'static str, Span)>,
    /// What its instances may have together on a worker, and where that is
    /// written; `None` is no limit.
    pub(crate) memory: Option<Spanned<u64>>,
    limits: TenantLimits,
}

impl DeclaredTenant {
    /// `None` if a part of it has a problem.
    pub(crate) fn into_spec(self) -> Option<(TenantName, TenantSpec)> {
        let spec = TenantSpec {
            isolation: self.isolation?,
            limits: self.limits,
        };
        Some((self.name.value, spec))
    }

    pub(crate) fn is_dedicated(&self) -> bool {
        self.isolation == Some(Isolation::Dedicated)
    }
}

pub(crate) fn read_all(file: &Section<'_>) -> Declared<DeclaredTenant> {
    named(file, "tenant", &SCHEMA, TenantName::new, read)
}

fn read(name: Option<Spanned<TenantName>>, section: &Section<'_>) -> Option<DeclaredTenant> {
    let isolation = match section.get("isolation") {
        Some(entry) => choice::read(&entry, ISOLATION).ok(),
        None => Some(Isolation::default()),
    };
    let mut limits = TenantLimits::default();
    section.set(&mut limits.memory, "memory", |entry| {
        size::read_or_zero(entry, &MEMORY, "no limit")
    });
    section.set(&mut limits.concurrency, "concurrency", |entry| {
        count::read(entry, &CONCURRENCY)
    });
    limits.rate = section.read("rate", rate::read);
    let mut counted = Vec::new();
    let budgets = [
        ("concurrency", limits.concurrency > 0),
        ("rate", limits.rate.is_some()),
    ];
    for (key, _) in budgets.into_iter().filter(|(_, is_set)| *is_set) {
        counted.extend(section.get(key).map(|entry| (key, entry.key_span)));
    }
    let memory = section.get("memory").filter(|_| limits.memory > 0);
    let memory = memory.map(|entry| Spanned {
        value: limits.memory,
        span: entry.span,
    });
    let outbound = section
        .get("outbound")
        .map(|entry| outbound::read(&entry))
        .unwrap_or_default();
    Some(DeclaredTenant {
        name: name?,
        isolation,
        outbound,
        counted,
        memory,
        limits,
    })
}
