//! `skep describe`: one thing with all that is known about it. A name may be an
//! app's, a tenant's, a pool's and a listener's at once; all of them are shown.

use serde::Serialize;
use skep_wire::{
    AppHistory, AppStatus, FleetStatus, ListenerStatus, PoolStatus, TenantStatus, WorkerStatus,
};

use super::figures::{counted, figures, limits, listed, quantile};
use super::status::{breaker, canary, last_exit, state};
use super::{history, json, status};
use crate::alike::closest;
use crate::args::Format;
use crate::control::Control;
use crate::exit::{Exit, Failure};
use crate::print::{Printer, one_line};
use crate::table::{NOTHING, bytes, duration, joined, milliseconds};

/// What has the name.
#[derive(Debug, Default, Serialize)]
struct Found<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<App<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Tenant<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<Pool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a WorkerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<&'a ListenerStatus>,
}

#[derive(Debug, Serialize)]
struct App<'a> {
    #[serde(flatten)]
    status: &'a AppStatus,
    history: &'a AppHistory,
}

#[derive(Debug, Serialize)]
struct Tenant<'a> {
    #[serde(flatten)]
    status: &'a TenantStatus,
    #[serde(rename = "deployed")]
    apps: Vec<&'a AppStatus>,
}

#[derive(Debug, Serialize)]
struct Pool<'a> {
    #[serde(flatten)]
    status: &'a PoolStatus,
    listeners: Vec<&'a ListenerStatus>,
    apps: Vec<&'a AppStatus>,
    #[serde(rename = "members")]
    workers: Vec<&'a WorkerStatus>,
}

/// Asks the primary and prints what it says.
pub(super) fn run(
    control: &Control,
    what: &str,
    format: Format,
    printer: Printer,
) -> Result<(), Failure> {
    let mut client = control.connect()?;
    let status = client.status().map_err(|error| control.failed(error))?;
    let history = if status.apps.iter().any(|app| app.name.as_str() == what) {
        let history = client.history(what);
        Some(history.map_err(|error| control.failed(error))?)
    } else {
        None
    };
    let found = find(&status, history.as_ref(), what).ok_or_else(|| unknown(&status, what))?;
    match format {
        Format::Text => printer.data(&render(&found)),
        Format::Json => printer.data(&json(&found)?),
    }
}

fn find<'a>(
    status: &'a FleetStatus,
    history: Option<&'a AppHistory>,
    what: &str,
) -> Option<Found<'a>> {
    let app = status.apps.iter().find(|app| app.name.as_str() == what);
    let pool = status.pools.iter().find(|pool| pool.name.as_str() == what);
    let named = |tenant: &&TenantStatus| tenant.name.as_str() == what;
    let tenant = status.tenants.iter().find(named);
    let found = Found {
        app: app
            .zip(history)
            .map(|(status, history)| App { status, history }),
        tenant: tenant.map(|tenant| Tenant {
            status: tenant,
            apps: belonging(&status.apps, |app| app.tenant == tenant.name),
        }),
        pool: pool.map(|pool| Pool {
            status: pool,
            listeners: belonging(&status.listeners, |listener| {
                listener.pools.contains(&pool.name)
            }),
            apps: belonging(&status.apps, |app| app.pool == pool.name),
            workers: belonging(&status.workers, |worker| worker.pool == pool.name),
        }),
        worker: status
            .workers
            .iter()
            .find(|worker| what.parse() == Ok(worker.id.0)),
        listener: status
            .listeners
            .iter()
            .find(|listener| listener.name.as_str() == what),
    };
    let any = found.app.is_some()
        || found.tenant.is_some()
        || found.pool.is_some()
        || found.worker.is_some()
        || found.listener.is_some();
    any.then_some(found)
}

fn belonging<T>(all: &[T], belongs: impl Fn(&T) -> bool) -> Vec<&T> {
    all.iter().filter(|one| belongs(one)).collect()
}

fn unknown(status: &FleetStatus, what: &str) -> Failure {
    let apps = status.apps.iter().map(|app| app.name.as_str());
    let tenants = status.tenants.iter().map(|tenant| tenant.name.as_str());
    let pools = status.pools.iter().map(|pool| pool.name.as_str());
    let listeners = status
        .listeners
        .iter()
        .map(|listener| listener.name.as_str());
    let failure = Failure::new(
        Exit::Usage,
        format!("there is no app, tenant, pool, worker or listener `{what}`"),
    );
    match closest(what, apps.chain(tenants).chain(pools).chain(listeners)) {
        Some(other) => failure.hint(format!("did you mean `{other}`?")),
        None => failure.hint("`skep status` shows what there is"),
    }
}

