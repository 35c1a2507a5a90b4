//! Making an instance and calling it: most of what a request costs.
//!
//! The guest is `hello` in both versions of WASI; it is built here if it has
//! not been. No epoch ticks, so what yields and deadlines cost is not in these
//! figures, nor is HTTP.

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::Request;
use http::uri::Scheme;
use http_body_util::{BodyExt as _, Empty};
use skep_core::{InstancePolicy, LogLevel, Outcome};
use skep_engine::{
    CallSetup, Capacity, Clock, Compiled, Ended, GuestLog, Handler, HandlerSetup, Runtime,
    ShareLimits, Stream, Tenants, Witness, compile,
};

const BODY: &[u8] = b"Hello, world!\n";

/// Calls before an instance is thrown away, where it is reused at all.
const REUSE: u32 = 128;

/// Takes lines and keeps none: `hello` says nothing.
struct Silence;

impl GuestLog for Silence {
    fn line(&self, _: Stream, _: &str, _: &[u8]) {}

    fn record(&self, _: LogLevel, _: &str, _: &str, _: &str) {}
}

/// A call that must go well.
struct Good;

impl Witness for Good {
    fn ended(self, ended: Ended) {
        assert_eq!(ended.outcome, Outcome::Ok, "{:?}", ended.detail);
    }
}

fn guests() -> PathBuf {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let built = Command::new(env!("CARGO"))
        .current_dir(&guests)
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "hello",
            "-p",
            "hello-p3",
        ])
        .args(["--target", "wasm32-wasip2", "--target-dir", "target"])
        .status()
        .expect("cargo runs us, so it can be run");
    assert!(built.success(), "the guests build");
    guests.join("target/wasm32-wasip2/release")
}

fn artifact(compiled: &Compiled) -> File {
    let mut file = tempfile::NamedTempFile::new().expect("there is room for a file");
    file.write_all(&compiled.artifact)
        .expect("there is room for the artifact");
    file.reopen().expect("the file is ours")
}

fn load(compiled: &Compiled, artifact: &File, instance: InstancePolicy) -> Handler {
    let runtime = Runtime::start(
        Capacity { instances: 64 },
        Clock {
            thread_cpu: skep_sys::clock::thread_cpu,
            ticks: skep_sys::ticker::come,
        },
    );
    let setup = HandlerSetup {
        flavor: compiled.flavor,
        env: Vec::new(),
        config: [].into(),
        timeout: Duration::from_secs(30),
        cpu: Duration::from_secs(1),
        memory: 128 << 20,
        tenant: Tenants::new(runtime.capacity(), |_| {}).join("bench", ShareLimits::default()),
        instance,
        log: Arc::new(Silence),
        outbound: None,
    };
    Handler::load(runtime, artifact.as_fd(), setup).expect("what was compiled here loads")
}

async fn call(handler: &Handler, id: &Arc<str>) {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("http://localhost/")
        .body(body)
        .expect("the request is valid");
    let setup = CallSetup {
        scheme: Scheme::HTTP,
        request_id: Arc::clone(id),
        patience: Duration::from_secs(30),
    };
    let response = handler
        .call(request, setup, Good)
        .await
        .expect("hello answers");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("the body is whole");
    assert_eq!(body.to_bytes(), BODY);
}

fn engine(criterion: &mut Criterion) {
    let guests = guests();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let id: Arc<str> = "0123456789abcdef".into();

    for (name, file) in [("p2", "hello.wasm"), ("p3", "hello_p3.wasm")] {
        let component = std::fs::read(guests.join(file)).expect("the guest was built");
        let compiled = compile(&component).expect("hello can be served");
        let artifact = artifact(&compiled);
        let mut group = criterion.benchmark_group(format!("engine/{name}"));

        group.bench_function("load", |bencher| {
            bencher.iter(|| black_box(load(&compiled, &artifact, InstancePolicy::default())));
        });
        let policies = [("call-fresh", 1, 1), ("call-reused", REUSE, 1)];
        for (what, reuse, concurrent) in policies {
            let policy = InstancePolicy {
                reuse,
                concurrent,
                ..InstancePolicy::default()
            };
            let handler = load(&compiled, &artifact, policy);
            group.bench_function(what, |bencher| {
                bencher.iter(|| tokio.block_on(call(&handler, &id)));
            });
        }
        group.finish();

        let mut group = criterion.benchmark_group(format!("engine/{name}"));
        group.sample_size(10);
        group.bench_function("compile", |bencher| {
            bencher.iter(|| compile(black_box(&component)).map(drop));
        });
        group.finish();
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
