//! `skep status`: the fleet as tables for people or as the document itself.

use skep_core::{Isolation, Portion};
use skep_wire::{
    AppState, AppStatus, BreakerStatus, FleetStatus, LastExit, PoolStatus, SoloStatus,
    TenantStatus, WorkerStatus,
};

use super::figures::{failing, quantile};
use super::json;
use crate::args::Format;
use crate::control::Control;
use crate::exit::Failure;
use crate::print::{Printer, one_line};
use crate::table::{Align, NOTHING, Table, bytes, duration, joined};

/// Asks the primary and prints what it says.
pub(crate) fn run(control: &Control, format: Format, printer: Printer) -> Result<(), Failure> {
    let status = control
        .connect()?
        .status()
        .map_err(|error| control.failed(error))?;
    match format {
        Format::Text => printer.data(&render(&status)),
        Format::Json => printer.data(&json(&status)?),
    }
}

fn render(status: &FleetStatus) -> String {
    let state = if status.stopping { ", stopping" } else { "" };
    let mut text = format!(
        "skep {}, pid {}, up {}, generation {}{state}\n",
        status.version,
        status.pid,
        duration(status.uptime_seconds),
        status.generation,
    );
    for operation in &status.operations {
        text.push_str(&format!("  under way: {}\n", one_line(operation)));
    }
    for listener in &status.listeners {
        text.push_str(&format!(
            "  {} to pool {}\n",
            listener.address,
            joined(&listener.pools)
        ));
    }
    for dispatcher in &status.dispatchers {
        let counts = &dispatcher.counts;
        text.push_str(&format!(
            "  dispatcher of {}: {}, {} accepted, {} handed out, {} waiting\n",
            dispatcher.listener,
            solo(&dispatcher.process),
            counts.accepted,
            counts.handed_out,
            counts.waiting,
        ));
    }
    if let Some(connector) = &status.connector {
        text.push_str(&format!("  connector: {}\n", solo(connector)));
    }
    // Where there is one, the apps say all of it.
    if status.tenants.len() > 1 {
        text.push('\n');
        text.push_str(&tenants(&status.tenants));
    }
    for section in [
        pools(&status.pools),
        workers(&status.workers),
        apps(&status.apps),
    ] {
        text.push('\n');
        text.push_str(&section);
    }
    text
}

/// A process of which there is one, in words.
fn solo(process: &SoloStatus) -> String {
    let pid = process
        .pid
        .map_or_else(|| "no process".to_owned(), |pid| format!("pid {pid}"));
    let exit = process.last_exit.as_ref().map_or_else(String::new, |exit| {
        format!(" (last exit: {})", one_line(&exit.to_string()))
    });
    let plural = if process.restarts == 1 { "" } else { "s" };
    format!(
        "{pid}, {}, {} restart{plural}{exit}",
        process.state, process.restarts
    )
}

fn tenants(tenants: &[TenantStatus]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("TENANT", Left),
        ("ISOLATION", Left),
        ("APPS", Right),
        ("REQUESTS", Right),
        ("5XX", Right),
        ("IN FLIGHT", Right),
        ("POOLS", Left),
    ]);
    for tenant in tenants {
        let isolation = isolation(tenant);
        table.row([
            tenant.name.to_string(),
            isolation.to_owned(),
            tenant.apps.to_string(),
            tenant.figures.requests.to_string(),
            failing(&tenant.figures),
            tenant.figures.in_flight.to_string(),
            joined(&tenant.pools),
        ]);
    }
    table.render()
}

/// Whether a tenant has workers of its own.
pub(super) const fn isolation(tenant: &TenantStatus) -> &'static str {
    match tenant.isolation {
        Isolation::Shared => "shared",
        Isolation::Dedicated => "dedicated",
    }
}

