//! Which row of a pool's sheet is whose.
//!
//! An app or a tenant keeps its row for as long as a plan names it, so that its
//! windows go on whatever is deployed. A row is given to somebody else only when
//! no worker serves a plan that names the one before, and cleared first; and
//! those that were never used are given away first, so that a call which is
//! still being cut on some worker ends before anybody could notice.

use std::collections::{BTreeMap, VecDeque};

use skep_core::{AppName, Plan, TenantName};
use skep_sys::Sheet;

/// The rows of one pool.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Those of the newest plan.
    given: BTreeMap<Owner, u32>,
    /// Those that older plans named.
    leaving: BTreeMap<Owner, u32>,
    /// Cleared ones, in the order in which they were.
    vacant: VecDeque<u32>,
    /// How many were ever given away.
    used: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    App(AppName),
    Tenant(TenantName),
}

impl Rows {
    /// Writes into a plan which row is whose.
    pub(crate) fn give(&mut self, plan: &mut Plan) {
        let mut before = std::mem::take(&mut self.given);
        for app in &mut plan.apps {
            app.row = self.row_of(Owner::App(app.app.clone()), &mut before);
        }
        for tenant in &mut plan.tenants {
            tenant.row = self.row_of(Owner::Tenant(tenant.tenant.clone()), &mut before);
        }
        self.leaving.append(&mut before);
    }

    /// No worker serves an older plan than the one that was given rows last.
    /// `clear` says whether it could clear a row; one that it could not is
    /// never used again.
    pub(crate) fn settled(&mut self, mut clear: impl FnMut(u32) -> bool) {
        let leaving = std::mem::take(&mut self.leaving);
        self.vacant
            .extend(leaving.into_values().filter(|row| clear(*row)));
    }

    /// A row beyond the sheet's where there are no more: workers refuse what
    /// they would have to count there.
    fn row_of(&mut self, owner: Owner, before: &mut BTreeMap<Owner, u32>) -> u32 {
        let row = before
            .remove(&owner)
            .or_else(|| self.leaving.remove(&owner))
            .unwrap_or_else(|| self.vacant_row());
        if row < Sheet::ROWS {
            self.given.insert(owner, row);
        }
        row
    }

    fn vacant_row(&mut self) -> u32 {
        if self.used < Sheet::ROWS {
            self.used += 1;
            return self.used - 1;
        }
        self.vacant.pop_front().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use skep_core::{HandlerId, PlannedApp, PlannedTenant, TenantLimits};

    use super::*;

    fn plan(apps: &[&str], tenants: &[&str]) -> Plan {
        let tenant = |name: &str| TenantName::new(name).unwrap();
        Plan {
            apps: apps
                .iter()
                .map(|app| PlannedApp {
                    app: AppName::new(app).unwrap(),
                    tenant: tenant("t"),
                    row: 0,
                    routes: Vec::new(),
                    paused: false,
                    stable: HandlerId(1),
                    canary: None,
                    standby: None,
                    observed: false,
                })
                .collect(),
            tenants: tenants
                .iter()
                .map(|name| PlannedTenant {
                    tenant: tenant(name),
                    limits: TenantLimits::default(),
                    row: 0,
                })
                .collect(),
            ..Plan::default()
        }
    }

    fn give(rows: &mut Rows, apps: &[&str], tenants: &[&str]) -> Vec<u32> {
        let mut plan = plan(apps, tenants);
        rows.give(&mut plan);
        let apps = plan.apps.iter().map(|app| app.row);
        apps.chain(plan.tenants.iter().map(|tenant| tenant.row))
            .collect()
    }

    #[test]
    fn a_name_keeps_its_row_and_nobody_gets_one_that_a_worker_may_still_use() {
        let mut rows = Rows::default();
        assert_eq!(give(&mut rows, &["a", "b"], &["a"]), [0, 1, 2]);
        assert_eq!(give(&mut rows, &["0", "b"], &["a"]), [3, 1, 2]);
        // It comes back before all workers have forgotten it.
        assert_eq!(give(&mut rows, &["a"], &["a"]), [0, 2]);
        let mut cleared = Vec::new();
        rows.settled(|row| {
            cleared.push(row);
            row != 3
        });
        assert_eq!(cleared, [3, 1]);
        rows.settled(|_| unreachable!("nobody has left since"));
        // When all were used, those that were cleared are.
        rows.used = Sheet::ROWS - 1;
        assert_eq!(
            give(&mut rows, &["a", "x", "y", "z"], &["a"]),
            [0, Sheet::ROWS - 1, 1, u32::MAX, 2]
        );
        assert_eq!(give(&mut rows, &["z"], &[]), [u32::MAX]);
        rows.settled(|_| true);
        assert_eq!(give(&mut rows, &["z"], &[]), [0]);
    }
}
