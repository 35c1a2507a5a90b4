//! How instances of an app are used.

use std::ops::RangeInclusive;
use std::time::Duration;

use skep_core::InstancePolicy;

use crate::document::{Entry, Schema};
use crate::elements::{count, duration};
use crate::report::Reported;

static SCHEMA: Schema = Schema {
    title: "`instance`",
    keys: &["reuse", "concurrent", "idle"],
    unavailable: &[],
};

const REUSE: RangeInclusive<u32> = 1..=1_000_000_000;
const CONCURRENT: RangeInclusive<u32> = 1..=10_000;
const IDLE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

pub(crate) fn read(entry: &Entry<'_>) -> Result<InstancePolicy, Reported> {
    let section = entry
        .as_section(&SCHEMA, SCHEMA.title)
        .ok_or_else(|| entry.wrong_type("a table", "{ reuse = 128, idle = \"1s\" }"))?;
    let mut policy = InstancePolicy::default();
    let reuse = section
        .get("reuse")
        .map(|entry| count::read(&entry, &REUSE));
    let concurrent = section
        .get("concurrent")
        .map(|entry| count::read(&entry, &CONCURRENT));
    section.set(&mut policy.idle, "idle", |entry| {
        duration::read(entry, &IDLE)
    });
    policy.reuse = reuse.unwrap_or(Ok(policy.reuse))?;
    policy.concurrent = concurrent.unwrap_or(Ok(policy.concurrent))?;
    if policy.concurrent > policy.reuse
        && let Some(entry) = section.get("concurrent").or_else(|| section.get("reuse"))
    {
        return Err(entry
            .problem(format!(
                "`concurrent` is {}, but an instance answers only {} (`reuse`)",
                policy.concurrent, policy.reuse
            ))
            .hint("`concurrent` may be at most `reuse`")
            .report());
    }
    Ok(policy)
}