pub(super) fn pools<'a>(pools: impl IntoIterator<Item = &'a PoolStatus>) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("POOL", Left),
        ("SERVING", Right),
        ("BREAKER", Left),
        ("ROLLING", Left),
        ("SPAWNS", Right),
        ("RESTARTS", Right),
        ("CRASHES", Right),
        ("LAST EXIT", Left),
    ]);
    for pool in pools {
        table.row([
            pool.name.to_string(),
            format!("{}/{}", pool.serving, pool.workers),
            breaker(pool.breaker).to_owned(),
            pool.rolling
                .map_or_else(|| NOTHING.to_owned(), |left| format!("{left} left")),
            pool.spawns.to_string(),
            pool.restarts.to_string(),
            pool.crashes_in_window.to_string(),
            pool.last_exit
                .as_ref()
                .map_or_else(|| NOTHING.to_owned(), last_exit),
        ]);
    }
    table.render()
}

/// The last word is in capitals where somebody should do something.
pub(super) const fn breaker(breaker: BreakerStatus) -> &'static str {
    match breaker {
        BreakerStatus::Admitting => "admitting",
        BreakerStatus::Tripped => "TRIPPED",
        BreakerStatus::Probing => "PROBING",
    }
}

pub(super) fn last_exit(exit: &LastExit) -> String {
    // A worker's own words may have any number of lines; a table's row has one.
    let reason = exit.reason.to_string();
    let reason = reason.lines().next().unwrap_or_default();
    format!(
        "{reason}, {} ago (worker {}, pid {}, slot {})",
        duration(exit.seconds_ago),
        exit.worker,
        exit.pid,
        exit.slot,
    )
}

pub(super) fn workers<'a>(workers: impl IntoIterator<Item = &'a WorkerStatus>) -> String {
    use Align::{Left, Right};
    let mut workers = workers.into_iter().peekable();
    if workers.peek().is_none() {
        return "no workers\n".to_owned();
    }
    let mut table = Table::new([
        ("WORKER", Right),
        ("POOL", Left),
        ("SLOT", Right),
        ("PID", Right),
        ("STATE", Left),
        ("GEN", Right),
        ("UP", Right),
        ("CONNS", Right),
        ("REQUESTS", Right),
        ("FAILED", Right),
        ("IN FLIGHT", Right),
        ("P50", Right),
        ("P99", Right),
        ("CPU", Right),
        ("RSS", Right),
    ]);
    for worker in workers {
        let latency = worker.latency.as_ref();
        table.row([
            worker.id.to_string(),
            worker.pool.to_string(),
            worker.slot.to_string(),
            worker.pid.to_string(),
            worker.state.clone(),
            worker.generation.to_string(),
            duration(worker.uptime_seconds),
            worker.connections.to_string(),
            worker.requests.to_string(),
            failed(worker).to_string(),
            worker.in_flight.to_string(),
            quantile(latency, |latency| latency.p50_ms),
            quantile(latency, |latency| latency.p99_ms),
            duration(worker.cpu_seconds),
            bytes(worker.rss_bytes),
        ]);
    }
    table.render()
}

/// Requests that ended otherwise than they should have.
fn failed(worker: &WorkerStatus) -> u64 {
    let ok = skep_core::Outcome::Ok.name();
    worker
        .outcomes
        .iter()
        .filter(|(outcome, _)| outcome.as_str() != ok)
        .map(|(_, count)| count)
        .sum()
}

/// Routes shown of one app: the table is narrow, and `describe` shows them all.
const ROUTES_SHOWN: usize = 1;

pub(super) fn apps<'a>(apps: impl IntoIterator<Item = &'a AppStatus>) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("APP", Left),
        ("REV", Left),
        ("STATE", Left),
        ("REQUESTS", Right),
        ("5XX", Right),
        ("IN FLIGHT", Right),
        ("P50", Right),
        ("P99", Right),
        ("ROUTES", Left),
    ]);
    for app in apps {
        let shown = app.routes.iter().take(ROUTES_SHOWN).cloned();
        let mut routes = shown.collect::<Vec<_>>().join(" ");
        let rest = app.routes.len().saturating_sub(ROUTES_SHOWN);
        if rest > 0 {
            routes.push_str(&format!(" +{rest}"));
        }
        let latency = app.figures.latency.as_ref();
        table.row([
            app.name.to_string(),
            match canary(app) {
                Some(canary) => format!("{}, {canary}", app.revision),
                None => app.revision.to_string(),
            },
            state(app),
            app.figures.requests.to_string(),
            failing(&app.figures),
            app.figures.in_flight.to_string(),
            quantile(latency, |latency| latency.p50_ms),
            quantile(latency, |latency| latency.p99_ms),
            routes,
        ]);
    }
    table.render()
}

