//! The tenants of this worker: one share for all handlers of one owner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use skep_core::{PlannedTenant, TenantName};
use skep_engine::{Capacity, ShareLimits, TenantShare, Tenants};

use crate::ticker;

/// The shares of those tenants that have handlers here. A share lives as long
/// as one of its handlers.
pub(crate) struct Shares {
    tenants: Tenants,
    known: Mutex<BTreeMap<TenantName, Weak<TenantShare>>>,
}

impl Shares {
    /// For a worker whose engines have this capacity.
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            tenants: Tenants::new(capacity, ticker::pace),
            known: Mutex::default(),
        }
    }

    /// What all guests of this worker have together.
    pub(crate) fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Holds each tenant to what a plan says from now on.
    pub(crate) fn limit(&self, planned: &[PlannedTenant]) {
        for PlannedTenant { tenant, limits, .. } in planned {
            self.of(tenant).limit_memory(limits.memory);
        }
    }

    /// The share of this tenant.
    pub(crate) fn of(&self, tenant: &TenantName) -> Arc<TenantShare> {
        // A panic leaves it consistent.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = known.get(tenant).and_then(Weak::upgrade) {
            return share;
        }
        known.retain(|_, share| share.strong_count() > 0);
        let share = self.tenants.join(tenant.as_str(), ShareLimits::default());
        known.insert(tenant.clone(), Arc::downgrade(&share));
        share
    }
}
