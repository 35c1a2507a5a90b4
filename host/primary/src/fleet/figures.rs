//! What apps and tenants have counted, as operators are shown it.

use std::collections::BTreeMap;

use skep_core::{
    AppCounts, AppLimits, AppName, AppSpec, InstancePolicy, Moment, Outcome, TenantLimits,
    TenantName, window_at,
};
use skep_wire::{AppLimitsStatus, FiguresStatus, GrantsStatus, LatencyStatus, TenantLimitsStatus};

use super::Fleet;
use crate::figures::{Total, Whose};
use crate::status::millis;

/// How requests ended whose worker was gone before it could say so.
const LOST: &str = "worker-died";

/// What everybody has counted, by whose it is.
#[derive(Debug, Default)]
pub(super) struct Figures {
    apps: BTreeMap<AppName, Total>,
    tenants: BTreeMap<TenantName, Total>,
}

impl Fleet {
    /// Reads what all workers have counted, those that are gone among them.
    pub(super) fn figures(&mut self, now: Moment) -> Figures {
        let mut totals = self.books.apps(now);
        let spec = &self.spec;
        let memory = |whose: &Whose| {
            let app = spec.apps.get(&whose.app);
            app.map_or(0, |app| app.limits.memory)
        };
        for pool in self.pools.values_mut() {
            pool.add_totals(&mut totals, memory, now);
        }
        let mut figures = Figures::default();
        for (Whose { app, tenant }, total) in totals {
            figures.apps.entry(app).or_default().add(&total, now);
            figures.tenants.entry(tenant).or_default().add(&total, now);
        }
        for tenant in spec.tenants.keys() {
            if let Some(rest) = self.books.rest_of(tenant) {
                let sum = figures.tenants.entry(tenant.clone()).or_default();
                sum.counts.add(rest);
            }
        }
        figures
    }

    /// Forgets what former apps have counted where there are too many of them.
    pub(super) fn prune_books(&mut self) {
        let spec = &self.spec;
        self.books.prune(
            |whose| {
                let app = spec.apps.get(&whose.app);
                app.is_some_and(|app| app.tenant == whose.tenant)
            },
            |tenant| spec.tenants.contains_key(tenant),
        );
    }
}

impl Figures {
    pub(super) fn of_app(&self, app: &AppName, now: Moment) -> FiguresStatus {
        let total = self.apps.get(app);
        total.map(|total| shown(total, now)).unwrap_or_default()
    }

    pub(super) fn of_tenant(&self, tenant: &TenantName, now: Moment) -> FiguresStatus {
        let total = self.tenants.get(tenant);
        total.map(|total| shown(total, now)).unwrap_or_default()
    }
}

fn shown(total: &Total, now: Moment) -> FiguresStatus {
    let Total {
        counts,
        gauges,
        recent,
    } = total;
    let quantile = |quantile| recent.quantile(quantile, window_at(now));
    FiguresStatus {
        requests: counts.requests,
        outcomes: outcomes(counts),
        status: (1..)
            .zip(counts.status)
            .filter(|(_, count)| *count > 0)
            .map(|(class, count): (u8, u64)| (format!("{class}xx"), count))
            .collect(),
        latency: quantile(0.5)
            .zip(quantile(0.99))
            .map(|(p50, p99)| LatencyStatus {
                p50_ms: millis(p50),
                p99_ms: millis(p99),
            }),
        in_flight: counts.in_flight(),
        queued: gauges.queued,
        instances: gauges.instances,
        guest_memory_bytes: gauges.guest_memory,
        guest_cpu_seconds: seconds(counts.cpu_nanos),
    }
}

fn outcomes(counts: &AppCounts) -> BTreeMap<String, u64> {
    let named = Outcome::ALL.map(Outcome::name);
    named
        .into_iter()
        .zip(counts.outcomes)
        .chain([(LOST, counts.lost)])
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of a hundred days are told to the microsecond"
)]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

pub(super) fn app_limits(limits: &AppLimits, instance: &InstancePolicy) -> AppLimitsStatus {
    AppLimitsStatus {
        timeout_seconds: limits.timeout.as_secs_f64(),
        cpu_seconds: limits.cpu.as_secs_f64(),
        memory_bytes: limits.memory,
        concurrency: limits.concurrency,
        queue: limits.queue,
        max_body_bytes: limits.max_body,
        rate: limits.rate.as_ref().map(ToString::to_string),
        log_rate_bytes: limits.log_rate,
        outbound_connections: limits.outbound_connections,
        instance_reuse: instance.reuse,
        instance_concurrent: instance.concurrent,
    }
}

pub(super) fn tenant_limits(limits: &TenantLimits) -> TenantLimitsStatus {
    TenantLimitsStatus {
        memory_bytes: Some(limits.memory).filter(|bytes| *bytes > 0),
        concurrency: Some(limits.concurrency).filter(|calls| *calls > 0),
        rate: limits.rate.as_ref().map(ToString::to_string),
    }
}

pub(super) fn grants(spec: &AppSpec) -> GrantsStatus {
    GrantsStatus {
        outbound: spec.outbound.iter().map(ToString::to_string).collect(),
        env: spec.env.iter().map(|(name, _)| name.clone()).collect(),
        config: spec.config.keys().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_counted_is_shown_by_name_and_adds_up() {
        let now = Moment::after_origin(Duration::from_secs(5));
        let mut total = Total::default();
        total.counts.requests = 10;
        total.counts.outcomes[Outcome::Ok as usize] = 6;
        total.counts.outcomes[Outcome::Trap as usize] = 2;
        total.counts.lost = 1;
        total.counts.status = [0, 6, 0, 0, 2];
        total.counts.cpu_nanos = 1_500_000_000;
        let figures = shown(&total, now);
        let outcomes = [("ok", 6), ("trap", 2), (LOST, 1)];
        let outcomes = outcomes.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(figures.outcomes, BTreeMap::from(outcomes));
        let status = [("2xx", 6), ("5xx", 2)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(figures.status, BTreeMap::from(status));
        assert_eq!((figures.requests, figures.in_flight), (10, 1));
        assert_eq!(figures.latency, None);
        assert!((figures.guest_cpu_seconds - 1.5).abs() < 1e-9);
    }

    #[test]
    fn no_limit_is_none() {
        let limits = tenant_limits(&TenantLimits::default());
        assert_eq!(limits, TenantLimitsStatus::default());
    }
}
