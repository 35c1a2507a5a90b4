//! That tenants share a worker's CPU: two tenants on one thread, one with 64
//! calls that never end, the other with calls that take some 100 µs, from eight
//! clients that come back when they were answered. Shares are in CPU time that
//! was charged, so that a busy machine makes no difference.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use http::Request;
use http::uri::Scheme;
use http_body_util::{BodyExt as _, Empty};
use skep_core::{InstancePolicy, LogLevel, Outcome};
use skep_engine::{
    CallSetup, Capacity, Clock, Compiled, Ended, GuestLog, Handler, HandlerSetup, Runtime,
    ShareLimits, Stream, TenantShare, Tenants, Witness, compile,
};

/// Long enough for anything that ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// CPU time over which shares are taken.
const SPAN: Duration = Duration::from_secs(1);

const CAPACITY: Capacity = Capacity { instances: 400 };

static PERIOD: AtomicU64 = AtomicU64::new(1000);

/// What a worker's ticker does, by a thread.
fn pace(period: Duration) {
    PERIOD.store(u64::try_from(period.as_micros()).unwrap(), Relaxed);
}

fn tick() {
    static TICKS: Once = Once::new();
    TICKS.call_once(|| {
        std::thread::spawn(|| {
            loop {
                skep_engine::tick();
                // Nobody unparks it.
                std::thread::park_timeout(Duration::from_micros(PERIOD.load(Relaxed)));
            }
        });
    });
}

struct Silence;

impl GuestLog for Silence {
    fn line(&self, _: Stream, _: &str, _: &[u8]) {}

    fn record(&self, _: LogLevel, _: &str, _: &str, _: &str) {}
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Ended>>>);

impl Witness for Told {
    fn ended(self, ended: Ended) {
        self.0.lock().unwrap().push(ended);
    }
}

/// A component of 0.2 whose handler does this and answers nothing.
fn component(handle: &str) -> Compiled {
    let wat = format!(
        r#"(component
          (import "wasi:http/types@0.2.3" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $out))
          (core module $module
            (memory (export "memory") 1)
            (func (export "handle") (param i32 i32) (local $n i32) {handle}))
          (core instance $guest (instantiate $module))
          (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $guest "handle")))
          (instance $handler (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))"#
    );
    compile(&wat::parse_str(wat).unwrap()).unwrap()
}

fn spins() -> Compiled {
    component("(loop (br 0))")
}

/// Counts to so many.
fn counts(to: u32) -> Compiled {
    component(&format!(
        "(loop $again
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $n) (i32.const {to}))))"
    ))
}

/// The guest that never ends, of 0.3.
fn spins_in_p3() -> Compiled {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    let built = Command::new(env!("CARGO"))
        .current_dir(&guests)
        .args(["build", "--release", "--quiet", "-p", "hostile-spin-p3"])
        .args(["--target", "wasm32-wasip2", "--target-dir", "target"])
        .status()
        .unwrap();
    assert!(built.success(), "the guest builds");
    let wasm = guests.join("target/wasm32-wasip2/release/hostile_spin_p3.wasm");
    compile(&std::fs::read(wasm).unwrap()).unwrap()
}

fn load(compiled: &Compiled, tenant: &Arc<TenantShare>, instance: InstancePolicy) -> Handler {
    tick();
    let mut artifact = tempfile::NamedTempFile::new().unwrap();
    artifact.write_all(&compiled.artifact).unwrap();
    let runtime = Runtime::start(
        CAPACITY,
        Clock {
            thread_cpu: skep_sys::clock::thread_cpu,
            ticks: || {},
        },
    );
    let setup = HandlerSetup {
        flavor: compiled.flavor,
        env: Vec::new(),
        config: [].into(),
        timeout: Duration::from_secs(600),
        cpu: Duration::from_secs(600),
        memory: 4 << 20,
        tenant: Arc::clone(tenant),
        instance,
        log: Arc::new(Silence),
        outbound: None,
    };
    Handler::load(runtime, artifact.as_file().as_fd(), setup).unwrap()
}

async fn call(handler: &Handler, told: &Told) -> Option<Outcome> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("http://localhost/").body(body).unwrap();
    let setup = CallSetup {
        scheme: Scheme::HTTP,
        request_id: "id".into(),
        patience: PATIENCE,
    };
    let called = handler.call(request, setup, told.clone());
    called.await.err()
}

/// A tenant and what it does.
struct Load {
    tenant: Arc<TenantShare>,
    handler: Handler,
    clients: usize,
}

impl Load {
    fn new(tenants: &Tenants, name: &str, compiled: &Compiled, clients: usize) -> Self {
        Self::with(tenants, name, compiled, clients, InstancePolicy::default())
    }

    fn with(
        tenants: &Tenants,
        name: &str,
        compiled: &Compiled,
        clients: usize,
        instance: InstancePolicy,
    ) -> Self {
        let tenant = tenants.join(name, ShareLimits::default());
        Self {
            handler: load(compiled, &tenant, instance),
            tenant,
            clients,
        }
    }
}

