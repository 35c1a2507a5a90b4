//! `skep status`: the fleet as tables for people or as the document itself.

use skep_core::{Isolation, PoolName, Portion};
use skep_wire::{
    AppStatus, BreakerStatus, FleetStatus, LastExit, PoolStatus, SoloStatus, TenantStatus,
    WorkerStatus,
};

use super::json;
use crate::args::Format;
use crate::control::Control;
use crate::exit::Failure;
use crate::print::{Printer, one_line};
use crate::table::{Align, NOTHING, Table, bytes, count, duration, folded, joined, milliseconds};

/// Asks the primary and prints what it says.
pub(crate) fn run(control: &Control, format: Format, printer: Printer) -> Result<(), Failure> {
    let status = control
        .connect()?
        .status()
        .map_err(|error| control.failed(error))?;
    match format {
        Format::Text => printer.data(&render(&status, printer.columns())),
        Format::Json => printer.data(&json(&status)?),
    }
}

fn render(status: &FleetStatus, room: usize) -> String {
    let mut text = String::new();
    let mut line = |parts: Vec<String>| {
        text.push_str(&folded(&parts, ", ", 4, room));
        text.push('\n');
    };
    let mut head = vec![
        format!("skep {}", status.version),
        format!("pid {}", status.pid),
        format!("up {}", duration(status.uptime_seconds)),
        format!("generation {}", status.generation),
    ];
    head.extend(status.stopping.then(|| "stopping".to_owned()));
    line(head);
    if let Some(operation) = &status.operation {
        line(vec![format!("  under way: {operation}")]);
    }
    for listener in &status.listeners {
        let pools = joined(&listener.pools);
        line(vec![format!("  {} to pool {pools}", listener.address)]);
    }
    for dispatcher in &status.dispatchers {
        let counts = &dispatcher.counts;
        let process = solo(&dispatcher.process);
        let mut parts = vec![format!(
            "  dispatcher of {}: {}",
            dispatcher.listener, process[0]
        )];
        parts.extend(process.into_iter().skip(1));
        parts.extend([
            format!("{} accepted", counts.accepted),
            format!("{} handed out", counts.handed_out),
            format!("{} waiting", counts.waiting),
        ]);
        line(parts);
    }
    if let Some(connector) = &status.connector {
        let mut parts = solo(connector);
        parts[0].insert_str(0, "  connector: ");
        line(parts);
    }
    for pool in tripped(&status.pools) {
        line(vec![format!(
            "  pool {pool} has tripped; `skep reset {pool}` probes it at once"
        )]);
    }
    // Where there is one, the apps say all of it.
    if status.tenants.len() > 1 {
        text.push('\n');
        text.push_str(&tenants(&status.tenants, room));
    }
    for section in [
        pools(&status.pools, room),
        workers(&status.workers, room),
        apps(&status.apps, room),
    ] {
        text.push('\n');
        text.push_str(&section);
    }
    text
}

/// Pools that stay as they are until their breaker is reset or a probe succeeds.
fn tripped(pools: &[PoolStatus]) -> impl Iterator<Item = &PoolName> {
    let tripped = pools
        .iter()
        .filter(|pool| pool.breaker == BreakerStatus::Tripped);
    tripped.map(|pool| &pool.name)
}

/// A process of which there is one, in words.
fn solo(process: &SoloStatus) -> Vec<String> {
    let pid = process
        .pid
        .map_or_else(|| "no process".to_owned(), |pid| format!("pid {pid}"));
    let exit = process.last_exit.as_ref().map_or_else(String::new, |exit| {
        format!(" (last exit: {})", one_line(&exit.to_string()))
    });
    let plural = if process.restarts == 1 { "" } else { "s" };
    vec![
        pid,
        process.state.clone(),
        format!("{} restart{plural}{exit}", process.restarts),
    ]
}

fn tenants(tenants: &[TenantStatus], room: usize) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("TENANT", Left),
        ("ISOLATION", Left),
        ("APPS", Right),
        ("POOLS", Left),
    ])
    .cutting(&["POOLS"]);
    for tenant in tenants {
        let isolation = match tenant.isolation {
            Isolation::Shared => "shared",
            Isolation::Dedicated => "dedicated",
        };
        table.row([
            tenant.name.to_string(),
            isolation.to_owned(),
            tenant.apps.to_string(),
            joined(&tenant.pools),
        ]);
    }
    table.render(room)
}

pub(super) fn pools<'a>(pools: impl IntoIterator<Item = &'a PoolStatus>, room: usize) -> String {
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
    ])
    .dropping(&["ROLLING", "SPAWNS", "RESTARTS", "CRASHES"])
    .cutting(&["LAST EXIT"]);
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
    table.render(room)
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

