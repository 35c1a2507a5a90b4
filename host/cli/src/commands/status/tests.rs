use std::collections::BTreeMap;

use skep_core::{AppName, ExitReason, Generation, ListenerName, Revision, SlotIndex};
use skep_core::{TenantName, WorkerId};
use skep_wire::{
    AppLimitsStatus, DispatchCounts, DispatcherStatus, GrantsStatus, ListenerStatus,
    TenantLimitsStatus,
};

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

fn figures(requests: u64) -> FiguresStatus {
    if requests == 0 {
        return FiguresStatus::default();
    }
    FiguresStatus {
        requests,
        outcomes: BTreeMap::from([("ok".into(), requests - 3), ("trap".into(), 2)]),
        status: BTreeMap::from([("2xx".into(), requests - 3), ("5xx".into(), 2)]),
        latency: Some(LatencyStatus {
            p50_ms: 0.2,
            p99_ms: 14.2,
        }),
        in_flight: 1,
        queued: 0,
        instances: 1,
        guest_memory_bytes: 3 << 20,
        guest_cpu_seconds: 61.5,
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
        operations: vec!["deploy of hello".into()],
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
            state: AppState::Paused,
            reason: None,
            revision: Revision(7),
            canary: Some((Revision(8), 1250)),
            paused: true,
            rollout: Some("canary".into()),
            digest: "sha256:00".into(),
            source: "hello.wasm".into(),
            wasi: "0.2".into(),
            routes: ["/a", "/b", "/c", "/d"].map(String::from).to_vec(),
            figures: figures(120_345),
            limits: AppLimitsStatus {
                timeout_seconds: 30.0,
                cpu_seconds: 0.5,
                memory_bytes: 128 << 20,
                concurrency: 100,
                queue: 1000,
                max_body_bytes: 10 << 20,
                rate: Some("100/min per client".into()),
                log_rate_bytes: 1 << 20,
                outbound_connections: 100,
                instance_reuse: 1,
                instance_concurrent: 1,
            },
            grants: GrantsStatus {
                outbound: vec!["https://api.example.com".into()],
                env: vec!["KEY".into(), "MODE".into()],
                config: vec!["greeting".into()],
            },
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
        tenants: [("default", 120_345), ("acme", 0)]
            .map(|(name, requests)| TenantStatus {
                name: TenantName::new(name).unwrap(),
                isolation: Isolation::Shared,
                pools: vec![PoolName::new("default").unwrap()],
                apps: 1,
                figures: figures(requests),
                limits: TenantLimitsStatus {
                    memory_bytes: Some(1 << 30),
                    concurrency: None,
                    rate: Some("1000/s".into()),
                },
            })
            .to_vec(),
        left_out: None,
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

TENANT   ISOLATION  APPS  REQUESTS   5XX  IN FLIGHT  POOLS
default  shared        1    120345  0.1%          1  default
acme     shared        1         0     -          0  default

POOL     SERVING  BREAKER  ROLLING  SPAWNS  RESTARTS  CRASHES  LAST EXIT
default      1/2  TRIPPED  1 left        7         5        5  validation-failed: no database, 12s ago (worker 6, pid 4299, slot 1)

WORKER  POOL     SLOT   PID  STATE     GEN     UP  CONNS  REQUESTS  FAILED  IN FLIGHT    P50   P99    CPU     RSS
     1  default     0  4300  serving     2  1h 1m      3    120345       4          1  0.2ms  14ms  1m 2s  13 MiB
     7  default     1  4301  starting    2  1h 1m      3         0       4          1      -     -  1m 2s  13 MiB

APP    REV            STATE           REQUESTS   5XX  IN FLIGHT    P50   P99  ROUTES
hello  7, 8 at 12.5%  paused, canary    120345  0.1%          1  0.2ms  14ms  /a +3
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
