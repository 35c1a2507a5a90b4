//! Which row of a pool's sheet is whose.
//!
//! An app or a tenant keeps its row for as long as a plan names it, so that its
//! windows go on whatever is deployed. A row is given to somebody else only when
//! no worker serves a plan that names the one before, and cleared first; and
//! those that were never used are given away first, so that a call which is
//! still being cut on some worker ends before anybody could notice.
//!
//! The rows of the workers' registers have the same numbers. What was counted
//! there stays the former app's until its row is given to somebody else.

use std::collections::{BTreeMap, VecDeque};

use skep_core::{Plan, TenantName};
use skep_sys::Sheet;

use crate::figures::Whose;

/// The rows of one pool.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Those of the newest plan.
    given: BTreeMap<Owner, u32>,
    /// Those that older plans named.
    leaving: BTreeMap<Owner, u32>,
    /// Cleared ones, in the order in which they were.
    vacant: VecDeque<u32>,
    /// The apps that had cleared rows before.
    former: BTreeMap<u32, Whose>,
    /// How many were ever given away.
    used: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    App(Whose),
    Tenant(TenantName),
}

/// A row was given to somebody else: what was counted there in registers is to be
/// kept for this app, and cleared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reused {
    pub(crate) row: u32,
    pub(crate) former: Whose,
}

impl Rows {
    /// Writes into a plan which row is whose. Says which of them were other
    /// apps'.
    pub(crate) fn give(&mut self, plan: &mut Plan) -> Vec<Reused> {
        let mut before = std::mem::take(&mut self.given);
        for app in &mut plan.apps {
            let whose = Whose {
                app: app.app.clone(),
                tenant: app.tenant.clone(),
            };
            app.row = self.row_of(Owner::App(whose), &mut before);
        }
        for tenant in &mut plan.tenants {
            tenant.row = self.row_of(Owner::Tenant(tenant.tenant.clone()), &mut before);
        }
        self.leaving.append(&mut before);
        let given = self.given.values();
        let reused = given.filter_map(|row| Some((*row, self.former.remove(row)?)));
        reused.map(|(row, former)| Reused { row, former }).collect()
    }

    /// The rows in which workers may have counted, and for which apps.
    pub(crate) fn of_apps(&self) -> impl Iterator<Item = (&Whose, u32)> {
        let held = self.given.iter().chain(&self.leaving);
        let held = held.filter_map(|(owner, row)| match owner {
            Owner::App(whose) => Some((whose, *row)),
            Owner::Tenant(_) => None,
        });
        held.chain(self.former.iter().map(|(row, whose)| (whose, *row)))
    }

    /// No worker serves an older plan than the one that was given rows last.
    /// `clear` says whether it could clear a row; one that it could not is
    /// never used again.
    pub(crate) fn settled(&mut self, mut clear: impl FnMut(u32) -> bool) {
        for (owner, row) in std::mem::take(&mut self.leaving) {
            if let Owner::App(whose) = owner {
                self.former.insert(row, whose);
            }
            if clear(row) {
                self.vacant.push_back(row);
            }
        }
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
    use skep_core::{AppName, HandlerId, PlannedApp, PlannedTenant, TenantLimits};

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
                    stable: Some(HandlerId(1)),
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
        let _ = rows.give(&mut plan);
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

    #[test]
    fn what_was_counted_in_a_row_is_its_former_apps_until_it_is_anothers() {
        let whose = |app: &str, tenant: &str| Whose {
            app: AppName::new(app).unwrap(),
            tenant: TenantName::new(tenant).unwrap(),
        };
        let mut rows = Rows::default();
        give(&mut rows, &["a", "b"], &["t"]);
        let of_apps = |rows: &Rows| -> Vec<_> {
            rows.of_apps()
                .map(|(whose, row)| (whose.app.to_string(), row))
                .collect()
        };
        let both = [("a".to_owned(), 0), ("b".to_owned(), 1)];
        assert_eq!(of_apps(&rows), both);
        give(&mut rows, &["b"], &["t"]);
        rows.settled(|_| true);
        let mut now = of_apps(&rows);
        now.sort();
        assert_eq!(now, both);
        // It comes back and is counted elsewhere, too.
        assert_eq!(give(&mut rows, &["a", "b"], &["t"]), [3, 1, 2]);
        assert_eq!(rows.of_apps().count(), 3);
        rows.used = Sheet::ROWS;
        let mut next = plan(&["a", "b", "c"], &["t"]);
        let reused = rows.give(&mut next);
        let former = whose("a", "t");
        assert_eq!(reused, [Reused { row: 0, former }]);
        assert_eq!(next.apps[2].row, 0);
        assert_eq!(rows.of_apps().count(), 3);

        // Another tenant's is another app to whoever counts.
        let mut moved = plan(&["a"], &["t", "u"]);
        moved.apps[0].tenant = TenantName::new("u").unwrap();
        rows.used = 10;
        let _ = rows.give(&mut moved);
        assert_eq!(moved.apps[0].row, 10);
        assert!(rows.of_apps().any(|of| of == (&whose("a", "u"), 10)));
    }
}