/// Lets them compete until they have used [`SPAN`] together. What part of it each
/// of them had.
fn shares(loads: &[Load]) -> Vec<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let used = || -> Vec<Duration> { loads.iter().map(|load| load.tenant.cpu_used()).collect() };
    let spent = runtime.block_on(async {
        for load in loads {
            for _ in 0..load.clients {
                let handler = load.handler.clone();
                tokio::spawn(async move {
                    loop {
                        call(&handler, &Told::default()).await;
                        // The next request is there when the sockets are
                        // looked at.
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
        let began = Instant::now();
        let before = used();
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let spent: Vec<_> = used().iter().zip(&before).map(|(a, b)| *a - *b).collect();
            if spent.iter().sum::<Duration>() >= SPAN {
                return spent;
            }
            assert!(began.elapsed() < PATIENCE, "stuck at {spent:?}");
        }
    });
    let all: Duration = spent.iter().sum();
    let part = |spent: &Duration| spent.as_secs_f64() / all.as_secs_f64();
    spent.iter().map(part).collect()
}

#[test]
fn short_calls_keep_their_share_against_64_that_compute() {
    let tenants = Tenants::new(CAPACITY, pace);
    let shares = shares(&[
        Load::new(&tenants, "hog", &spins(), 64),
        Load::new(&tenants, "hello", &counts(300_000), 8),
    ]);
    // Half, less what a request is charged for besides its guest.
    assert!(shares[1] >= 0.4, "{shares:?}");
    assert!(shares[0] >= 0.4, "{shares:?}");
}

#[test]
fn so_they_do_against_guests_of_the_other_engine() {
    let spins = spins_in_p3();
    for concurrent in [1, 8] {
        let tenants = Tenants::new(CAPACITY, pace);
        let policy = InstancePolicy {
            reuse: 1000,
            concurrent,
            ..InstancePolicy::default()
        };
        let shares = shares(&[
            Load::with(&tenants, "hog-p3", &spins, 64, policy),
            Load::new(&tenants, "hello", &counts(300_000), 8),
        ]);
        assert!(shares[1] >= 0.4, "{concurrent} at a time: {shares:?}");
        assert!(shares[0] >= 0.4, "{concurrent} at a time: {shares:?}");
    }
}

#[test]
fn the_number_of_calls_makes_no_difference() {
    let tenants = Tenants::new(CAPACITY, pace);
    let spins = spins();
    let shares = shares(&[
        Load::new(&tenants, "many", &spins, 60),
        Load::new(&tenants, "few", &spins, 2),
        Load::new(&tenants, "one", &spins, 1),
    ]);
    for share in &shares {
        assert!((share - 1.0 / 3.0).abs() < 0.05, "{shares:?}");
    }
}

#[test]
fn who_waits_in_line_ends_at_the_deadline_and_leaves_it_when_dropped() {
    let tenants = Tenants::new(CAPACITY, pace);
    let hog = Load::new(&tenants, "hog", &spins(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let told = Told::default();
    runtime.block_on(async {
        let calls: Vec<_> = (0..32)
            .map(|_| {
                let (handler, told) = (hog.handler.clone(), told.clone());
                tokio::spawn(async move { call(&handler, &told).await })
            })
            .collect();
        // Long enough that it makes no difference who was interrupted by other
        // processes before its first tick, from which on CPU time is measured.
        while hog.tenant.cpu_used() < Duration::from_millis(400) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for call in &calls[..16] {
            call.abort();
        }
        until("16 gone", || {
            calls[..16].iter().all(tokio::task::JoinHandle::is_finished)
        })
        .await;
        hog.handler.cut();
        for (at, call) in calls.into_iter().enumerate() {
            match tokio::time::timeout(PATIENCE, call).await.unwrap() {
                Ok(ended) => assert_eq!(ended, Some(Outcome::Deadline)),
                Err(gone) => assert!(at < 16 && gone.is_cancelled()),
            }
        }
    });
    let told = told.0.lock().unwrap();
    assert_eq!(told.len(), 16);
    // Each CPU second is some call's, and none is counted twice.
    let told: Duration = told.iter().map(|ended| ended.cpu).sum();
    assert!(told <= hog.tenant.cpu_used(), "{told:?}");
    assert!(told >= hog.tenant.cpu_used() / 4, "{told:?}");
}

/// So many calls that never end, begun.
fn begin(load: &Load, calls: usize, told: &Told) -> Vec<tokio::task::JoinHandle<Option<Outcome>>> {
    let begin = |_| {
        let (handler, told) = (load.handler.clone(), told.clone());
        tokio::spawn(async move { call(&handler, &told).await })
    };
    (0..calls).map(begin).collect()
}

/// Waits until this holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn on_a_worker<R>(work: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn limited(tenants: &Tenants, memory: u64, compiled: &Compiled) -> Load {
    let limits = ShareLimits {
        memory,
        ..ShareLimits::default()
    };
    let tenant = tenants.join("limited", limits);
    Load {
        handler: load(compiled, &tenant, InstancePolicy::default()),
        tenant,
        clients: 0,
    }
}

#[test]
fn a_tenants_instances_have_its_memory_together_and_give_it_back() {
    const MIB: u64 = 1 << 20;
    let tenants = Tenants::new(CAPACITY, pace);
    // 64 KiB at first and another megabyte.
    let grows = component(
        "(if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
         (loop (br 0))",
    );
    let limited = limited(&tenants, 4 * MIB, &grows);
    let other = Load::new(&tenants, "other", &grows, 0);
    let traps = Load {
        handler: load(
            &component("unreachable"),
            &limited.tenant,
            InstancePolicy::default(),
        ),
        tenant: Arc::clone(&limited.tenant),
        clients: 0,
    };
    let told = Told::default();
    on_a_worker(async {
        let first = begin(&limited, 3, &told);
        until("3 there", || limited.tenant.memory_used() > 3 * MIB).await;
        let with_calls = limited.tenant.instances() as usize - limited.handler.instances().idle;
        assert_eq!(with_calls, 3);
        for call in begin(&limited, 5, &told) {
            assert_eq!(call.await.unwrap(), Some(Outcome::TenantOverBudget));
        }
        let others = begin(&other, 5, &told);
        until("5 there", || other.tenant.memory_used() > 5 * MIB).await;
        assert!(tenants.guest_memory() > 8 * MIB);

        for call in first.iter().chain(&others) {
            call.abort();
        }
        until("all gone", || {
            limited.handler.expire_idle();
            other.handler.expire_idle();
            tenants.guest_memory() == 0
        })
        .await;
        assert_eq!(limited.tenant.instances() + other.tenant.instances(), 0);

        for _ in 0..2000 {
            assert_eq!(call(&traps.handler, &told).await, Some(Outcome::Trap));
        }
        traps.handler.retire();
        assert_eq!(tenants.guest_memory(), 0);
        assert_eq!(limited.tenant.instances(), 0);

        // What does not even fit at first is the tenant's, too.
        limited.tenant.limit_memory(1000);
        assert_eq!(
            call(&limited.handler, &told).await,
            Some(Outcome::TenantOverBudget)
        );
    });
}

#[test]
fn what_was_made_ahead_is_given_back_to_calls_that_need_the_room() {
    const INSTANCES: u32 = 16;
    let (short, endless) = (counts(10), spins());
    for (capacity, memory) in [
        (INSTANCES, 0),
        (100, u64::from(INSTANCES) * (64 << 10) + (48 << 10)),
    ] {
        let tenants = Tenants::new(
            Capacity {
                instances: capacity,
            },
            pace,
        );
        let load_endless = limited(&tenants, memory, &endless);
        let tenant = &load_endless.tenant;
        let other = load(&short, tenant, InstancePolicy::default());
        let told = Told::default();
        on_a_worker(async {
            let began = Instant::now();
            while other.instances().idle == 0 {
                // One that a tick meets while it is made is tried again a look later.
                assert!(began.elapsed() < PATIENCE, "never some ahead");
                other.expire_idle();
                for _ in 0..6 {
                    call(&other, &told).await;
                }
                tokio::task::yield_now().await;
            }
            let calls = begin(&load_endless, INSTANCES as usize, &told);
            until("all there", || {
                tenant.instances() == INSTANCES && other.instances().idle == 0
            })
            .await;
            for call in &calls {
                call.abort();
            }
            until("all gone", || tenant.instances() == 0).await;
        });
    }
}

#[test]
fn no_tenant_takes_the_last_instances_of_a_worker() {
    let tenants = Tenants::new(Capacity { instances: 40 }, pace);
    let greedy = Load::new(&tenants, "greedy", &spins(), 0);
    let (one, two) = (
        Load::new(&tenants, "one", &spins(), 0),
        Load::new(&tenants, "two", &spins(), 0),
    );
    // Four memories are as many as two instances have.
    let wide = component(
        "(loop (br 0))))
         (core module $other (memory 1))
         (core instance (instantiate $other))
         (core instance (instantiate $other))
         (core instance (instantiate $other))
         (core module $none (func",
    );
    let wide = Load::new(&tenants, "wide", &wide, 0);
    let told = Told::default();
    on_a_worker(async {
        let calls = begin(&greedy, 40, &told);
        until("all answered or there", || {
            told.0.lock().unwrap().len() + greedy.tenant.instances() as usize == 40
        })
        .await;
        assert_eq!(greedy.tenant.instances(), 40 - 3 * 8);
        for ended in told.0.lock().unwrap().iter() {
            assert_eq!(ended.outcome, Outcome::InstancesExhausted);
        }
        let others: Vec<_> = [(&one, 8), (&two, 8), (&wide, 4)]
            .into_iter()
            .flat_map(|(load, calls)| begin(load, calls, &told))
            .collect();
        until("8 each", || {
            [&one, &two, &wide]
                .iter()
                .all(|load| load.tenant.instances() == 8)
        })
        .await;
        for call in calls.iter().chain(&others) {
            call.abort();
        }
        until("all gone", || {
            for load in [&greedy, &one, &two, &wide] {
                load.handler.expire_idle();
            }
            tenants.guest_memory() == 0
        })
        .await;
        assert_eq!(greedy.tenant.instances(), 0);
    });
}