fn render(found: &Found<'_>) -> String {
    let parts = [
        found.app.as_ref().map(app),
        found.tenant.as_ref().map(tenant),
        found.pool.as_ref().map(pool),
        found.worker.map(worker),
        found.listener.map(listener),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn app(app: &App<'_>) -> String {
    let App {
        status: app,
        history,
    } = app;
    let mut rows = vec![
        ("tenant", app.tenant.to_string()),
        ("pool", app.pool.to_string()),
        ("state", state(app)),
    ];
    rows.extend(app.reason.clone().map(|reason| ("reason", reason)));
    rows.push(("revision", app.revision.to_string()));
    rows.extend(canary(app).map(|canary| ("canary", canary)));
    rows.extend([
        ("digest", app.digest.clone()),
        ("source", app.source.clone()),
        ("wasi", app.wasi.clone()),
        ("routes", app.routes.join(" ")),
    ]);
    rows.extend(figures(&app.figures));
    rows.extend(limits(&app.limits));
    rows.extend([
        ("outbound", listed(&app.grants.outbound)),
        ("env", listed(&app.grants.env)),
        ("config", listed(&app.grants.config)),
    ]);
    let revisions = history::render(history);
    format!("{}\n{revisions}", block("app", &app.name, rows))
}

fn tenant(tenant: &Tenant<'_>) -> String {
    let status = tenant.status;
    let limits = &status.limits;
    let none = || "no limit".to_owned();
    let mut rows = vec![
        ("isolation", status::isolation(status).to_owned()),
        ("pools", joined(&status.pools)),
    ];
    rows.extend(figures(&status.figures));
    let calls = limits.concurrency.map(|calls| calls.to_string());
    rows.extend([
        (
            "memory",
            limits
                .memory_bytes
                .map_or_else(none, |most| format!("{} a worker", bytes(most))),
        ),
        ("concurrency", calls.unwrap_or_else(none)),
        ("rate", limits.rate.clone().unwrap_or_else(none)),
    ]);
    let apps = status::apps(tenant.apps.iter().copied());
    format!("{}\n{apps}", block("tenant", &status.name, rows))
}

fn pool(pool: &Pool<'_>) -> String {
    let status = pool.status;
    let mut rows = vec![
        ("serving", format!("{}/{}", status.serving, status.workers)),
        ("breaker", breaker(status.breaker).to_owned()),
    ];
    rows.extend(
        status
            .rolling
            .map(|left| ("rolling", format!("{left} left"))),
    );
    rows.extend([
        ("spawns", status.spawns.to_string()),
        ("restarts", status.restarts.to_string()),
        ("crashes", status.crashes_in_window.to_string()),
    ]);
    rows.extend(
        status
            .last_exit
            .as_ref()
            .map(|exit| ("last exit", last_exit(exit))),
    );
    rows.extend(
        pool.listeners
            .iter()
            .map(|listener| ("listener", listener.address.clone())),
    );
    format!(
        "{}\n{}\n{}",
        block("pool", &status.name, rows),
        status::workers(pool.workers.iter().copied()),
        status::apps(pool.apps.iter().copied()),
    )
}

fn worker(worker: &WorkerStatus) -> String {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let latency = worker.latency.as_ref();
    let rows = vec![
        ("pool", worker.pool.to_string()),
        ("slot", worker.slot.to_string()),
        ("pid", worker.pid.to_string()),
        ("state", worker.state.clone()),
        ("generation", worker.generation.to_string()),
        ("up", duration(worker.uptime_seconds)),
        (
            "ready after",
            or_nothing(worker.ready_after_ms.map(milliseconds)),
        ),
        (
            "connections",
            format!("{}, {} ever", worker.connections, worker.accepted),
        ),
        (
            "requests",
            format!("{}, {} in flight", worker.requests, worker.in_flight),
        ),
        ("outcomes", counted(&worker.outcomes)),
        ("p50", quantile(latency, |latency| latency.p50_ms)),
        ("p99", quantile(latency, |latency| latency.p99_ms)),
        ("cpu", duration(worker.cpu_seconds)),
        ("rss", bytes(worker.rss_bytes)),
    ];
    block("worker", &worker.id, rows)
}

fn listener(listener: &ListenerStatus) -> String {
    let rows = vec![
        ("address", listener.address.clone()),
        ("pools", joined(&listener.pools)),
    ];
    block("listener", &listener.name, rows)
}

/// A headline, and under it what is known, a line each.
fn block(kind: &str, name: &dyn std::fmt::Display, rows: Vec<(&'static str, String)>) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = format!("{kind} {name}\n");
    for (key, value) in rows {
        text.push_str(&format!("  {key:<width$}  {}\n", one_line(&value)));
    }
    text
}

#[cfg(test)]
mod tests;
