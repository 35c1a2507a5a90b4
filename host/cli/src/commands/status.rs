//! `skep status`: the fleet as tables for people or as the document itself.

use skep_core::{Isolation, PoolName, Portion};
use skep_wire::{
    AppState, AppStatus, BreakerStatus, FiguresStatus, FleetStatus, LastExit, LatencyStatus,
    PoolStatus, SoloStatus, TenantStatus, WorkerStatus,
};

use super::json;
use crate::args::Format;
use crate::control::Control;
use crate::exit::Failure;
use crate::print::{Printer, one_line};
use crate::table::{Align, NOTHING, Table, bytes, duration, folded, joined, milliseconds};

/// Asks the primary and prints what it says.
pub(crate) fn run(control: &Control, format: Format, printer: Printer) -> Result<(), Failure> {
    let status = control
        .connect()?
        .status()
        .map_err(|error| control.failed(error))?;
    if let Some(left_out) = &status.left_out {
        printer.note(&format!("too much to tell: left out are {left_out}"));
    }
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
    for operation in &status.operations {
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
        ("REQUESTS", Right),
        ("5XX", Right),
        ("IN FLIGHT", Right),
        ("POOLS", Left),
    ])
    .dropping(&["ISOLATION", "IN FLIGHT", "APPS"])
    .cutting(&["POOLS"]);
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
    table.render(room)
}

/// Whether a tenant has workers of its own.
pub(super) const fn isolation(tenant: &TenantStatus) -> &'static str {
    match tenant.isolation {
        Isolation::Shared => "shared",
        Isolation::Dedicated => "dedicated",
    }
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

/// Routes shown of one app: the table is narrow, and `describe` shows them all.
const ROUTES_SHOWN: usize = 1;

pub(super) fn apps<'a>(apps: impl IntoIterator<Item = &'a AppStatus>, room: usize) -> String {
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
    ])
    .dropping(&["ROUTES", "IN FLIGHT", "P50", "P99"])
    .cutting(&["ROUTES"]);
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
    table.render(room)
}

/// The share of responses whose status was 500 or more.
pub(super) fn failing(figures: &FiguresStatus) -> String {
    let all: u64 = figures.status.values().sum();
    let failed = figures.status.get("5xx").copied().unwrap_or(0);
    if failed == 0 {
        return if all == 0 { NOTHING } else { "0%" }.to_owned();
    }
    // In tenths of a percent, rounded up: what failed once is not shown as nothing.
    let tenths = (u128::from(failed) * 1000).div_ceil(u128::from(all));
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// One of the quantiles, where there are some.
pub(super) fn quantile(
    latency: Option<&LatencyStatus>,
    pick: impl Fn(&LatencyStatus) -> f64,
) -> String {
    latency.map_or_else(|| NOTHING.to_owned(), |latency| milliseconds(pick(latency)))
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
pub(super) mod tests;
