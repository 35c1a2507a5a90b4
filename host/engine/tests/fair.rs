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
    Capacity, Clock, Compiled, Ended, GuestLog, Handler, HandlerSetup, Runtime, Stream,
    TenantLimits, TenantShare, Tenants, Witness, compile,
};

/// Long enough for anything that ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// CPU time over which shares are taken.
const SPAN: Duration = Duration::from_secs(1);

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
        Capacity { instances: 128 },
        Clock {
            thread_cpu: skep_sys::clock::thread_cpu,
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
    let called = handler.call(request, Scheme::HTTP, "id".into(), told.clone());
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
        let tenant = tenants.join(name, TenantLimits::default());
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
    let tenants = Tenants::new(pace);
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
        let tenants = Tenants::new(pace);
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
    let tenants = Tenants::new(pace);
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
    let tenants = Tenants::new(pace);
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
        let half = Duration::from_millis(50);
        while hog.tenant.cpu_used() < half {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for call in &calls[..16] {
            call.abort();
        }
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
