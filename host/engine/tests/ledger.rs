//! What the host holds for a guest is counted at every tick, and before the
//! guest waits; what guests find in heads, and what they may do with bodies.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use skep_core::{InstancePolicy, LogLevel, Outcome};
use skep_engine::{
    CallSetup, Capacity, Clock, Ended, GuestLog, Handler, HandlerSetup, OutboundBody, OutboundHttp,
    OutboundReply, OutboundTimeouts, Runtime, ShareLimits, Stream, TenantShare, Tenants, Witness,
    compile,
};

/// Long enough for anything that ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one instance may have.
const MEMORY: u64 = 8 << 20;

/// What a guest may gather in a turn, beyond what it may have: what SECURITY.md
/// says, and what this process does besides.
const IN_A_TURN: u64 = 32 << 20;

/// One test at a time: memory is measured, and one of them wants no ticks.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const GUESTS: [&str; 9] = [
    "hostile-hog-fields",
    "hostile-hog-bodies",
    "hostile-hog-lines",
    "hostile-hog-lines-p3",
    "hostile-hog-requests",
    "hostile-hog-requests-p3",
    "hostile-write-early",
    "hostile-bad-response",
    "echo",
];

struct Silence;

impl GuestLog for Silence {
    fn line(&self, _: Stream, _: &str, _: &[u8]) {}

    fn record(&self, _: LogLevel, _: &str, _: &str, _: &str) {}
}

/// Somebody who takes requests and never answers.
#[derive(Default)]
struct Silent(Mutex<Vec<http::request::Parts>>);

impl OutboundHttp for Silent {
    fn send(&self, request: Request<OutboundBody>, _: OutboundTimeouts, _: &str) -> OutboundReply {
        let (head, body) = request.into_parts();
        self.0.lock().unwrap().push(head);
        Box::pin(async move {
            let _body = body;
            std::future::pending().await
        })
    }
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Ended>>>);

impl Witness for Told {
    fn ended(self, ended: Ended) {
        self.0.lock().unwrap().push(ended);
    }
}

/// A guest of this repository.
fn guest(name: &str) -> std::path::PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(&guests)
            .args(["build", "--release", "--quiet"]);
        cargo.args(["--target", "wasm32-wasip2", "--target-dir", "target"]);
        for guest in GUESTS {
            cargo.args(["-p", guest]);
        }
        assert!(cargo.status().unwrap().success(), "the guests build");
    });
    guests
        .join("target/wasm32-wasip2/release")
        .join(name.replace('-', "_"))
        .with_extension("wasm")
}

struct Loaded {
    handler: Handler,
    tenant: Arc<TenantShare>,
    _tenants: Tenants,
}

fn load(name: &str, outbound: Option<Arc<dyn OutboundHttp>>) -> Loaded {
    let compiled = compile(&std::fs::read(guest(name)).unwrap()).unwrap();
    let mut artifact = tempfile::NamedTempFile::new().unwrap();
    artifact.write_all(&compiled.artifact).unwrap();
    let capacity = Capacity { instances: 16 };
    let clock = Clock {
        thread_cpu: skep_sys::clock::thread_cpu,
        ticks: || {},
    };
    let tenants = Tenants::new(capacity, |_| {});
    let tenant = tenants.join("t", ShareLimits::default());
    let setup = HandlerSetup {
        flavor: compiled.flavor,
        env: Vec::new(),
        config: [].into(),
        timeout: Duration::from_secs(20),
        cpu: Duration::from_secs(600),
        memory: MEMORY,
        tenant: Arc::clone(&tenant),
        instance: InstancePolicy::default(),
        log: Arc::new(Silence),
        outbound,
    };
    let runtime = Runtime::start(capacity, clock);
    Loaded {
        handler: Handler::load(runtime, artifact.as_file().as_fd(), setup).unwrap(),
        tenant,
        _tenants: tenants,
    }
}

/// What a client sees, or the outcome; and what was told of the end.
async fn get(loaded: &Loaded, target: &str) -> (Result<Response<Vec<u8>>, Outcome>, Vec<Ended>) {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(format!("http://app.test:81{target}"))
        .body(body)
        .unwrap();
    let told = Told::default();
    let setup = CallSetup {
        scheme: Scheme::HTTP,
        request_id: "id".into(),
        patience: Duration::from_secs(60),
    };
    let call = loaded.handler.call(request, setup, told.clone());
    let answered = tokio::time::timeout(PATIENCE, call).await.unwrap();
    let seen = match answered {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let body = tokio::time::timeout(PATIENCE, body.collect())
                .await
                .unwrap();
            let body = body.unwrap().to_bytes().to_vec();
            Ok(Response::from_parts(head, body))
        }
        Err(outcome) => Err(outcome),
    };
    let told = told.0.lock().unwrap().clone();
    (seen, told)
}

/// Ticks while it lives.
struct Ticks(Arc<AtomicBool>);

