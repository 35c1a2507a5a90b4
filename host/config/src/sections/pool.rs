//! `[pool.NAME]`: a set of workers and how they are supervised.

use std::ops::RangeInclusive;
use std::time::Duration;

use skep_core::{Dispatch, PoolName, PoolSpec, SupervisionSettings};

use crate::document::{Entry, Schema, Section, Spanned};
use crate::elements::{choice, count, duration, size, user, workers};
use crate::report::Reported;
use crate::sections::{Declared, named};

pub(crate) static SCHEMA: Schema = Schema {
    title: "[pool.NAME]",
    keys: &[
        "workers",
        "dispatch",
        "user",
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
        "surge",
        "max_unavailable",
        "max_requests",
        "max_age",
        "memory",
        "memory_soft",
    ],
    unavailable: &[],
};

const DISPATCH: &[(&str, Dispatch)] = &[
    ("balanced", Dispatch::Balanced),
    ("round-robin", Dispatch::RoundRobin),
    ("least-connections", Dispatch::LeastConnections),
];

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
/// Up to twice the largest pool at one time.
const SURGE: RangeInclusive<u16> = 0..=workers::MAX_WORKERS;
const MAX_UNAVAILABLE: RangeInclusive<u16> = 0..=workers::MAX_WORKERS - 1;
const REQUESTS: RangeInclusive<u64> = 0..=1_000_000_000;
/// Below a second workers would do little else than start.
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(365 * 24);
/// An idle worker takes 13 MiB; with a limit below that none would stay.
const MEMORY: RangeInclusive<u64> = 16 << 20..=1 << 40;

/// A pool that was read.
pub(crate) struct DeclaredPool {
    pub(crate) name: PoolName,
    pub(crate) spec: PoolSpec,
    /// What a worker may have, and where that is written; `None` is no limit.
    pub(crate) memory: Option<Spanned<u64>>,
}

/// The pool that exists without being declared.
pub(crate) fn default(parallelism: u16) -> PoolSpec {
    PoolSpec {
        workers: workers::auto(parallelism),
        dispatch: Dispatch::default(),
        supervision: SupervisionSettings::default(),
        user: None,
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
    let declared = section.get("workers");
    let workers = match &declared {
        Some(entry) => workers::read(entry, parallelism),
        None => Ok(spec.workers),
    };
    spec.workers = workers.unwrap_or(spec.workers);
    section.set(&mut spec.dispatch, "dispatch", |entry| {
        choice::read(entry, DISPATCH)
    });
    spec.user = section.read("user", user::read);
    spec.supervision = read_supervision(section);
    let of = workers.ok().map(|workers| (workers, declared.as_ref()));
    read_replacement(section, of, &mut spec.supervision);
    read_memory(section, &mut spec.supervision);
    let memory = section
        .get("memory")
        .filter(|_| spec.supervision.memory > 0)
        .map(|entry| Spanned {
            value: spec.supervision.memory,
            span: entry.span,
        });
    Some(DeclaredPool {
        name: name?.value,
        spec,
        memory,
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
    section.set(&mut settings.max_requests, "max_requests", |entry| {
        count::read(entry, &REQUESTS)
    });
    section.set(&mut settings.max_age, "max_age", |entry| {
        duration::read_or_zero(entry, &AGE, "never")
    });
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

/// How many workers may be started before, and be missing while, others are
/// replaced, `of` so many workers, declared there. Reports what would never
/// end, and what would leave nobody.
fn read_replacement(
    section: &Section<'_>,
    of: Option<(u16, Option<&Entry<'_>>)>,
    settings: &mut SupervisionSettings,
) {
    let surge = section.get("surge");
    let unavailable = section.get("max_unavailable");
    let surge_read = surge.as_ref().map(|entry| count::read(entry, &SURGE));
    let unavailable_read = unavailable
        .as_ref()
        .map(|entry| count::read(entry, &MAX_UNAVAILABLE));
    if let Some(read) = surge_read {
        let Ok(read) = read else { return };
        settings.surge = read;
    }
    if let Some(read) = unavailable_read {
        let Ok(read) = read else { return };
        settings.max_unavailable = read;
    }
    if settings.surge == 0
        && settings.max_unavailable == 0
        && let Some(entry) = &surge
    {
        let draft = entry
            .problem("with `surge` and `max_unavailable` both 0 no worker could be replaced")
            .hint("`surge = 1` starts a new worker before an old one goes");
        match &unavailable {
            Some(other) => draft.also(&other.span, "the other").report(),
            None => draft.label("`max_unavailable` is 0 by default").report(),
        };
    }
    if let (Some(entry), Some((workers, declared))) = (&unavailable, of)
        && settings.max_unavailable >= workers
    {
        let message = format!(
            "`max_unavailable` must be less than the {} of the pool, not {}",
            match workers {
                1 => "one worker".to_owned(),
                workers => format!("{workers} workers"),
            },
            settings.max_unavailable,
        );
        let draft = entry
            .problem(message)
            .hint("one worker at least goes on serving while others are replaced");
        match declared {
            Some(declared) => draft.also(&declared.span, "the workers").report(),
            None => draft.report(),
        };
    }
}

fn read_memory(section: &Section<'_>, settings: &mut SupervisionSettings) {
    section.set(&mut settings.memory, "memory", |entry| {
        size::read_or_zero(entry, &MEMORY, "no limit")
    });
    let Some(entry) = section.get("memory_soft") else {
        return;
    };
    let Ok(soft) = size::read_or_zero(&entry, &MEMORY, "80 % of `memory`") else {
        return;
    };
    settings.memory_soft = soft;
    if settings.memory > 0
        && soft > settings.memory
        && let Some(memory) = section.get("memory")
    {
        entry
            .problem(format!(
                "`memory_soft` is {} and `memory`, its limit, only {}",
                size::shown(soft),
                size::shown(settings.memory),
            ))
            .also(&memory.span, "the limit")
            .hint("leave `memory_soft` out for 80 % of `memory`")
            .report();
    }
}
