//! Memory of one instance, counted over everything it can grow.

use wasmtime::ResourceLimiter;

/// Bytes of host memory that one table element takes.
const TABLE_ELEMENT: usize = size_of::<usize>();

/// One instance's linear memories and tables against one limit.
///
/// wasmtime's own `StoreLimits` holds each memory to the limit by itself, so
/// that a component with ten memories gets ten times the limit.
#[derive(Debug)]
pub(crate) struct Ledger {
    limit: usize,
    used: usize,
    refused: bool,
}

impl Ledger {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            used: 0,
            refused: false,
        }
    }

    /// Whether a growth was ever refused: a trap after that is for want of
    /// memory.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let wanted = self.used.saturating_add(desired.saturating_sub(current));
        if wanted > self.limit {
            self.refused = true;
            return false;
        }
        self.used = wanted;
        true
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut ledger = Ledger::new(1000);
        assert!(ledger.memory_growing(0, 400, None).unwrap());
        assert!(ledger.memory_growing(0, 400, None).unwrap());
        assert!(!ledger.memory_growing(400, 700, None).unwrap());
        assert!(ledger.refused());
        assert!(ledger.table_growing(0, 25, None).unwrap());
        assert!(!ledger.table_growing(25, 26, None).unwrap());
    }
}