impl Ticks {
    fn start() -> Self {
        let on = Arc::new(AtomicBool::new(true));
        let still = Arc::clone(&on);
        std::thread::spawn(move || {
            while still.load(Relaxed) {
                skep_engine::tick();
                // Nobody unparks it.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Self(on)
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// The most memory that this process has had since it was asked last, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kib << 10
}

#[tokio::test]
async fn what_the_host_holds_is_bounded_by_the_memory_of_the_instance() {
    let _alone = ALONE.lock().await;
    let _ticks = Ticks::start();
    for (name, target) in [
        ("hostile-hog-fields", "/"),
        ("hostile-hog-bodies", "/"),
        ("hostile-hog-lines", "/"),
        ("hostile-hog-lines-p3", "/"),
        ("hostile-hog-requests", "/method"),
        ("hostile-hog-requests", "/path"),
        ("hostile-hog-requests", "/authority"),
        ("hostile-hog-requests", "/fields"),
        ("hostile-hog-requests", "/sent"),
        ("hostile-hog-requests-p3", "/method"),
        ("hostile-hog-requests-p3", "/path"),
        ("hostile-hog-requests-p3", "/fields"),
        ("hostile-hog-requests-p3", "/responses"),
        ("hostile-hog-requests-p3", "/sent"),
    ] {
        let loaded = load(name, Some(Arc::new(Silent::default())));
        // The first call of a handler touches what stays.
        let _ = get(&loaded, target).await;
        peak();
        let before = peak();
        let (seen, told) = get(&loaded, target).await;
        let grown = peak().saturating_sub(before);
        assert_eq!(
            seen.map(|_| ()).unwrap_err(),
            Outcome::MemoryBudget,
            "{name} {target}: {told:?}"
        );
        assert!(
            grown < MEMORY + IN_A_TURN,
            "{name} {target}: {} MiB",
            grown >> 20
        );
        // An instance may have been made ahead.
        loaded.handler.retire();
        assert_eq!(loaded.tenant.memory_used(), 0, "{name} {target}");
    }
}

#[tokio::test]
async fn no_guest_sleeps_with_more_than_it_may_have() {
    // Without any tick.
    let _alone = ALONE.lock().await;
    for (name, target) in [
        ("hostile-hog-requests", "/method?count=40"),
        ("hostile-hog-requests", "/path?count=400"),
        ("hostile-hog-requests", "/authority?count=400"),
        ("hostile-hog-requests", "/fields?count=200"),
        ("hostile-hog-requests", "/sent?count=200"),
        ("hostile-hog-requests-p3", "/method?count=40"),
        ("hostile-hog-requests-p3", "/path?count=400"),
        ("hostile-hog-requests-p3", "/fields?count=200"),
        ("hostile-hog-requests-p3", "/responses?count=200"),
        ("hostile-hog-requests-p3", "/sent?count=200"),
    ] {
        let silent = Arc::new(Silent::default());
        let loaded = load(name, Some(Arc::clone(&silent) as _));
        let (seen, told) = get(&loaded, target).await;
        assert_eq!(
            seen.map(|_| ()).unwrap_err(),
            Outcome::MemoryBudget,
            "{name} {target}: {told:?}, {} sent",
            silent.0.lock().unwrap().len()
        );
        loaded.handler.retire();
        assert_eq!(loaded.tenant.memory_used(), 0, "{name} {target}");
    }
}

#[tokio::test]
async fn a_body_may_be_written_before_its_head_up_to_a_bound_that_is_told() {
    let _alone = ALONE.lock().await;
    let loaded = load("hostile-write-early", None);
    for target in ["/", "/pieces", "/request"] {
        let (seen, told) = get(&loaded, target).await;
        let response = seen.unwrap_or_else(|outcome| panic!("{target}: {outcome:?} {told:?}"));
        assert_eq!(response.body().len(), 500_000, "{target}");
        assert_eq!(told[0].outcome, Outcome::Ok, "{target}: {told:?}");
    }
    let (seen, told) = get(&loaded, "/much").await;
    assert_eq!(seen.map(|_| ()).unwrap_err(), Outcome::Trap);
    let why = told[0].detail.clone().unwrap();
    assert!(why.contains("call response-outparam.set"), "{why}");
    loaded.handler.retire();
    // What has served is dropped behind its answer.
    tokio::time::timeout(Duration::from_secs(30), async {
        while loaded.tenant.memory_used() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_a_guest_writes_at_once_may_be_large() {
    let _alone = ALONE.lock().await;
    let loaded = load("echo", None);
    let (seen, _) = get(&loaded, "/download?bytes=10485760").await;
    assert_eq!(seen.unwrap().body().len(), 10 << 20);
}

#[tokio::test]
async fn guests_find_their_authority_as_the_host_field() {
    let _alone = ALONE.lock().await;
    let loaded = load("echo", None);
    let (seen, _) = get(&loaded, "/info").await;
    let seen = String::from_utf8(seen.unwrap().into_body()).unwrap();
    assert!(seen.contains(r#"["host","app.test:81"]"#), "{seen}");
    assert!(seen.contains(r#""authority":"app.test:81""#), "{seen}");
}

#[tokio::test]
async fn responses_leave_without_host_and_without_white_space_around_values() {
    let _alone = ALONE.lock().await;
    let loaded = load("hostile-bad-response", None);
    let (seen, _) = get(&loaded, "/space").await;
    let head = seen.unwrap().into_parts().0;
    assert_eq!(head.headers["x-space"].as_bytes(), b"v");
    assert_eq!(head.headers["x-tab"].as_bytes(), b"v");
    let (seen, _) = get(&loaded, "/host").await;
    assert!(!seen.unwrap().headers().contains_key("host"));
}
