//! What requests came to, and limits, in words.

use std::collections::BTreeMap;

use skep_wire::{AppLimitsStatus, FiguresStatus, LatencyStatus};

use crate::table::{NOTHING, bytes, count, duration, milliseconds};

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

/// What requests came to, a line for each kind of figure.
pub(super) fn figures(figures: &FiguresStatus) -> Vec<(&'static str, String)> {
    let latency = figures.latency.as_ref().map_or_else(
        || "no request in the last minute".to_owned(),
        |latency| {
            let (p50, p99) = (milliseconds(latency.p50_ms), milliseconds(latency.p99_ms));
            format!("p50 {p50}, p99 {p99} in the last minute")
        },
    );
    let cpu = duration(figures.guest_cpu_seconds);
    vec![
        (
            "requests",
            format!(
                "{}, {} in flight, {} queued",
                figures.requests, figures.in_flight, figures.queued
            ),
        ),
        ("outcomes", counted(&figures.outcomes)),
        ("statuses", counted(&figures.status)),
        ("latency", latency),
        (
            "instances",
            format!(
                "{}, {} held, {cpu} of CPU used",
                figures.instances,
                bytes(figures.guest_memory_bytes)
            ),
        ),
    ]
}

/// What an app may not exceed, a line for each kind of limit.
pub(super) fn limits(limits: &AppLimitsStatus) -> Vec<(&'static str, String)> {
    let (reuse, concurrent) = (limits.instance_reuse, limits.instance_concurrent);
    vec![
        (
            "time",
            format!(
                "{}s, {}s of CPU",
                limits.timeout_seconds, limits.cpu_seconds
            ),
        ),
        (
            "memory",
            format!("{} an instance", bytes(limits.memory_bytes)),
        ),
        (
            "concurrency",
            format!("{}, and {} may wait", limits.concurrency, limits.queue),
        ),
        (
            "rate",
            limits.rate.clone().unwrap_or_else(|| "no limit".to_owned()),
        ),
        ("body", bytes(limits.max_body_bytes)),
        (
            "log",
            format!("{}/s a worker", bytes(limits.log_rate_bytes)),
        ),
        (
            "connections",
            format!("{} outbound", limits.outbound_connections),
        ),
        (
            "instance",
            format!(
                "{}, {concurrent} at a time",
                count(reuse as usize, "request")
            ),
        ),
    ]
}

/// Names with their counts.
pub(super) fn counted(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
    listed(&counts.collect::<Vec<_>>())
}

/// Names in one line.
pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return NOTHING.to_owned();
    }
    names.join(", ")
}