pub(super) fn workers<'a>(
    workers: impl IntoIterator<Item = &'a WorkerStatus>,
    room: usize,
) -> String {
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
    ])
    .dropping(&[
        "GEN",
        "CPU",
        "P50",
        "SLOT",
        "CONNS",
        "IN FLIGHT",
        "PID",
        "RSS",
        "P99",
        "FAILED",
    ]);
    for worker in workers {
        let latency = |pick: fn(&skep_wire::LatencyStatus) -> f64| {
            worker
                .latency
                .as_ref()
                .map_or_else(|| NOTHING.to_owned(), |latency| milliseconds(pick(latency)))
        };
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
            latency(|latency| latency.p50_ms),
            latency(|latency| latency.p99_ms),
            duration(worker.cpu_seconds),
            bytes(worker.rss_bytes),
        ]);
    }
    table.render(room)
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

/// Routes shown of one app; a generated configuration may have hundreds.
const ROUTES_SHOWN: usize = 3;

pub(super) fn apps<'a>(apps: impl IntoIterator<Item = &'a AppStatus>, room: usize) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("APP", Left),
        ("TENANT", Left),
        ("POOL", Left),
        ("REVISION", Right),
        ("CANARY", Left),
        ("STATE", Left),
        ("WASI", Left),
        ("ROUTES", Left),
        ("SOURCE", Left),
    ])
    .dropping(&["WASI", "TENANT", "POOL", "SOURCE", "CANARY", "ROUTES"])
    .cutting(&["ROUTES", "SOURCE"]);
    for app in apps {
        let shown = app
            .routes
            .iter()
            .take(ROUTES_SHOWN)
            .cloned()
            .collect::<Vec<_>>();
        let mut routes = shown.join(" ");
        let rest = app.routes.len().saturating_sub(ROUTES_SHOWN);
        if rest > 0 {
            routes.push_str(&format!(" and {}", count(rest, "other")));
        }
        table.row([
            app.name.to_string(),
            app.tenant.to_string(),
            app.pool.to_string(),
            app.revision.to_string(),
            canary(app).unwrap_or_else(|| NOTHING.to_owned()),
            state(app),
            app.wasi.clone(),
            routes,
            app.source.clone(),
        ]);
    }
    table.render(room)
}

/// A canary and its share, if there is one.
pub(super) fn canary(app: &AppStatus) -> Option<String> {
    let (revision, share) = app.canary?;
    Some(format!("{revision} at {}", Portion(share)))
}

/// What an app does, and what is done with it.
pub(super) fn state(app: &AppStatus) -> String {
    let serves = if app.paused { "paused" } else { "serving" };
    match &app.rollout {
        Some(rollout) => format!("{serves}, {rollout}"),
        None => serves.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use skep_core::{AppName, ExitReason, Generation, ListenerName, Revision, SlotIndex};
    use skep_core::{TenantName, WorkerId};
    use skep_wire::{DispatchCounts, DispatcherStatus, LatencyStatus, ListenerStatus};

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

    pub(in crate::commands) fn fleet() -> FleetStatus {
        let pool = PoolName::new("default").unwrap();
        FleetStatus {
            version: "0.1.0".into(),
            pid: 4242,
            uptime_seconds: 11_520.0,
            generation: Generation(2),
            stopping: true,
            operation: Some("deploy of hello".into()),
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
                revision: Revision(7),
                canary: Some((Revision(8), 1250)),
                paused: true,
                rollout: Some("canary".into()),
                digest: "sha256:00".into(),
                source: "hello.wasm".into(),
                wasi: "0.2".into(),
                routes: ["/a", "/b", "/c", "/d"].map(String::from).to_vec(),
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
            tenants: ["default", "acme"]
                .map(|name| TenantStatus {
                    name: TenantName::new(name).unwrap(),
                    isolation: Isolation::Shared,
                    pools: vec![PoolName::new("default").unwrap()],
                    apps: 1,
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
  pool default has tripped; `skep reset default` probes it at once

TENANT   ISOLATION  APPS  POOLS
default  shared        1  default
acme     shared        1  default

POOL     SERVING  BREAKER  ROLLING  SPAWNS  RESTARTS  CRASHES  LAST EXIT
default      1/2  TRIPPED  1 left        7         5        5  validation-failed: no database, 12s ago (worker 6, pid 4299, slot 1)

WORKER  POOL     SLOT   PID  STATE     GEN     UP  CONNS  REQUESTS  FAILED  IN FLIGHT    P50   P99    CPU     RSS
     1  default     0  4300  serving     2  1h 1m      3    120345       4          1  0.2ms  14ms  1m 2s  13 MiB
     7  default     1  4301  starting    2  1h 1m      3         0       4          1      -     -  1m 2s  13 MiB

APP    TENANT   POOL     REVISION  CANARY      STATE           WASI  ROUTES                SOURCE
hello  default  default         7  8 at 12.5%  paused, canary  0.2   /a /b /c and 1 other  hello.wasm
";
        assert_eq!(render(&fleet(), 200), golden);
    }

    #[test]
    fn every_line_fits_whatever_the_room() {
        for room in [40, 80, 100, 120, 160] {
            for line in render(&fleet(), room).lines() {
                assert!(line.chars().count() <= room, "{room}: {line}");
            }
        }
        let narrow = render(&fleet(), 80);
        for word in [
            "TRIPPED",
            "validation-failed",
            "120345",
            "8 at 12.5%",
            "canary",
        ] {
            assert!(narrow.contains(word), "{word} in\n{narrow}");
        }
    }
}
