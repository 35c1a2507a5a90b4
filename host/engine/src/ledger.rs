//! Memory of one instance, counted over everything it can grow, and against
//! what its tenant may have of this worker.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::tenants::HandlerShare;

/// Bytes of host memory that one table element takes.
const TABLE_ELEMENT: usize = size_of::<usize>();

/// Whose limit a growth was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The instance's own.
    Instance,
    /// Its tenant's on this worker.
    Tenant,
}

/// The guest made the host hold more for it than its limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host holds {0} bytes for this instance: too many resources, header fields, bodies or \
     requests"
)]
pub(crate) struct HostMemory(usize);

/// One instance's linear memories, tables and what the host holds for it against
/// one limit, and all of that against its tenant's. Given back when it is
/// dropped, which is when its store is.
///
/// wasmtime's own `StoreLimits` holds each memory to the limit by itself, so
/// that a component with ten memories gets ten times the limit.
#[derive(Debug)]
pub(crate) struct Ledger {
    share: Arc<HandlerShare>,
    limit: usize,
    used: usize,
    /// The part of `used` that is the host's.
    host: usize,
    /// The last growth, for when wasmtime cannot do what it was allowed to.
    last: usize,
    refused: Option<Refused>,
}

impl Ledger {
    pub(crate) fn new(limit: u64, share: &Arc<HandlerShare>) -> Self {
        share.instance_made();
        Self {
            share: Arc::clone(share),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            used: 0,
            host: 0,
            last: 0,
            refused: None,
        }
    }

    /// Bytes that are counted.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whose it is.
    pub(crate) fn share(&self) -> &Arc<HandlerShare> {
        &self.share
    }

    /// Whether a growth was ever refused, the last time for whom: a trap after
    /// that is for want of memory.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// What the host holds for the instance is so much by now.
    pub(crate) fn host_holds(&mut self, bytes: usize) -> Result<(), HostMemory> {
        if bytes > self.host {
            if !self.grow(self.host, bytes) {
                return Err(HostMemory(bytes));
            }
        } else {
            self.shrink(self.host - bytes);
        }
        self.host = bytes;
        Ok(())
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let growth = desired.saturating_sub(current);
        self.last = 0;
        if self.used.saturating_add(growth) > self.limit {
            self.refused = Some(Refused::Instance);
            return false;
        }
        if !self.share.reserve(growth) {
            self.refused = Some(Refused::Tenant);
            return false;
        }
        self.used += growth;
        self.last = growth;
        true
    }

    fn shrink(&mut self, bytes: usize) {
        self.used -= bytes;
        self.share.release(bytes);
    }

    /// What was allowed last has not come about: the memory's own maximum, or
    /// the machine's.
    fn undo(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.shrink(last);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.share.release(self.used);
        self.share.instance_gone();
    }
}

impl ResourceLimiter for Ledger {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(
            current.saturating_mul(TABLE_ELEMENT),
            desired.saturating_mul(TABLE_ELEMENT),
        ))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Capacity;
    use crate::tenants::{ShareLimits, Tenants, Usage};

    fn tenants() -> Tenants {
        Tenants::new(Capacity { instances: 16 }, |_| {})
    }

    #[test]
    fn memories_tables_and_the_hosts_share_one_limit() {
        let tenant = HandlerShare::new(&tenants().join("t", ShareLimits::default()));
        let mut ledger = Ledger::new(1000, &tenant);
        assert!(ledger.memory_growing(0, 400, None).unwrap());
        assert!(ledger.memory_growing(0, 400, None).unwrap());
        assert!(!ledger.memory_growing(400, 700, None).unwrap());
        assert_eq!(ledger.refused(), Some(Refused::Instance));
        assert!(ledger.table_growing(0, 20, None).unwrap());
        assert!(!ledger.table_growing(20, 26, None).unwrap());
        ledger.host_holds(40).unwrap();
        ledger.host_holds(41).unwrap_err();
        ledger.host_holds(10).unwrap();
        assert!(ledger.table_growing(20, 23, None).unwrap());
    }

    #[test]
    fn instances_share_their_tenants_limit_and_give_all_back() {
        let tenants = tenants();
        let limits = ShareLimits {
            memory: 1000,
            ..ShareLimits::default()
        };
        let join = |name| HandlerShare::new(&tenants.join(name, limits));
        let (tenant, other) = (join("t"), join("o"));
        let mut one = Ledger::new(800, &tenant);
        let mut two = Ledger::new(800, &tenant);
        assert!(one.memory_growing(0, 600, None).unwrap());
        assert!(!two.memory_growing(0, 600, None).unwrap());
        assert_eq!(two.refused(), Some(Refused::Tenant));
        assert!(two.memory_growing(0, 400, None).unwrap());
        let mut others = Ledger::new(800, &other);
        assert!(others.memory_growing(0, 600, None).unwrap());
        assert_eq!(tenant.memory_used(), 1000);
        assert_eq!(tenants.guest_memory(), 1600);
        assert_eq!(tenant.usage().instances, 2);
        assert_eq!((tenant.usage().memory, other.usage().memory), (1000, 600));
        drop(one);
        assert!(two.memory_growing(400, 700, None).unwrap());
        drop((two, others));
        assert_eq!(tenant.usage(), Usage::default());
        assert_eq!(tenant.memory_used() + tenants.guest_memory(), 0);
    }

    #[test]
    fn what_could_not_be_grown_is_not_counted() {
        let tenant = HandlerShare::new(&tenants().join("t", ShareLimits::default()));
        let mut ledger = Ledger::new(1000, &tenant);
        assert!(ledger.memory_growing(0, 100, None).unwrap());
        for _ in 0..20 {
            assert!(ledger.memory_growing(100, 900, Some(100)).unwrap());
            ledger
                .memory_grow_failed(wasmtime::Error::msg("beyond its maximum"))
                .unwrap();
        }
        assert_eq!(tenant.memory_used(), 100);
    }
}
