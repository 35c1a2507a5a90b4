//! What apps and tenants have counted: read from the registers of the workers that
//! live, and kept of those that are gone.
//!
//! Nothing here is trusted further than `core`'s figures say: a worker's numbers
//! count only for the apps whose rows its own pool has given away.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use skep_core::{
    AppCounts, AppGauges, AppName, BUCKETS, LatencyCounts, Moment, Outcome, Plausible, Recent,
    STATUS_CLASSES, TALLY_BUCKETS, TenantName, window_at,
};
use skep_sys::{FINE_BUCKETS, OUTCOMES, Register, RowReading, STATUSES};

const _: () = assert!(
    Outcome::ALL.len() <= OUTCOMES,
    "every outcome has a counter"
);
const _: () = assert!(STATUS_CLASSES == STATUSES, "every class has a counter");
const _: () = assert!(TALLY_BUCKETS == FINE_BUCKETS, "one histogram, two crates");
const _: () = assert!(BUCKETS == skep_sys::BUCKETS, "one histogram, two crates");

/// Most instances of a worker: 2,000 for each of its two engines.
const MOST_INSTANCES: u64 = 4000;

/// Apps that are in no specification any more and whose counts are kept by name,
/// should they come back. What older ones have counted stays in their tenants'
/// sums.
const FORMER_APPS: usize = 1000;

/// Tenants that are in no specification any more and whose sums are kept.
const FORMER_TENANTS: usize = 1000;

/// Whose requests they are. An app that another tenant takes over is counted
/// anew, because neither tenant's sums may become less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Whose {
    pub(crate) app: AppName,
    pub(crate) tenant: TenantName,
}

/// What all workers together have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) counts: AppCounts,
    pub(crate) gauges: AppGauges,
    pub(crate) recent: Recent,
}

impl Total {
    /// Adds what others have counted.
    pub(crate) fn add(&mut self, other: &Self, now: Moment) {
        self.counts.add(&other.counts);
        self.gauges.add(other.gauges);
        self.recent.merge(&other.recent, window_at(now));
    }
}

/// The register of one worker, as the primary reads it.
#[derive(Debug)]
pub(crate) struct Registered {
    register: Register,
    born: Moment,
    /// What is believed of each row that was ever read.
    known: BTreeMap<u32, AppCounts>,
}

impl Registered {
    /// A register for a worker that is about to be born.
    ///
    /// # Errors
    ///
    /// No memory or descriptors left.
    pub(crate) fn create(now: Moment) -> io::Result<Self> {
        Ok(Self {
            register: Register::create()?,
            born: now,
            known: BTreeMap::new(),
        })
    }

    /// The memory, for the worker.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub(crate) fn fd(&self) -> io::Result<Arc<OwnedFd>> {
        Ok(Arc::new(self.register.as_fd().try_clone_to_owned()?))
    }

    /// What the worker has counted in a row, as far as that is believed; `None`
    /// where it never had. `memory` is the most bytes that an instance of the
    /// row's app may have.
    pub(crate) fn read(&mut self, row: u32, memory: u64, now: Moment) -> Option<Total> {
        let Some(reading) = self.register.read(row) else {
            // One that says it had nothing there may have said otherwise before.
            let counts = self.known.get(&row)?.clone();
            return Some(Total {
                counts,
                ..Total::default()
            });
        };
        let plausible = Plausible {
            age: now.since(self.born),
            instances: MOST_INSTANCES,
            memory,
        };
        let known = self.known.entry(row).or_default();
        known.learn(&counts_of(&reading), plausible);
        let mut recent = Recent::default();
        for (number, counts) in &reading.windows {
            let mut wide = [0; TALLY_BUCKETS];
            for (wide, count) in wide.iter_mut().zip(counts) {
                *wide = u64::from(*count);
            }
            recent.add(*number, &wide, window_at(now));
        }
        let gauges = AppGauges {
            queued: reading.queued.into(),
            instances: reading.instances.into(),
            guest_memory: reading.guest_memory,
        };
        Some(Total {
            counts: known.clone(),
            gauges: gauges.bounded(plausible, known.in_flight()),
            recent,
        })
    }

    /// What the worker has counted in a row that nobody counts in any more: the
    /// worker is gone, or the row is about to be another app's.
    pub(crate) fn close(&mut self, row: u32, now: Moment) -> Option<Total> {
        let mut total = self.read(row, 0, now)?;
        self.known.remove(&row);
        self.register.clear(row);
        total.counts.end();
        total.gauges = AppGauges::default();
        Some(total)
    }
}

fn counts_of(reading: &RowReading) -> AppCounts {
    let mut latency = LatencyCounts::default();
    for (count, said) in latency.0.iter_mut().zip(&reading.latency) {
        *count = *said;
    }
    let mut counts = AppCounts {
        requests: reading.requests,
        status: reading.statuses,
        latency,
        cpu_nanos: reading.cpu_nanos,
        ..AppCounts::default()
    };
    for (count, said) in counts.outcomes.iter_mut().zip(&reading.outcomes) {
        *count = *said;
    }
    counts
}

/// What workers have counted that are gone.
#[derive(Debug, Default)]
pub(crate) struct Books {
    apps: BTreeMap<Whose, Total>,
    /// Of apps that are not known by name any more.
    rest: BTreeMap<TenantName, AppCounts>,
}

