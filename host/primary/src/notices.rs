//! The supervisor's notices as log records (SPEC §5).

use std::time::Duration;

use skep_core::supervise::{FailureKind, Notice};
use skep_core::{ExitReason, Generation, LogLevel, PoolName, Record, SlotIndex, WorkerId};

use crate::journal::Journal;
use crate::pool::Counts;

/// What the primary knows about a worker that its notice does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// Its process, if there is one.
    pub(crate) pid: Option<u32>,
    /// The specification it serves.
    pub(crate) generation: Option<Generation>,
    /// How long it took from exec to ready.
    pub(crate) ready_after: Option<Duration>,
    /// What it counted.
    pub(crate) counts: Option<Counts>,
    /// Requests that it was working on.
    pub(crate) in_flight: u32,
}

/// The worker that a notice is about, if there is one.
pub(crate) const fn subject(notice: &Notice) -> Option<WorkerId> {
    match notice {
        Notice::Spawned { worker, .. }
        | Notice::Ready { worker, .. }
        | Notice::Draining { worker, .. }
        | Notice::Exited { worker, .. }
        | Notice::Kept { worker, .. } => Some(*worker),
        Notice::Recycling { worker, .. } => Some(*worker),
        Notice::Tripped { .. }
        | Notice::Probing { .. }
        | Notice::Reset { .. }
        | Notice::Rolled { .. }
        | Notice::RollFailed { .. } => None,
    }
}

/// Writes a notice.
pub(crate) fn write(journal: &Journal, notice: &Notice, known: &Known) {
    let place = |pool: &PoolName, worker: WorkerId, slot: SlotIndex| {
        let (pool, known) = (pool.clone(), *known);
        move |mut line: Record| {
            line = line
                .text("pool", pool.as_str())
                .number("worker", worker)
                .number("slot", slot);
            if let Some(pid) = known.pid {
                line = line.number("pid", pid);
            }
            match known.generation {
                Some(generation) => line.number("generation", generation),
                None => line,
            }
        }
    };
    match notice {
        Notice::Spawned {
            worker, pool, slot, ..
        } => journal.event(
            LogLevel::Info,
            "worker.spawned",
            place(pool, *worker, *slot),
        ),
        Notice::Ready { worker, pool, slot } => {
            journal.event(LogLevel::Info, "worker.ready", |line| {
                let line = place(pool, *worker, *slot)(line);
                match known.ready_after {
                    Some(after) => {
                        line.text("after", &format!("{:.1}ms", after.as_secs_f64() * 1000.0))
                    }
                    None => line,
                }
            });
        }
        Notice::Draining { worker, pool, slot } => {
            journal.event(
                LogLevel::Info,
                "worker.draining",
                place(pool, *worker, *slot),
            );
        }
        Notice::Exited {
            worker,
            pool,
            slot,
            reason,
            voluntary,
        } => {
            let level = if *voluntary {
                LogLevel::Info
            } else {
                LogLevel::Warn
            };
            journal.event(level, "worker.exited", |line| {
                let mut line = place(pool, *worker, *slot)(line).number("voluntary", voluntary);
                line = reason_of(line, reason);
                match known.counts {
                    Some(counts) => line
                        .number("accepted", counts.accepted)
                        .number("requests", counts.requests)
                        .number("cut", known.in_flight),
                    None => line,
                }
            });
        }
        Notice::Kept { worker, pool, slot } => {
            journal.event(LogLevel::Warn, "worker.kept", place(pool, *worker, *slot));
        }
        Notice::Tripped {
            pool,
            kind,
            crashes,
            last,
        } => journal.event(LogLevel::Error, "pool.tripped", |line| {
            let line = line
                .text("pool", pool.as_str())
                .text(
                    "kind",
                    match kind {
                        FailureKind::Startup => "startup",
                        FailureKind::Runtime => "runtime",
                    },
                )
                .number("crashes", crashes);
            reason_of(line, last)
        }),
        Notice::Rolled { pool, replaced } => journal.event(LogLevel::Info, "pool.rolled", |line| {
            line.text("pool", pool.as_str())
                .number("replaced", replaced)
        }),
        Notice::RollFailed {
            pool,
            reason,
            replaced,
            left,
        } => journal.event(LogLevel::Error, "pool.roll_failed", |line| {
            line.text("pool", pool.as_str())
                .number("replaced", replaced)
                .number("left", left)
                .text("reason", &reason.to_string())
        }),
        Notice::Recycling {
            worker,
            pool,
            slot,
            cause,
        } => journal.event(LogLevel::Info, "worker.recycling", |line| {
            place(pool, *worker, *slot)(line).text("reason", cause.name())
        }),
        Notice::Probing { pool } => journal.event(LogLevel::Warn, "pool.probing", |line| {
            line.text("pool", pool.as_str())
        }),
        Notice::Reset { pool } => {
            journal.event(LogLevel::Info, "pool.reset", |line| {
                line.text("pool", pool.as_str())
            });
        }
    }
}

/// One sentence for an operator who waits for a shutdown, where it is one.
pub(crate) fn progress(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Draining { worker, pool, .. } => {
            Some(format!("worker {worker} of pool {pool} is draining"))
        }
        Notice::Exited {
            worker,
            pool,
            reason,
            ..
        } => Some(format!("worker {worker} of pool {pool} is gone: {reason}")),
        _ => None,
    }
}

/// Adds why a process ended.
pub(crate) fn reason_of(line: Record, reason: &ExitReason) -> Record {
    let line = line.text("reason", reason.name());
    match reason {
        ExitReason::Crash { code } => line.number("code", code),
        ExitReason::Signal { signal } => line.number("signal", signal),
        ExitReason::ValidationFailed { message } | ExitReason::SpawnFailed { message } => {
            line.text("message", message)
        }
        ExitReason::Requested
        | ExitReason::OutOfMemory
        | ExitReason::StartTimeout
        | ExitReason::Hung
        | ExitReason::DrainTimeout => line,
    }
}
