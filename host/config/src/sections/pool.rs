//! `[pool.NAME]`: a set of workers and how they are supervised.

use std::ops::RangeInclusive;
use std::time::Duration;

use skep_core::{Dispatch, PoolName, PoolSpec, SupervisionSettings};

use crate::document::{Entry, Schema, Section, Spanned};
use crate::elements::{choice, count, duration, workers};
use crate::report::Reported;
use crate::sections::{Declared, named};

pub(crate) static SCHEMA: Schema = Schema {
    title: "[pool.NAME]",
    keys: &[
        "workers",
        "dispatch",
        "start_timeout",
        "min_uptime",
        "crash_window",
        "max_crashes",
        "backoff",
        "backoff_max",
        "hang_timeout",
        "drain_timeout",
        "kill_timeout",
        "probe_interval",
    ],
    unavailable: &[
        (
            "memory",
            "a worker's memory is bounded by its apps' `memory` and `concurrency`",
        ),
        (
            "memory_soft",
            "workers are not replaced for the memory they use",
        ),
        ("user", "workers run as the user that started skep"),
        (
            "max_requests",
            "workers are not replaced after a number of requests",
        ),
        ("max_age", "workers are not replaced for their age"),
        ("surge", "workers are not replaced while they serve"),
        (
            "max_unavailable",
            "workers are not replaced while they serve",
        ),
    ],
};

const DISPATCH: &[(&str, Dispatch)] = &[("balanced", Dispatch::Balanced)];
const DISPATCH_LATER: &[&str] = &["round-robin", "least-connections"];

const SHORT: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

const START: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const UPTIME: RangeInclusive<Duration> = SHORT..=DAY;
const WINDOW: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;
/// More than this in one window is the fork bomb that the breaker is for.
const CRASHES: RangeInclusive<u32> = 1..=1000;
const BACKOFF: RangeInclusive<Duration> = SHORT..=HOUR;
/// A worker beats several times a second; less than a second of silence on a
/// loaded machine is no hang.
const HANG: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const KILL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const PROBE: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;

/// A pool that was read.
pub(crate) struct DeclaredPool {
    pub(crate) name: PoolName,
    pub(crate) spec: PoolSpec,
}

/// The pool that exists without being declared.
pub(crate) fn default(parallelism: u16) -> PoolSpec {
    PoolSpec {
        workers: workers::auto(parallelism),
        dispatch: Dispatch::default(),
        supervision: SupervisionSettings::default(),
    }
}

pub(crate) fn read_all(file: &Section<'_>, parallelism: u16) -> Declared<DeclaredPool> {
    named(file, "pool", &SCHEMA, PoolName::new, |name, section| {
        read(name, section, parallelism)
    })
}

fn read(
    name: Option<Spanned<PoolName>>,
    section: &Section<'_>,
    parallelism: u16,
) -> Option<DeclaredPool> {
    let mut spec = default(parallelism);
    section.set(&mut spec.workers, "workers", |entry| {
        workers::read(entry, parallelism)
    });
    section.set(&mut spec.dispatch, "dispatch", |entry| {
        choice::read(entry, DISPATCH, DISPATCH_LATER)
    });
    spec.supervision = read_supervision(section);
    Some(DeclaredPool {
        name: name?.value,
        spec,
    })
}

fn read_supervision(section: &Section<'_>) -> SupervisionSettings {
    let mut settings = SupervisionSettings::default();
    let within =
        |range: RangeInclusive<Duration>| move |entry: &Entry<'_>| duration::read(entry, &range);
    section.set(&mut settings.start_timeout, "start_timeout", within(START));
    section.set(&mut settings.min_uptime, "min_uptime", within(UPTIME));
    section.set(&mut settings.crash_window, "crash_window", within(WINDOW));
    section.set(&mut settings.max_crashes, "max_crashes", |entry| {
        count::read(entry, &CRASHES)
    });
    section.set(&mut settings.hang_timeout, "hang_timeout", within(HANG));
    section.set(&mut settings.drain_timeout, "drain_timeout", within(DRAIN));
    section.set(&mut settings.kill_timeout, "kill_timeout", within(KILL));
    section.set(
        &mut settings.probe_interval,
        "probe_interval",
        within(PROBE),
    );
    read_backoff(section, &mut settings);
    settings
}

fn read_backoff(section: &Section<'_>, settings: &mut SupervisionSettings) {
    let first = section.get("backoff");
    let longest = section.get("backoff_max");
    let read = |entry: &Option<Entry<'_>>, setting: &mut Duration| -> Result<(), Reported> {
        if let Some(entry) = entry {
            *setting = duration::read(entry, &BACKOFF)?;
        }
        Ok(())
    };
    let first_read = read(&first, &mut settings.backoff);
    let longest_read = read(&longest, &mut settings.backoff_max);
    if first_read.is_err() || longest_read.is_err() || settings.backoff <= settings.backoff_max {
        return;
    }
    let message = format!(
        "`backoff` is {} and `backoff_max`, its limit, only {}",
        duration::shown(settings.backoff),
        duration::shown(settings.backoff_max),
    );
    match (&first, &longest) {
        (Some(first), Some(longest)) => {
            first
                .problem(message)
                .also(&longest.span, "the limit")
                .report();
        }
        (Some(only), None) => {
            only.problem(message).hint("set `backoff_max` too").report();
        }
        (None, Some(only)) => {
            only.problem(message).hint("set `backoff` too").report();
        }
        (None, None) => unreachable!("the defaults are in order"),
    }
}
