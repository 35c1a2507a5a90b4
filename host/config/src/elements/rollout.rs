//! How another revision of an app takes over.

use std::ops::RangeInclusive;
use std::time::Duration;

use skep_core::{Portion, RolloutSpec, Strategy};

use crate::document::{Entry, Schema};
use crate::elements::{choice, count, duration, portion};
use crate::report::Reported;

const EXAMPLE: &str = "{ strategy = \"swap\", observe = \"10s\" }";

static SCHEMA: Schema = Schema {
    title: "`rollout`",
    keys: &[
        "strategy",
        "canary",
        "observe",
        "max_error_rate",
        "max_latency",
        "keep",
    ],
    unavailable: &[],
};

const STRATEGIES: &[(&str, Strategy)] = &[("swap", Strategy::Swap), ("restart", Strategy::Restart)];

/// From the smallest portion that can be written.
const CANARY: RangeInclusive<Portion> = Portion(1)..=Portion::ALL;
const OBSERVE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const ERROR_RATE: RangeInclusive<Portion> = Portion(0)..=Portion::ALL;
/// Below 100 % a revision that is as fast as the old one would be rolled back;
/// above a hundredfold the limit is none.
const LATENCY: RangeInclusive<Portion> = Portion::ALL..=Portion::percent(10_000);
/// With fewer than two there is none to return to.
const KEEP: RangeInclusive<u16> = 2..=1000;

pub(crate) fn read(entry: &Entry<'_>) -> Result<RolloutSpec, Reported> {
    let section = entry
        .as_section(&SCHEMA, SCHEMA.title)
        .ok_or_else(|| entry.wrong_type("a table", EXAMPLE))?;
    let mut rollout = RolloutSpec::default();
    section.set(&mut rollout.strategy, "strategy", |entry| {
        choice::read(entry, STRATEGIES)
    });
    rollout.canary = section.read("canary", |entry| portion::read(entry, &CANARY));
    section.set(&mut rollout.observe, "observe", |entry| {
        duration::read(entry, &OBSERVE)
    });
    section.set(&mut rollout.max_error_rate, "max_error_rate", |entry| {
        portion::read(entry, &ERROR_RATE)
    });
    section.set(&mut rollout.max_latency, "max_latency", read_latency);
    section.set(&mut rollout.keep, "keep", |entry| count::read(entry, &KEEP));
    Ok(rollout)
}

fn read_latency(entry: &Entry<'_>) -> Result<Portion, Reported> {
    let found = portion::read_any(entry)?;
    if found == Portion(0) || LATENCY.contains(&found) {
        return Ok(found);
    }
    Err(entry
        .problem(format!(
            "`max_latency` must be between {} and {}, or 0% for no limit, not {found}",
            LATENCY.start(),
            LATENCY.end(),
        ))
        .hint("it is a share of the old revision's latency: 160% is 1.6 times as slow")
        .report())
}
