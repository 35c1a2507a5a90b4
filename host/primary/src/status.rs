//! Putting the status document together: what the supervisor knows, what
//! workers count, and what `/proc` says of their processes.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_core::supervise::{BreakerState, PoolView, WorkerState, WorkerView};
use skep_core::{BUCKETS, LatencyCounts, Moment, Outcome};
use skep_sys::{Cell, OUTCOMES, process};
use skep_wire::{BreakerStatus, Flavor, LastExit, LatencyStatus, PoolStatus, WorkerStatus};

const _: () = assert!(BUCKETS == skep_sys::BUCKETS, "one histogram, two crates");

/// One pool; `pid_of_last` is the process of the worker that exited last.
pub(crate) fn of_pool(view: PoolView, pid_of_last: Option<u32>, now: Moment) -> PoolStatus {
    PoolStatus {
        name: view.name,
        workers: view.workers,
        serving: view.serving,
        breaker: match view.breaker {
            BreakerState::Admitting => BreakerStatus::Admitting,
            BreakerState::Tripped { .. } => BreakerStatus::Tripped,
            BreakerState::Probing { .. } => BreakerStatus::Probing,
        },
        rolling: view.rolling,
        spawns: view.spawns,
        restarts: view.restarts,
        crashes_in_window: view.crashes_in_window,
        last_exit: view.last_exit.map(|exit| LastExit {
            worker: exit.worker,
            pid: pid_of_last.unwrap_or(0),
            slot: exit.slot,
            voluntary: exit.voluntary,
            reason: exit.reason,
            seconds_ago: now.since(exit.at).as_secs_f64(),
        }),
    }
}

/// One worker and its process.
pub(crate) fn of_worker(
    view: WorkerView,
    pid: u32,
    cell: Option<&Cell>,
    now: Moment,
) -> WorkerStatus {
    let ready_after = match view.state {
        WorkerState::Starting => None,
        _ => view.ready_at.map(|at| at.since(view.spawned_at)),
    };
    WorkerStatus {
        id: view.id,
        pool: view.pool,
        slot: view.slot,
        pid,
        state: view.state.name().to_owned(),
        uptime_seconds: now.since(view.spawned_at).as_secs_f64(),
        generation: view.generation,
        ready_after_ms: ready_after.map(millis),
        connections: cell.map_or(0, Cell::connections),
        accepted: cell.map_or(0, Cell::accepted),
        requests: cell.map_or(0, Cell::requests),
        in_flight: cell.map_or(0, Cell::in_flight),
        outcomes: cell
            .map(|cell| outcomes(&cell.outcomes()))
            .unwrap_or_default(),
        latency: cell.and_then(|cell| latency(&LatencyCounts(cell.latency()))),
        rss_bytes: process::memory(pid).map_or(0, |memory| memory.rss_bytes),
        cpu_seconds: process::cpu(pid).map_or(0.0, |cpu| cpu.as_secs_f64()),
    }
}

/// The version of `wasi:http` that an artifact speaks.
pub(crate) const fn wasi(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::P2 => "0.2",
        Flavor::P3 => "0.3",
    }
}

/// Outcomes that occurred, by name.
pub(crate) fn outcomes(counts: &[u64; OUTCOMES]) -> BTreeMap<String, u64> {
    Outcome::ALL
        .into_iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(outcome, count)| (outcome.name().to_owned(), *count))
        .collect()
}

fn latency(counts: &LatencyCounts) -> Option<LatencyStatus> {
    Some(LatencyStatus {
        p50_ms: millis(counts.quantile(0.5)?),
        p99_ms: millis(counts.quantile(0.99)?),
    })
}

/// In milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use skep_core::supervise::FailureKind;
    use skep_core::{ExitReason, Generation, PoolName, SlotIndex, WorkerId};
    use skep_sys::Board;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_origin(Duration::from_millis(millis))
    }

    #[test]
    fn a_worker_is_what_three_sources_say() {
        let board = Board::create(1).unwrap();
        let cell = board.cell(0).unwrap();
        cell.reset(7);
        cell.connection_opened();
        cell.request_started();
        cell.request_started();
        let bucket = skep_core::bucket_of(Duration::from_micros(100));
        cell.request_ended(Outcome::Deadline as usize, bucket, false);
        let view = WorkerView {
            id: WorkerId(7),
            pool: PoolName::new("default").unwrap(),
            slot: SlotIndex(1),
            generation: Generation(1),
            attempt: 1,
            state: WorkerState::Serving,
            since: at(1012),
            spawned_at: at(1000),
            ready_at: Some(at(1012)),
        };
        let status = of_worker(view, std::process::id(), Some(cell), at(3000));
        assert_eq!(status.state, "serving");
        assert_eq!((status.connections, status.accepted), (1, 1));
        assert_eq!((status.requests, status.in_flight), (2, 1));
        assert_eq!(
            status.outcomes,
            BTreeMap::from([("deadline".to_owned(), 1)])
        );
        assert!((status.uptime_seconds - 2.0).abs() < 1e-9);
        assert!((status.ready_after_ms.unwrap() - 12.0).abs() < 1e-9);
        assert!(status.latency.unwrap().p99_ms < 0.2);
        assert!(status.rss_bytes > 0);
    }

    #[test]
    fn a_pool_tells_its_last_exit() {
        let view = PoolView {
            name: PoolName::new("default").unwrap(),
            generation: Generation(1),
            workers: 2,
            serving: 1,
            breaker: BreakerState::Tripped {
                kind: FailureKind::Startup,
                probe_at: at(9000),
            },
            rolling: None,
            spawns: 5,
            restarts: 3,
            crashes_in_window: 5,
            last_exit: Some(skep_core::supervise::LastExit {
                worker: WorkerId(5),
                slot: SlotIndex(0),
                reason: ExitReason::Signal { signal: 9 },
                voluntary: false,
                at: at(1000),
            }),
        };
        let status = of_pool(view, Some(42), at(2500));
        assert_eq!(status.breaker, BreakerStatus::Tripped);
        let exit = status.last_exit.unwrap();
        assert_eq!((exit.pid, exit.worker), (42, WorkerId(5)));
        assert!((exit.seconds_ago - 1.5).abs() < 1e-9);
    }
}