impl Books {
    /// Keeps what was counted for an app.
    pub(crate) fn keep(&mut self, whose: &Whose, total: &Total, now: Moment) {
        let kept = match self.apps.get_mut(whose) {
            Some(kept) => kept,
            None => self.apps.entry(whose.clone()).or_default(),
        };
        kept.add(total, now);
    }

    /// By app and tenant, what is kept.
    pub(crate) fn apps(&mut self, now: Moment) -> BTreeMap<Whose, Total> {
        for total in self.apps.values_mut() {
            total.recent.forget(window_at(now));
        }
        self.apps.clone()
    }

    /// What apps of a tenant have counted that are not known by name any more.
    pub(crate) fn rest_of(&self, tenant: &TenantName) -> Option<&AppCounts> {
        self.rest.get(tenant)
    }

    /// Forgets the names of former apps where there are too many of them.
    pub(crate) fn prune(
        &mut self,
        is_app: impl Fn(&Whose) -> bool,
        is_tenant: impl Fn(&TenantName) -> bool,
    ) {
        let former = |whose: &&Whose| !is_app(whose);
        let many = self.apps.keys().filter(former).count();
        let names: Vec<_> = self.apps.keys().filter(former).cloned().collect();
        for whose in names.into_iter().take(many.saturating_sub(FORMER_APPS)) {
            if let Some(total) = self.apps.remove(&whose) {
                self.rest
                    .entry(whose.tenant)
                    .or_default()
                    .add(&total.counts);
            }
        }
        let former = self.rest.keys().filter(|tenant| !is_tenant(tenant));
        let former: Vec<_> = former.cloned().collect();
        let many = former.len().saturating_sub(FORMER_TENANTS);
        for tenant in former.into_iter().take(many) {
            self.rest.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_sys::{Ending, Took};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after_origin(Duration::from_secs(seconds))
    }

    fn whose(app: &str, tenant: &str) -> Whose {
        Whose {
            app: AppName::new(app).unwrap(),
            tenant: TenantName::new(tenant).unwrap(),
        }
    }

    fn serve(register: &Register, row: u32, times: u64) {
        let row = register.row(row).unwrap();
        for _ in 0..times {
            row.request_began();
            row.request_ended(Ending {
                outcome: Outcome::Trap as usize,
                status: Some(4),
                latency: Some(Took {
                    bucket: 9,
                    fine: 9,
                    window: 0,
                }),
            });
        }
    }

    #[test]
    fn what_a_worker_has_counted_is_kept_when_it_is_gone() {
        let mut registered = Registered::create(at(0)).unwrap();
        let theirs = Register::open(registered.fd().unwrap().try_clone().unwrap()).unwrap();
        assert_eq!(registered.read(4, 0, at(1)), None);
        serve(&theirs, 4, 3);
        theirs.row(4).unwrap().request_began();
        theirs.row(4).unwrap().queued();
        theirs.row(4).unwrap().add_instances(2);
        theirs.row(4).unwrap().add_guest_memory(1 << 50);
        let total = registered.read(4, 1000, at(1)).unwrap();
        assert_eq!((total.counts.requests, total.counts.in_flight()), (4, 1));
        assert_eq!((total.gauges.queued, total.gauges.instances), (1, 2));
        assert_eq!(total.gauges.guest_memory, 2000);
        assert!(total.recent.quantile(0.5, 0).is_some());

        let mut books = Books::default();
        let one = whose("a", "t");
        books.keep(&one, &registered.close(4, at(1)).unwrap(), at(1));
        let kept = &books.apps(at(1))[&one];
        assert_eq!((kept.counts.requests, kept.counts.lost), (4, 1));
        assert_eq!(kept.gauges, AppGauges::default());
        assert!(kept.recent.quantile(0.5, 0).is_some());
        // The row is another's now.
        assert!(registered.read(4, 0, at(1)).unwrap().counts.is_empty());
        assert_eq!(books.apps(at(90))[&one].recent, Recent::default());
    }

    #[test]
    fn a_worker_that_takes_back_what_it_said_is_not_believed() {
        let mut registered = Registered::create(at(0)).unwrap();
        let theirs = Register::open(registered.fd().unwrap().try_clone().unwrap()).unwrap();
        serve(&theirs, 4, 3);
        let before = registered.read(4, 0, at(1)).unwrap();
        theirs.clear(4);
        let after = registered.read(4, 0, at(1)).unwrap();
        assert_eq!(after.counts, before.counts);
        assert_eq!(registered.close(4, at(1)).unwrap().counts, before.counts);
    }

    #[test]
    fn sums_of_a_tenant_outlive_the_names_of_its_apps() {
        let mut books = Books::default();
        let mut total = Total::default();
        total.counts.requests = 1;
        let last = FORMER_APPS + 10;
        for app in 0..last {
            books.keep(&whose(&format!("a{app:05}"), "t"), &total, at(0));
        }
        books.keep(&whose("lives", "t"), &total, at(0));
        books.prune(|whose| whose.app.as_str() == "lives", |_| true);
        let apps = books.apps(at(0));
        assert_eq!(apps.len(), FORMER_APPS + 1);
        assert!(apps.contains_key(&whose("lives", "t")));
        let tenant = TenantName::new("t").unwrap();
        assert_eq!(books.rest_of(&tenant).unwrap().requests, 10);
    }
}
