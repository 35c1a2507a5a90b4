//! A worker in small: a handler, its clients, and what they are told.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use skep_core::{InstancePolicy, LogLevel, Outcome};
use skep_engine::{
    CallSetup, Capacity, Clock, Compiled, Ended, GuestBody, GuestLog, Handler, HandlerSetup,
    RequestBody, Runtime, ShareLimits, Stream, TenantShare, Tenants, Witness, compile,
};

/// Long enough for anything that ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Handlers of either version, and those that share instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    P2,
    P3,
    Shared,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::P2, Kind::P3, Kind::Shared];

/// What guests say.
#[derive(Default)]
pub(crate) struct Said(Mutex<Vec<(String, String)>>);

impl Said {
    /// Lines, each with its request.
    pub(crate) fn lines(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.lines().iter().any(|(_, said)| said == line)
    }
}

impl GuestLog for Said {
    fn line(&self, _: Stream, request: &str, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.0.lock().unwrap().push((request.to_owned(), line));
    }

    fn record(&self, _: LogLevel, _: &str, _: &str, _: &str) {}
}

/// What the witness of one call was told.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<(Vec<Ended>, bool)>>);

impl Told {
    pub(crate) fn witness(&self) -> Permit {
        Permit(self.clone())
    }

    /// How it ended, if it did and was told.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let told = self.0.lock().unwrap();
        assert!(told.0.len() <= 1, "told twice: {:?}", told.0);
        told.0.first().cloned()
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.ended().map(|ended| ended.outcome)
    }

    /// Whether what the call held is free.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().unwrap().1
    }
}

/// A witness that is missed.
pub(crate) struct Permit(Told);

impl Witness for Permit {
    fn ended(self, ended: Ended) {
        self.0.0.lock().unwrap().0.push(ended);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().1 = true;
    }
}

pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) timeout: Duration,
    pub(crate) reuse: u32,
    pub(crate) concurrent: u32,
    pub(crate) idle: Duration,
}

impl Setup {
    pub(crate) fn new(kind: Kind) -> Self {
        let shared = kind == Kind::Shared;
        Self {
            kind,
            timeout: PATIENCE,
            reuse: if shared { 100 } else { 1 },
            concurrent: if shared { 8 } else { 1 },
            idle: PATIENCE,
        }
    }

    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(crate) fn reuse(self, reuse: u32) -> Self {
        Self { reuse, ..self }
    }

    pub(crate) fn idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    pub(crate) fn load(self) -> App {
        tick();
        let tenants = Tenants::new(CAPACITY, |_| {});
        let tenant = tenants.join("t", ShareLimits::default());
        let said = Arc::new(Said::default());
        let compiled = guest(self.kind);
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
            timeout: self.timeout,
            cpu: PATIENCE,
            memory: 64 << 20,
            tenant: Arc::clone(&tenant),
            instance: InstancePolicy {
                reuse: self.reuse,
                concurrent: self.concurrent,
                idle: self.idle,
            },
            log: Arc::clone(&said) as Arc<dyn GuestLog>,
            outbound: None,
        };
        App {
            handler: Handler::load(runtime, artifact.as_file().as_fd(), setup).unwrap(),
            tenant,
            said,
        }
    }
}

const CAPACITY: Capacity = Capacity { instances: 200 };