/// A canary and its share, if there is one.
pub(super) fn canary(app: &AppStatus) -> Option<String> {
    let (revision, share) = app.canary?;
    Some(format!("{revision} at {}", Portion(share)))
}

/// What an app does, and what is done with it. The words are in capitals where
/// somebody should do something.
pub(super) fn state(app: &AppStatus) -> String {
    let serves = match app.state {
        AppState::Serving | AppState::Cold | AppState::Paused => app.state.name().to_owned(),
        AppState::Quarantined | AppState::Unserved => app.state.name().to_uppercase(),
    };
    match &app.rollout {
        Some(rollout) => format!("{serves}, {rollout}"),
        None => serves,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use skep_core::{AppName, ExitReason, Generation, ListenerName, PoolName, Revision, SlotIndex};
    use skep_core::{TenantName, WorkerId};
    use skep_wire::{
        AppLimitsStatus, DispatchCounts, DispatcherStatus, FiguresStatus, GrantsStatus,
        LatencyStatus, ListenerStatus, TenantLimitsStatus,
    };

    use super::*;

    fn worker(id: u64, slot: u16, latency: Option<LatencyStatus>) -> WorkerStatus {
        WorkerStatus {
            id: WorkerId(id),
            pool: PoolName::new("default").unwrap(),
            slot: SlotIndex(slot),
            pid: 4300 + u32::from(slot),
            state: if latency.is_some() {
                "serving"
            } else {
                "starting"
            }
            .into(),
            uptime_seconds: 3700.0,
            generation: Generation(2),
            ready_after_ms: Some(6.0),
            connections: 3,
            accepted: 40,
            requests: if latency.is_some() { 120_345 } else { 0 },
            in_flight: 1,
            outcomes: BTreeMap::from([("ok".into(), 120_340), ("trap".into(), 4)]),
            latency,
            rss_bytes: 13 << 20,
            cpu_seconds: 62.5,
        }
    }

    fn figures(requests: u64) -> FiguresStatus {
        if requests == 0 {
            return FiguresStatus::default();
        }
        FiguresStatus {
            requests,
            outcomes: BTreeMap::from([("ok".into(), requests - 3), ("trap".into(), 2)]),
            status: BTreeMap::from([("2xx".into(), requests - 3), ("5xx".into(), 2)]),
            latency: Some(LatencyStatus {
                p50_ms: 0.2,
                p99_ms: 14.2,
            }),
            in_flight: 1,
            queued: 0,
            instances: 1,
            guest_memory_bytes: 3 << 20,
            guest_cpu_seconds: 61.5,
        }
    }

    pub(in crate::commands) fn fleet() -> FleetStatus {
        let pool = PoolName::new("default").unwrap();
        FleetStatus {
            version: "0.1.0".into(),
            pid: 4242,
            uptime_seconds: 11_520.0,
            generation: Generation(2),
            stopping: true,
            operations: vec!["deploy of hello".into()],
            listeners: vec![ListenerStatus {
                name: ListenerName::new("web").unwrap(),
                address: "http://127.0.0.1:8080".into(),
                pools: vec![pool.clone()],
            }],
            pools: vec![PoolStatus {
                name: pool.clone(),
                workers: 2,
                serving: 1,
                breaker: BreakerStatus::Tripped,
                rolling: Some(1),
                spawns: 7,
                restarts: 5,
                crashes_in_window: 5,
                last_exit: Some(LastExit {
                    worker: WorkerId(6),
                    pid: 4299,
                    slot: SlotIndex(1),
                    voluntary: false,
                    reason: ExitReason::ValidationFailed {
                        message: "no database\nat all".into(),
                    },
                    seconds_ago: 12.0,
                }),
            }],
            workers: vec![
                worker(
                    1,
                    0,
                    Some(LatencyStatus {
                        p50_ms: 0.2,
                        p99_ms: 14.2,
                    }),
                ),
                worker(7, 1, None),
            ],
            apps: vec![AppStatus {
                name: AppName::new("hello").unwrap(),
                tenant: TenantName::new("default").unwrap(),
                pool,
                state: AppState::Paused,
                reason: None,
                revision: Revision(7),
                canary: Some((Revision(8), 1250)),
                paused: true,
                rollout: Some("canary".into()),
                digest: "sha256:00".into(),
                source: "hello.wasm".into(),
                wasi: "0.2".into(),
                routes: ["/a", "/b", "/c", "/d"].map(String::from).to_vec(),
                figures: figures(120_345),
                limits: AppLimitsStatus {
                    timeout_seconds: 30.0,
                    cpu_seconds: 0.5,
                    memory_bytes: 128 << 20,
                    concurrency: 100,
                    queue: 1000,
                    max_body_bytes: 10 << 20,
                    rate: Some("100/min per client".into()),
                    log_rate_bytes: 1 << 20,
                    outbound_connections: 100,
                    instance_reuse: 1,
                    instance_concurrent: 1,
                },
                grants: GrantsStatus {
                    outbound: vec!["https://api.example.com".into()],
                    env: vec!["KEY".into(), "MODE".into()],
                    config: vec!["greeting".into()],
                },
            }],
            dispatchers: vec![DispatcherStatus {
                listener: ListenerName::new("web").unwrap(),
                process: SoloStatus {
                    pid: Some(4250),
                    state: "serving".into(),
                    restarts: 1,
                    last_exit: Some(ExitReason::Signal { signal: 9 }),
                },
                counts: DispatchCounts {
                    accepted: 12,
                    handed_out: 11,
                    waiting: 1,
                    ..DispatchCounts::default()
                },
            }],
            connector: Some(SoloStatus {
                pid: None,
                state: "waiting".into(),
                restarts: 2,
                last_exit: None,
            }),
            tenants: [("default", 120_345), ("acme", 0)]
                .map(|(name, requests)| TenantStatus {
                    name: TenantName::new(name).unwrap(),
                    isolation: Isolation::Shared,
                    pools: vec![PoolName::new("default").unwrap()],
                    apps: 1,
                    figures: figures(requests),
                    limits: TenantLimitsStatus {
                        memory_bytes: Some(1 << 30),
                        concurrency: None,
                        rate: Some("1000/s".into()),
                    },
                })
                .to_vec(),
        }
    }

    #[test]
    fn people_read_tables() {
        let golden = "\
skep 0.1.0, pid 4242, up 3h 12m, generation 2, stopping
  under way: deploy of hello
  http://127.0.0.1:8080 to pool default
  dispatcher of web: pid 4250, serving, 1 restart (last exit: signal (signal 9)), 12 accepted, 11 handed out, 1 waiting
  connector: no process, waiting, 2 restarts

TENANT   ISOLATION  APPS  REQUESTS   5XX  IN FLIGHT  POOLS
default  shared        1    120345  0.1%          1  default
acme     shared        1         0     -          0  default

POOL     SERVING  BREAKER  ROLLING  SPAWNS  RESTARTS  CRASHES  LAST EXIT
default      1/2  TRIPPED  1 left        7         5        5  validation-failed: no database, 12s ago (worker 6, pid 4299, slot 1)

WORKER  POOL     SLOT   PID  STATE     GEN     UP  CONNS  REQUESTS  FAILED  IN FLIGHT    P50   P99    CPU     RSS
     1  default     0  4300  serving     2  1h 1m      3    120345       4          1  0.2ms  14ms  1m 2s  13 MiB
     7  default     1  4301  starting    2  1h 1m      3         0       4          1      -     -  1m 2s  13 MiB

APP    REV            STATE           REQUESTS   5XX  IN FLIGHT    P50   P99  ROUTES
hello  7, 8 at 12.5%  paused, canary    120345  0.1%          1  0.2ms  14ms  /a +3
";
        assert_eq!(render(&fleet()), golden);
    }
}