fn tick() {
    static TICKS: Once = Once::new();
    TICKS.call_once(|| {
        std::thread::spawn(|| {
            loop {
                skep_engine::tick();
                // Nobody unparks it.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
    });
}

fn guest(kind: Kind) -> &'static Compiled {
    static GUESTS: OnceLock<[Compiled; 2]> = OnceLock::new();
    let built = GUESTS.get_or_init(|| {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
        let built = Command::new(env!("CARGO"))
            .current_dir(&guests)
            .args(["build", "--release", "--quiet"])
            .args(["-p", "hostile-ends", "-p", "hostile-ends-p3"])
            .args(["--target", "wasm32-wasip2", "--target-dir", "target"])
            .status()
            .unwrap();
        assert!(built.success(), "the guests build");
        ["hostile_ends", "hostile_ends_p3"].map(|name| {
            let wasm = guests.join(format!("target/wasm32-wasip2/release/{name}.wasm"));
            compile(&std::fs::read(wasm).unwrap()).unwrap()
        })
    });
    &built[usize::from(kind != Kind::P2)]
}

pub(crate) struct App {
    pub(crate) handler: Handler,
    pub(crate) tenant: Arc<TenantShare>,
    pub(crate) said: Arc<Said>,
}

/// A request to be made.
pub(crate) struct Ask<'a> {
    app: &'a App,
    method: Method,
    target: &'a str,
    id: &'a str,
    patience: Duration,
    body: Option<RequestBody>,
}

impl App {
    /// Waits until no instance is left, with what a worker does every half second.
    pub(crate) async fn until_no_instance(&self) {
        until("no instance", || {
            self.handler.expire_idle();
            self.tenant.instances() == 0
        })
        .await;
    }

    pub(crate) fn ask<'a>(&'a self, target: &'a str) -> Ask<'a> {
        Ask {
            app: self,
            method: Method::GET,
            target,
            id: "id",
            patience: PATIENCE,
            body: None,
        }
    }
}

pub(crate) type Reply = Result<Response<GuestBody<Permit>>, Outcome>;

impl<'a> Ask<'a> {
    pub(crate) fn head(self) -> Self {
        Self {
            method: Method::HEAD,
            ..self
        }
    }

    pub(crate) fn id(self, id: &'a str) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(crate) fn body(self, body: RequestBody) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            ..self
        }
    }

    pub(crate) fn start(
        self,
        told: &Told,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send + 'static>> {
        let empty = || Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder()
            .method(self.method)
            .uri(format!("http://localhost{}", self.target))
            .body(self.body.unwrap_or_else(empty))
            .unwrap();
        let setup = CallSetup {
            scheme: Scheme::HTTP,
            request_id: self.id.into(),
            patience: self.patience,
        };
        let (handler, witness) = (self.app.handler.clone(), told.witness());
        Box::pin(async move { handler.call(request, setup, witness).await })
    }

    /// Waits for the head.
    pub(crate) async fn send(self) -> (Reply, Told) {
        let told = Told::default();
        (self.start(&told).await, told)
    }

    /// Takes all of it: the body if it was whole, and how the call ended.
    pub(crate) async fn whole(self) -> (Result<String, Outcome>, Ended) {
        let (reply, told) = self.send().await;
        let body = match reply {
            Ok(reply) => take(reply).await,
            Err(outcome) => Err(outcome),
        };
        until("an end", || told.is_over()).await;
        (body, told.ended().expect("its witness is told"))
    }
}

/// Takes what is left of a response.
pub(crate) async fn take(reply: Response<GuestBody<Permit>>) -> Result<String, Outcome> {
    match reply.into_body().collect().await {
        Ok(body) => Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap()),
        Err(cut) => Err(cut.0),
    }
}

/// Takes one frame.
pub(crate) async fn frame(body: &mut GuestBody<Permit>) -> Option<Result<Bytes, Outcome>> {
    let frame = body.frame().await?;
    Some(
        frame
            .map(|frame| frame.into_data().unwrap())
            .map_err(|cut| cut.0),
    )
}

/// Polls a body once, for nobody.
pub(crate) fn poll(body: &mut GuestBody<Permit>) -> Poll<Option<Result<Bytes, Outcome>>> {
    let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    polled.map(|next| {
        next.map(|frame| {
            frame
                .map(|frame| frame.into_data().unwrap())
                .map_err(|cut| cut.0)
        })
    })
}

/// Waits until this holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn on_a_worker<R>(work: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let work = tokio::time::timeout(4 * PATIENCE, work);
        work.await.expect("a test ends")
    })
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
